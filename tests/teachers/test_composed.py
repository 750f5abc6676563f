"""Teachers composed of two: lazy equals whole equals a loop by hand; what cannot be composed is refused."""

import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from limbeck import functional as f
from limbeck import objectives as o
from limbeck.data.base import Batch
from limbeck.errors import ArgumentError, SignalError
from limbeck.signals.blocks import Post
from limbeck.signals.lazy import Lazy
from limbeck.signals.step import Ref, Step
from limbeck.teachers.composed import Advantages, Contrast

B, T, V = 2, 5, 11


def lazy(seed, width, vocabulary=V, bias=False, scale=1.0, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    hidden, weight = (torch.randn(*shape, width, generator=draw, dtype=dtype) for shape in ((B, T), (vocabulary,)))
    return Lazy(hidden, weight, torch.randn(vocabulary, generator=draw, dtype=dtype) if bias else None, Post(scale))


def step_of(first, second, student=None, names=("aligned", "reverse")):
    mask = torch.tensor([[1, 1, 1, 1, 0], [0, 1, 1, 0, 0]]).bool()
    step = Step(
        Batch(None, torch.arange(B), torch.ones(B, T, dtype=torch.int64).where(mask, -100), extra={"mask": mask})
    )
    for role, signal in zip((*names, "self"), (first, second, student), strict=True):
        step.put(role, {"logits": signal})
    return step, mask


CASES = {
    "plain": (lazy(1, 4), lazy(2, 4)), "widths": (lazy(1, 4), lazy(2, 7)), "biases": (lazy(1, 4, bias=True), lazy(2, 4)),
    "scales": (lazy(1, 4, bias=True, scale=0.5), lazy(2, 4, bias=True, scale=-2.0)),
    "vocabularies": (lazy(1, 4, 14, bias=True), lazy(2, 4)),
}  # fmt: skip
FORMS = [(contrast, strength) for contrast in (True, False) for strength in (None, 0.3)]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("contrast", "strength"), FORMS)
def test_a_contrast_by_hand(case, contrast, strength):
    first, second = CASES[case]
    step, mask = step_of(first, second)
    role = Contrast(beta2=3.0, floor=0.02, contrast=contrast, strength=strength)
    found = role.derive(step, ["logits", "strength"], None)
    z, r = first.whole()[..., :V], second.whole()[..., :V]
    for b, t in mask.nonzero().tolist():
        p, q = z[b, t].softmax(-1).tolist(), r[b, t].softmax(-1).tolist()
        w = 3.0 * sum(abs(x - y) for x, y in zip(p, q, strict=True)) + 0.02 if strength is None else strength
        expected = [x + w * (x - y) if contrast else w * x + (1 - w) * y
                    for x, y in zip(z[b, t].tolist(), r[b, t].tolist(), strict=True)]  # fmt: skip
        assert float(found["strength"][b, t]) == pytest.approx(w)
        assert found["logits"].whole()[b, t].tolist() == pytest.approx(expected)
    whole, _ = step_of(z, second)  # one whole, one lazy
    dense = role.derive(whole, ["logits", "strength"], None)
    torch.testing.assert_close(dense["logits"][mask], found["logits"].whole()[mask])
    torch.testing.assert_close(dense["strength"][mask], found["strength"][mask])


@pytest.mark.parametrize("case", CASES)
def test_advantages_by_hand(case):
    first, second = CASES[case]
    step, mask = step_of(first, second, names=("aligned", "reference"))
    found = Advantages().derive(step, ["logits"], None)["logits"]
    for b, t in mask.nonzero().tolist():
        z, r = first.whole()[b, t, :V].tolist(), second.whole()[b, t, :V].tolist()
        ours, theirs = (math.log(sum(map(math.exp, each))) for each in (z, r))
        expected = [(x - ours) - (y - theirs) for x, y in zip(z, r, strict=True)]
        assert found.whole()[b, t].tolist() == pytest.approx(expected)
    whole, _ = step_of(first.whole(), second.whole(), names=("aligned", "reference"))
    dense = Advantages().derive(whole, ["logits"], None)["logits"]
    torch.testing.assert_close(dense[mask], found.whole()[mask])


