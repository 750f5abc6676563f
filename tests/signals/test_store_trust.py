"""What can happen to a store: a kill, a full disk, a broken file, another teacher, other data."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import store_toys
import torch
from store_toys import TASK, contents, label, make_data, make_teacher

from limbeck.data.base import Data, TextPart
from limbeck.errors import ArgumentError, StoreError
from limbeck.signals import store_files
from limbeck.signals.store import SignalStore, estimate
from limbeck.signals.store_data import part_hash
from limbeck.teachers.base import ModuleTeacher


# interruptions
def test_killed_and_resumed_gives_the_same_bytes(tmp_path):
    label(tmp_path / "whole")
    folder = tmp_path / "killed"
    command = [sys.executable, store_toys.__file__, str(folder)]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 60
    while not (folder / "shard-00001.safetensors").exists() and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = {name for name in contents(folder) if name.startswith("shard")}
    assert {"shard-00000.safetensors"} <= done and len(done) < 7
    with pytest.raises(StoreError, match="was not made yet"):
        SignalStore.open(folder)
    (folder / "shard-00004.safetensors.tmp").write_bytes(b"half")  # as a kill in the middle of a write leaves it
    before = (folder / "shard-00000.safetensors").stat().st_mtime_ns
    seen = []
    label(folder, progress=lambda done, rows: seen.append((done, rows)))
    assert (folder / "shard-00000.safetensors").stat().st_mtime_ns == before
    assert seen[0][0] > 8 and seen[-1] == (100, 100)
    assert contents(folder) == contents(tmp_path / "whole")


def test_ctrl_c_keeps_what_is_done(tmp_path):
    def stop(done, rows):
        if done > 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label(tmp_path / "s", progress=stop)
    assert not [name for name in contents(tmp_path / "s") if name.endswith(".tmp")]
    store = label(tmp_path / "s")
    assert store.broken("full") == {}
    calls = []
    label(tmp_path / "s", progress=lambda *_: calls.append(1))
    assert not calls  # nothing is done twice


def test_full_disk_keeps_the_finished_shards(tmp_path, monkeypatch):
    real, count = os.fsync, []

    def fsync(handle):
        count.append(handle)
        if len(count) > 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(store_files.os, "fsync", fsync)
    with pytest.raises(StoreError, match=r"No space left on device. 2 of 7 shards are whole and kept; make room"):
        label(tmp_path / "s")
    monkeypatch.undo()
    assert not [name for name in contents(tmp_path / "s") if name.endswith(".tmp")]
    label(tmp_path / "s")
    label(tmp_path / "whole")
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")


def test_too_large_for_the_disk(tmp_path, monkeypatch):
    found = estimate(
        make_teacher(), make_data(), tmp_path / "s", task=TASK, taps=["logits", "module.1"], dtype="float32"
    )
    store = label(tmp_path / "t", dtype="float32", shard_rows=None)
    assert (found.rows, found.row_bytes, found.shards) == (100, 4 * 13, 1)
    files = ("shard-00000.safetensors", "ids.safetensors")
    assert found.bytes == sum((store.folder / name).stat().st_size for name in files)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=found.bytes - 1))
    with pytest.raises(StoreError, match=r"100 rows of 52 bytes.*Make room, or keep less"):
        label(tmp_path / "s", dtype="float32")
    assert not (tmp_path / "s").exists()


# what is broken
def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_one_flipped_byte_is_found_and_repaired_alone(tmp_path):
    store = label(tmp_path / "s", dtype="float32")
    whole, before = contents(tmp_path / "s"), store.read(torch.arange(100))
    flip(tmp_path / "s" / "shard-00003.safetensors")
    (tmp_path / "s" / "shard-00005.safetensors").unlink()
    SignalStore.open(tmp_path / "s", verify="none")
    with pytest.raises(StoreError, match=r"shard-00005.safetensors is missing") as quick:
        SignalStore.open(tmp_path / "s")
    assert "shard-00003" not in str(quick.value)
    with pytest.raises(StoreError, match=r"shard-00003.safetensors does not have its checksum; shard-00005") as full:
        SignalStore.open(tmp_path / "s", verify="full")
    assert "repair" in str(full.value)
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "s").iterdir()}
    store = SignalStore.open(tmp_path / "s", verify="none")
    assert store.repair(make_teacher(), make_data()) == ["shard-00003.safetensors", "shard-00005.safetensors"]
    changed = {p.name for p in (tmp_path / "s").iterdir() if times.get(p.name) != p.stat().st_mtime_ns}
    assert changed == {"shard-00003.safetensors", "shard-00005.safetensors", "manifest.json"}
    assert contents(tmp_path / "s") == whole
    assert all(torch.equal(value, before[name]) for name, value in store.read(torch.arange(100)).items())
    assert store.repair(make_teacher(), make_data()) == []


def test_storing_again_repairs_too(tmp_path):
    label(tmp_path / "s")
    whole = contents(tmp_path / "s")
    flip(tmp_path / "s" / "shard-00002.safetensors")
    flip(tmp_path / "s" / "ids.safetensors")
    with pytest.raises(StoreError, match=r"ids.safetensors does not have its checksum"):
        SignalStore.open(tmp_path / "s")
    done = []
    label(tmp_path / "s", progress=lambda done_now, rows: done.append(done_now))
    assert done == [92, 100]  # the 16 rows of one shard
    assert contents(tmp_path / "s") == whole


def test_broken_while_open(tmp_path):
    store = label(tmp_path / "s")
    os.truncate(tmp_path / "s" / "shard-00001.safetensors", 100)
    with pytest.raises(StoreError, match=r"shard-00001.safetensors is not the file.*100 bytes"):
        store.read(torch.tensor([20]))
    assert list(store.broken("quick")) == ["shard-00001.safetensors"]
    with pytest.raises(ArgumentError, match="Did you mean 'full'"):
        store.broken("ful")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"), ("[]", "not of a signal store"), ('{"format": "limbeck-signals"}', "version None"),
        ('{"format": "limbeck-signals", "version": 1}', "incomplete"),
    ],
)  # fmt: skip
def test_manifests_that_cannot_be_read(tmp_path, text, message):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(StoreError, match=message):
        SignalStore.open(tmp_path)


def test_no_store(tmp_path):
    with pytest.raises(StoreError, match="no signal store"):
        SignalStore.open(tmp_path / "x")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"other things \(notes.txt\)"):
        label(tmp_path)
    assert contents(tmp_path) == {"notes.txt": b"mine"}


# whose signals
def test_foreign_teacher_and_data_are_refused_with_both_hashes(tmp_path):
    store = label(tmp_path / "s")
    store.check(make_teacher(), make_data())
    mine, other = (ModuleTeacher(make_teacher(seed)).identity() for seed in (0, 1))
    with pytest.raises(StoreError, match="another teacher") as error:
        store.check(make_teacher(1))
    assert mine in str(error.value) and other in str(error.value)
    mine, other = (part_hash(make_data(seed=seed).train) for seed in (0, 1))
    with pytest.raises(StoreError, match="other data") as error:
        store.repair(make_teacher(), make_data(seed=1))
    assert mine in str(error.value) and other in str(error.value)
    with pytest.raises(StoreError, match=r"holds train; .* have valid"):
        store.check(data=Data("x", "table", {"valid": make_data().train}))


def test_labels_do_not_matter_to_a_store(tmp_path):
    store, data = label(tmp_path / "s"), make_data()
    data.parts["train"] = data.train.with_labels(torch.full((100,), -100))
    store.check(data=data)


def test_texts_have_a_hash():
    one, two = (TextPart("train", texts) for texts in (["a", "bc"], ["ab", "c"]))
    assert part_hash(one) != part_hash(two) and part_hash(one) == part_hash(TextPart("x", ["a", "bc"]))


def test_another_store_in_the_folder(tmp_path):
    label(tmp_path / "s")
    for options, named in (({"dtype": "float32"}, "signals"), ({"teacher": make_teacher(1)}, "teacher"),
                           ({"data": make_data(seed=1)}, "parts"), ({"shard_rows": 8}, "shard_rows")):  # fmt: skip
        with pytest.raises(StoreError, match=rf"another store \({named}.*resume=False"):
            label(tmp_path / "s", **options)
    assert label(tmp_path / "s", shard_rows=None).manifest.shard_rows == 16  # not asked for: as it was
    replaced = label(tmp_path / "s", dtype="float32", shard_rows=64, resume=False)
    assert replaced.read(torch.tensor([0]))["logits"].dtype == torch.float32
    assert len(list((tmp_path / "s").glob("shard-*"))) == 2
