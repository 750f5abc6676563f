"""The lm-evaluation-harness on a student's folder: against likelihoods of our own; skipped by name where it is missing."""

import importlib.util
import json
import sys

import pytest
import torch

from limbeck import cli
from limbeck.data.tokenizer import train_tokenizer
from limbeck.errors import ArgumentError, LimbeckError, ModelError
from limbeck.evaluation import harness
from limbeck.students.build import mlp
from limbeck.students.declare import seeded
from limbeck.students.language import text_decoder
from limbeck.students.save import save_model

HERE = importlib.util.find_spec("lm_eval") is not None
QUESTIONS = [
    {"question": f"{number} and", "choices": [" one", " two", " three"], "answer": number % 3} for number in range(9)
]
TASK = """task: counting
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


@pytest.fixture(scope="module")
def student():
    with seeded(3):
        module = text_decoder(train_tokenizer(["one two three and 0123456789"], 261), layers=1, width=16)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(3)  # so that choices differ by more than rounding
    return module.eval()


def likelihood(model, before, after):
    """log p(after | before), token by token."""
    head, tail = (model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before, after))
    ids = torch.tensor([head + tail])
    with torch.no_grad():
        logs = model(input_ids=ids).logits[0].log_softmax(-1)
    return float(sum(logs[len(head) + place - 1, token] for place, token in enumerate(tail)))


@pytest.mark.skipif(not HERE, reason="lm_eval is not installed (pip install 'limbeck[harness]')")
def test_a_task_of_ones_own_without_a_network(student, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "counting.jsonl").write_text("".join(json.dumps(one) + "\n" for one in QUESTIONS))
    (tmp_path / "counting.yaml").write_text(TASK.format(file=tmp_path / "counting.jsonl"))
    expected = [
        max(range(3), key=lambda place: likelihood(student, one["question"], one["choices"][place])) == one["answer"]
        for one in QUESTIONS
    ]
    found = harness.run_tasks(model=student, tasks="counting", include=tmp_path)
    scores = found["tasks"]["counting"]
    assert scores["acc"] == pytest.approx(sum(expected) / len(expected))
    assert scores["samples"] == len(QUESTIONS)
    assert scores["acc_stderr"] > 0 or scores["acc"] in (0, 1)
    save_model(student, tmp_path / "saved")
    monkeypatch.setattr("sys.argv", ["limbeck", "evaluate", str(tmp_path / "saved"), "tasks=counting", f"include={tmp_path}",
                                     "limit=4", "--json"])  # fmt: skip
    assert cli.run() == 0
    written = capsys.readouterr().out
    assert json.loads(written[written.index("{") :])["tasks"]["counting"]["samples"] == 4


def test_without_the_package_the_extra_is_named(student, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(LimbeckError, match=r"pip install 'limbeck\[harness\]'"):
        harness.run_tasks(model=student, tasks="counting")


def test_what_is_asked_wrongly(student, tmp_path):
    for options, message in (({"tasks": ""}, "names no task"), ({"tasks": "x", "limit": 0}, "limit=0"),
                             ({"tasks": "x", "include": tmp_path / "none"}, "is no folder")):  # fmt: skip
        with pytest.raises(ArgumentError, match=message):
            harness.run_tasks(model=student, **options)
    with pytest.raises(ModelError, match="causal Transformers models with a tokenizer"):
        harness._loaded(mlp(4, 2))


def test_results_are_made_plain():
    raw = {
        "results": {"a": {"alias": "a", "acc,none": 0.5, "acc_stderr,none": 0.1, "exact_match,strict": 1.0,
                          "exact_match_stderr,strict": "N/A"}},
        "n-samples": {"a": {"original": 9, "effective": 4}},
    }  # fmt: skip
    assert harness._plain(raw) == {"a": {"acc": 0.5, "acc_stderr": 0.1, "exact_match[strict]": 1.0, "samples": 4}}


def test_the_table_has_values_with_their_errors(capsys):
    scores = {
        "acc": 0.5,
        "acc_stderr": 0.125,
        "exact_match[strict]": 1.0,
        "exact_match_stderr[strict]": 0.25,
        "samples": 4,
    }
    harness.show_tasks({"tasks": {"a": scores}})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:] == [["a", "acc", "0.5", "0.12", "4"], ["a", "exact_match[strict]", "1", "0.25", "4"]]
