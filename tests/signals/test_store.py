"""The signal store: what is read is what the live teacher gives."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file
from store_toys import TASK, Rolls, label, make_data, make_teacher
from torch import nn

from limbeck.data.augment import CropFlip, Flip, GaussianNoise, Shift
from limbeck.data.base import Data, TensorPart
from limbeck.errors import ArgumentError, DataError, SignalError, StoreError
from limbeck.signals.store import TopK, store_signals
from limbeck.tasks.classification import Regression
from limbeck.teachers.base import CallableTeacher, ModuleTeacher

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def live(data, ids, part="train", view=None, taps=("logits", "module.1"), teacher=None):
    positions = torch.stack([(data.parts[part].ids == i).nonzero()[0, 0] for i in ids])
    return ModuleTeacher(teacher or make_teacher()).read(data.parts[part].batch(positions, view=view), taps, TASK)


# what comes out
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shard_rows", [7, 1000])
def test_round_trip(tmp_path, dtype, shard_rows):
    data = make_data()
    store = label(tmp_path / "s", data=data, dtype=dtype, shard_rows=shard_rows)
    ids = torch.tensor([99, 0, 50, 50, 13])
    expected = live(data, ids)
    found = store.read(ids)
    assert list(found) == store.taps == ["logits", "module.1"]
    for name, value in found.items():
        assert value.dtype == DTYPES[dtype]
        # the batch is another one than when it was stored, so float32 may differ in its last bit
        assert torch.allclose(value.float(), expected[name], atol=1e-6, rtol={"bfloat16": 2**-8}.get(dtype, 2**-11))
    assert store.read(ids, taps=["module.1"]).keys() == {"module.1"}
    assert store.read(ids[:0])["logits"].shape == (0, 5)
    assert store.rows == 100 and "train" in repr(store)


@pytest.mark.parametrize("shard_rows", [7, 1000])
def test_top_k_round_trip(tmp_path, shard_rows):
    data = make_data()
    store = label(tmp_path / "s", data=data, top_k=2, dtype="float32", shard_rows=shard_rows)
    ids = torch.tensor([3, 98, 4])
    kept, expected = store.read(ids)["logits"], live(data, ids)["logits"].log_softmax(-1)
    assert isinstance(kept, TopK) and kept.ids.dtype == torch.uint8 and kept.size == 5
    assert torch.equal(kept.ids.long(), expected.topk(2).indices)
    assert torch.allclose(kept.values, expected.topk(2).values, atol=1e-5)
    assert isinstance(store.read(ids)["module.1"], torch.Tensor)


def test_shuffling_changes_nothing(tmp_path):
    store = label(tmp_path / "s", dtype="float32")
    whole = store.read(torch.arange(100))
    for seed in range(5):
        order = torch.randperm(100, generator=torch.Generator().manual_seed(seed))
        for batch in order.split(23):
            assert all(torch.equal(value, whole[name][batch]) for name, value in store.read(batch).items())


def test_ids_need_not_count_up(tmp_path):
    ids = torch.randperm(5000, generator=torch.Generator().manual_seed(1))[:120] * 3
    data = make_data(ids=ids)
    store = label(tmp_path / "s", data=data, dtype="float32", parts=["train", "test"])
    plain = label(tmp_path / "t", dtype="float32", parts=["train", "test"])
    assert torch.equal(store.ids, ids)
    for name, value in store.read(ids).items():
        assert torch.equal(value, plain.read(torch.arange(120))[name])
    assert store.covers(data.parts["test"].ids) and not store.covers(torch.tensor([1]))


def test_files_are_safetensors(tmp_path):
    store = label(tmp_path / "s", dtype="bfloat16", top_k=2)
    file = load_file(tmp_path / "s" / "shard-00002.safetensors")
    kept = store.read(torch.arange(32, 48))
    assert torch.equal(file["module.1"], kept["module.1"]) and file["module.1"].dtype == torch.bfloat16
    assert torch.equal(file["logits/values"], kept["logits"].values)
    assert torch.equal(load_file(tmp_path / "s" / "ids.safetensors")["ids"], torch.arange(100))
    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text())
    assert manifest["rows"] == 100 and manifest["task"] == "classification"
    assert manifest["signals"]["logits"] == {
        "encoding": "top_k", "dtype": "bfloat16", "shape": [5], "k": 2, "temperature": None
    }  # fmt: skip
    assert {shard["state"] for shard in manifest["shards"]} == {"done"}


def test_no_descriptor_is_held(tmp_path):
    store = label(tmp_path / "s", shard_rows=4)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    store.read(torch.arange(100))
    assert not before or len(os.listdir("/proc/self/fd")) <= before + 1


# views
def test_views_are_the_live_teacher(tmp_path):
    data = make_data(20, Rolls())
    # one batch for each view, as below, so that float32 is the same to the last bit
    store = label(tmp_path / "s", data=data, dtype="float32", views="all", batch_size=1, parts=["train", "test"])
    assert store.rows == 20 * 4 + 20
    teacher = make_teacher()
    for view in (0, 1, 2, None):
        for i in range(20):
            number = None if view is None else torch.tensor([view])
            expected = live(data, torch.tensor([i]), view=number, teacher=teacher)
            assert all(torch.equal(v, expected[n]) for n, v in store.read(torch.tensor([i]), number).items())
    ids, views = torch.tensor([5, 19, 0, 5]), torch.tensor([2, 0, 1, 1])
    expected = live(data, ids, view=views)["logits"]
    assert torch.allclose(store.read(ids, views)["logits"], expected, atol=1e-6)
    ids = torch.arange(20, 40)
    assert torch.allclose(store.read(ids)["logits"], live(data, ids, "test")["logits"], atol=1e-6)
    for ids, views in ((torch.tensor([1, 2]), torch.tensor([2, 3])), (torch.tensor([25]), torch.tensor([0]))):
        with pytest.raises(StoreError, match="has no view"):
            store.read(ids, views)


@pytest.mark.parametrize("augmentation", [CropFlip(1), Flip(), Shift(2)])
def test_views_of_images(tmp_path, augmentation):
    torch.manual_seed(0)
    images = torch.rand(6, 1, 4, 4)
    data = Data("images", "image", {"train": TensorPart("train", images, augmentation=augmentation)})
    teacher = CallableTeacher(lambda x: x.flatten(1))
    store = store_signals(teacher, data, tmp_path, task=TASK, views="all", dtype="float32", shard_rows=13)
    assert store.rows == 6 * augmentation.count  # the image as it is is one of them
    assert torch.equal(store.read(torch.arange(6))["logits"], images.flatten(1))
    batch = data.train.batch(torch.randint(6, (50,)), torch.Generator().manual_seed(0))
    assert torch.equal(store.read(batch.ids, batch.view)["logits"], batch.inputs.flatten(1))
    store.check(data=data)


def test_augmentations_that_cannot_be_stored(tmp_path):
    with pytest.raises(ArgumentError, match=r"not a finite set.*finite augmentation.*without one"):
        label(tmp_path / "s", data=make_data(20, GaussianNoise()), views="all")
    with pytest.raises(ArgumentError, match=r"3 views.*views='all'.*3 x 20"):
        label(tmp_path / "s", data=make_data(20, Rolls()))
    assert not (tmp_path / "s").exists()


def test_another_augmentation_is_refused(tmp_path):
    store = label(tmp_path / "s", data=make_data(20, Rolls()), views="all")
    store.check(data=make_data(20, Rolls()))
    store.check(data=make_data(20))  # without augmentation: the samples as they are
    with pytest.raises(StoreError, match="with 2 views"):
        store.check(data=make_data(20, Rolls(2)))
    with pytest.raises(StoreError, match=r"another augmentation"):
        store.check(data=make_data(20, Rolls(3, shift=2)))
    plain = label(tmp_path / "t", data=make_data(20))
    with pytest.raises(StoreError, match="views='all', or train without"):
        plain.check(data=make_data(20, Rolls()))


# what does not fit
def test_unknown_ids_and_taps_are_named(tmp_path):
    store = label(tmp_path / "s")
    with pytest.raises(StoreError, match=r"2 of 4 sample ids: \[100, -1\].*train \(100 samples\)"):
        store.read(torch.tensor([0, 100, -1, 5]))
    with pytest.raises(SignalError, match=r"'module.2'. Did you mean 'module.1'"):
        store.read(torch.tensor([0]), taps=["module.2"])


def test_nan_is_named_and_finished_shards_stay(tmp_path):
    data = make_data()
    good = data.train.inputs[70].clone()
    data.train.inputs[70] = float("nan")
    with pytest.raises(StoreError, match=r"'logits' is NaN or infinite for 1 of 8 samples .*\[70\]"):
        label(tmp_path / "s", data=data)
    assert (tmp_path / "s" / "shard-00003.safetensors").exists()
    data.train.inputs[70] = good
    with pytest.raises(StoreError, match="parts"):  # mended data are other data
        label(tmp_path / "s", data=data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "half"}, "dtype='half'"), ({"views": "some"}, "views='some'"), ({"top_k": 0}, "top_k=0"),
        ({"top_k": 9}, "has 5 classes"), ({"parts": ["trian"]}, "Did you mean 'train'"), ({"parts": []}, "at least one"),
        ({"taps": "logits"}, "list of signals"), ({"taps": ["module.1"], "top_k": 2}, "for logits"),
        ({"shard_rows": 2.5}, "shard_rows=2.5"), ({"batch_size": True}, "batch_size=True"),
    ],
)  # fmt: skip
def test_arguments(tmp_path, options, message):
    with pytest.raises(ArgumentError, match=message):
        label(tmp_path / "s", **options)
    assert not (tmp_path / "s").exists()


def test_data_that_do_not_fit(tmp_path):
    data = make_data(ids=torch.arange(120) % 100)
    with pytest.raises(DataError, match=r"20 sample ids repeat in train, test \(first: \[0, 1"):
        label(tmp_path / "s", data=data, parts=["train", "test"])
    data.parts["none"] = TensorPart("none", torch.zeros(0, 6))
    with pytest.raises(DataError, match="'none' has no samples"):
        label(tmp_path / "s", data=data, parts=["none"])


def test_rows_of_several_lengths(tmp_path):
    teacher = CallableTeacher(
        lambda inputs: torch.zeros(len(inputs), 2 if inputs[0, 0] == make_data().train.inputs[0, 0] else 3)
    )
    with pytest.raises(StoreError, match=r"\[8, 3\] for 8 samples; those before had \[2\]"):
        label(tmp_path / "s", teacher, taps=["logits"])


# other teachers and tasks
def test_any_teacher_and_any_shape(tmp_path):
    data = make_data()
    store = store_signals(CallableTeacher(lambda x: x[:, :1]), data, tmp_path / "r", task=Regression(), dtype="float32")
    assert torch.equal(store.read(torch.tensor([7, 3]))["logits"], data.train.inputs[[7, 3], 0])
    with pytest.raises(ArgumentError, match="of regression"):
        store_signals(CallableTeacher(lambda x: x), data, tmp_path / "k", task=Regression(), top_k=1)
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(24, 5)
    )
    store = store_signals(net, data, tmp_path / "p", task=TASK, taps=["1"], dtype="float32")
    with torch.no_grad():  # tap 1 is overwritten in place by the ReLU: what is stored was cloned before
        assert torch.allclose(store.read(torch.arange(100))["1"], net[:2](data.train.inputs), atol=1e-6)
    assert store.signals["1"].shape == (4, 2, 3)
    assert label(tmp_path / "t", taps=["module.*", "logits"]).taps == ["logits", "module.0", "module.1", "module.2"]
    ensemble = label(tmp_path / "e", [make_teacher(0), make_teacher(1)], taps=["logits", "0.logits"], top_k=2)
    assert {signal.encoding for signal in ensemble.signals.values()} == {"top_k"}


def test_a_copy_of_a_store(tmp_path):
    store = label(tmp_path / "s", dtype="float32")
    copy = label(tmp_path / "c", store, dtype="float32", shard_rows=9)
    assert copy.manifest.teacher == store.manifest.teacher
    assert torch.equal(copy.read(torch.arange(100))["logits"], store.read(torch.arange(100))["logits"])
