"""Log-probabilities of answers, and losses over pairs and rankings of them, against closed forms."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck import functional as f
from limbeck.data.shared import find_golden
from limbeck.errors import DataError

torch.manual_seed(0)
LOGITS = 2 * torch.randn(3, 5, 7, dtype=torch.float64)
LABELS = torch.tensor([[-100, 1, 2, 3, -100], [6, 0, 0, -100, -100], [-100] * 5])


def test_log_probabilities_by_hand():
    expected = torch.zeros(3, 5, dtype=torch.float64)
    for b, t in itertools.product(range(3), range(5)):
        if LABELS[b, t] >= 0:
            row = LOGITS[b, t].numpy()
            expected[b, t] = row[LABELS[b, t]] - math.log(np.exp(row).sum())
    torch.testing.assert_close(f.label_log_probabilities(LOGITS, LABELS), expected)
    torch.testing.assert_close(f.sequence_log_probabilities(LOGITS, LABELS), expected.sum(1))
    average = f.sequence_log_probabilities(LOGITS, LABELS, average=True)
    torch.testing.assert_close(average, expected.sum(1) / torch.tensor([3.0, 3.0, 1.0], dtype=torch.float64))


def test_log_probabilities_of_a_cut_vocabulary_and_in_half_precision():
    cut = LOGITS.clone()
    cut[..., -1] = -torch.inf
    labels = LABELS.clamp(max=5)
    s = cut.clone().requires_grad_()
    f.sequence_log_probabilities(s, labels).sum().backward()
    torch.testing.assert_close(
        f.label_log_probabilities(cut, labels), f.label_log_probabilities(LOGITS[..., :-1], labels)
    )
    assert s.grad.isfinite().all()
    assert f.label_log_probabilities(LOGITS.bfloat16(), LABELS).dtype == torch.float32
    assert torch.autograd.gradcheck(lambda z: f.sequence_log_probabilities(z, LABELS), LOGITS.clone().requires_grad_())


def test_per_sequence_weighs_sequences_alike():
    values = torch.tensor([[1.0, 2.0, float("nan")], [4.0, float("nan"), float("nan")]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    assert f.per_sequence(values, mask).tolist() == [1.5, 4.0]
    assert f.per_sequence(values, mask, average=False).tolist() == [3.0, 4.0]
    assert f.per_sequence(values, torch.zeros(2, 3)).tolist() == [0, 0]


PAIRS = [torch.randn(6, dtype=torch.float64) * 5 - 20 for _ in range(4)]


def test_dpo_value_and_gradient_in_closed_form():
    chosen, rejected, ref_chosen, ref_rejected = (each.clone().requires_grad_() for each in PAIRS)
    values = f.dpo(chosen, rejected, ref_chosen, ref_rejected, beta=0.3, reduction="none")
    gaps = 0.3 * ((PAIRS[0] - PAIRS[2]) - (PAIRS[1] - PAIRS[3]))
    torch.testing.assert_close(values, torch.log1p(torch.exp(-gaps)))
    values.sum().backward()
    wrong = 1 / (1 + torch.exp(gaps))  # the probability that the rewards give to the wrong order
    torch.testing.assert_close(chosen.grad, -0.3 * wrong)
    torch.testing.assert_close(rejected.grad, 0.3 * wrong)
    assert ref_chosen.grad is None and ref_rejected.grad is None
    start = f.dpo(PAIRS[0], PAIRS[1], PAIRS[0], PAIRS[1])
    assert float(start) == pytest.approx(math.log(2))


def test_dpo_with_smoothed_labels_is_a_mixture_of_both_orders():
    one, other = f.dpo(*PAIRS), f.dpo(PAIRS[1], PAIRS[0], PAIRS[3], PAIRS[2])
    torch.testing.assert_close(f.dpo(*PAIRS, label_smoothing=0.2), 0.8 * one + 0.2 * other)
    with pytest.raises(ValueError, match=r"label_smoothing=0\.5"):
        f.dpo(*PAIRS, label_smoothing=0.5)
    assert f.dpo(*PAIRS, mask=torch.zeros(6)) == 0
    assert f.dpo(*(1e4 * each for each in PAIRS)).isfinite()


LENGTHS = torch.tensor([3, 8, 1, 0, 5, 2]), torch.tensor([9, 1, 4, 2, 0, 7])


def test_redi_by_hand():
    chosen, rejected = PAIRS[:2]
    expected = [
        -float(c) / max(int(n), 1) + 0.8 * float(r) / max(int(m), 1) * math.exp(0.5 * float(r) / max(int(m), 1))
        for c, r, n, m in zip(chosen, rejected, *LENGTHS, strict=True)
    ]
    found = f.redi(chosen, rejected, *LENGTHS, gamma=0.5, reduction="none")
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    alone = f.redi(chosen, rejected, *LENGTHS, alpha=0.0)  # SFT on the chosen ones
    torch.testing.assert_close(alone, (-chosen / LENGTHS[0].clamp(min=1)).mean())


def test_the_weight_of_a_negative_has_a_gradient_and_fades():
    """d/dr of alpha r e^(gamma r) is alpha e^(gamma r) (1 + gamma r): it vanishes for unlikely negatives, and turns round."""
    rejected = torch.tensor([-0.5, -2.0, -30.0], dtype=torch.float64, requires_grad=True)
    ones = torch.ones(3)
    f.redi(torch.zeros(3), rejected, ones, ones, gamma=1.0, reduction="sum").backward()
    r = rejected.detach()
    torch.testing.assert_close(rejected.grad, 0.8 * r.exp() * (1 + r))
    assert rejected.grad[0] > 0 > rejected.grad[1]
    assert abs(rejected.grad[2]) < 1e-10


SCORES = torch.randn(4, 5, dtype=torch.float64)
ORDER = torch.stack([torch.randperm(5) for _ in range(4)])


def test_rankings_by_hand():
    hinge, luce = [], []
    for scores, order in zip(SCORES.numpy(), ORDER.tolist(), strict=True):
        s = [scores[i] for i in order]
        hinge.append(sum(max(0.0, 0.2 + s[j] - s[i]) for i in range(5) for j in range(i + 1, 5)))
        luce.append(-sum(s[k] - math.log(sum(math.exp(x) for x in s[k:])) for k in range(5)))
    found = f.ranked_hinge(SCORES, ORDER, margin=0.2, reduction="none")
    torch.testing.assert_close(found, torch.tensor(hinge, dtype=torch.float64))
    torch.testing.assert_close(
        f.ranked_plackett_luce(SCORES, ORDER, reduction="none"), torch.tensor(luce, dtype=torch.float64)
    )


def test_plackett_luce_is_a_distribution_over_orders():
    total = sum(
        torch.exp(-f.ranked_plackett_luce(SCORES[0], torch.tensor(order))) for order in itertools.permutations(range(5))
    )
    assert float(total) == pytest.approx(1)


@given(st.integers(0, 2**31))
def test_ranking_losses_prefer_the_given_order(seed):
    s = torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    best, worst = s.argsort(descending=True), s.argsort()
    assert f.ranked_hinge(s, best) == 0
    assert f.ranked_hinge(s, worst) > 0
    assert f.ranked_plackett_luce(s, best) < f.ranked_plackett_luce(s, worst)
    torch.testing.assert_close(f.ranked_plackett_luce(s + 7, best), f.ranked_plackett_luce(s, best))


def by_brute_force(first, second):
    for size in range(len(first), 0, -1):
        if any(
            all(x in iter_ for x in chosen)  # consumes the iterator: membership in order
            for chosen in itertools.combinations(first, size)
            for iter_ in [iter(second)]
        ):
            return size
    return 0


@given(st.permutations(range(6)), st.permutations(range(6)))
def test_longest_common_order(first, second):
    found = f.longest_common_order(first, second)
    assert len(found) == by_brute_force(first, second)
    for ranking in (first, second):
        assert [each for each in ranking if each in found] == found


def load(name):
    try:
        folder = find_golden()
    except DataError as missing:
        pytest.skip(str(missing))
    arrays = np.load(folder / json.loads((folder / "index.json").read_text())["language-models"][name]["file"])
    return {key: torch.tensor(arrays[key]) for key in arrays.files}


@pytest.mark.shared_data
def test_golden_redi():
    case = load("redi")
    chosen, rejected = (case[f"in_{side}_logps_sum"].requires_grad_() for side in ("chosen", "rejected"))
    value = f.redi(chosen, rejected, case["in_chosen_lengths"], case["in_rejected_lengths"], alpha=0.8)
    value.backward()
    torch.testing.assert_close(value, case["out_loss"])
    torch.testing.assert_close(chosen.grad, case["grad_chosen_logps"])
    torch.testing.assert_close(rejected.grad, case["grad_rejected_logps"])


@pytest.mark.shared_data
def test_golden_rankings():
    case = load("ranking-losses")
    sums = case["in_logprob_sums"].requires_grad_()
    torch.testing.assert_close(sums / case["in_lengths"], case["out_scores"])
    for name, formula in (("rrhf", f.ranked_hinge), ("pro", f.ranked_plackett_luce)):
        value = formula(sums / case["in_lengths"], case["in_best_first_order"])
        torch.testing.assert_close(value, case[f"out_{name}"])
        torch.testing.assert_close(torch.autograd.grad(value, sums)[0], case[f"grad_{name}"])


@pytest.mark.shared_data
def test_golden_agreement_of_rankings():
    case = load("ranking-agreement")
    found = f.longest_common_order(case["in_ranking_a"].tolist(), case["in_ranking_b"].tolist())
    assert len(found) == int(case["out_length"])
