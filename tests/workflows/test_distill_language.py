"""Language models from files to a distilled student: tokenizers learnt or taken along, folders, commands, refusals."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

import limbeck as lb
from limbeck.data.language import load_language_data
from limbeck.data.tokenizer import train_tokenizer
from limbeck.errors import ArgumentError, DataError, ModelError
from limbeck.students.declare import seeded
from limbeck.students.language import text_decoder
from limbeck.tasks import resolve

WORDS = ["the", "small", "still", "keeps", "what", "a", "large", "one", "knew", "and", "lets", "its", "rest", "go"]
TEXTS = [
    " ".join(WORDS[(start + step * k) % len(WORDS)] for k in range(12)) for start in range(13) for step in (1, 2, 3)
]
QUICK = {"progress": False, "learning_rate": 0.01, "steps": 6, "batch_size": 4, "length": 24}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    return str(path)


@pytest.fixture(scope="module")
def teacher(texts, tmp_path_factory):
    """A run's folder: a small decoder with a tokenizer learnt from the texts."""
    out = tmp_path_factory.mktemp("runs") / "teacher"
    lb.distill("alone", student="decoder:2,32", data=texts, tokenizer="bpe:280", out=out, **{**QUICK, "steps": 40})
    return str(out)


def test_a_student_speaks_its_teachers_tokens_and_is_loaded_by_transformers(teacher, texts, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = lb.distill(
        teacher=teacher, student="decoder:1,32", data=texts, baseline="alone", out=tmp_path / "run", **QUICK
    )
    assert run.task.name == "causal_lm"
    assert run.record["recipe"]["name"] == "lm_kd"
    by_role = {model["role"]: model for model in run.record["models"]}
    assert set(by_role) == {"teacher", "student", "baseline"}
    assert by_role["teacher"]["scores"]["perplexity"]["mean"] < by_role["student"]["scores"]["perplexity"]["mean"]
    assert by_role["student"]["agreement"]["kl_to_teacher"]["mean"] > 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "student").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "student")
    ids = tokenizer(TEXTS[0], return_tensors="pt")["input_ids"]
    assert tokenizer.decode(ids[0]) == TEXTS[0]
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, run.student(ids).logits)
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000


def test_a_student_cut_from_its_teacher_starts_better_than_a_fresh_one(teacher, texts):
    runs = {
        student: lb.distill("lm_kd", teacher=teacher, student=student, data=texts, measure=False, **QUICK)
        for student in ("shrink(depth=1)", "decoder:1,32")
    }
    first = {name: run.record["curves"]["student"]["loss"][0] for name, run in runs.items()}
    assert first["shrink(depth=1)"] < first["decoder:1,32"]


def test_answers_are_learned_without_their_prompts(tmp_path):
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("\n".join(json.dumps({"prompt": text[:10], "response": text[10:]}) for text in TEXTS))
    run = lb.distill(
        "alone", student="decoder:1,32", data=str(pairs), tokenizer="bytes", measure=False, task="causal_lm", **QUICK
    )
    batch = run.data.train.batch([0])
    prompt = int(run.data.train.prompts[0])
    assert (batch.labels[0, : prompt - 1] == -100).all()
    assert run.data.tokenizer.decode(batch.inputs["input_ids"][0, :prompt]).startswith(TEXTS[0][:3]) or prompt > 3