@pytest.mark.parametrize(("contrast", "strength"), FORMS)
def test_aligndistil_s_gradient_is_that_of_whole_logits(contrast, strength):
    first, second, student = CASES["scales"][0], CASES["scales"][1], lazy(3, 6, bias=True)
    for part in (student.hidden, student.weight, student.bias):
        part.requires_grad_()
    step, mask = step_of(first, second, student)
    role = Contrast(beta2=3.0, contrast=contrast, strength=strength)
    step.put("target", role.derive(step, ["logits", "strength"], None))
    loss, _ = (0.1 * o.per_sequence(o.reverse_kl().against("target"), over="target:strength")).evaluate(step)
    parts = [student.hidden, student.weight, student.bias]
    ours = torch.autograd.grad(loss, parts)
    values = f.composed_reverse_kl(student.whole(), first.whole(), second.whole(), contrast=contrast, reduction="none",
                                   adaptive=strength is None, beta2=3.0 if strength is None else 0.1 / strength)  # fmt: skip
    expected = sum(values[b][mask[b]].mean() for b in range(B)) / B
    torch.testing.assert_close(loss, expected)
    for one, other in zip(ours, torch.autograd.grad(expected, parts), strict=True):
        torch.testing.assert_close(one, other)


class Largest(TorchDispatchMode):
    """The most elements that a new tensor had."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(x.numel() for x in tree_iter(found) if isinstance(x, torch.Tensor))])
        return found


@pytest.mark.parametrize("role", [Contrast(), Advantages("aligned", "reverse")])
def test_no_whole_logits_are_ever_held(role, monkeypatch):
    monkeypatch.setattr("limbeck.signals.sweep.MEMORY", 300_000)
    tokens, size, width = 1200, 900, 3
    draw = [torch.randn(1, tokens, width) for _ in range(3)], [torch.randn(size, width) for _ in range(3)]
    first, second, student = (Lazy(h, w) for h, w in zip(*draw, strict=True))
    student.weight.requires_grad_()
    mask = torch.ones(1, tokens, dtype=torch.bool)
    step = Step(Batch(None, torch.arange(1), torch.ones(1, tokens, dtype=torch.int64), extra={"mask": mask}))
    for name, signal in (("aligned", first), ("reverse", second), ("self", student)):
        step.put(name, {"logits": signal})
    with Largest() as seen:
        taps = ["logits", "strength"] if isinstance(role, Contrast) else ["logits"]
        step.put("target", role.derive(step, taps, None))
        term = o.reverse_kl().against("target") if len(taps) > 1 else o.expected_advantage().against("target")
        objective = o.per_sequence(term, over="target:strength") if len(taps) > 1 else term
        objective.evaluate(step)[0].backward()
    assert seen.numel < tokens * size / 4
    assert student.weight.grad.isfinite().all()


def test_half_precision_is_near():
    first, second = (lazy(seed, 64, dtype=torch.bfloat16, bias=True) for seed in (1, 2))
    for one in (first, second):
        one.hidden *= 0.3
    step, mask = step_of(first, second)
    found = Contrast(strength=0.5).derive(step, ["logits"], None)["logits"]
    assert found.dtype == torch.bfloat16
    z, r = ((one.hidden.double() @ one.weight.double().T + one.bias.double())[mask] for one in (first, second))
    expected = (z + 0.5 * (z - r)).softmax(-1)
    assert (found.whole()[mask].double().softmax(-1) - expected).abs().max() < 0.05


def test_the_matrix_is_made_once_and_again_when_a_teacher_has_moved():
    first, second = lazy(1, 4), lazy(2, 4)
    step, _ = step_of(first, second)
    role = Contrast()
    one = role.derive(step, ["logits"], None)["logits"].weight
    assert role.derive(step, ["logits"], None)["logits"].weight is one
    with torch.no_grad():
        first.weight.mul_(2)
    moved = role.derive(step, ["logits"], None)["logits"]
    torch.testing.assert_close(moved.weight[:, :4], first.weight)


def test_what_cannot_be_composed_is_refused():
    capped = Lazy(torch.randn(B, T, 4).double(), nn.Linear(4, V).weight.detach().double(), post=Post(softcap=30.0))
    step, _ = step_of(capped, CASES["plain"][1])
    with pytest.raises(SignalError, match="soft cap of 30"):
        Contrast().derive(step, ["logits"], None)
    other = lazy(1, 4)
    other.hidden = other.hidden[:, :3]
    step, _ = step_of(other, CASES["plain"][1])
    with pytest.raises(SignalError, match="must read the same rows"):
        Contrast().derive(step, ["logits"], None)
    with pytest.raises(SignalError, match="gives \\['logits'\\], not 'strength'"):
        Advantages().sources(["logits", "strength"])
    with pytest.raises(ArgumentError, match="beta2=0"):
        Contrast(beta2=0)
    assert Contrast("a", "b").sources(["strength"]) == [Ref("a", "logits"), Ref("b", "logits")]
