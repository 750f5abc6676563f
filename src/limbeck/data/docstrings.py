"""Documents that every installation has: the docstrings of the Python libraries beside it. Read from source, not imported."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from limbeck.errors import DataError

STANDARD = "the standard library"
LIBRARIES = ("torch", "numpy", "scipy", "sklearn", "transformers", "pandas", STANDARD)
LONGEST = 1000  # characters of a document: what follows is examples and references
PER_FILE = 6
SKIPPED = re.compile(
    r"^(tests?|testing|idlelib|lib2to3|site-packages|dist-packages|test_.*|.*_test|.*_pb2|conftest|__.*)$"
)
PRIVATE = re.compile(r"^_(?!core$)")  # folders; in private files and numpy._core are what a library shows as its own
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z`\"'(\[])|\n\s*\n")
NO_SENTENCE = re.compile(r"[a-z]|>>>|\.\.|[:#*=|]|\w+ \(`")  # pieces, code, markup, descriptions of arguments
UNDERLINE = re.compile(r"^\s*[-=~^]{3,}\s*$", re.MULTILINE)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Document:
    """A docstring: where it stands, its first sentence, and all that follows."""

    name: str  # numpy.linalg.qr
    library: str
    first: str
    rest: str


def collect(libraries: Sequence[str] = LIBRARIES, most: int = 400, progress: Progress | None = None) -> list[Document]:
    """Docstrings of public modules, classes and functions of the libraries that are installed, at most `most` of each.

    Files are read in the order of the hashes of their names, a few docstrings of each, so that the choice is spread over a
    library and is the same wherever the same versions are installed. One is taken that has a first sentence of 4 to 40 words
    and at least 25 words after it; of those with the same name, first sentence or rest, one. Raises DataError where
    nothing is found.
    """
    found: list[Document] = []
    seen: set[str] = set()
    for number, library in enumerate(libraries):
        mine = 0
        for document in _documents(library):
            keys = {document.name, _key(document.first), _key(document.rest)}
            if keys & seen:
                continue
            seen |= keys
            found.append(document)
            mine += 1
            if progress is not None:
                progress(number * most + mine, len(libraries) * most)
            if mine == most:
                break
    if not found:
        raise DataError(f"No docstrings were found: none of {', '.join(libraries)} has sources here.")
    return found


def sentences(text: str) -> list[str]:
    """A text in sentences and paragraphs, each on one line, those of three words or more."""
    found = (" ".join(piece.split()) for piece in SENTENCE.split(text))
    return [piece for piece in found if len(piece.split()) >= 3]


def split(docstring: str) -> tuple[str, str] | None:
    """The first sentence of a docstring, on one line, and what follows it; None where either is too short or too long."""
    text = UNDERLINE.sub("", inspect.cleandoc(docstring)).strip()
    pieces = SENTENCE.split(text, maxsplit=1)
    if len(pieces) < 2:
        return None
    first = " ".join(pieces[0].split())
    rest = re.sub(r"\n\s*\n+", "\n\n", pieces[1]).strip()[:LONGEST]
    if not 4 <= len(first.split()) <= 40 or len(rest.split()) < 25 or NO_SENTENCE.match(first):
        return None
    return first, rest


def _documents(library: str) -> Iterator[Document]:
    for root, name, file in _files(library):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # escapes in other people's strings
                tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError, OSError, RecursionError):
            continue
        taken = 0
        for path, docstring in sorted(_docstrings(tree, name), key=lambda pair: _hash(pair[0])):
            both = split(docstring)
            if both is not None and taken < PER_FILE:
                taken += 1
                yield Document(path, root, *both)


def _files(library: str) -> list[tuple[str, str, Path]]:
    """(library, module's name, file) of every public source file, in the order of hashes."""
    if library == STANDARD:
        folder, prefix = Path(sysconfig.get_paths()["stdlib"]), ""
    else:
        spec = importlib.util.find_spec(library)
        places = list(spec.submodule_search_locations or []) if spec is not None else []
        if not places:
            return []
        folder, prefix = Path(places[0]), library
    found = []
    for file in folder.rglob("*.py"):
        parts = file.relative_to(folder).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if any(map(SKIPPED.match, parts)) or any(map(PRIVATE.match, parts[:-1])):
            continue
        found.append((library, ".".join(part for part in (prefix, *parts) if part and part[0] != "_"), file))
    return sorted(found, key=lambda one: (_hash(one[1]), one[1]))


def _docstrings(tree: ast.Module, module: str) -> Iterator[tuple[str, str]]:
    """(name, docstring) of a module and of its public classes, functions and methods."""
    waiting: list[tuple[str, ast.AST]] = [(module, tree)]
    while waiting:
        name, node = waiting.pop()
        docstring = ast.get_docstring(node, clean=False)  # type: ignore[arg-type]
        if docstring:
            yield name or STANDARD, docstring
        for child in node.body if isinstance(node, ast.Module | ast.ClassDef) else ():
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and child.name[0] != "_":
                waiting.append((f"{name}.{child.name}", child))


def _hash(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=8).digest()


def _key(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))
