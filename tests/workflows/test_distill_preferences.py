"""From a file of preference pairs and a teacher to a small student: whole runs through `lb.distill` and the command line."""

import json

import pytest
from typer.testing import CliRunner

import limbeck as lb
from limbeck.cli import app
from limbeck.errors import LimbeckError

pytest.importorskip("transformers")

QUICK = {"progress": False, "measure": False, "batch_size": 8, "length": 32, "clip": 1.0}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Sums: chosen answers are right, rejected ones are none."""
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    rows = [{"prompt": f"{a}+{b}=", "chosen": str(a + b), "rejected": "=" * 3} for a in range(10) for b in range(10)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def teacher(pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "run"
    lb.distill("alone", student="decoder:1,32", tokenizer="bpe:270", data=pairs, out=folder, steps=60, learning_rate=1e-2,
               **QUICK)  # fmt: skip
    return folder


def test_one_command_does_all_stages(pairs, teacher, tmp_path):
    out = tmp_path / "run"
    run = lb.distill(
        "dckd", teacher=teacher, student="decoder:1,16", data=pairs, out=out, steps=30, learning_rate=1e-2, **QUICK
    )
    results = [json.loads((out / f"stages/{n}/done/result.json").read_text()) for n in (0, 1)]
    assert [result["describe"]["name"] for result in results] == ["aligned teacher", "distil"]
    scores = {model["role"]: model["scores"] for model in run.record["models"]}
    assert 0 <= scores["student"]["preference_accuracy"]["mean"] <= 1
    assert "Preference accuracy" in (out / "report.html").read_text()
    curves = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    dpo = [row["terms"]["dpo"] for row in curves if row["stage"] == 0 and "terms" in row]
    assert dpo[-1] < dpo[0] == pytest.approx(0.6931, abs=1e-3)
    again = lb.distill("dckd", teacher=teacher, student="decoder:1,16", data=pairs, out=out, steps=30, learning_rate=1e-2,
                       resume=True, **QUICK)  # fmt: skip
    assert again.record["models"][1]["scores"] == run.record["models"][1]["scores"]


def test_a_stage_whose_model_is_given_is_skipped(pairs, teacher, tmp_path):
    words = [f"teacher={teacher}", f"aligned={teacher}", "student=decoder:1,16", f"data={pairs}", "steps=2", "batch_size=8",
             "length=32", f"out={tmp_path}/run", "measure=false"]  # fmt: skip
    found = CliRunner().invoke(app, ["distill", "adpa", *words, "start=none", "max_new_tokens=4"])
    assert found.exit_code == 0, found.output
    assert [path.name for path in (tmp_path / "run/stages").iterdir()] == ["0"]
    config = json.loads((tmp_path / "run/report.json").read_text())["config"]
    assert config["arguments"] == {"aligned": str(teacher), "start": "none", "max_new_tokens": 4}


def test_plain_recipes_learn_the_chosen_answers(pairs, teacher):
    run = lb.distill(
        "lm_kd", teacher=teacher, student="decoder:1,16", data=pairs, steps=60, learning_rate=1e-2, kd=0.0, **QUICK
    )
    scores = next(model for model in run.record["models"] if model["role"] == "student")["scores"]
    assert scores["preference_accuracy"]["mean"] > 0.9


def test_what_does_not_fit_is_said_before_training(pairs, teacher, tmp_path):
    plain = tmp_path / "plain.jsonl"
    plain.write_text("\n".join(json.dumps({"prompt": f"{a}+1=", "response": str(a + 1)}) for a in range(30)))
    with pytest.raises(LimbeckError, match="prompt, chosen and rejected"):
        lb.distill("redi", student="decoder:1,16", tokenizer="bpe:270", data=plain, steps=2, **QUICK)
    with pytest.raises(LimbeckError, match=r"start='dckdd'|'sft', 'dckd' or 'none'"):
        lb.distill("adpa", teacher=teacher, data=pairs, start="dckdd", steps=2, **QUICK)


def test_have_answers_for_preferences():
    found = CliRunner().invoke(app, ["recipes", "--have", "logits,preferences", "--json"])
    names = {row["name"] for row in json.loads(found.output)}
    assert {"dckd", "adpa", "aligndistil", "redi"} <= names
    assert "lm_kd" not in names
