"""A store of texts that grows: what was read once is not read again, whatever data it comes back in."""

from __future__ import annotations

import pytest
import torch

from embedding_toys import TEXTS, encoder
from limbeck.errors import StoreError
from limbeck.tasks import resolve
from limbeck.teachers.base import ModuleTeacher, module_hash
from limbeck.teachers.once import run_once


def passed(folder, texts, teacher, length=None):
    """The stored vectors of texts, and how many of them were read for it."""
    task, passes = resolve("embedding"), []
    data = task.load(texts, [teacher], test=0, length=length)
    found = run_once(ModuleTeacher(teacher), data, task, ["embedding"], str(folder), None, passes)
    vectors = found.read(data.train.batch(torch.arange(len(data.train))), ["embedding"], task)["embedding"]
    assert found.stored and found.taps == ["embedding"]
    assert found.identity() == module_hash(teacher)
    return vectors, sum(each["rows"] for each in passes), task


def test_only_new_texts_are_read(tmp_path):
    teacher = encoder().eval()
    first, read, _ = passed(tmp_path / "s", TEXTS[:20], teacher)
    assert read == 20
    mixed = [*TEXTS[15:30], *TEXTS[:5]]
    for times in (10, 0):  # and then nothing
        vectors, read, _ = passed(tmp_path / "s", mixed, teacher)
        assert read == times
        # a pass is in bfloat16 where the processor has it
        torch.testing.assert_close(vectors, torch.tensor(teacher.encode(mixed)), atol=1e-2, rtol=0)
        torch.testing.assert_close(vectors[-5:], first[:5], atol=0, rtol=0)
    _, read, _ = passed(tmp_path / "s", TEXTS[:40], teacher)
    assert read == 10
    assert sorted(place.name for place in (tmp_path / "s").glob("more-*")) == ["more-1", "more-2"]


def test_a_broken_pass_over_new_texts_goes_on(tmp_path, monkeypatch):
    teacher = encoder().eval()
    passed(tmp_path / "s", TEXTS[:10], teacher)
    with monkeypatch.context() as patch:
        patch.setattr(
            "limbeck.signals.store_write.write_columns", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            passed(tmp_path / "s", TEXTS[:20], teacher)
    _, read, _ = passed(tmp_path / "s", TEXTS[:20], teacher)
    assert read == 10
    assert [place.name for place in (tmp_path / "s").glob("more-*")] == ["more-1"]


def test_texts_of_another_length_are_other_texts(tmp_path):
    teacher = encoder().eval()
    passed(tmp_path / "s", TEXTS[:10], teacher, length=4)
    with pytest.raises(StoreError, match="length: 4 there, 8 now"):
        passed(tmp_path / "s", TEXTS[:10], teacher, length=8)
    task = resolve("embedding")
    data = task.load(TEXTS[:10], [teacher], test=0)
    from limbeck.teachers.stored import StoredTeacher

    with pytest.raises(StoreError, match="length=4; now length=None"):
        StoredTeacher(tmp_path / "s").read(data.train.batch(torch.arange(2)), ["embedding"], task)


def test_another_teacher_or_another_way_of_reading_is_refused(tmp_path):
    teacher = encoder().eval()
    passed(tmp_path / "s", TEXTS[:10], teacher)
    teacher.pooling = "cls"  # the same weights
    with pytest.raises(StoreError, match="holds another store"):
        passed(tmp_path / "s", TEXTS[:10], teacher)
