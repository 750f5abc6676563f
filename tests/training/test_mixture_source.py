"""A source whose mixture follows the learning: which rows it gives, what it keeps, and that a killed run ends the same."""

import pytest
import torch

from limbeck.data.base import SubsetPart
from limbeck.errors import ArgumentError, DataError
from limbeck.functional import DomainMixture
from limbeck.recipes import find
from limbeck.recipes.toy import toy_job
from limbeck.recipes.toy_language import DOMAINS
from limbeck.training.execute import Runner
from limbeck.training.mixture_source import MixtureSource, domain_losses, domain_parts
from toys import weights

STUDENT = torch.nn.Identity()


def source(losses, batch_size=8, **options):
    """Of the toy, with measurements that are given: the teacher's are zero."""
    job = toy_job(find("ddk"))
    given = iter(losses)
    options = {"mixture": DomainMixture(0.0, 0.0), "every": 2, **options}
    return MixtureSource(job.data.train, DOMAINS, batch_size, **options,
                         measure=lambda model: [0.0] * 3 if model is None else next(given))  # fmt: skip


def domains(made, number):
    (batch,) = made.micro_batches(number, {"student": STUDENT})
    place = torch.searchsorted(made.part.ids, batch.ids)
    return torch.bincount(made.part.domain[place], minlength=3)


def test_rows_follow_what_was_measured():
    never, only = [-50.0, -50.0, 50.0], [50.0, -50.0, -50.0]
    made = source([never, only])
    assert [domains(made, number).tolist() for number in range(4)] == [[0, 0, 8], [0, 0, 8], [8, 0, 0], [8, 0, 0]]


def test_every_row_of_a_domain_comes_once_before_any_comes_again():
    made = source([[0.0, 9.0, 0.0]] * 20, every=1)
    seen = torch.cat([made.micro_batches(number, {"student": STUDENT})[0].ids for number in range(20)])
    for domain in range(3):
        mine = made.part.ids[made.part.domain == domain]
        times = torch.tensor([int((seen == row).sum()) for row in mine])
        assert times.max() - times.min() <= 1


def test_the_teacher_is_measured_once_and_the_student_every_few_steps():
    asked = []
    job = toy_job(find("ddk"))
    made = MixtureSource(job.data.train, DOMAINS, 8, mixture=DomainMixture(), every=3,
                         measure=lambda model: asked.append(model) or [1.0, 2.0, 3.0])  # fmt: skip
    for number in range(7):
        made.micro_batches(number, {"student": job.student})
    assert asked == [None, job.student, job.student, job.student]


def test_losses_are_those_of_each_domains_validation_rows():
    job = toy_job(find("ddk"))
    measure = domain_losses(job, rows=2)
    for number, (loss, teacher) in enumerate(zip(measure(job.student), measure(None))):
        valid = job.data.parts["valid"]
        places = (valid.domain == number).nonzero()[:, 0]
        some = SubsetPart(valid, places[[0, -1]] if len(places) > 1 else places)
        assert loss == pytest.approx(job.task.measure(job.student, some)["scores"]["nll"])
        assert teacher == pytest.approx(job.task.measure(job.teacher.module, some)["scores"]["nll"])


class Stop(Exception):
    """In place of a kill."""


class StopAt:
    def __init__(self, number):
        self.number = number

    def step(self, loop):
        if loop.number == self.number:
            raise Stop


@pytest.mark.parametrize("stops", [[5], [4, 6], [9]])
def test_a_run_that_was_stopped_anywhere_ends_with_the_same_bits(tmp_path, stops):
    plan = find("ddk")(every=3, gamma=0.5)
    settings = {"steps": 11, "batch_size": 6, "checkpoint_every": 2, "learning_rate": 0.01}

    def runner(folder, **options):
        return Runner(folder, cpu=True, **options)

    whole = runner(tmp_path / "whole").run(plan(toy_job(plan.recipe, **settings)))
    for number in stops:
        with pytest.raises(Stop):
            runner(tmp_path / "cut", resume=True, watchers=(StopAt(number),)).run(
                plan(toy_job(plan.recipe, **settings))
            )
    last = runner(tmp_path / "cut", resume=True)
    result = last.run(plan(toy_job(plan.recipe, **settings)))
    assert torch.equal(weights(result.student), weights(whole.student))
    assert (tmp_path / "cut" / "metrics.jsonl").read_text() == (tmp_path / "whole" / "metrics.jsonl").read_text()
    mixture = last.metrics.mixture()
    assert mixture["step"] == [0, 3, 6, 9]
    assert list(mixture["share"]) == DOMAINS
    assert sum(shares[-1] for shares in mixture["share"].values()) == pytest.approx(1)


def test_what_cannot_be_mixed_is_named():
    job = toy_job(find("ddk"))
    job.data.domains = None
    with pytest.raises(DataError, match=r"no domains.*domain=COLUMN"):
        find("ddk")(job)
    job = toy_job(find("ddk"))
    job.data.domains = [*DOMAINS, "by four"]
    with pytest.raises(DataError, match="'by four' has no valid samples"):
        domain_parts(job.data, "valid")
    del job.data.parts["valid"]
    with pytest.raises(DataError, match=r"'by one' has no valid samples.*valid=0.1"):
        find("ddk")(job)
    with pytest.raises(ArgumentError, match="workers=0"):
        source([], workers=2)
    with pytest.raises(ArgumentError, match="every=0"):
        source([], every=0)
