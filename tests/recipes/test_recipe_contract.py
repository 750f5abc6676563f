"""What every recipe must do; a new one is tested by being listed."""

import copy
import re

import pytest
import torch

from limbeck.api import _check
from limbeck.data.texts import text_part
from limbeck.describe import describe_difference, describe_recipe
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.recipes import as_bound, find, recipes
from limbeck.recipes.registry import FIELDS, NEEDS
from limbeck.recipes.toy import toy_job
from limbeck.training.execute import Runner
from limbeck.training.stage import Stage
from toys import weights

EVERY = recipes()
NAMES = sorted(EVERY)


@pytest.mark.parametrize("name", NAMES)
def test_a_few_steps_move_the_student(name):
    job = toy_job(EVERY[name])
    before = weights(job.student)
    runner = Runner(cpu=True)
    result = runner.run(EVERY[name](job))
    assert not torch.equal(before, weights(result.student)) or result.student is not job.student
    assert weights(result.student).isfinite().all()
    losses = [record["terms"]["loss"] for record in runner.metrics.records if "terms" in record]
    assert losses or result.steps == runner.stages[-1].settings.steps == 0  # what is made by a formula is not trained
    assert all(abs(loss) < float("inf") for loss in losses)


class StoppedAt:
    """A power cut after so many steps, over all stages; counts them where it never comes."""

    class Cut(Exception):
        pass

    def __init__(self, number=0):
        self.number, self.seen = number, 0

    def step(self, loop):
        self.seen += 1
        if self.seen == self.number:
            raise self.Cut


@pytest.mark.parametrize("name", NAMES)
def test_cut_in_the_middle_and_gone_on_with_it_is_the_same_student(name, tmp_path):
    def run(folder, watcher, **options):
        folder.mkdir(exist_ok=True)
        runner = Runner(folder, cpu=True, checkpoint_seconds=0, watchers=(watcher,), **options)
        return weights(runner.run(EVERY[name](toy_job(EVERY[name]))).student)

    count = StoppedAt()
    whole = run(tmp_path / "whole", count)
    if not count.seen:  # what is made by a formula has no middle: it is made again
        assert torch.equal(run(tmp_path / "again", StoppedAt()), whole)
        return
    with pytest.raises(StoppedAt.Cut):
        run(tmp_path / "cut", StoppedAt(count.seen // 2))
    assert torch.equal(run(tmp_path / "cut", StoppedAt(), resume=True), whole)


@pytest.mark.parametrize("name", NAMES)
def test_its_page_says_idea_command_and_source(name):
    doc = EVERY[name].doc
    first, rest = doc.split("\n", 1)
    assert first.endswith(".")
    assert len(first) < 130
    assert f"limbeck distill {name} " in rest
    assert re.search(r"\b(19|20)\d\d\b", rest)
    assert EVERY[name].field in FIELDS
    assert set(EVERY[name].needs) <= set(NEEDS)
    assert EVERY[name].needs


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_typed_and_checked(name):
    recipe = EVERY[name]
    for parameter in recipe.parameters.values():
        assert parameter.annotation is not parameter.empty
        assert parameter.default is not parameter.empty
        if parameter.annotation is float:
            for wrong in (True, float("nan"), "many"):
                with pytest.raises(ArgumentError, match=parameter.name):
                    recipe(**{parameter.name: wrong})
    with pytest.raises(ArgumentError, match="no argument 'nosuch'"):
        recipe(nosuch=1)
    assert recipe().recipe is recipe


@pytest.mark.parametrize("name", NAMES)
def test_what_it_needs_is_what_it_says(name):
    """Without a thing that it needs it is refused before training; with just what it needs it trains."""
    recipe = EVERY[name]
    for need in recipe.needs:
        job = toy_job(recipe)
        if need in ("logits", "features", "answers"):
            job.teacher = None
        elif need == "prompts":
            job.data.parts["train"] = part = copy.copy(job.data.train)
            part.prompts = torch.zeros_like(part.prompts)
        elif need in ("translations", "pairs"):
            texts = job.data.train.queries if need == "pairs" else job.data.train.texts
            job.data.parts["train"] = text_part("train", texts)
        elif need == "preferences":
            job.data.parts["train"] = job.data.train.chosen()
        else:
            job.data.parts["train"] = job.data.train.with_labels(None)
        with pytest.raises(LimbeckError):
            _check(recipe(), job, None)
    job = toy_job(recipe)
    if not {"labels", "preferences", "translations"} & set(recipe.needs):
        job.data.parts["train"] = job.data.train.with_labels(None)
    if not {"logits", "features", "answers"} & set(recipe.needs):
        job.teacher = None
    plan = recipe(job)
    assert Runner(cpu=True).run(plan).steps > 0 or (isinstance(plan, Stage) and plan.settings.steps == 0)


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_described(name):
    found = describe_recipe(EVERY[name])
    assert EVERY[name].paper in found.lines[0]
    assert found.plain["plan"]["objectives"]["student"]
    for argument in EVERY[name].parameters:
        assert any(line.strip().startswith(f"{argument}:") for line in found.lines)


def test_two_recipes_differ_in_a_few_lines():
    lines = describe_difference(EVERY["kd"], EVERY["ssld"]).lines
    assert any("forward_kl" in line for line in lines)
    assert describe_difference(EVERY["kd"], EVERY["kd"]).lines == ["no difference"]


def test_names_take_hyphens_and_unknown_ones_name_the_nearest():
    assert find("logit-standardization") is EVERY["logit_standardization"]
    with pytest.raises(ArgumentError, match="Did you mean 'fitnets'"):
        find("fitnet")
    with pytest.raises(ArgumentError, match="not a recipe"):
        as_bound(3)
    with pytest.raises(ArgumentError, match=r"by name: dist\(beta=2\)"):
        EVERY["dist"](2)


def test_arguments_are_added_to_a_bound_recipe():
    bound = as_bound(EVERY["dist"](beta=1), {"gamma": 3})
    assert bound.arguments == {"beta": 1.0, "gamma": 3.0}
    with pytest.raises(ArgumentError, match="Did you mean 'gamma'"):
        as_bound(EVERY["dist"](beta=1.0), {"gama": 3})
