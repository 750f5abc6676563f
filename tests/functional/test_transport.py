"""The cheapest transport between layers: against every plan there is, and what a term makes of it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

import limbeck.functional as f
from limbeck import objectives as o
from limbeck.errors import ArgumentError


def every_plan():
    """All plans of 2 rows and 3 columns in sixths: one of them is cheapest, since corners of the polytope are whole numbers."""
    for a, b in itertools.product(range(3), repeat=2):
        row = [a, b, 3 - a - b]
        if 0 <= row[2] <= 2:
            yield np.array([row, [2 - each for each in row]]) / 6


@given(st.lists(st.floats(-5, 5), min_size=6, max_size=6))
def test_no_plan_is_cheaper(values):
    costs = torch.tensor(values, dtype=torch.float64).reshape(2, 3)
    plan = f.transport_plan(costs)
    assert float(plan.min()) >= 0
    torch.testing.assert_close(plan.sum(1), torch.full((2,), 1 / 2, dtype=torch.float64))
    torch.testing.assert_close(plan.sum(0), torch.full((3,), 1 / 3, dtype=torch.float64))
    assert float((plan * costs).sum()) == pytest.approx(
        min((each * costs.numpy()).sum() for each in every_plan()), abs=1e-9
    )


def test_of_as_many_layers_it_is_the_best_assignment():
    costs = torch.rand(5, 5, generator=torch.Generator().manual_seed(0))
    rows, columns = linear_sum_assignment(costs.numpy())
    plan = f.transport_plan(costs)
    assert plan.dtype == costs.dtype
    torch.testing.assert_close(plan[rows, columns], torch.full((5,), 0.2))


def test_a_loss_that_is_not_finite_stays_so():
    costs = torch.tensor([[1.0, float("nan")], [2.0, 3.0]])
    plan = f.transport_plan(costs)
    assert torch.equal(plan, torch.full((2, 2), 0.25))
    assert not (plan * costs).sum().isfinite()


def terms(ours, theirs):
    return o.transported([[o.feature_mse().on(one, other) for other in theirs] for one in ours])


def test_layers_in_another_order_are_at_no_distance():
    first, second = torch.randn(8, 6), torch.randn(8, 6)
    loss = terms("ab", "cd")({"a": first, "b": second}, {"c": second, "d": first})
    assert float(loss) == pytest.approx(0, abs=1e-12)


def test_its_gradient_is_that_of_the_pairs_by_their_share():
    student = {name: torch.randn(8, 6, dtype=torch.float64, requires_grad=True) for name in "ab"}
    teacher = {name: torch.randn(8, 6, dtype=torch.float64) for name in "cde"}
    terms("ab", "cde")(student, teacher).backward()
    costs = torch.stack([((student[one] - teacher[other]) ** 2).mean() for one in "ab" for other in "cde"]).reshape(
        2, 3
    )
    plan = f.transport_plan(costs)
    for row, name in enumerate("ab"):
        by_hand = sum(
            float(plan[row, column]) * 2 * (student[name] - teacher[other]) / 48 for column, other in enumerate("cde")
        )
        torch.testing.assert_close(student[name].grad, by_hand.detach())


def test_it_has_what_its_pairs_learn_and_weighs_no_padding_row():
    made = o.transported([[o.feature_mse().on("a", "b").projected("linear")]])
    student, teacher = {"a": torch.randn(4, 3)}, {"b": torch.randn(4, 5)}
    made.build(student, teacher)
    assert sorted(value.shape for value in made.parameters()) == [(5,), (5, 3)]
    plain = o.transported([[o.feature_mse().on("a", "b")]])
    a, b = torch.randn(4, 3), torch.randn(4, 3)
    weight = torch.tensor([1.0, 1, 0, 1])
    found = plain({"a": a}, {"b": b}, {"labels": torch.zeros(4, dtype=torch.long), "weight": weight})
    assert float(found) == pytest.approx(float(((a - b) ** 2)[weight > 0].mean()), rel=1e-6)
    with pytest.raises(ArgumentError, match="all of one length"):
        o.transported([[o.mse()], [o.mse(), o.mse()]])
