"""A teacher at a temperature, lazy or whole, and the temperature that calibrates it."""

import pytest
import torch

from limbeck.data.base import TensorPart
from limbeck.errors import ArgumentError
from limbeck.evaluation.calibration import ece
from limbeck.signals.blocks import Post
from limbeck.signals.lazy import Lazy
from limbeck.tasks import resolve
from limbeck.teachers.base import CallableTeacher
from limbeck.teachers.tempered import Tempered, calibrating_temperature, tempered


@pytest.mark.parametrize("post", [Post(), Post(2.0), Post(0.5, 3.0)])
def test_lazy_logits_are_divided_without_being_made(post):
    lazy = Lazy(torch.randn(2, 3, 4), torch.randn(7, 4), torch.randn(7), post)
    torch.testing.assert_close(tempered(lazy, 2.5).whole(), lazy.whole() / 2.5)


def sure(factor, count=4000):
    """A part whose labels follow softmax(z), and a teacher that gives factor * z."""
    draw = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(count, 5, generator=draw)
    labels = torch.multinomial(z.softmax(-1), 1, generator=draw)[:, 0]
    return TensorPart("valid", z, labels), CallableTeacher(lambda inputs: factor * inputs)


@pytest.mark.parametrize("factor", [0.7, 1.0, 2.5])
def test_an_unsure_or_oversure_teacher_is_set_right(factor):
    part, teacher = sure(factor)
    found, errors = calibrating_temperature(teacher, part, resolve("classification"), batch_size=500)
    assert found == pytest.approx(factor, rel=0.16)
    assert errors[found] == min(errors.values()) < 0.03
    chances = (factor * part.inputs / found).softmax(-1)
    assert errors[found] == pytest.approx(ece(chances, part.labels), abs=1e-6)


def test_the_tempered_teacher_gives_divided_logits():
    part, teacher = sure(2.0, 10)
    task = resolve("classification")
    batch = part.batch([0, 1])
    expected = teacher.read(batch, ["logits"], task)["logits"] / 2
    torch.testing.assert_close(Tempered(teacher, 2.0).read(batch, ["logits"], task)["logits"], expected)
    assert Tempered(teacher, 2.0).identity() != Tempered(teacher, 3.0).identity()


def test_wrong_use_is_named():
    part, teacher = sure(1.0, 10)
    with pytest.raises(ArgumentError, match="positive"):
        Tempered(teacher, 0)
    with pytest.raises(ArgumentError, match="no labels"):
        calibrating_temperature(teacher, part.with_labels(None), resolve("classification"))
