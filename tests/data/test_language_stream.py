"""Streams: every record once a pass, batches that can be gone on from, and training from them through the engine."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch

from language_toys import CHATML, make_tokenizer, tiny, words
from limbeck.data.base import Data
from limbeck.data.language import load_language_data
from limbeck.data.language_stream import read_stream
from limbeck.errors import ArgumentError, DataError
from limbeck.tasks.causal_lm import CausalLM
from limbeck.training.execute import Runner
from limbeck.training.job import Job
from limbeck.training.settings import Settings
from limbeck.training.sources import StreamSource
from limbeck.training.token_sources import TokenSource
from toys import losses, weights

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
RECORDS = [{"text": LETTERS[n % 36] + " " + LETTERS[: 1 + n * 7 % 11].replace("", " ").strip()} for n in range(90)]


@pytest.fixture
def files(tmp_path):
    import pandas

    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, RECORDS[:40])) + "\n")
    (tmp_path / "b.jsonl").write_text("\n\n".join(map(json.dumps, RECORDS[40:50])))
    pandas.DataFrame(RECORDS[50:]).to_parquet(tmp_path / "c.parquet", row_group_size=7)
    return [tmp_path / name for name in ("a.jsonl", "b.jsonl", "c.parquet")]


def load(files, tokenizer=None, **options):
    options = {"length": 24, "valid": 0, "stream": True, "buffer": 16, **options}
    return load_language_data(files, tokenizer or make_tokenizer(), **options)


def documents(batch) -> list[str]:
    """The texts of a batch, told apart by where positions start anew, or by rows."""
    found = []
    for ids, positions in zip(
        batch.inputs["input_ids"], batch.inputs.get("position_ids", batch.inputs["input_ids"] * 0)
    ):
        starts = (
            [*(positions == 0).nonzero()[:, 0].tolist(), len(ids)] if "position_ids" in batch.inputs else [0, len(ids)]
        )
        pieces = ["".join(words(ids[begin:end])) for begin, end in pairwise(starts)]
        found += [piece.replace("<pad>", "").removesuffix("</s>") for piece in pieces if piece.replace("<pad>", "")]
    return found


def same(one, other) -> bool:
    inputs = all(torch.equal(one.inputs[key], other.inputs[key]) for key in one.inputs)
    return inputs and torch.equal(one.labels, other.labels) and torch.equal(one.ids, other.ids)


# reading
def test_reading_goes_on_from_every_place(files):
    whole = list(read_stream(files))
    assert [record for record, _ in whole] == RECORDS
    for number in range(len(whole)):
        rest = [record for record, _ in read_stream(files, None, whole[number][1])]
        assert rest == RECORDS[number + 1 :], number
    turned = [record for record, _ in read_stream(files, [2, 0, 1])]
    assert turned == RECORDS[50:] + RECORDS[:50]


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("size", [1, 4, 7])
def test_a_pass_has_every_record_once(files, pack, size):
    stream = load(files, pack=pack).train
    batches = list(stream.open(size, passes=1))
    assert {len(batch) for batch in batches[:-1]} <= {size}
    assert sorted(text for batch in batches for text in documents(batch)) == sorted(
        record["text"] for record in RECORDS
    )
    assert torch.cat([batch.ids for batch in batches]).tolist() == list(range(sum(map(len, batches))))
    again, other = (list(load(files, pack=pack, seed=seed).train.open(size, passes=1)) for seed in (0, 1))
    assert all(map(same, batches, again)) and len(batches) == len(again)
    assert not all(map(same, batches, other))
    two = list(stream.open(size, passes=2))
    assert all(map(same, batches, two))
    second = [text for batch in two[len(batches) :] for text in documents(batch)]
    assert sorted(second) == sorted(record["text"] for record in RECORDS)
    assert second != [text for batch in batches for text in documents(batch)]


def test_packed_rows_are_nearly_full(files):
    batches = list(load(files, buffer=32).train.open(4, passes=1))
    tokens = sum(len(record["text"]) + 1 for record in RECORDS)
    assert sum(map(len, batches)) <= 1.1 * tokens / 24


@pytest.mark.parametrize("pack", [True, False])
def test_a_reader_goes_on_from_its_state_in_the_middle(files, pack):
    stream = load(files, pack=pack).train
    reader = stream.open(3)
    batches, states = [], [reader.state_dict()]
    for _ in range(60):  # more than two passes
        batches.append(next(reader))
        states.append(json.loads(json.dumps(reader.state_dict())))  # plain values
    assert reader.epoch >= 2 or not pack
    for number in range(0, 58, 3):
        resumed = load(files, pack=pack).train.open(3, states[number])
        assert all(same(next(resumed), batch) for batch in batches[number : number + 3]), number
    assert max(len(state["carry"]) for state in states) <= (12 if pack else 2)


def test_state_is_small_and_reading_does_not_start_over(files, monkeypatch):
    stream = load(files).train
    reader = stream.open(2)
    for _ in range(12):
        next(reader)
    state = reader.state_dict()
    read, encode = [], type(stream.encoder).__call__

    def counted(self, records, names):
        read.append(len(records))
        return encode(self, records, names)

    monkeypatch.setattr(type(stream.encoder), "__call__", counted)
    next(stream.open(2, state))
    assert read and sum(read) <= 2 * stream.buffer
    assert len(json.dumps(state)) < 5000


# what it is made of
def test_the_held_out_records_are_never_trained_on(files):
    data = load(files, valid=0.25, buffer=40)
    held = [
        text for number in range(len(data.parts["valid"])) for text in documents(data.parts["valid"].batch([number]))
    ]
    assert len(held) == 10
    trained = [text for batch in data.train.open(4, passes=2) for text in documents(batch)]
    expected = sorted(record["text"] for record in RECORDS)
    for text in held:
        expected.remove(text)
    assert sorted(trained) == sorted(expected * 2)
    assert data.about["streamed"] is True
    assert data.about["statistics"]["train"]["of_the_first"] == 40
    assert data.about["statistics"]["train"]["samples"] == 30


def test_folders_and_mappings(files, tmp_path):
    assert len(load(tmp_path).train.files) == 3
    for name in ("train-0000", "train-0001", "valid"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": name[0]}))
    data = load(tmp_path)
    assert [file.name for file in data.train.files] == ["train-0000.jsonl", "train-0001.jsonl"]
    assert sorted(data.parts) == ["train", "valid"]
    data = load({"train": files[:2], "valid": [{"text": "z"}]})
    assert [file.name for file in data.train.files] == ["a.jsonl", "b.jsonl"]
    assert documents(data.parts["valid"].batch([0])) == ["z"]


def test_chats_answers_and_preferences_are_streamed(tmp_path):
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    kinds = {
        "chat": {"messages": chat}, "pair": {"prompt": "a", "response": "b"},
        "preference": {"prompt": "a", "chosen": "b", "rejected": "c"},
    }  # fmt: skip
    for kind, record in kinds.items():
        (tmp_path / "x.jsonl").write_text("\n".join([json.dumps(record)] * 5))
        data = load(tmp_path / "x.jsonl", make_tokenizer(CHATML), length=64)
        assert data.about["kind"] == kind
        batches = list(data.train.open(2, passes=1))
        assert sum(len(batch) for batch in batches) == {"chat": 1, "pair": 1, "preference": 10}[kind]
    assert batches[0].extra["chosen"].tolist() == [True, False, True, False]
    assert batches[0].ids.tolist() == [0, 1, 2, 3]


def test_what_cannot_be_streamed_is_named(files, tmp_path):
    for spec in (["a text"], tmp_path / "x.csv", {"valid": files}):
        with pytest.raises(DataError, match=r"cannot be streamed. Expected \.jsonl or \.parquet files"):
            load(spec)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="has no records"):
        load(tmp_path / "empty.jsonl")
    stream = load(files).train
    with pytest.raises(DataError, match=r"is a stream: .* Train with TokenSource"):
        stream.batch([0])
    (files[0]).write_text('{"text": ""}\n')
    stream.files = files[:1]
    with pytest.raises(DataError, match=r"no record has anything to predict: the text is empty \(1\)"):
        next(stream.open(2))
    with pytest.raises(ArgumentError, match="is no stream"):
        TokenSource(load(files[1:], stream=False).train, 2)


# training
def job(files, **settings) -> Job:
    data = load(files, valid=0.25)
    data = Data(data.name, data.kind, data.parts, "none", about=data.about)
    made = Job(
        CausalLM(), data, tiny("GPT2"), None, Settings(**{"steps": 8, "best": "last", "warmup": 0.0, **settings})
    )
    made.evaluation = lambda module: made.task.measure(module, data.parts["valid"])["scores"]
    return made


def batches_of(source, start, count):
    found = source.iterate(start, {})
    return [batch for _ in range(count) for batch in next(found)]


def test_a_source_goes_on_from_its_state(files):
    source = TokenSource(load(files).train, 4, accumulate=2)
    expected = batches_of(source, 0, 9)
    probe = TokenSource(load(files).train, 4, accumulate=2)
    first = probe.micro_batches(0, {})
    assert all(map(same, [*first, *batches_of(probe, 1, 5)], expected[:12]))
    resumed = TokenSource(load(files).train, 4, accumulate=2)
    resumed.load_state_dict(json.loads(json.dumps(probe.state_dict())))
    assert all(map(same, batches_of(resumed, 6, 3), expected[12:]))
    skipped = TokenSource(load(files).train, 4, accumulate=2)  # without a state it reads what came before
    assert all(map(same, batches_of(skipped, 6, 3), expected[12:]))
    mine = [TokenSource(load(files).train, 4) for _ in range(2)]
    for rank, one in enumerate(mine):
        one.place(rank, 2)
    shared = [batch for pair in zip(*(batches_of(one, 0, 9) for one in mine)) for batch in pair]
    assert all(map(same, shared, expected))
    with pytest.raises(ArgumentError, match="cannot be divided"):
        TokenSource(load(files).train, 5).place(0, 2)
    plain = StreamSource(lambda: load(files).train.open(2), accumulate=2)
    assert all(map(same, batches_of(plain, 0, 9), expected))


class Stop(Exception):
    """What a watcher raises to end a run."""


class StopAt:
    def __init__(self, number):
        self.number = number

    def step(self, loop):
        if loop.number == self.number:
            raise Stop


def test_training_that_was_stopped_goes_on_with_the_next_batch(files, tmp_path):
    def run(folder, **options):
        made = job(files, steps=11, checkpoint_every=4)
        runner = Runner(folder, cpu=True, **options)
        runner.run(made.stage(made.task.supervised(), source=TokenSource(made.data.train, 3)))
        return losses(runner), weights(made.student)

    once = run(tmp_path / "once")
    assert len(once[0]) == 11
    with pytest.raises(Stop):
        run(tmp_path / "twice", watchers=(StopAt(6),))
    rest = run(tmp_path / "twice", resume=True)
    assert torch.equal(rest[1], once[1])
