"""What every declared formula must do; a new one is tested by being listed."""

import inspect

import pytest
import torch

from limbeck import functional, objectives
from limbeck.functional.core import UNLABELLED, reduce
from limbeck.objectives.algebra import as_step
from limbeck.signals.step import count_items

NAMES = sorted(functional.declared())
torch.manual_seed(0)
LABELS = torch.tensor([0, 3, 1, 2, 2, 1])


def case(name, dtype=torch.float64):
    """A formula, and the tensors it takes."""
    formula = functional.declared()[name]
    declaration = formula.declaration
    maps = name in ("attention_map_mse", "factor_l1", "channel_mmd", "channel_kl", "hierarchical_context_mse")
    generator = torch.Generator().manual_seed(1)
    shape = (6, 4, 3, 3) if maps else (6, 6) if name == "multi_level_ranking" else (6, 4)  # its three levels
    student, teacher = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    labels = LABELS.to(dtype) if name == "squared_error" else LABELS
    student = student[:, 0] if name == "squared_error" else student
    given = {"student": student, "teacher": teacher, "labels": labels}
    return formula, declaration, [given[key] for key in declaration.inputs]


def composed(name):
    term = getattr(objectives, name)()
    return term.on("logits") if term.declaration.student == "features" else term


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_says_shapes(name):
    formula, _, _ = case(name)
    assert "[" in inspect.getdoc(formula)


@pytest.mark.parametrize("name", NAMES)
def test_values_reductions_and_masks(name):
    formula, declaration, inputs = case(name)
    parameters = inspect.signature(formula).parameters
    if declaration.per == "batch":
        assert formula(*inputs).ndim == 0
        assert not {"mask", "reduction"} & set(parameters)
        return
    values = formula(*inputs, reduction="none")
    assert values.shape == (6,)
    assert values.isfinite().all()
    torch.testing.assert_close(formula(*inputs), values.mean())
    torch.testing.assert_close(formula(*inputs, reduction="sum"), values.sum())
    mask = torch.tensor([1.0, 0, 1, 1, 0, 0], dtype=torch.float64)
    part = formula(*(value[mask > 0] for value in inputs))
    torch.testing.assert_close(formula(*inputs, mask=mask), part)
    torch.testing.assert_close(formula(*inputs, mask=mask > 0), part)
    assert formula(*inputs, mask=torch.zeros(6)) == 0
    with pytest.raises(ValueError, match="reduction"):
        formula(*inputs, reduction="median")


@pytest.mark.parametrize("name", NAMES)
def test_only_the_student_gets_a_gradient(name):
    formula, declaration, inputs = case(name)
    inputs = [value.requires_grad_() if value.is_floating_point() and key != "labels" else value
              for key, value in zip(declaration.inputs, inputs, strict=True)]  # fmt: skip
    formula(*inputs).backward()
    for key, value in zip(declaration.inputs, inputs, strict=True):
        assert (value.grad is not None) == (key == "student")
        assert key != "student" or value.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_unlabelled_items_do_not_count(name):
    formula, declaration, inputs = case(name)
    if not declaration.labels or declaration.unlabelled == "keep":
        return
    hidden = inputs[-1].clone()
    hidden[:2] = float("nan") if hidden.is_floating_point() else UNLABELLED
    torch.testing.assert_close(formula(*inputs[:-1], hidden), formula(*(value[2:] for value in inputs)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_through_the_algebra(name, dtype):
    _, declaration, inputs = case(name, torch.float32)
    given = dict(zip(declaration.inputs, inputs, strict=True))
    exact = composed(name)(given.get("student"), given.get("teacher"), given.get("labels"))
    half = [value.to(dtype) if key != "labels" else value for key, value in given.items()]
    given = dict(zip(declaration.inputs, half, strict=True))
    found = composed(name)(given.get("student"), given.get("teacher"), given.get("labels"))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_large_logits_stay_finite(name):
    formula, declaration, inputs = case(name)
    if declaration.student == "features":
        return
    inputs = [1e4 * value if key != "labels" else value for key, value in zip(declaration.inputs, inputs, strict=True)]
    inputs[0] = inputs[0].requires_grad_()
    value = formula(*inputs)
    value.backward()
    assert value.isfinite()
    assert inputs[0].grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_one_truth_composed_accumulated_and_in_one_s_own_loop(name):
    """The composable form equals the function in value and gradient; micro-batches add up where it is additive."""
    formula, declaration, inputs = case(name)
    given = dict(zip(declaration.inputs, inputs, strict=True))

    def gradient(loss, student):
        return torch.autograd.grad(loss, student)[0]

    student = given["student"].clone().requires_grad_()
    expected = formula(*[student if key == "student" else value for key, value in given.items()])
    wanted = gradient(expected, student)
    term = composed(name)
    loss = term(student, given.get("teacher"), given.get("labels"))
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, student), wanted)
    assert term.additive == (declaration.per == "item")
    if not term.additive:
        return
    whole = as_step(student, given.get("teacher"), given.get("labels"))
    counts = count_items(whole.batch)
    total = torch.zeros((), dtype=torch.float64)
    for part in (slice(0, 1), slice(1, 4), slice(4, 6)):
        step = as_step(
            student[part], *(None if given.get(key) is None else given[key][part] for key in ("teacher", "labels"))
        )
        step.counts = counts
        total = total + term.evaluate(step)[0]
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(gradient(total, student), wanted)


def test_reduce_does_not_let_nan_through_a_mask():
    values = torch.tensor([1.0, float("nan"), 3.0], requires_grad=True)
    found = reduce(values, torch.tensor([1, 0, 1]), "mean")
    found.backward()
    assert float(found.detach()) == 2
    assert values.grad.tolist() == [0.5, 0.0, 0.5]
