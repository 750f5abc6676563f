"""Systems that choose, cut or mix the data of language models, from files to a report."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

import limbeck as lb
from language_toys import make_tokenizer, tiny
from limbeck.errors import ArgumentError, DataError
from limbeck.report.build import page


def model(family: str, **options):
    found = tiny(family, **options)
    found.tokenizer = make_tokenizer()
    return found


TEXTS = [{"text": " ".join("abcdefghij"[n % 5 : n % 5 + 4]), "kind": ["letters", "numbers"][n % 2]} for n in range(60)]
FEW = {"progress": False, "measure": False, "steps": 6, "batch_size": 4, "length": 16, "learning_rate": 0.01}


def test_ddk_from_a_column_to_the_report(tmp_path):
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(map(json.dumps, TEXTS)))
    given = {"teacher": model("GPT2"), "student": model("Llama"), "data": str(file), **FEW}
    run = lb.distill("ddk", domain="kind", every=2, valid=0.2, out=tmp_path / "run", **given)
    assert run.record["mixture"]["step"] == [0, 2, 4]
    assert set(run.record["mixture"]["share"]) == {"letters", "numbers"}
    assert "plot-mixture0" in page(run.record)
    assert run.record["data"]["domains"]["letters"]["statistics"]["train"]["samples"] == 24
    with pytest.raises(DataError, match="no domains"):
        lb.distill("ddk", **given)


SUMS = [{"prompt": f"{a} , {b} ", "response": f"{a} . {b} . a b . {(a + b) % 10}"} for a in range(10) for b in range(4)]
WRITTEN = {"progress": False, "measure": False, "generate": 0, "steps": 12, "batch_size": 8, "length": 64, "pack": False,
           "learning_rate": 0.01, "valid": 4, "checkpoint_every": 2}  # fmt: skip


class Stop(Exception):
    """In place of a kill."""


def stopping(monkeypatch, at: int):
    """Every run stops with its `at`-th training step, and what was done last is lost."""
    from limbeck.training.loop import Loop

    taken, step = [], Loop.step

    def count(self, batches):
        taken.append(self.number)
        if len(taken) == at:
            raise Stop
        step(self, batches)

    monkeypatch.setattr(Loop, "step", count)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dasd", {"max_new_tokens": 40, "candidates": 2, "mixed": 0.3, "cap": 0.2, "threshold": 0.0}),
        ("skip_thinking", {"chunks": 3, "skip": 0.5, "sentence_ends": ".", "checker": "number"}),
    ],
)
def test_a_stopped_run_writes_nothing_twice_and_ends_with_the_same_bits(tmp_path, name, options):
    def run(folder, **more):
        teacher, student = model("GPT2", initializer_range=0.1), model("Llama", initializer_range=0.1)
        given = {"teacher": teacher} if name == "dasd" else {}
        return lb.distill(
            name, student=student, data=SUMS, out=tmp_path / folder, **given, **WRITTEN, **options, **more
        )

    whole = run("whole")
    assert (
        len(whole.record["generated"]) == len(list((whole.path / "stages").iterdir())) == (3 if name == "dasd" else 2)
    )
    for at in (3, 4, 5):
        with pytest.MonkeyPatch.context() as patch:
            stopping(patch, at)
            with pytest.raises(Stop):
                run("cut", resume=at > 3)
    before = {file.name: file.read_text() for file in (tmp_path / "cut" / "generated").glob("*.jsonl")}
    again = run("cut", resume=True)
    got, expected = (load_file(each.path / "student" / "model.safetensors") for each in (again, whole))
    assert all(torch.equal(got[key], expected[key]) for key in expected)
    assert again.record["generated"] == whole.record["generated"]
    for file in (whole.path / "generated").glob("*.jsonl"):
        assert (again.path / "generated" / file.name).read_text() == file.read_text()
        assert file.read_text().startswith(before.get(file.name, ""))


def test_dry_runs_write_nothing(tmp_path):
    found = lb.distill("dasd", teacher=model("GPT2"), student=model("Llama"), data=SUMS, out=tmp_path / "run", dry_run=True,
                       **WRITTEN)  # fmt: skip
    assert found["stage"]["name"] == "low temperature"
    assert not (tmp_path / "run").exists()


def test_what_a_teacher_wrote_can_be_trained_on_elsewhere(tmp_path):
    given = {"teacher": model("GPT2", initializer_range=0.1), "student": model("Llama"), **WRITTEN}
    run = lb.distill("dasd", data=SUMS, out=tmp_path / "run", mixed=0.0, max_new_tokens=40, **given)
    other = lb.distill("alone", student=model("Llama"), data=str(run.path / "generated" / "low.jsonl"), **WRITTEN)
    assert other.record["data"]["kind"] == "tokens"
    with pytest.raises(ArgumentError, match="no checker 'nmber'"):
        lb.distill("skip_thinking", student=model("Llama"), data=SUMS, checker="nmber", **WRITTEN)
