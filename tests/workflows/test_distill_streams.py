"""Training from files that are read as they are needed, through `distill`: stopped at any moment, gone on with, refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import limbeck as lb
from language_toys import make_tokenizer, tiny
from limbeck.errors import ArgumentError, DataError, ModelError, RunError
from limbeck.training.sources import PartSource
from limbeck.training.token_sources import LengthSource, TokenSource

HERE = Path(__file__).parents[1]

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
RECORDS = [{"text": LETTERS[n % 36] + " " + LETTERS[: 1 + n * 7 % 11].replace("", " ").strip()} for n in range(90)]


def model(family: str, **options):
    found = tiny(family, **options)
    found.tokenizer = make_tokenizer()
    return found


def arguments(folder: Path, **options):
    """25 to 40 batches of 4 rows a pass, so that 13 steps end in the middle of one."""
    file = folder / "texts.jsonl"
    if not file.exists():
        file.write_text("\n".join(map(json.dumps, RECORDS)))
    student = options.pop("student", None) or model("Llama")
    return {
        "recipe": "lm_kd", "teacher": model("GPT2"), "student": student, "data": str(file), "stream": True, "buffer": 20,
        "length": 24, "valid": 4, "steps": 13, "batch_size": 4, "checkpoint_every": 2, "progress": False, "measure": False,
        "learning_rate": 0.01, **options,
    }  # fmt: skip


def child(folder: str, kill: int, pack: bool) -> None:
    """The run in a process of its own, which dies in its `kill`-th training step, between two checkpoints."""
    torch.set_num_threads(1)
    student, seen = model("Llama"), []

    def count(module, *_) -> None:
        seen.append(module.training)
        if sum(seen) == kill:
            os.kill(os.getpid(), signal.SIGKILL)

    student.model.register_forward_hook(count)
    lb.distill(out=f"{folder}/run", resume=True, **arguments(Path(folder), student=student, pack=pack))


@pytest.mark.processes
@pytest.mark.parametrize(("pack", "kills"), [(True, [4, 6]), (False, [5])], ids=["packed", "padded"])
def test_a_killed_run_goes_on_in_the_middle_of_a_pass_to_the_same_bits(tmp_path, pack, kills):
    torch.set_num_threads(1)
    whole = lb.distill(out=tmp_path / "whole", **arguments(tmp_path, pack=pack))
    path = [str(HERE / "workflows"), str(HERE)]
    for kill in kills:
        code = f"import sys; sys.path[:0] = {path}; import test_distill_streams as t; "
        code += f"t.child({str(tmp_path)!r}, {kill}, {pack})"
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
        assert found.returncode == -signal.SIGKILL, found.stderr[-2000:]
    run = lb.distill(out=tmp_path / "run", resume=True, **arguments(tmp_path, pack=pack))
    got, expected = (load_file(each.path / "student" / "model.safetensors") for each in (run, whole))
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[key], expected[key]) for key in expected)
    assert (run.path / "metrics.jsonl").read_text() == (whole.path / "metrics.jsonl").read_text()
    assert run.verdict == whole.verdict


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"stream": True}, TokenSource),
        ({"stream": False, "pack": False}, LengthSource),
        ({"stream": False, "pack": True}, PartSource),
    ],
    ids=["stream", "rows", "packed"],
)
def test_a_part_is_read_as_it_asks_for(tmp_path, options, kind):
    asked = arguments(tmp_path, **options, accumulate=2)
    prepared = lb.api.prepare(**{key: value for key, value in asked.items() if key not in ("measure", "progress")})
    source = prepared.bound(prepared.job).source
    assert type(source) is kind
    batches = source.micro_batches(0, {})
    assert [len(batch) for batch in batches] == [2, 2]
    assert ("position_ids" in batches[0].inputs) == options.get("pack", True)
    assert batches[0].inputs["input_ids"].shape[1] <= 24
    assert prepared.job.settings.steps == 13
    assert prepared.job.has() >= {"logits", "labels"}
    assert prepared.job.labelled() is prepared.job.data.train


def test_a_run_without_a_length_has_2000_steps_and_a_dry_run_says_so(tmp_path):
    found = lb.distill(dry_run=True, **arguments(tmp_path, steps=None))
    assert found["steps"] == 2000
    assert found["samples"].keys() == {"valid"}
    assert "a stream of 1 files" in found["stage"]["source"]
    assert (
        found["texts"]["valid"]["length"].keys() == {"p50", "p95", "max"} and found["texts"]["valid"]["left_out"] == 0
    )


def test_the_report_counts_what_is_known(tmp_path):
    run = lb.distill(out=tmp_path / "run", **arguments(tmp_path, steps=2))
    data = json.loads((run.path / "report.json").read_text())["data"]
    assert data["counts"].keys() == {"valid"}
    assert data["statistics"]["train"]["of_the_first"] == 20
    assert (run.path / "report.html").exists()
    with (tmp_path / "texts.jsonl").open("a") as file:
        file.write('\n{"text": "one more"}')
    with pytest.raises(RunError, match="other samples"):
        lb.distill(out=run.path, resume=True, **arguments(tmp_path, steps=2))


def test_what_a_stream_cannot_do_is_refused_before_training(tmp_path):
    for options, error, words in (
        ({"valid": 0}, DataError, "nothing beside it to score"),
        ({"workers": 2}, ArgumentError, "workers=2: 'train' is a stream"),
        ({"batch_size": "all"}, ArgumentError, "batch_size='all': 'train' is a stream"),
        ({"steps": None, "epochs": 2}, ArgumentError, "no epochs"),
        ({"student": model("OPT")}, ModelError, "The student: .*pack=False"),
        ({"student": model("Llama", vocab_size=40)}, DataError, "the student knows 40"),
    ):
        with pytest.raises(error, match=words):
            lb.distill(**arguments(tmp_path, **options))
