"""AlignDistil and ADPA against loops; what their teachers ask for, where it can be said in closed form."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from limbeck import functional as f
from limbeck.data.shared import find_golden
from limbeck.errors import DataError
from limbeck.signals.lazy import Lazy, walk

torch.manual_seed(0)
S, D, R = (2 * torch.randn(5, 7, dtype=torch.float64) for _ in range(3))
FORMS = [(contrast, adaptive) for contrast in (True, False) for adaptive in (True, False)]


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def kl(p, q):
    return sum(a * np.log(a / b) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize(("contrast", "adaptive"), FORMS)
def test_composed_teachers_by_hand(contrast, adaptive):
    found = f.composed_reverse_kl(S, D, R, contrast=contrast, adaptive=adaptive, reduction="none")
    for row, (s, d, r) in enumerate(zip(S.numpy(), D.numpy(), R.numpy(), strict=True)):
        w = 15 * np.abs(softmax(d) - softmax(r)).sum() + 1e-3 if adaptive else 0.1 / 15
        z = d + w * (d - r) if contrast else w * d + (1 - w) * r
        assert float(found[row]) == pytest.approx(0.1 / w * kl(softmax(s), softmax(z)))
    assert torch.autograd.gradcheck(
        lambda s: f.composed_reverse_kl(s, D, R, contrast=contrast, adaptive=adaptive), S.clone().requires_grad_()
    )


def test_theorem_1_is_rlhf_with_the_reward_of_dpo():
    """Up to a constant of the token, beta2 KL(q || z*) = beta2 KL(q || ref) - beta E_q[log p_dpo - log p_ref]."""
    beta, beta2 = 0.1, 2.0
    s, other = S.clone().requires_grad_(), S.clone().requires_grad_()
    f.composed_reverse_kl(s, D, R, beta=beta, beta2=beta2, contrast=False, adaptive=False).backward()
    (beta2 * f.reverse_kl(other, R) + beta * f.expected_advantage(other, f.advantages(D, R))).backward()
    torch.testing.assert_close(s.grad, other.grad)


def test_the_strength_and_its_range():
    assert (f.token_strength(D, D) == 1e-3).all()
    far = 1e3 * torch.eye(7, dtype=torch.float64)
    assert float(f.token_strength(far[:1], far[1:2])) == pytest.approx(2 * 15 + 1e-3)
    assert not f.token_strength(D.clone().requires_grad_(), R).requires_grad


@given(st.integers(0, 2**31), st.floats(-5, 5))
def test_a_composition_is_blind_to_shifts_and_zero_at_its_teacher(seed, shift):
    generator = torch.Generator().manual_seed(seed)
    s, d, r = (2 * torch.randn(3, 6, dtype=torch.float64, generator=generator) for _ in range(3))
    for contrast, adaptive in FORMS:
        options = {"contrast": contrast, "adaptive": adaptive}
        value = f.composed_reverse_kl(s, d, r, **options)
        assert value > -1e-12
        torch.testing.assert_close(f.composed_reverse_kl(s + shift, d - 2 * shift, r + shift, **options), value)
        w = f.token_strength(d, r) if adaptive else 0.1 / 15
        assert f.composed_reverse_kl(f.composed_logits(d, r, w, contrast=contrast), d, r, **options).abs() < 1e-12


def test_cut_vocabularies_half_precision_and_empty_masks():
    s, d, r = S.clone(), D.clone(), R.clone()
    for each in (s, d, r):
        each[:, -2:] = -torch.inf
    s.requires_grad_()
    for value, expected in (
        (f.composed_reverse_kl(s, d, r), f.composed_reverse_kl(S[:, :-2], D[:, :-2], R[:, :-2])),
        (
            f.expected_advantage(s, f.advantages(d, r)),
            f.expected_advantage(S[:, :-2], f.advantages(D[:, :-2], R[:, :-2])),
        ),
    ):
        s.grad = None
        value.backward()
        torch.testing.assert_close(value, expected)
        assert s.grad.isfinite().all()
    half = [each.bfloat16() for each in (S, D, R)]
    assert f.composed_reverse_kl(*half).dtype == torch.float32
    assert f.composed_logits(half[1], half[2], 0.5).dtype == torch.float32
    assert f.composed_reverse_kl(S, D, R, mask=torch.zeros(5)) == 0
    with pytest.raises(ValueError, match="beta=0"):
        f.composed_reverse_kl(S, D, R, beta=0)


def test_advantages_by_hand():
    p, r = D.softmax(-1), R.softmax(-1)
    full = (p / r).log()
    torch.testing.assert_close(f.advantages(D, R), full)
    torch.testing.assert_close(f.advantages(D, R, clip=0.5), full.clamp(-0.5, 0.5))
    limited = f.expected_advantage(S, full, clip=0.5, reduction="none")
    torch.testing.assert_close(limited, f.expected_advantage(S, full.clamp(-0.5, 0.5), reduction="none"))
    assert float(limited[0]) == pytest.approx(
        -sum(q * min(max(a, -0.5), 0.5) for q, a in zip(S[0].softmax(-1).tolist(), full[0].tolist(), strict=True))
    )
    kept = torch.zeros_like(full)
    for row in range(5):
        for i in sorted(range(7), key=lambda i: -p[row, i])[:3]:
            kept[row, i] = full[row, i]
    torch.testing.assert_close(f.advantages(D, R, top_k=3), kept)
    assert (f.advantages(D, R) < 0).any()  # negative ones count as well
    torch.testing.assert_close(f.expected_advantage(D, f.advantages(D, R)), -f.forward_kl(R, D))  # E_p[log p/r] is a KL


def test_steps_on_the_expected_advantage_go_to_the_one_best_token():
    s, a = torch.zeros(1, 7, dtype=torch.float64, requires_grad=True), f.advantages(D[:1], R[:1])
    for _ in range(300):
        (slope,) = torch.autograd.grad(f.expected_advantage(s, a), s)
        s = (s - 5 * slope).detach().requires_grad_()
    assert s.softmax(-1)[0, a.argmax()] > 0.99


def test_lazy_equals_whole():
    torch.manual_seed(1)
    heads = [nn.Linear(6, 11, bias=False).double() for _ in range(2)]
    hidden = [torch.randn(3, 9, 6, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    whole = f.expected_advantage(heads[0](hidden[0]), heads[1](hidden[1]))
    expected = torch.autograd.grad(whole, [hidden[0], heads[0].weight])
    lazy = [Lazy(h, head.weight) for h, head in zip(hidden, heads, strict=True)]
    total, _ = walk(
        *lazy,
        None,
        None,
        [f.expected_advantage],
        torch.tensor([1 / 27], dtype=torch.float64),
        memory=64 * lazy[0].vocabulary,
    )
    for ours, theirs in zip(torch.autograd.grad(total, [hidden[0], heads[0].weight]), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def load(name):
    try:
        folder = find_golden()
    except DataError as missing:
        pytest.skip(str(missing))
    arrays = np.load(folder / json.loads((folder / "index.json").read_text())["language-models"][name]["file"])
    return {key: torch.tensor(arrays[key]) for key in arrays.files}


@pytest.mark.shared_data
def test_golden_aligndistil():
    case = load("aligndistil")
    student, kept = case["in_student_logits"].double().requires_grad_(), case["in_labels"] != -100
    others = case["in_dpo_logits"].double(), case["in_reverse_or_ref_logits"].double()
    values = f.composed_reverse_kl(student, *others, beta=0.1, beta2=15.0, reduction="none")
    loss = f.per_sequence(values, kept).mean()
    loss.backward()
    torch.testing.assert_close(loss, case["out_loss"].double(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(student.grad, case["grad_student_logits"].double(), rtol=1e-4, atol=1e-7)


@pytest.mark.shared_data
def test_golden_adpa():
    """The paper's form; `as_coded` records the clamp that loses negative advantages, and is not followed."""
    case = load("adpa-advantage")
    student, kept = case["in_student_logits"].requires_grad_(), case["in_labels"] != -100
    found = f.advantages(case["in_dpo_teacher_logits"], case["in_ref_teacher_logits"])
    torch.testing.assert_close(found, case["out_advantage"], rtol=1e-5, atol=1e-6)
    loss = f.expected_advantage(student, found, mask=kept)
    loss.backward()
    torch.testing.assert_close(loss, case["out_loss_paper"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(student.grad, case["grad_student_logits_paper"], rtol=1e-4, atol=1e-7)
