"""Domains: by a column or by source; each packed and split by itself; errors that say how domains are given."""

from __future__ import annotations

import json

import pytest
import torch

from language_toys import load, make_tokenizer, shown
from limbeck.data.language import load_language_data
from limbeck.data.tokenizer import texts_of
from limbeck.errors import ArgumentError, DataError

RECORDS = [{"text": letter, "kind": "xy"[n % 2]} for n, letter in enumerate("abcdefgh")]


def texts(part, domain):
    return sorted(shown(part, int(row))[0].replace("|", "") for row in (part.domain == domain).nonzero()[:, 0])


def test_a_column_names_the_domain_of_each_record(tmp_path):
    file = tmp_path / "mixed.jsonl"
    file.write_text("\n".join(map(json.dumps, RECORDS)))
    for spec in (RECORDS, str(file)):
        data = load(spec, domain="kind")
        assert data.domains == ["x", "y"]
        assert texts(data.train, 0) == ["a</s>", "c</s>", "e</s>", "g</s>"]
        assert texts(data.train, 1) == ["b</s>", "d</s>", "f</s>", "h</s>"]
    assert len(data.train.ids.unique()) == len(data.train) == 8


def test_sources_may_be_of_different_kinds_and_have_parts_of_their_own():
    spec = {
        "prose": ["a b", "c"],
        "sums": {"train": [{"prompt": "1 2 ", "response": "3"}] * 3, "valid": [{"prompt": "2 2 ", "response": "4"}]},
    }
    data = load(spec, valid=0.5)
    assert data.domains == ["prose", "sums"]
    assert shown(data.train, 1) == ("1| |2| |3|</s>", "_|_|_|_|3|</s>")
    assert data.parts["valid"].domain.tolist() == [0, 1]
    assert data.about["domains"]["sums"]["kind"] == "pair"
    assert sorted(texts_of(spec)) == sorted(["a b", "c", *["1 2 ", "3"] * 3])


def test_rows_are_packed_by_domain_and_batches_are_those_of_the_sources():
    sources = {"x": [r["text"] for r in RECORDS[:5]], "y": ["a b c d", "e"]}
    data = load(sources, pack=True, length=8)
    alone = {name: load(source, pack=True, length=8) for name, source in sources.items()}
    assert len(data.train) == sum(len(each.train) for each in alone.values())
    start = 0
    for number, each in enumerate(alone.values()):
        rows = torch.arange(start, start + len(each.train))
        assert (data.train.domain[rows] == number).all()
        ours, theirs = data.train.batch(rows), each.train.batch(torch.arange(len(each.train)))
        width = theirs.labels.shape[1]
        assert torch.equal(ours.labels[:, :width], theirs.labels)
        assert (ours.labels[:, width:] == -100).all()
        for key in ("input_ids", "position_ids"):
            assert torch.equal(ours.inputs[key][:, :width], theirs.inputs[key])
        start += len(rows)
    assert torch.equal(data.train.document(len(data.train.prompts) - 1), alone["y"].train.document(1))


def test_a_subset_keeps_its_domains():
    from limbeck.data.splits import take

    part = take(load(RECORDS, domain="kind").train, torch.tensor([7, 0]), "some")
    assert part.domain.tolist() == [1, 0]


def test_what_is_no_domain_is_named():
    with pytest.raises(DataError, match=r"record 0 of 'train' has no 'kin' .*Did you mean 'kind'"):
        load(RECORDS, domain="kin")
    with pytest.raises(DataError, match=r"record 8 of 'train' has no 'kind'"):
        load([*RECORDS, {"text": "i"}], domain="kind")
    with pytest.raises(DataError, match="one domain, x"):
        load(RECORDS[::2], domain="kind")
    with pytest.raises(ArgumentError, match=r"already given by domain, x, y"):
        load({"x": ["a"], "y": ["b"]}, domain="kind")
    with pytest.raises(ArgumentError, match="stream=False"):
        load_language_data(RECORDS, make_tokenizer(), domain="kind", stream=True)
    with pytest.raises(DataError, match=r"The domain 'y': .*leave an empty part"):
        load({"x": ["a"] * 9, "y": ["b"]}, valid=0.2)
    with pytest.raises(DataError, match=r"A part is called 'trian'. Did you mean 'train'"):
        load({"trian": ["a"], "valid": ["b"]})
    pairs = [{"prompt": "a", "chosen": "b", "rejected": "c"}]
    with pytest.raises(ArgumentError, match="'y' holds preferences"):
        load({"x": ["a"], "y": pairs})
