"""Where language data come from: formats, folders, splits, and what is said where they cannot be read."""

from __future__ import annotations

import json

import pytest

from language_toys import CHAT, CHATML, load, make_tokenizer, rows, shown
from limbeck.data.language_tokens import tokenizer_hash
from limbeck.errors import DataError

TEXTS = [" ".join("abcdefghijkl"[: 1 + n % 5]) + " z" * (n % 3) for n in range(20)]


def test_every_format_gives_the_same_rows(tmp_path):
    import datasets
    import pandas

    records = [{"prompt": "a", "response": "007"}, {"prompt": 'b, "c"', "response": "NA"}]
    expected = rows(records)
    frame = pandas.DataFrame(records)
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n\n")
    (tmp_path / "r.json").write_text(json.dumps(records))
    frame.to_csv(tmp_path / "r.csv", index=False)
    frame.to_csv(tmp_path / "r.tsv", index=False, sep="\t")
    frame.to_parquet(tmp_path / "r.parquet")
    for ending in ("jsonl", "json", "csv", "tsv", "parquet"):
        assert rows(tmp_path / f"r.{ending}") == expected, ending
    assert rows(frame) == expected
    hub = datasets.Dataset.from_list(records)
    assert rows(hub) == expected
    hub.save_to_disk(str(tmp_path / "hub"))
    assert rows(str(tmp_path / "hub")) == expected
    with pytest.raises(DataError, match=r"has the splits train_sft\. Say which is which"):
        rows(datasets.DatasetDict({"train_sft": hub}))


def test_nested_messages_survive_parquet(tmp_path):
    import pandas

    frame = pandas.DataFrame({"messages": [CHAT, CHAT[:2]]})
    frame.to_parquet(tmp_path / "chats.parquet")
    tokenizer = make_tokenizer(CHATML)
    assert rows(tmp_path / "chats.parquet", tokenizer) == rows([CHAT, CHAT[:2]], tokenizer)
    assert rows(pandas.read_parquet(tmp_path / "chats.parquet"), tokenizer) == rows([CHAT, CHAT[:2]], tokenizer)


def test_folders_with_files_of_the_splits(tmp_path):
    for name, texts in (("train-00000-of-00002", ["a"]), ("train-00001-of-00002", ["b"]), ("validation", ["c"])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    (tmp_path / "README.md").write_text("not data")
    data = load(tmp_path, valid=0.5)
    assert {name: [shown(part, n)[0] for n in range(len(part))] for name, part in data.parts.items()} == {
        "train": ["a|</s>", "b|</s>"], "valid": ["c|</s>"],
    }  # fmt: skip
    assert data.about["split"] == {"seed": 0, "made": {}, "sizes": {"train": 2, "valid": 1}}


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ([{"txt": "a"}], {}, "has the columns txt. Expected text; prompt and response"),
        ([{"text": "a"}], {"text": "texts"}, r"has no column 'texts' \(text=\). Did you mean 'text'"),
        (
            [{"prompt": "a", "id": 1}],
            {},
            r"has prompts \(prompt\) and no responses: it has the columns prompt, id.*response=",
        ),
        ([{"prompt": CHAT[:1], "response": "b"}], {"template": "plain"}, "no chat template"),
        ([{"prompt": {"a": 1}, "response": "b"}], {}, "The sample 0: its prompt is of type dict"),
        ([{"text": "a"}, "b"], {}, "A list of dict, str: expected texts, dicts"),
        ([], {}, "The part 'train' of the list is empty: there is no record in it"),
        ({"valid": ["a"]}, {}, "has no training part"),
        ({"trian": ["a"]}, {}, "called 'trian'. Did you mean 'train'"),
        (7, {}, "type int: expected a file"),
        ("./none.jsonl", {}, "no such file"),
        (["a"], {"valid": 0.5}, "Say valid=0 for none"),
    ],
)
def test_sources_that_cannot_be_read_say_why(spec, options, message):
    with pytest.raises(DataError, match=message):
        load(spec, **options)


def test_broken_files_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(DataError, match=r"a\.jsonl' could not be read as jsonl: line 2 is no JSON"):
        load(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").write_text("[1]\n")
    with pytest.raises(DataError, match="expected a JSON object a line, found"):
        load(tmp_path / "a.jsonl")
    (tmp_path / "a.json").write_text('{"text": "a"}')
    with pytest.raises(DataError, match=r"holds a dict\. Expected a list"):
        load(tmp_path / "a.json")
    (tmp_path / "a.pkl").write_text("x")
    with pytest.raises(DataError, match=r"are read from \.txt"):
        load(tmp_path / "a.pkl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds none of the files"):
        load(tmp_path / "empty")


def test_the_content_hash_changes_with_texts_tokenizer_and_packing():
    def about(spec=TEXTS, tokenizer=None, **options):
        return load(spec, tokenizer, **{"pack": True, "length": 24, **options}).about

    first = about()
    assert about()["content"] == first["content"]
    assert about()["tokenizer"] == first["tokenizer"]
    for other in (about(TEXTS[1:]), about(pack=False), about(length=20), about(tokenizer=make_tokenizer(CHATML))):
        assert other["content"] != first["content"]
    assert about(tokenizer=make_tokenizer(CHATML))["tokenizer"] != first["tokenizer"]
    tokenizer = make_tokenizer()
    before = tokenizer_hash(tokenizer)
    tokenizer(["a", "b c"], padding=True, truncation=True, max_length=2)
    assert tokenizer_hash(tokenizer) == before
