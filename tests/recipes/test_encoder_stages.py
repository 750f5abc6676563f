"""Recipes for encoders with several stages: who teaches what on which texts, and for how long."""

import copy
import json

import pytest
import torch

from encoder_toys import TEXTS, job_of, plan_of
from limbeck.data.base import Data
from limbeck.data.texts import text_part
from limbeck.errors import ArgumentError, SignalError
from limbeck.recipes import find
from limbeck.recipes.toy import toy_job
from limbeck.recipes.toy_embedding import encoder_toy
from limbeck.teachers.base import as_teacher
from limbeck.training.execute import Runner
from limbeck.training.stage import Stage
from toys import weights

TINY, MINI, MINI2, PKD, ERNIE = (find(name) for name in ("tinybert", "minilm", "minilm_v2", "pkd_bert", "ernie_tiny"))


def test_tinybert_stages():
    job = job_of(TINY, steps=20, best="last", learning_rate=0.01)
    before = copy.deepcopy(job.student)
    stages, students, runner = plan_of(TINY, job, before=0.8, general=TEXTS)
    assert [stage.name for stage in stages] == ["general", "task", "prediction"]
    assert [stage.settings.steps for stage in stages] == [8, 8, 4]
    assert stages[0].evaluate is stages[1].evaluate is None
    assert stages[0].source.part.texts == TEXTS
    objectives = [stage.learners["student"].objective for stage in stages]
    assert objectives[0] is objectives[1]  # one W throughout
    assert str(objectives[2]) == "0.25 * soft_cross_entropy(temperature=1)"
    head = [module.classifier.weight for module in (before, *students)]
    assert torch.equal(head[0], head[2])  # nothing but the inside is taught
    assert not torch.equal(head[2], head[3])
    losses = [r["terms"]["loss"] for r in runner.metrics.records if r.get("stage") in (0, 1) and "terms" in r]
    assert losses[-1] < losses[0]


def test_tinybert_has_a_general_teacher():
    other = encoder_toy(2, 4)[2].module
    with torch.no_grad():
        other.bert.embeddings.word_embeddings.weight.zero_()
    stages, _, _ = plan_of(TINY, job_of(TINY, steps=6), general=TEXTS, general_teacher=other)
    assert stages[0].teachers["teacher"].module is other
    assert stages[1].teachers["teacher"].module is not other
    with pytest.raises(ArgumentError, match="Give both, or neither"):
        next(TINY(job_of(TINY), general_teacher=other))


@pytest.mark.parametrize("recipe", [MINI, MINI2])
def test_relations_stages(recipe):
    job = job_of(recipe, steps=16, best="last")
    stages, students, _ = plan_of(
        recipe, job, before=0.5, general=Data("more", "text", {"train": text_part("train", TEXTS)})
    )
    assert [len(stage.source.part) for stage in stages] == [4, 30]  # ten of the task's have no label
    assert [stage.settings.steps for stage in stages] == [8, 8]
    assert str(stages[1].learners["student"].objective) == "cross_entropy()"
    assert torch.equal(students[0].classifier.weight, encoder_toy()[1].classifier.weight)


def test_ernie_tiny_changes_one_thing_at_a_time():
    job, pretrained = job_of(ERNIE, width=8, steps=16, best="last"), encoder_toy(2, 4)[2].module
    tuned = job.teacher.module
    stages, students, _ = plan_of(ERNIE, job, general=TEXTS, pretrained=pretrained)
    assert [stage.name for stage in stages] == ["general", "general enhanced", "task adaptive", "task specific"]
    assert [stage.settings.steps for stage in stages] == [4, 4, 4, 4]
    assert [stage.teachers["teacher"].module is pretrained for stage in stages] == [True, False, False, False]
    assert [stage.teachers["teacher"].module is tuned for stage in stages] == [False, True, True, True]
    assert [len(stage.source.part) for stage in stages] == [4, 4, 40, 40]
    objectives = [stage.learners["student"].objective for stage in stages]
    assert [term.name for term in objectives[2].terms] == ["hidden_mse", "attention_kl"]
    assert [term.name for term in objectives[3].terms] == ["hidden_mse", "attention_kl", "forward_kl", "cross_entropy"]
    assert objectives[3].terms[0].projector is objectives[0].terms[0].projector
    assert [stage.evaluate for stage in stages[:3]] == [None] * 3
    assert torch.equal(students[2].classifier.weight, encoder_toy(2, 4, 8)[1].classifier.weight)
    assert not torch.equal(students[3].classifier.weight, students[2].classifier.weight)


@pytest.mark.parametrize(("arguments", "names", "said"), [
    ({}, ["task adaptive", "task specific"], "without general=: 2 of its four"),
    ({"general": TEXTS}, ["general enhanced", "task adaptive", "task specific"], "without pretrained=: 1 of its four"),
])  # fmt: skip
def test_ernie_tiny_says_which_stages_are_left_out(arguments, names, said):
    job = job_of(ERNIE, steps=6)
    assert [stage.name for stage in ERNIE(job, **arguments)] == names
    assert said in job.warnings[0]


def test_a_general_teacher_is_of_the_teachers_kind():
    job = job_of(ERNIE)
    with pytest.raises(ArgumentError, match="pretrained= teaches on the texts of general="):
        next(ERNIE(job, pretrained=encoder_toy()[2].module))
    with pytest.raises(ArgumentError, match="pretrained= is looked into"):
        next(ERNIE(job, general=TEXTS, pretrained=lambda texts: torch.zeros(len(texts), 4)))
    with pytest.raises(SignalError, match=r"'bert\.encoder\.layer\.3' names no module"):
        next(ERNIE(job, general=TEXTS, pretrained=encoder_toy(2, 3)[2].module))


def test_images_have_no_padding():
    transformers = pytest.importorskip("transformers")
    job = toy_job()

    def vit(layers):
        config = transformers.ViTConfig(image_size=8, patch_size=4, num_channels=1, hidden_size=16, num_hidden_layers=layers,
                                        num_attention_heads=2, intermediate_size=32, num_labels=4)  # fmt: skip
        return transformers.ViTForImageClassification(config)

    job.student, job.teacher = vit(2), as_teacher(vit(4).eval())
    stages, _, _ = plan_of(TINY, job)
    assert [stage.name for stage in stages] == ["task", "prediction"]


@pytest.mark.parametrize("recipe", [TINY, MINI2, ERNIE])
def test_resumed_is_uninterrupted(recipe, tmp_path):
    def run(folder, until):
        job = job_of(recipe, steps=8)
        runner, plan, result = Runner(folder, cpu=True, resume=True), recipe(job), None
        for _ in range(until):
            try:
                result = runner.stage(plan.send(result))
            except StopIteration:
                break
        return torch.cat([p.detach().flatten() for p in result.student.parameters()])

    whole = run(tmp_path / "whole", 9)
    run(tmp_path / "broken", 1)
    assert torch.equal(run(tmp_path / "broken", 9), whole)
    assert json.loads((tmp_path / "broken" / "stages" / "0" / "done" / "result.json").read_text())["describe"]


@pytest.mark.parametrize("recipe", [TINY, MINI, MINI2, PKD])
def test_micro_batches_padded_otherwise_change_nothing(recipe):
    def after(accumulate):
        job = job_of(recipe, steps=3, batch_size=12, accumulate=accumulate)
        job.student.double()
        job.teacher.module.double()
        plan = recipe(job)
        stage = plan if isinstance(plan, Stage) else next(plan)
        return weights(Runner(cpu=True).stage(stage).student)

    torch.testing.assert_close(after(4), after(1), rtol=0, atol=1e-9)