def test_stored_logits_teach_as_the_live_teacher(teacher, texts, tmp_path):
    data = load_language_data(texts, lb.load_model(teacher, task=resolve("causal_lm")).tokenizer, length=24)
    model = lb.load_model(teacher, task=resolve("causal_lm"))
    task = resolve("causal_lm")
    task.load(data)
    lb.store_signals(model, data, tmp_path / "store", task=task, dtype="float32", parts=("train", "valid"))
    options = {**QUICK, "student": "decoder:1,32", "data": data, "measure": False, "best": "last"}
    live = lb.distill("lm_kd", teacher=model, **options)
    stored = lb.distill("lm_kd", teacher=str(tmp_path / "store"), task="causal_lm", **options)
    for one, other in zip(live.student.parameters(), stored.student.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_the_command_line(teacher, texts, tmp_path):
    command = [sys.executable, "-m", "limbeck", "distill", "taid", f"teacher={teacher}", "student=decoder:1,32",
               f"data={texts}", "length=24", "steps=4", "batch_size=4", "measure=false", f"out={tmp_path / 'run'}"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "perplexity" in done.stdout.lower()
    refused = subprocess.run([*command[:-1], "tokenizer=bpe:20"], capture_output=True, text=True, timeout=200)
    assert refused.returncode == 2
    assert "261 or more" in refused.stderr + refused.stdout


def test_what_is_missing_is_named(texts, teacher, tmp_path):
    given = {"data": texts, "measure": False, **QUICK}
    with pytest.raises(ModelError, match="tokenizer=bpe:4096"):
        lb.distill("alone", student="decoder:1,32", **given)
    with pytest.raises(ModelError, match="could not be loaded"):
        lb.distill("alone", student="decoder:1,32", tokenizer=str(tmp_path / "none"), **given)
    with pytest.raises(ArgumentError, match="is for causal_lm"):
        lb.distill(
            "taid",
            teacher=lb.load_model(teacher, task=resolve("causal_lm")),
            data="digits",
            task="classification",
            steps=1,
        )
    with pytest.raises(ModelError, match="Use 'decoder'"):
        lb.distill("alone", student="mlp:8", task="causal_lm", tokenizer="bytes", **given)
    with pytest.raises(DataError, match=r"x\.jsonl"):
        lb.distill(
            "alone",
            student="decoder:1,32",
            task="causal_lm",
            tokenizer="bytes",
            **{**given, "data": str(tmp_path / "x.jsonl")},
        )


def test_a_student_leaves_as_a_folder_and_in_no_other_form(teacher, texts, tmp_path):
    given = {"data": texts, "student": "decoder:1,32", "teacher": teacher, "measure": False, **QUICK}
    run = lb.distill(out=tmp_path / "run", export="safetensors", **given)
    assert run.record["exports"][0]["max_difference"] == 0
    with pytest.raises(ArgumentError, match="only as safetensors"):
        run.export(format="onnx")
    with pytest.raises(ArgumentError, match="only as safetensors"):
        lb.distill(out=tmp_path / "other", export="onnx", **given)
    assert not (tmp_path / "other").exists()


def test_the_engine_asks_nothing_of_a_model_but_states_and_a_matrix(texts):
    """A module of one's own with `base_model` and `get_output_embeddings` is a language model; see TinyLM."""
    from limbeck.recipes.toy_language import TinyLM

    tokenizer = train_tokenizer(TEXTS, 280)
    data = load_language_data(texts, tokenizer, length=24, pack=False)
    with seeded(0):
        teacher, student = TinyLM(len(tokenizer), 16), TinyLM(len(tokenizer), 8)
    run = lb.distill("lm_kd", teacher=teacher, student=student, data=data, task="causal_lm", measure=False,
                     **{key: value for key, value in QUICK.items() if key != "length"})  # fmt: skip
    assert run.record["models"][-1]["scores"]["perplexity"]["mean"] > 1


@pytest.mark.parametrize(("options", "match"), [
    ({"layers": 0}, "layers"), ({"width": 33}, "heads"), ({"dropout": 2.0}, "dropout"), ({"max_length": 1}, "max_length"),
])  # fmt: skip
def test_decoders_of_impossible_sizes_are_refused(options, match):
    with pytest.raises(ArgumentError, match=match):
        text_decoder(train_tokenizer(TEXTS, 261), **options)
    with pytest.raises(ModelError, match="no vocabulary"):
        text_decoder("bytes")
