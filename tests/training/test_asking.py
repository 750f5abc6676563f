"""Rounds of asking: selectors keep their contract, hidden labels stay hidden, a teacher reads only what it is asked."""

from itertools import pairwise

import pytest
import torch

from limbeck.errors import ArgumentError, DataError
from limbeck.recipes import find
from limbeck.recipes.toy import toy_job
from limbeck.training.asking import Asked, share_of_wrong
from limbeck.training.execute import Runner
from limbeck.training.selectors import SELECTORS, Pool, choose


def pool(count=9, wrong=0.0, seed=0):
    draw = torch.Generator().manual_seed(seed)
    made = [torch.randn(size, 4, generator=draw).softmax(-1) for size in (count, 3)]
    inner = [torch.randn(size, 5, generator=draw) for size in (count, 3)]
    return Pool(made[0], inner[0], made[1], inner[1], torch.Generator().manual_seed(seed), wrong)


@pytest.mark.parametrize("name", SELECTORS)
def test_a_selector_gives_as_many_as_are_asked_for_each_once_and_the_same_again(name):
    for count in (0, 1, 4, 9, 20):
        found, again = (choose(name, pool(wrong=2.0), count) for _ in range(2))
        assert len(found) == len(found.unique()) == min(count, 9)
        assert torch.equal(found, again)


def test_the_uncertain_come_first():
    sure, unsure = torch.tensor([0.97, 0.01, 0.01, 0.01]), torch.tensor([0.4, 0.39, 0.11, 0.1])
    given = pool(2)
    given.probabilities = torch.stack([sure, unsure])
    for name in ("entropy", "margin", "badge", "rad"):
        assert choose(name, given, 1).tolist() == [1]
    given.probabilities, given.known_probabilities = torch.stack([unsure, sure]), unsure[None]
    assert choose("pcoreset", given, 1).tolist() == [1]  # what is not covered, and not what is uncertain


def test_a_selector_that_breaks_its_contract_is_told():
    for wrong in ([0, 0], [0], [0, 99]):
        with pytest.raises(ArgumentError, match="expected 2 of the pool"):
            choose(lambda given, count, wrong=wrong: torch.tensor(wrong), pool(), 2)
    with pytest.raises(ArgumentError, match="Did you mean 'margin'"):
        choose("margins", pool(), 1)


def watch_parts(name, **arguments):
    """Run a recipe on the toy; its stages with the ids that are labelled, and all ids, of each."""
    recipe, seen = find(name), []
    job = toy_job(recipe)
    real = job.stage

    def stage(objective, **options):
        part = options["part"]
        seen.append((options.get("name", "train"), part.ids[part.is_labelled()].tolist(), part.ids.tolist()))
        return real(objective, **options)

    job.stage = stage
    result = Runner(cpu=True).run(recipe(job, **arguments))
    return job, seen, result


def test_labels_are_asked_for_round_by_round():
    job, seen, _ = watch_parts("activekd_pcoreset", rounds=3, queries=5)
    able = set(job.data.train.ids[job.data.train.is_labelled()].tolist())
    assert [len(labelled) for _, labelled, _ in seen] == [4, 9, 14, 19]
    assert [name for name, *_ in seen] == ["4 labels", "9 labels", "14 labels", "19 labels"]
    for (_, before, _), (_, after, every) in pairwise(seen):
        assert set(before) < set(after) <= able
        assert len(every) == len(job.data.train)  # the others are there without a label
    first = torch.tensor([job.data.train.ids.tolist().index(each) for each in seen[0][1]])
    assert job.data.train.labels[first].sort().values.tolist() == [0, 1, 2, 3]


def test_a_teacher_of_rad_reads_only_what_it_is_asked():
    recipe = find("rad")
    job, asked = toy_job(recipe), set()
    real = job.teacher.read
    job.teacher.read = lambda batch, taps, task, **more: (
        asked.update(batch.ids.tolist()),
        real(batch, taps, task, **more),
    )[1]
    stages = []
    real_stage = job.stage
    job.stage = lambda objective, **options: (
        stages.append(options["part"].ids.tolist()),
        real_stage(objective, **options),
    )[1]
    Runner(cpu=True).run(recipe(job, start=6, queries=4, rounds=2, wrong=0.2))
    assert [len(each) for each in stages] == [6, 10, 14]
    valid = set(job.data.parts["valid"].ids.tolist())
    assert asked - valid <= set(stages[-1])


def test_what_is_kept_of_the_data():
    job, seen, _ = watch_parts("data_pruning_kd", fraction=0.4)
    able = job.data.train.ids[job.data.train.is_labelled()].tolist()
    assert len(seen[-1][2]) == round(0.4 * len(able))
    assert set(seen[-1][2]) <= set(able)
    _, hard, _ = watch_parts("data_pruning_kd", fraction=0.4, score="el2n")
    assert [name for name, *_ in hard] == ["probe", "train"]
    assert len(hard[-1][2]) == len(seen[-1][2])
    assert set(hard[-1][2]) != set(seen[-1][2])


def test_a_run_is_the_same_again():
    one, two = (watch_parts("activekd_pcoreset", rounds=1)[2].student.state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_how_often_the_teacher_errs():
    job = toy_job(find("rad"))
    part = job.data.parts["valid"]
    from limbeck.evaluation.run import predict

    said = predict(job.teacher, part, job.task).argmax(-1)
    assert share_of_wrong(job, -1.0) == pytest.approx(float((said != part.labels).float().mean()))
    assert share_of_wrong(job, 0.3) == 0.3
    del job.data.parts["valid"]
    assert share_of_wrong(job, -1.0) == 0.0
    assert "taken for true" in job.warnings[-1]


@pytest.mark.parametrize(("name", "arguments", "message"), [
    ("activekd_pcoreset", {"rounds": -1}, "rounds=-1"), ("activekd_pcoreset", {"selector": "nearest"}, "selector='nearest'"),
    ("activekd_pcoreset", {"hard": 1.0}, "hard=1.0"), ("rad", {"queries": 0}, "queries=0"),
    ("rad", {"wrong": 1.0}, "wrong=1.0"),
    ("data_pruning_kd", {"fraction": 0.0}, "fraction=0.0"),
])  # fmt: skip
def test_wrong_arguments(name, arguments, message):
    recipe = find(name)
    with pytest.raises(ArgumentError, match=message):
        Runner(cpu=True).run(recipe(toy_job(recipe), **arguments))


def test_a_class_without_samples_is_told():
    job = toy_job(find("activekd_pcoreset"))
    job.data.classes = list("abcde")
    with pytest.raises(DataError, match="no sample of the class 4"):
        Asked(job, "random", labels=True).start_per_class(1)
