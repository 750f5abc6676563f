"""`limbeck serve`: a page on this machine in which a query is answered by student and teacher side by side, and by BM25.

The folder holds student/ and index/, as `limbeck demo embeddings` leaves them (see `limbeck.export.index`). The student's
queries search the teacher's documents. The page asks for nothing outside, and only this machine can ask it.
"""

from __future__ import annotations

import json
import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.errors import ArgumentError, DataError, LimbeckError
from limbeck.export.index import Index, best, open_index

HOST = "127.0.0.1"
SHOWN = 10  # documents of a ranking
QUERY = 2000  # characters of a query that are read
BODY = 200_000  # bytes of a request that are taken
POLICY = ("default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; "
          "base-uri 'none'; form-action 'none'; frame-ancestors 'none'")  # fmt: skip

Ask = Callable[[Sequence[str]], np.ndarray]


class Finder:
    """What answers: a student and an index of its teacher, and where they can be had the teacher itself and BM25.

    `missing` says what is not there, and why. Raises DataError for a folder without student or index, IndexMismatchError
    where these do not belong together.
    """

    def __init__(self, folder: str | Path):
        from limbeck.students.save import load_module

        folder = Path(folder)
        for part in ("student", "index"):
            if not (folder / part).is_dir():
                why = "There is no folder" if not folder.is_dir() else f"There is no {part}/ in"
                raise DataError(f"{why} {str(folder)!r}. `limbeck demo embeddings` makes one with student/ and index/.")
        self.name, self.lock = folder.resolve().name, threading.Lock()
        self.index = open_index(folder / "index", student=folder / "student")
        self.columns: list[dict[str, Any]] = []
        self.missing: list[str] = []
        self.asks: dict[str, Ask] = {}
        self._add_encoder("student", "Student", "its query, the teacher's documents", load_module(folder / "student"))
        try:
            self._add_encoder("teacher", "Teacher", "its query, its documents", _teacher(self.index))
        except LimbeckError as error:
            self.missing.append(f"The teacher does not answer: {error}")
        try:
            from limbeck.evaluation.embeddings import bm25_of

            self._add("bm25", "BM25", "words in common", bm25_of([each["text"] for each in self.index.documents]))
        except LimbeckError as error:
            self.missing.append(f"BM25 does not answer: {error}")

    def _add_encoder(self, key: str, name: str, how: str, module: Any) -> None:
        prompt = self.index.manifest.get("prompt", "")
        size = sum(value.numel() for value in module.parameters())
        self._add(key, name, how, lambda texts: self.index.scores(module.encode(texts, prompt=prompt)), size)

    def _add(self, key: str, name: str, how: str, ask: Ask, size: int | None = None) -> None:
        for _ in range(3):  # the first calls are slow
            ask(["warm up"])
        self.asks[key] = ask
        self.columns.append({"key": key, "name": name, "how": how, "parameters": size})

    def about(self) -> dict[str, Any]:
        """What the page shows before anyone has asked."""
        examples = self.index.manifest.get("examples") or []
        return {"name": self.name, "documents": len(self.index.documents), "columns": self.columns, "missing": self.missing,
                "examples": examples, "longest": QUERY}  # fmt: skip

    def search(self, who: str, query: str) -> dict[str, Any]:
        """The ranking of one of `columns` for a query: milliseconds from the text to the ten best (the median of
        three calls in a row, of more where they are short), and these."""
        text = query.strip()[:QUERY]
        if not text:
            return {"who": who, "milliseconds": 0.0, "cut": False, "hits": []}
        times: list[float] = []
        with self.lock:  # one after the other: times are those of one query alone
            while len(times) < 3 or (
                sum(times) < 0.02 and len(times) < 25
            ):  # a processor that has slept is slow at first
                begun = time.perf_counter()
                places, scores = best(self.asks[who]([text]), SHOWN)
                times.append(time.perf_counter() - begun)
        found = [
            (place, score) for place, score in zip(places[0].tolist(), scores[0].tolist()) if who != "bm25" or score > 0
        ]
        hits = [{"title": "", **self.index.documents[place], "score": round(score, 4)} for place, score in found]
        for hit in hits:
            hit["text"] = hit["text"][:4000]
        return {
            "who": who,
            "milliseconds": 1000 * statistics.median(times),
            "cut": len(query.strip()) > QUERY,
            "hits": hits,
        }


def _teacher(index: Index) -> Any:
    """The model whose vectors the index holds, from where its manifest says that it lies."""
    from limbeck.tasks import resolve
    from limbeck.teachers.base import as_teacher

    place = index.manifest.get("model")
    if not place:
        raise DataError("the index does not say where it lies (manifest.json, 'model').")
    model = resolve("embedding").pretrained(place, role="teacher", trust_remote_code=False, seed=0)
    if as_teacher(model).identity() != index.teacher:
        raise DataError(f"what lies in {place} is another model than the one that read the documents.")
    return model


class _Handler(BaseHTTPRequestHandler):
    """GET / (the page), GET /about, POST /search {"who", "query"}."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if not self._ours():
            return
        if self.path.split("?")[0] == "/":
            page = (resources.files("limbeck") / "serve.html").read_bytes()
            self._send(200, page, "text/html; charset=utf-8")
        elif self.path == "/about":
            self._json(200, self.server.finder.about())
        else:
            self._json(404, {"error": "There is no such page."})

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > BODY:
            self.close_connection = True  # what was sent is not read
            self._json(413, {"error": f"A request has {BODY:,} bytes at most: shorten the query."})
            return
        body = self.rfile.read(int(length))
        if not self._ours():
            return
        finder = self.server.finder
        try:
            given = json.loads(body)
            who, query = given["who"], given["query"]
            if who not in finder.asks or not isinstance(query, str):
                raise ValueError(who)
        except (ValueError, KeyError, TypeError):
            self._json(400, {"error": f"Expected a query and who is asked: {', '.join(finder.asks)}."})
            return
        if self.path != "/search":
            self._json(404, {"error": "There is no such page."})
            return
        self._json(200, finder.search(who, query))

    def _ours(self) -> bool:
        """Whether the request is for this machine by name: a page elsewhere must not reach it under a name of its own."""
        host = self.headers.get("Host", "").rsplit(":", 1)[0]
        if host in (HOST, "localhost"):
            return True
        self._json(403, {"error": f"This page is at http://{HOST}:{self.server.server_port}/ only."})
        return False

    def _json(self, code: int, found: Any) -> None:
        self._send(code, json.dumps(found).encode(), "application/json")

    def _send(self, code: int, body: bytes, kind: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), "Content-Security-Policy": POLICY,
                            "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}.items():  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing: what is asked stays in the page."""


class Server(ThreadingHTTPServer):
    """The page of a finder at a port of this machine, 0 for a free one. Raises ArgumentError where the port is taken."""

    daemon_threads = True

    def __init__(self, finder: Finder, port: int = 0):
        self.finder = finder
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise ArgumentError(f"port={port} cannot be had ({why}). Leave it out for a free one.") from error

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that has gone away is no error; anything else is shown."""
        import sys

        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def serve(folder: str | Path, port: int = 0) -> None:
    """Answer at an address, which is printed, until Ctrl-C."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)  # the times shown are those of one thread
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with threadpool_limits(1):
        finder = Finder(folder)
        with Server(finder, port) as server:
            for line in finder.missing:
                print(line)
            try:  # from the line on: who reads it may end it at once
                print(f"{len(finder.index.documents):,} documents at {server.address} (Ctrl-C ends it)", flush=True)
                server.serve_forever()
            except KeyboardInterrupt:
                print("\nStopped.")
