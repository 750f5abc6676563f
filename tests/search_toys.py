"""A small library with docstrings, the folder of a small encoder, and a folder that `limbeck serve` answers from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from embedding_toys import encoder
from limbeck.export.index import write_index
from limbeck.export.sentence_folder import export_sentence_folder
from limbeck.recipes.toy_embedding import WORDS
from limbeck.students.declare import seeded
from limbeck.students.encoders import static
from limbeck.students.save import save_model
from limbeck.teachers.base import module_hash
from limbeck.teachers.load_encoders import read_encoder

THINGS, DEEDS = WORDS[:8], WORDS[8:]


def library(folder: Path) -> Path:
    """The package `toylib`: docstrings of 48 functions, whose first sentence and rest share two words."""
    root = folder / "toylib"
    (root / "tests").mkdir(parents=True)
    (root / "tests" / "test_it.py").write_text(f'"""{_docstring("one", "tests")}"""\n')
    for thing in THINGS:
        made = [f'def do_{deed}():\n    """{_docstring(thing, deed)}"""\n' for deed in DEEDS]
        (root / f"{thing}.py").write_text(
            "\n\n".join([*made, f'def _hidden():\n    """{_docstring(thing, "hides")}"""\n'])
        )
    (root / "broken.py").write_text("def (:\n")
    (root / "__init__.py").write_text("raise RuntimeError('a library that is read is not imported')\n")
    return root


def _docstring(thing: str, deed: str) -> str:
    rest = f"Here {thing} {deed} {thing} and then {thing} {deed} again. That is {thing} with {deed} and with {deed} {thing}. "
    return f"It is {thing} that {deed} {thing} {deed}.\n\n    {2 * rest}"


def encoder_folder(folder: Path) -> Path:
    """The toy encoder as a folder that can be named as a teacher."""
    export_sentence_folder(encoder(), folder, WORDS)
    return folder


def search_folder(folder: Path, documents: dict[str, str], **more: Any) -> Path:
    """student/ and index/ over documents, as the demo leaves them; the student has random rows."""
    teacher = read_encoder(str(encoder_folder(folder / "teacher")))
    with seeded(1):
        student = static(teacher.width, teacher.tokenizer)
    student.limbeck_teacher = module_hash(teacher)
    save_model(student, folder / "student", task="embedding")
    texts = list(documents.values())
    write_index(folder / "index", list(documents), texts, teacher.encode(texts), teacher=module_hash(teacher),
                titles=[text[:20] for text in texts], more={"model": str(folder / "teacher"), **more})  # fmt: skip
    return folder
