"""In which precision teachers and students are held, through `distill`."""

from __future__ import annotations

import pytest
import torch

import limbeck as lb
from language_toys import make_tokenizer, tiny
from limbeck.errors import ArgumentError
from limbeck.students.build import mlp
from limbeck.students.precision import hold

pytest.importorskip("transformers")
TEXTS = ["a b c d e f", "b c d e", "c d e f g h", "d e f g", "e f g h i", "f g h", "a c e g i", "b d f h"] * 4
QUICK = {"recipe": "lm_kd", "data": TEXTS, "valid": 6, "length": 16, "batch_size": 8, "steps": 2, "progress": False,
         "measure": False}  # fmt: skip


def dtypes(module) -> set[torch.dtype]:
    return {parameter.dtype for parameter in module.parameters()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model of each kind, saved in bfloat16."""
    found = {}
    for family in ("Llama", "GPT2"):
        model = hold(tiny(family), "bf16")
        model.tokenizer = make_tokenizer()
        found[family] = str(lb.save_model(model, tmp_path_factory.mktemp("models") / family))
    return found


def prepared(**options):
    return lb.api.prepare(
        **{key: value for key, value in {**QUICK, **options}.items() if key not in ("progress", "measure")}
    )


def test_a_student_that_was_saved_in_half_precision_learns_in_float32(folders, tmp_path):
    assert dtypes(lb.load_model(folders["Llama"])) == {torch.bfloat16}
    run = lb.distill(teacher=folders["GPT2"], student=folders["Llama"], out=tmp_path / "run", **QUICK)
    assert dtypes(run.student) == {torch.float32}
    assert dtypes(lb.load_model(tmp_path / "run")) == {torch.float32}
    assert not [warning for warning in run.record["warnings"] if "half precision" in warning]
    cut = prepared(teacher=folders["Llama"], student="shrink(depth=1)").job.student
    assert dtypes(cut) == {torch.float32}


def test_frozen_weights_stay_as_they_were_saved_and_adapters_are_exact(folders):
    pytest.importorskip("peft")
    student = prepared(teacher=folders["GPT2"], student=folders["Llama"], lora=2).job.student
    learning = {p.dtype for p in student.parameters() if p.requires_grad}
    assert (learning, dtypes(student)) == ({torch.float32}, {torch.float32, torch.bfloat16})


@pytest.mark.parametrize(("word", "dtype"), [(None, torch.bfloat16), ("fp32", torch.float32), ("fp16", torch.float16)])
def test_a_teacher_is_held_as_asked_or_as_it_was_saved(folders, word, dtype):
    job = prepared(teacher=folders["Llama"], student="decoder:1,32", teacher_precision=word).job
    assert dtypes(job.teacher.module) == {dtype}
    assert job.teacher.module.model.rotary_emb.inv_freq.dtype == torch.float32
    run = lb.distill(teacher=folders["Llama"], student="decoder:1,32", teacher_precision=word, **QUICK)
    assert run.record["models"][0]["scores"]["nll"]["mean"] > 0
    assert ("teacher_precision" in run.record["config"]) == (word is not None)


def test_what_cannot_be_held_so_is_refused(folders, tmp_path):
    saved = str(lb.save_model(mlp(13, 3), tmp_path / "mlp"))
    for options, words in (
        ({"teacher": tiny("GPT2"), "student": folders["Llama"], "teacher_precision": "bf16"}, r"teacher\.bfloat16"),
        ({"teacher": folders["GPT2"], "student": folders["Llama"], "teacher_precision": "bf61"}, "Did you mean 'bf16'"),
        ({"recipe": "kd", "data": "wine", "length": None, "teacher": saved, "student": "mlp:4", "teacher_precision": "bf16"},
         "only Transformers models of texts can"),
    ):  # fmt: skip
        with pytest.raises(ArgumentError, match=words):
            lb.distill(**{key: value for key, value in {**QUICK, **options}.items() if value is not None})


def test_a_module_of_ones_own_in_half_precision_is_a_warning(folders):
    own = tiny("Llama").bfloat16()
    own.tokenizer = make_tokenizer()
    run = lb.distill(teacher=folders["GPT2"], student=own, **QUICK)
    assert any("small updates are lost" in warning for warning in run.record["warnings"])
