"""Ids in few bits: every set of classes comes back, in the bytes that were promised, and broken bytes are named."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck.errors import StoreError
from limbeck.signals.store_encode import Signal, describe_signal
from limbeck.signals.store_ids import pack_ids, packed_width, unpack_ids


@given(st.integers(0, 2**31), st.integers(1, 400), st.data())
def test_any_ids_come_back(seed, classes, data):
    k = data.draw(st.integers(1, classes))
    draw = torch.Generator().manual_seed(seed)
    ids = torch.stack([torch.randperm(classes, generator=draw)[:k].sort().values for _ in range(3)])
    packed = pack_ids(ids, classes)
    assert packed.shape == (3, packed_width(k, classes))
    assert torch.equal(unpack_ids(packed, k, classes).long(), ids)


@pytest.mark.parametrize("classes", [2, 257, 50_257, 128_256, 262_144])
def test_the_first_and_the_last_classes_come_back(classes):
    k = min(64, classes)
    ids = torch.stack([torch.arange(k), torch.arange(classes - k, classes)])
    assert torch.equal(unpack_ids(pack_ids(ids, classes), k, classes).long(), ids)


@pytest.mark.parametrize(("k", "classes"), [(45, 512), (64, 50_257), (64, 128_256)])
def test_they_take_hardly_more_than_a_set_must(k, classes):
    least = (math.lgamma(classes + 1) - math.lgamma(k + 1) - math.lgamma(classes - k + 1)) / math.log(2) / 8
    assert least <= packed_width(k, classes) <= 1.1 * least + 2


def test_bytes_that_are_no_ids_are_named():
    packed = pack_ids(torch.arange(8)[None], 500)
    packed[0, -1] ^= 128
    with pytest.raises(StoreError, match="8 classes"):
        unpack_ids(packed, 8, 500)


def test_a_store_written_with_whole_ids_is_still_read():
    logits = torch.randn(3, 5, 300)
    old, new = Signal("top_k", "uint8", (5, 300), 20), describe_signal("logits", logits, "uint8", 20)
    one, other = old.decode(old.encode(logits)), new.decode(new.encode(logits))
    assert new.encoding == "packed_top_k"
    assert torch.equal(one.values, other.values)
    torch.testing.assert_close(one.dense(), other.dense(), atol=0, rtol=0)
