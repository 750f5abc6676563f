"""Attention and relations against loops in NumPy, the golden cases, and what padding must not change."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from goldens import load
from limbeck import functional as f

rng = np.random.default_rng(0)
TOKENS = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])
COUNTS = TOKENS.sum(1).double()
Q, K = (torch.tensor(rng.normal(size=(3, 5, 8))) for _ in range(2))
S, T = (torch.tensor(rng.normal(size=(3, 2, 5, 5))) for _ in range(2))


def softmax(x):
    x = np.exp(x - x.max())
    return x / x.sum()


def test_scores_by_hand():
    found = f.attention_scores(Q, K, 4)
    assert found.shape == (3, 4, 5, 5)
    for b in range(3):
        for h in range(4):
            for i in range(5):
                for j in range(5):
                    part = slice(2 * h, 2 * h + 2)
                    assert float(found[b, h, i, j]) == pytest.approx(float(Q[b, i, part] @ K[b, j, part]) / np.sqrt(2))
    with pytest.raises(ValueError, match="3 heads do not divide"):
        f.attention_scores(Q, K, 3)


def test_mse_by_hand():
    expected = [
        np.mean([(S[b, h, i, j] - T[b, h, i, j]) ** 2 for h in range(2) for i in range(n) for j in range(n)])
        for b, n in enumerate((5, 3, 2))
    ]
    np.testing.assert_allclose(f.attention_mse(S, T, tokens=TOKENS, reduction="none"), expected)
    assert float(f.attention_mse(S, T, tokens=TOKENS)) == pytest.approx(np.mean(expected))
    assert float(f.attention_mse(S, T)) == pytest.approx(float(((S - T) ** 2).mean()))


def test_kl_by_hand():
    expected = []
    for b, n in enumerate((5, 3, 2)):
        rows = []
        for h in range(2):
            for i in range(n):
                p, q = softmax(T[b, h, i, :n].numpy()), softmax(S[b, h, i, :n].numpy())
                rows.append((p * np.log(p / q)).sum())
        expected.append(np.mean(rows))
    np.testing.assert_allclose(f.attention_kl(S, T, tokens=TOKENS, reduction="none"), expected)
    torch.testing.assert_close(f.attention_kl(T, T, tokens=TOKENS), torch.zeros((), dtype=torch.float64))


def test_hidden_by_hand():
    expected = [np.mean([(Q[b, i] - K[b, i]).square().mean() for i in range(n)]) for b, n in enumerate((5, 3, 2))]
    np.testing.assert_allclose(f.hidden_mse(Q, K, tokens=TOKENS, reduction="none"), expected)


@given(st.integers(0, 2**31), st.integers(1, 4))
def test_padding_changes_nothing_and_gets_no_gradient(seed, more):
    draw = torch.Generator().manual_seed(seed)
    s, t = (torch.randn(2, 2, 4, 4, generator=draw, dtype=torch.float64) for _ in range(2))
    wide = [torch.nn.functional.pad(x, (0, more, 0, more), value=1e4) for x in (s, t)]
    tokens = torch.nn.functional.pad(torch.ones(2, 4), (0, more))
    for formula in (f.attention_mse, f.attention_kl):
        student = wide[0].clone().requires_grad_()
        value = formula(student, wide[1], tokens=tokens)
        torch.testing.assert_close(value, formula(s, t))
        value.backward()
        assert student.grad[..., 4:].abs().max() == 0
        assert student.grad[..., 4:, :].abs().max() == 0
        assert student.grad[..., :4, :4].abs().max() > 0


def test_a_sample_without_a_token_is_0():
    none = torch.zeros(3, 5)
    for formula, s, t in ((f.attention_mse, S, T), (f.attention_kl, S, T), (f.hidden_mse, Q, K)):
        assert formula(s, t, tokens=none, reduction="none").tolist() == [0, 0, 0]


@pytest.mark.parametrize("formula", [f.attention_mse, f.attention_kl])
def test_gradients(formula):
    assert torch.autograd.gradcheck(
        lambda x: formula(x, T, tokens=TOKENS, reduction="none"), S.clone().requires_grad_()
    )
    teacher = T.clone().requires_grad_()
    formula(S.clone().requires_grad_(), teacher).backward()
    assert teacher.grad is None


def grown(case, *names):
    return [case[f"in_{name}"].double().requires_grad_(name.endswith("s") or name == "student") for name in names]


@pytest.mark.shared_data
@pytest.mark.parametrize(("name", "tokens", "weights"), [
    ("tinybert_attention", None, torch.ones(3).double()), ("textbrewer_att_mse_loss", TOKENS, COUNTS.square()),
])  # fmt: skip
def test_golden_attention(name, tokens, weights):
    """The official mean is over all pairs of a batch: the samples weighted by how many they have."""
    case = load("classifiers", name)
    student, teacher = grown(case, "student", "teacher")
    values = f.attention_mse(student, teacher, tokens=tokens, reduction="none")
    loss = (values * weights).sum() / weights.sum()
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(case["out_loss"]), rel=1e-6)
    torch.testing.assert_close(student.grad, case["grad_student"].double(), rtol=1e-5, atol=1e-8)


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["minilm_v1", "minilm_v2"])
def test_golden_relations(name):
    case = load("classifiers", name)
    students, teachers = grown(case, "qs", "ks", "vs"), grown(case, "qt", "kt", "vt")
    for each in teachers:
        each.requires_grad_(False)
    (qs, ks, vs), (qt, kt, vt) = students, teachers
    pairs, heads = ((qs, ks, qt, kt), (vs, vs, vt, vt)), 2
    if name == "minilm_v2":
        pairs, heads = tuple((s, s, t, t) for s, t in zip(students, teachers, strict=True)), 4
    values = sum(
        f.attention_kl(
            f.attention_scores(a, b, heads), f.attention_scores(c, d, heads), tokens=TOKENS, reduction="none"
        )
        for a, b, c, d in pairs
    )
    loss = (values * COUNTS).sum() / COUNTS.sum()
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(case["out_loss"]), rel=1e-6)
    for key, student in zip("qkv", students, strict=True):
        torch.testing.assert_close(student.grad, case[f"grad_{key}s"].double(), rtol=1e-5, atol=1e-8)


@pytest.mark.shared_data
def test_golden_patience():
    """The sum over the width is the width times our mean."""
    case = load("classifiers", "pkd_patience")
    student, teacher = grown(case, "student", "teacher")
    loss = 6 * f.feature_mse(f.first_direction(student), f.first_direction(teacher))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(case["out_loss"]), rel=1e-6)
    torch.testing.assert_close(student.grad, case["grad_student"].double(), rtol=1e-5, atol=1e-8)
