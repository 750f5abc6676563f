"""One byte a value: close where the probability is, the loss stated, k chosen by the mass that it keeps."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck.errors import ArgumentError, StoreError
from limbeck.recipes.toy_language import language_toy
from limbeck.signals.lazy import Lazy
from limbeck.signals.store import SignalStore, store_signals
from limbeck.signals.store_encode import describe_signal, top_k
from limbeck.signals.store_ids import packed_width
from limbeck.signals.store_levels import from_levels, k_for, lost, to_levels
from limbeck.tasks import resolve


def logits(seed=0, rows=40, classes=500, scale=4.0):
    return scale * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 2**31), st.integers(1, 64), st.floats(0.01, 20))
def test_levels_keep_order_ends_and_are_closest_at_the_top(seed, k, scale):
    values, _, _ = top_k(logits(seed, 5, 80, scale), k)
    codes, ends = to_levels(values)
    back = from_levels(codes, ends)
    assert codes.dtype == torch.uint8
    assert (back[:, 1:] <= back[:, :-1]).all()
    width = (values[:, :1] - values[:, -1:]).clamp(min=1e-6)
    # half a step of the square: |d(w u^2)| <= 2 w u / (2 * 255) + w / (4 * 255^2), and the rounding of the ends
    u = ((values[:, :1] - values) / width).clamp(0, 1).sqrt()
    bound = width * (u / 255 + 1 / (4 * 255**2)) + 2e-3 * values.abs().amax(1, keepdim=True) + 1e-5
    assert ((back - values).abs() <= bound).all()


def test_what_is_lost_is_the_kl_of_what_is_read_back():
    z = logits()
    signal = describe_signal("logits", z, "uint8", 64)
    found = lost(signal, z)
    p = z.double().softmax(-1).numpy()
    q = signal.decode(signal.encode(z)).dense().double().exp().numpy()
    assert found["kl"] == pytest.approx(float((p * np.log(p / q)).sum(-1).mean()), rel=1e-4)
    assert found["mass"] == pytest.approx(float(np.sort(p, -1)[:, -64:].sum(-1).mean()), rel=1e-6)
    assert found["bytes"] == 64 + packed_width(64, 500) + 2 * 2 + 2 <= 120
    half = lost(describe_signal("logits", z, "float16", 64), z)
    assert half["bytes"] == 64 * 4 + 2
    assert found["kl"] - half["kl"] < 2e-4  # what one byte costs beside two


@pytest.mark.parametrize("mass", [0.5, 0.9, 0.99])
def test_k_is_the_smallest_that_keeps_the_mass(mass):
    z = logits(3)
    k = k_for(z, mass)
    kept = z.softmax(-1).sort(-1, descending=True).values.cumsum(-1).mean(0)
    assert kept[k - 1] >= mass
    assert k == 1 or kept[k - 2] < mass


def test_lazy_logits_are_looked_at_without_being_whole():
    lazy = Lazy(torch.randn(3, 5, 4), torch.randn(30, 4))
    assert k_for(lazy, 0.9) == k_for(lazy.whole(), 0.9)
    signal = describe_signal("logits", lazy, "uint8", 6)
    assert lost(signal, lazy) == pytest.approx(lost(signal, lazy.whole()), rel=1e-5)


def test_a_language_models_store_states_its_loss_and_reads_back(tmp_path):
    data, teacher, _ = language_toy()
    data.train.even = True
    task = resolve("causal_lm")
    store = store_signals(teacher, data, tmp_path, task=task, top_mass=0.9, dtype="uint8")
    found = store.manifest.lost["logits"]
    assert found["mass"] >= 0.9
    assert SignalStore.open(tmp_path).manifest.lost == store.manifest.lost
    batch = data.train.batch([4, 1])
    with torch.no_grad():
        whole = teacher(**batch.inputs).logits.log_softmax(-1)
    back = store.read(batch.ids, batch.view)["logits"].dense()
    kept = whole.topk(int(found["k"]), -1).indices
    torch.testing.assert_close(back.gather(-1, kept), whole.gather(-1, kept), atol=0.02, rtol=0)


def test_wrong_ways_are_named(tmp_path):
    data, teacher, _ = language_toy()
    data.train.even = True
    task = resolve("causal_lm")
    for options, match in (
        ({"dtype": "uint8"}, "top_k=64"), ({"top_k": 3, "top_mass": 0.9}, "Give one"), ({"top_mass": 1.5}, "0.98"),
    ):  # fmt: skip
        with pytest.raises(ArgumentError, match=match):
            store_signals(teacher, data, tmp_path, task=task, **options)
    with torch.no_grad():
        teacher.lm_head.weight[2] = torch.nan
    with pytest.raises(StoreError, match="NaN"):
        store_signals(teacher, data, tmp_path / "x", task=task, top_k=3, dtype="uint8")
