"""Encodings: what goes in comes out, and top-k logits keep what their docstring says."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from limbeck.errors import ArgumentError, SignalError, StoreError
from limbeck.signals.lazy import Lazy
from limbeck.signals.store_encode import FLOOR, Signal, TopK, check_values, describe_signal, top_k


def keep(logits, k, dtype="float32"):
    signal = describe_signal("logits", logits, dtype, k)
    return signal.decode(signal.encode(logits))


def random_logits(seed, rows, classes, scale):
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed)) * scale


cases = st.tuples(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 40), st.floats(0, 30))


@settings(deadline=None, max_examples=60)
@given(cases, st.integers(1, 40), st.sampled_from(["float16", "bfloat16", "float32"]))
def test_dense_sums_to_one(case, k, dtype):
    logits = random_logits(*case)
    kept = keep(logits, min(k, logits.shape[1]), dtype)
    for fill in ("tail", "none"):
        assert torch.allclose(kept.dense(fill).exp().sum(-1), torch.ones(len(logits)), atol=2e-6)


@settings(deadline=None, max_examples=60)
@given(cases, st.integers(1, 40))
def test_top_probabilities_and_tail_mass_are_exact(case, k):
    logits = random_logits(*case)
    k = min(k, logits.shape[1])
    p, dense = logits.double().softmax(-1), keep(logits, k).dense().double().exp()
    top = p.topk(k).indices
    assert torch.allclose(dense.gather(1, top), p.gather(1, top), rtol=1e-4, atol=1e-7)
    rest = dense.scatter(1, top, math.nan)
    expected = p.scatter(1, top, 0).sum(1)
    for row, mass in zip(rest, expected, strict=True):
        values = row[~row.isnan()]
        assert len(values) == logits.shape[1] - k
        if len(values):
            assert torch.allclose(values, mass / len(values), rtol=1e-4, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(cases, st.integers(0, 10**6), st.sampled_from([1.0, 4.0]))
def test_divergence_is_exact_when_all_classes_are_kept(case, seed, temperature):
    logits = random_logits(*case)
    student = random_logits(seed, *logits.shape, 3.0).div(temperature).log_softmax(-1)
    dense = keep(logits, logits.shape[1]).dense()

    def divergence(teacher):
        log_p = (teacher / temperature).log_softmax(-1)
        return (log_p.exp() * (log_p - student)).sum(-1)

    assert torch.allclose(divergence(dense), divergence(logits), rtol=1e-4, atol=1e-5)


def test_half_precision_costs_its_rounding():
    logits = random_logits(0, 500, 50, 8.0)
    p = logits.softmax(-1)
    half = keep(logits, 50, "float16").dense().exp()
    # log p is off by |log p| 2^-11, and the normalization by no more than the worst; p |log p| is at most 1/e
    assert (half - p).abs().max() < 2 * 2**-11 / math.e
    assert (logits.half().float().softmax(-1) - p).abs().max() > (
        half - p
    ).abs().max()  # as the docstring of top_k says


def test_by_hand():
    logits = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()[None] + 7
    kept = keep(logits, 2)
    assert kept.ids.tolist() == [[0, 1]]
    assert torch.allclose(kept.values.exp(), torch.tensor([[0.5, 0.25]]))
    assert torch.allclose(kept.log_tail.exp(), torch.tensor([0.25]))
    assert torch.allclose(kept.dense().exp(), torch.tensor([[0.5, 0.25, 0.125, 0.125]]))
    assert torch.allclose(kept.dense("none").exp(), torch.tensor([[2 / 3, 1 / 3, 0, 0]]))
    assert kept.shape == (1, 4) and len(kept) == 1


def test_a_tiny_tail_is_summed_and_not_subtracted():
    logits = torch.tensor([[0.0, -40.0, -41.0]])
    kept = keep(logits, 1)
    assert kept.log_tail.item() == pytest.approx(np.logaddexp(-40, -41), rel=1e-5)  # 1 - p is 0 in float32


def test_classes_without_probability_stay_finite():
    logits = torch.tensor([[1.0, 0.0, -math.inf, -math.inf], [0.0, -1e30, -1e30, -1e30]])
    for dtype in ("float16", "bfloat16", "float32"):
        for k in (1, 3, 4):
            dense = keep(logits, k, dtype).dense()
            p = dense.exp()
            assert dense.isfinite().all() and (p * dense).isfinite().all()
            assert p[1].tolist() == [1, 0, 0, 0]
    assert keep(logits, 4).values.min() == FLOOR


@pytest.mark.parametrize(
    ("size", "dtype"), [(256, torch.uint8), (257, torch.uint16), (65536, torch.uint16), (65537, torch.uint32)]
)
def test_ids_are_as_narrow_as_the_classes_allow(size, dtype):
    logits = torch.zeros(2, size)
    logits[:, -1] = 5.0
    kept = keep(logits, 3)
    assert kept.ids.dtype == dtype and kept.ids[0, 0].item() == size - 1
    assert kept.dense().argmax(-1).tolist() == [size - 1, size - 1]


def test_64_of_65536_take_258_bytes():
    columns = Signal("top_k", "float16", (65536,), 64).columns("logits")
    assert sum(column.width for column in columns) == 258


def test_tokens_and_lazy_logits():
    torch.manual_seed(0)
    hidden, head = torch.randn(3, 5, 8), nn.Linear(8, 30)
    lazy = Lazy(hidden, head.weight, head.bias)
    whole = lazy.whole().detach()
    for value in (whole, lazy):
        signal = describe_signal("logits", value, "float32", 4)
        kept = signal.decode(signal.encode(value))
        assert kept.values.shape == (3, 5, 4) and kept.log_tail.shape == (3, 5)
        top, ids, tail = top_k(whole.reshape(-1, 30), 4)
        assert torch.equal(kept.values.reshape(-1, 4), top) and torch.equal(kept.ids.reshape(-1, 4).long(), ids)
        assert torch.equal(kept.log_tail.flatten(), tail)
        assert torch.equal(describe_signal("logits", value, "float32", None).encode(value)[0], whole)
        assert kept.dense().shape == whole.shape


def test_moves_and_refuses():
    kept = keep(torch.randn(2, 5), 2)
    assert isinstance(kept.to("meta"), TopK) and kept.to("meta").ids.is_meta
    with pytest.raises(ArgumentError, match="fill='even'"):
        kept.dense("even")
    with pytest.raises(ArgumentError, match="has 5 classes"):
        describe_signal("logits", torch.zeros(2, 5), "float16", 6)
    with pytest.raises(SignalError, match="tuple"):
        describe_signal("layer#call", ((), {}), "float16", None)
    with pytest.raises(SignalError, match="int64"):
        describe_signal("router", torch.zeros(2, 3, dtype=torch.int64), "float16", None)
    assert describe_signal("layer1", torch.zeros(2, 3, 4), "float16", 2) == Signal("all", "float16", (3, 4))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("k", [None, 2])
def test_nan_is_named(bad, k):
    logits = torch.zeros(4, 3)
    logits[2, 1] = bad
    signal = describe_signal("logits", logits, "float16", k)
    with pytest.raises(StoreError, match=r"1 of 4 samples.*\[72\]"):
        check_values("logits", signal, logits, signal.encode(logits), torch.arange(70, 74))


def test_values_beyond_the_dtype_are_named():
    features = torch.tensor([[1.0], [7e4]])
    signal = describe_signal("layer1", features, "float16", None)
    with pytest.raises(StoreError, match=r"7e\+04 .*\[9\].*bfloat16"):
        check_values("layer1", signal, features, signal.encode(features), torch.tensor([8, 9]))
    masked = torch.tensor([[1.0, -math.inf]])  # no probability, which is allowed
    signal = describe_signal("logits", masked, "float16", None)
    check_values("logits", signal, masked, signal.encode(masked), torch.tensor([0]))
    assert signal.encode(masked)[0].tolist() == [[1.0, -math.inf]]
