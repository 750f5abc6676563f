"""`lora=`: a pretrained student whose adapters learn, through `distill`: saved, loaded, stopped, gone on with."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import load_file

import limbeck as lb
from language_toys import make_tokenizer, tiny
from limbeck.errors import ArgumentError, RunError
from limbeck.students.adapters import has_adapters
from toys import weights

pytest.importorskip("peft")
TEXTS = ["a b c d e f", "b c d e", "c d e f g h", "d e f g", "e f g h i", "f g h", "a c e g i", "b d f h"] * 4
QUICK = {"recipe": "lm_kd", "data": TEXTS, "valid": 6, "length": 16, "batch_size": 8, "steps": 8, "learning_rate": 0.02,
         "progress": False, "measure": False, "clip": 1.0, "warmup": 0.0}  # fmt: skip
X = torch.arange(9)[None]


def model(family: str):
    found = tiny(family)
    found.tokenizer = make_tokenizer()
    return found


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return lb.save_model(model("Llama"), tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def teacher():
    return model("GPT2")


def logits(module):
    with torch.no_grad():
        return module(X).logits


@pytest.mark.parametrize("lora", [4, {"rank": 4, "merge": False}, {"rank": 4, "train": ["lm_head"], "dropout": 0.1}],
                         ids=["merged", "adapter", "head"])  # fmt: skip
def test_the_students_folder_loads_again(tmp_path, base, teacher, lora):
    run = lb.distill(out=tmp_path / "run", teacher=teacher, student=str(base), lora=lora, **QUICK)
    again = lb.load_model(tmp_path / "run")
    assert torch.equal(logits(again), logits(run.student))
    assert not torch.equal(logits(again), logits(model("Llama")))
    merge = not (isinstance(lora, dict) and "merge" in lora)
    assert has_adapters(again) == has_adapters(run.student) == (not merge)
    assert (run.path / "student/model.safetensors").exists() == merge
    kept = load_file(run.path / "stages/0/done/weights.safetensors")
    assert kept
    assert all("lora_" in key or "modules_to_save" in key for key in kept)
    losses = [json.loads(line)["terms"]["loss"] for line in (run.path / "metrics.jsonl").open() if "terms" in line]
    assert losses[-1] < losses[0]
    replayed = lb.distill(out=tmp_path / "run", teacher=teacher, student=str(base), lora=lora, resume=True, **QUICK)
    assert torch.equal(logits(replayed.student), logits(again))
    student = lb.distill(teacher=str(run.path), student=model("Llama"), **QUICK | {"steps": 1}).student  # it can teach
    assert not has_adapters(student)


class Stop(Exception):
    """What ends a run in the middle."""


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, base, teacher):
    options = {"lora": {"rank": 4, "dropout": 0.2}, "checkpoint_every": 3, "evaluate_every": 2, "ema": 0.8, **QUICK}
    whole = lb.distill(out=tmp_path / "whole", teacher=teacher, student=str(base), **options)

    def student():
        return lb.load_model(base)

    own = student()
    seen = []

    def stop(module, *_):
        seen.append(module.training)
        if sum(seen) == 6:
            raise Stop

    own.model.register_forward_hook(stop)
    with pytest.raises(Stop):
        lb.distill(out=tmp_path / "run", teacher=teacher, student=own, **options)
    held = load_file(tmp_path / "run/stages/0/checkpoints/step-00000003/weights.safetensors")
    assert all("lora_" in key for key in held)
    other = student()
    with torch.no_grad():
        other.model.norm.weight += 1
    with pytest.raises(RunError, match="frozen weights of 'student' are not those"):
        lb.distill(out=tmp_path / "run", teacher=teacher, student=other, resume=True, **options)
    run = lb.distill(out=tmp_path / "run", teacher=teacher, student=student(), resume=True, **options)
    assert torch.equal(weights(run.student), weights(whole.student))


def test_seeds_and_the_baseline_have_the_base_of_the_module(teacher):
    own = model("Llama")
    frozen = copy.deepcopy(own.model.norm.weight)
    run = lb.distill(teacher=teacher, student=own, lora=4, seeds=2, baseline="alone", **QUICK | {"steps": 3})
    assert {row["role"] for row in run.record["models"]} == {"teacher", "student", "baseline"}
    assert all(len(row["scores"]["nll"]["values"]) == 2 for row in run.record["models"][1:])
    assert torch.equal(run.student.model.norm.weight, frozen)
    values = run.record["models"][1]["scores"]["nll"]["values"]
    assert values[0] != values[1]
    assert values[0] == pytest.approx(values[1], rel=0.3)  # other adapters, the same base


def test_what_cannot_be_is_refused_before_training(tmp_path, teacher):
    for student, lora, words in (
        ("decoder:1,32", 4, "those of a new one are random"),
        (model("Llama"), {"rank": 4, "merge": False}, "comes from no folder"),
        (model("Llama"), {"rank": 4, "merges": False}, "Did you mean 'merge'"),
    ):
        with pytest.raises(ArgumentError, match=words):
            lb.distill(teacher=teacher, student=student, lora=lora, **QUICK)


def test_a_text_classifier_has_adapters_too(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                     intermediate_size=16, num_labels=2)  # fmt: skip
    own = transformers.BertForSequenceClassification(config)
    own.tokenizer = make_tokenizer()
    data = {"train": [{"text": t, "label": "xy"[n % 2]} for n, t in enumerate(TEXTS)]}
    import pandas

    pandas.DataFrame(data["train"]).to_json(tmp_path / "x.jsonl", orient="records", lines=True)
    run = lb.distill("alone", student=own, lora=2, data=str(tmp_path / "x.jsonl"), steps=2, out=tmp_path / "run",
                     progress=False, measure=False)  # fmt: skip
    assert type(run.student) is type(own)
    again = lb.load_model(tmp_path / "run")
    assert torch.equal(weights(again), weights(run.student))
    torch.testing.assert_close(again(X).logits, run.student(X).logits)  # where weights lie in memory moves the last bit
