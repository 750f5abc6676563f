"""`limbeck serve` over HTTP: what is asked, what is refused, and how it begins and ends."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest

from limbeck.errors import ArgumentError, DataError, IndexMismatchError
from limbeck.export.index import open_index
from limbeck.recipes.toy_embedding import WORDS
from limbeck.serve import QUERY, SHOWN, Finder, Server
from limbeck.students.save import load_module
from search_toys import search_folder

for _package in ("bm25s", "transformers"):
    pytest.importorskip(_package)

DOCUMENTS = {f"d{place}": f"{a} {b} {a}" for place, (a, b) in enumerate(zip(WORDS * 2, WORDS[3:] + WORDS))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return search_folder(tmp_path_factory.mktemp("served"), DOCUMENTS, examples=[{"query": "one four", "id": "d0"}])


@pytest.fixture(scope="module")
def server(folder):
    with Server(Finder(folder)) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def ask(server, path, body=None, **headers):
    """Status and plain answer of a request."""
    line = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    line.request("GET" if body is None else "POST", path, sent, headers)
    answer = line.getresponse()
    found = answer.read().decode()
    line.close()
    return answer.status, json.loads(found) if answer.headers["Content-Type"] == "application/json" else found


def test_it_says_what_answers(server):
    status, about = ask(server, "/about")
    assert (status, about["documents"], about["missing"]) == (200, len(DOCUMENTS), [])
    assert [column["key"] for column in about["columns"]] == ["student", "teacher", "bm25"]
    assert about["examples"] == [{"query": "one four", "id": "d0"}]


def test_the_student_searches_the_teachers_documents(server, folder):
    index, student = open_index(folder / "index"), load_module(folder / "student")
    places, scores = index.search(student.encode(["seven ten"]), SHOWN)
    status, found = ask(server, "/search", {"who": "student", "query": "  seven ten "})
    assert status == 200
    assert [hit["id"] for hit in found["hits"]] == [f"d{place}" for place in places[0]]
    np.testing.assert_allclose([hit["score"] for hit in found["hits"]], scores[0], atol=1e-4)
    assert found["hits"][0]["text"] == DOCUMENTS[found["hits"][0]["id"]]
    assert found["milliseconds"] > 0


def test_the_teacher_finds_a_document_by_its_own_text(server):
    _, found = ask(server, "/search", {"who": "teacher", "query": DOCUMENTS["d5"]})
    assert found["hits"][0]["text"] == DOCUMENTS["d5"]
    assert found["hits"][0]["score"] == pytest.approx(1, abs=1e-3)


def test_words_that_no_document_has_find_nothing_by_words(server):
    assert ask(server, "/search", {"who": "bm25", "query": "xylophone"})[1]["hits"] == []
    assert ask(server, "/search", {"who": "bm25", "query": "seven"})[1]["hits"]
    assert len(ask(server, "/search", {"who": "student", "query": "???"})[1]["hits"]) == SHOWN


def test_empty_and_long_queries(server):
    assert ask(server, "/search", {"who": "teacher", "query": " \n "})[1] == {
        "who": "teacher", "milliseconds": 0.0, "cut": False, "hits": []}  # fmt: skip
    for who in ("student", "teacher", "bm25"):
        status, found = ask(server, "/search", {"who": who, "query": "one two " * 10_000})
        assert (status, found["cut"]) == (200, True)
        short = ask(server, "/search", {"who": who, "query": ("one two " * 10_000)[:QUERY]})[1]
        assert [hit["id"] for hit in short["hits"]] == [hit["id"] for hit in found["hits"]]
    status, found = ask(server, "/search", {"who": "student", "query": "x" * 300_000})
    assert (status, "shorten" in found["error"]) == (413, True)


@pytest.mark.parametrize(("path", "body", "status"), [
    ("/search", {"who": "nobody", "query": "one"}, 400),
    ("/search", {"who": "student", "query": 7}, 400),
    ("/search", {"query": "one"}, 400),
    ("/search", {"who": [], "query": "one"}, 400),
    ("/search", b"{broken", 400),
    ("/search", b"\xff\xfe", 400),
    ("/elsewhere", {"who": "student", "query": "one"}, 404),
    ("/../pyproject.toml", None, 404),
    ("/search", None, 404),
])  # fmt: skip
def test_other_requests_are_refused(server, path, body, status):
    found = ask(server, path, body)
    assert found[0] == status
    assert found[1]["error"]
    assert ask(server, "/about")[0] == 200  # and it goes on


def test_a_page_elsewhere_cannot_reach_it_under_its_own_name(server):
    for path, body in (("/", None), ("/about", None), ("/search", {"who": "student", "query": "one"})):
        assert ask(server, path, body, Host="evil.example")[0] == 403
    assert ask(server, "/about", Host=f"localhost:{server.server_port}")[0] == 200
    assert server.server_address[0] == "127.0.0.1"


def test_the_page_loads_nothing(server):
    status, page = ask(server, "/?q=1")
    assert status == 200
    assert "src=" not in page
    assert {word for word in page.split('"') if word.startswith(("http:", "https:", "//"))} == set()


def test_a_port_that_is_taken_is_named(folder, server):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ArgumentError, match=f"port={port} cannot be had.*free one"):
            Server(server.finder, port)


def test_folders_that_cannot_be_served(folder, tmp_path):
    with pytest.raises(DataError, match=r"There is no folder .*demo embeddings"):
        Finder(tmp_path / "nowhere")
    with pytest.raises(DataError, match="There is no student/ in"):
        Finder(tmp_path)
    other = shutil.copytree(folder, tmp_path / "other")
    config = json.loads((other / "student" / "config.json").read_text())
    (other / "student" / "config.json").write_text(json.dumps(config | {"teacher": "0" * 64}))
    with pytest.raises(IndexMismatchError, match="distilled from the teacher 000000000000"):
        Finder(other)


@pytest.mark.parametrize(
    ("model", "why"), [(None, "does not say where"), ("student", "is another model"), ("gone", "gone")]
)
def test_without_its_teacher_the_others_answer(folder, tmp_path, model, why):
    other = shutil.copytree(folder, tmp_path / "other")
    manifest = json.loads((other / "index" / "manifest.json").read_text())
    if model == "student":  # an encoder, and not the one that read the documents
        from embedding_toys import encoder
        from limbeck.export.sentence_folder import export_sentence_folder

        export_sentence_folder(encoder(seed=5), other / "another", WORDS)
        model = "another"
    manifest["model"] = model and str(other / model)
    (other / "index" / "manifest.json").write_text(json.dumps(manifest))
    finder = Finder(other)
    assert [column["key"] for column in finder.columns] == ["student", "bm25"]
    assert finder.missing[0].startswith("The teacher does not answer")
    assert why in finder.missing[0]
    assert len(finder.search("student", "one")["hits"]) == SHOWN


def test_ctrl_c_ends_it_cleanly(folder):
    running = subprocess.Popen(
        [sys.executable, "-m", "limbeck", "serve", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what runs in the background ignores it
    )
    line = running.stdout.readline()
    assert "documents at http://127.0.0.1:" in line, running.communicate()[1]
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=30)
    assert (running.returncode, out.strip()) == (0, "Stopped.")
    assert "Traceback" not in err
