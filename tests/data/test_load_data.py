"""From what a user has to data, and every error on the way."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.data import Data, load_data
from limbeck.data.identity import fingerprint_inputs
from limbeck.errors import DataError, LimbeckError

rng = np.random.default_rng(0)


def table(rows=60, **columns):
    return pd.DataFrame(
        {"a": rng.normal(size=rows), "b": rng.normal(size=rows), "label": np.arange(rows) % 3, **columns}
    )


def texts(rows=60):
    return pd.DataFrame({"text": [f"a longer sentence number {i} about things" for i in range(rows)],
                         "label": ["yes", "no"] * (rows // 2)})  # fmt: skip


def write(frame, path):
    writers = {
        ".csv": lambda: frame.to_csv(path, index=False),
        ".tsv": lambda: frame.to_csv(path, index=False, sep="\t"),
        ".jsonl": lambda: frame.to_json(path, orient="records", lines=True),
        ".json": lambda: frame.to_json(path, orient="records"),
        ".parquet": lambda: frame.to_parquet(path),
    }
    writers[path.suffix]()
    return path


def ids_of(data):
    return torch.cat([part.ids for part in data.parts.values()])


@pytest.mark.parametrize(
    ("name", "kind", "classes"), [("digits", "image", 10), ("wine", "table", 3), ("breast_cancer", "table", 2)]
)
def test_bundled_data(name, kind, classes):
    data = load_data(name)
    assert (data.kind, len(data.classes), data.target) == (kind, classes, "classes")
    assert set(data.parts) == {"train", "valid", "test"}
    assert json.dumps(data.about)
    batch = data.train.batch([0, 1])
    assert batch.inputs.dtype == torch.float32
    assert batch.labels.dtype == torch.int64


def test_regression_is_seen_by_its_labels():
    data = load_data("diabetes")
    assert (data.target, data.train.labels.dtype) == ("values", torch.float32)


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
def test_files_of_tables_and_texts(tmp_path, ending):
    data = load_data(write(table(), tmp_path / f"t{ending}"))
    assert data.kind == "table"
    assert data.features == ["a", "b"]
    assert data.train.inputs.mean(0).abs().max() < 1e-5  # standardised on the training part
    data = load_data(str(write(texts(), tmp_path / f"x{ending}")))
    assert (data.kind, data.classes) == ("text", ["no", "yes"])
    assert isinstance(data.train.batch([0, 1]).inputs, list)


def test_columns_by_name_and_one_hot(tmp_path):
    frame = table(colour=["red", "blue", "green"] * 20).rename(columns={"label": "kind"})
    data = load_data(write(frame, tmp_path / "t.csv"), label="kind", features=["a", "colour"])
    assert data.features == ["a", "colour=blue", "colour=green", "colour=red"]


def test_a_folder_of_files_keeps_its_splits(tmp_path):
    for name, rows in (("train", 40), ("dev", 10), ("test", 20)):
        write(texts(rows), tmp_path / f"{name}.csv")
    data = load_data(tmp_path)
    assert {name: len(part) for name, part in data.parts.items()} == {"train": 40, "valid": 10, "test": 20}
    assert data.about["split"]["made"] == {}


def test_an_image_folder(tmp_path):
    from PIL import Image

    for kind, shade in (("dark", 10), ("light", 240)):
        (tmp_path / kind).mkdir()
        for i in range(10):
            Image.new("RGB", (6, 5), (shade, i, 0)).save(tmp_path / kind / f"{i}.png")
    data = load_data(tmp_path)
    images = data.train.batch([0, 1, 2]).inputs
    assert images.shape == (3, 3, 5, 6)
    assert 0 <= float(images.min()) <= float(images.max()) <= 1
    labels, batch = data.train.labels, data.train.batch(range(len(data.train)))
    assert torch.equal((batch.inputs[:, 0].mean((1, 2)) > 0.5).long(), labels)
    assert load_data(tmp_path, image_size=4).train.batch([0]).inputs.shape == (1, 3, 4, 4)
    Image.new("RGB", (9, 9)).save(tmp_path / "dark" / "odd.png")
    with pytest.raises(DataError, match=r"different sizes.*image_size"):
        load_data(tmp_path)
    (tmp_path / "dark" / "odd.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"odd\.png.*could not be read"):
        load_data(tmp_path)


def test_objects(tmp_path):
    import datasets

    x, y = torch.randn(60, 4), torch.arange(60) % 3
    for value in ((x, y), torch.utils.data.TensorDataset(x, y), [(a, int(b)) for a, b in zip(x, y, strict=True)],
                  torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=7)):  # fmt: skip
        data = load_data(value)
        assert len(ids_of(data)) == 60
        assert data.train.batch([0, 1]).inputs.shape == (2, 4)
    hub = datasets.Dataset.from_pandas(texts())
    assert load_data(hub).kind == "text"
    both = datasets.DatasetDict({"train": hub, "validation": hub})
    assert "valid" in load_data(both).about["split"]["given"]
    both.save_to_disk(tmp_path / "saved")
    assert load_data(tmp_path / "saved").kind == "text"
    data = load_data({"train": (x, y), "test": (x[:9], y[:9])}, valid=0)
    assert {name: len(part) for name, part in data.parts.items()} == {"train": 60, "test": 9}
    assert load_data(data) is not None
    assert isinstance(load_data(data, labelled=9), Data)


def test_whole_batches_are_asked_for_where_a_data_set_can():
    class Many(torch.utils.data.Dataset):
        asked = []

        def __len__(self):
            return 30

        def __getitem__(self, i):
            return torch.full((2,), float(i)), i % 3

        def __getitems__(self, positions):
            Many.asked.append(list(positions))
            return [self[i] for i in positions]

    data = load_data(Many())
    Many.asked.clear()
    batch = data.train.batch([0, 1, 2])
    assert len(Many.asked) == 1
    assert torch.equal(batch.inputs[:, 0].long() % 3, batch.labels)


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(30, 200), seed=st.integers(0, 1000), classes=st.integers(2, 4))
def test_splits_are_disjoint_complete_stratified_and_repeat(rows, seed, classes):
    x, y = torch.arange(rows).float()[:, None], torch.arange(rows) % classes
    data, again = (load_data((x, y), seed=seed, standardize=False) for _ in range(2))
    ids = ids_of(data)
    assert sorted(ids.tolist()) == list(range(rows))
    assert all(torch.equal(data.parts[name].ids, again.parts[name].ids) for name in data.parts)
    for part in data.parts.values():
        assert torch.equal(part.ids % classes, part.labels)  # ids stay with their samples
        counts = torch.bincount(part.labels, minlength=classes)
        assert counts.max() - counts.min() <= 3  # each of two cuts may round by one


def test_splits_leave_the_global_generators_alone():
    torch.manual_seed(3)
    np.random.seed(3)
    expected = torch.rand(2), np.random.rand(2)
    torch.manual_seed(3)
    np.random.seed(3)
    load_data("wine", labelled=30)
    assert torch.equal(torch.rand(2), expected[0])
    assert np.array_equal(np.random.rand(2), expected[1])


def test_hidden_labels():
    full = load_data("digits")
    data = load_data("digits", labelled=100)
    known = data.train.is_labelled()
    assert int(known.sum()) == 100
    assert torch.equal(data.train.labels[known], full.train.labels[known])
    assert torch.equal(data.train.ids, full.train.ids)
    counts = torch.bincount(data.train.labels[known])
    assert counts.max() - counts.min() <= 1
    assert int(load_data("digits", labelled=0.5).train.is_labelled().sum()) == round(0.5 * len(full.train))


def test_a_second_source_without_labels(tmp_path):
    labelled, more = write(texts(40), tmp_path / "a.csv"), write(texts(20)[["text"]], tmp_path / "b.csv")
    data = load_data(labelled, unlabelled=more, valid=0)
    assert int((~data.train.is_labelled()).sum()) == 20
    assert len(set(ids_of(data).tolist())) == 60


def test_fingerprints():
    data, hidden = load_data("wine"), load_data("wine", labelled=30)
    assert data.fingerprint() == load_data("wine").fingerprint()
    assert data.fingerprint() != hidden.fingerprint()
    assert fingerprint_inputs(data) == fingerprint_inputs(hidden)
    changed = load_data("wine")
    changed.train.inputs[3, 2] += 1e-3
    assert changed.fingerprint() != data.fingerprint()
    code = "from limbeck.data import load_data; print(load_data('wine').fingerprint())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == data.fingerprint()


def bad(**changes):
    frame = table()
    for column, (row, value) in changes.items():
        frame[column] = frame[column].astype(object if value is None or isinstance(value, str) else float)
        frame.loc[row, column] = value
    return frame


WRONG = {
    "label is missing": (lambda: bad(label=(4, np.nan)), {}, r"1 of 60 labels.*first rows: \[4\].*unlabelled="),
    "label out of range": (lambda: bad(label=(4, -7)), {}, "out of range.*-7"),
    "nan": (lambda: bad(a=(5, np.nan)), {}, r"column 'a' has NaN.*\[5\]"),
    "infinite": (lambda: bad(b=(6, np.inf)), {}, r"column 'b'.*infinite.*\[6\]"),
    "column not there": (table, {"label": "lable"}, "no column 'lable'.*Did you mean 'label'"),
    "feature not there": (table, {"features": ["aa"]}, "no column 'aa'"),
    "no label column": (lambda: table().rename(columns={"label": "z"}), {}, "say label="),
    "one class": (lambda: table().assign(label=1), {}, "one value only"),
    "many strings": (lambda: table(name=[f"n{i}" for i in range(60)]), {}, "60 different strings"),
    "test leaves nothing": (table, {"test": 60}, "empty part"),
    "more labels than there are": (table, {"labelled": 500}, "empty part"),
    "target": (table, {"target": "class"}, "expected 'classes' or 'values'"),
    "augmented table": (table, {"augment": "flip"}, "for images"),
    "no share of labels": (table, {"labelled": "many"}, "labelled='many'"),
    "no part": (table, {"valid": float("nan")}, "valid=nan"),
    "no column": (table, {"features": []}, "names no column"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_tables(tmp_path, name):
    make, options, message = WRONG[name]
    with pytest.raises(LimbeckError, match=message):
        load_data(write(make(), tmp_path / "t.csv"), **options)


def test_other_wrong_inputs(tmp_path):
    (tmp_path / "empty.csv").write_text("a,label\n")
    (tmp_path / "w.pkl").write_bytes(b"")
    (tmp_path / "notes.docx").write_bytes(b"")
    two = (torch.ones(9, 1), torch.arange(9) % 2)
    wrong = (
        (tmp_path / "empty.csv", "no rows"),
        (tmp_path / "w.pkl", "pickle"),
        ("digit", "Did you mean 'digits'"),
        (tmp_path / "notes.docx", "Limbeck reads"),
        (tmp_path / "no.csv", "no such file"),
        (3, "is no data"),
        ({"train": "wine", "tst": "wine"}, "Did you mean 'test'"),
        ((torch.ones(3, 2), torch.ones(2)), "3 inputs and 2"),
        ((np.array([[np.nan]] * 9), np.arange(9) % 2), "NaN"),
        (tmp_path, "holds neither images"),
        ((torch.ones(0, 2), torch.ones(0)), "'train'.*is empty"),
        (torch.utils.data.TensorDataset(torch.ones(0, 2), torch.ones(0)), "'train'.*is empty"),
        ({"train": two, "test": (torch.ones(0, 1), torch.ones(0))}, "'test'.*is empty"),
        ({"train": two, "test": (torch.ones(9, 2), torch.arange(9) % 2)}, r"'test' of <dict> have shape \[2\]"),
    )
    for spec, message in wrong:
        with pytest.raises(LimbeckError, match=message):
            load_data(spec)
    with pytest.raises(DataError, match="labels that training does not"):
        load_data(
            {"train": (torch.ones(9, 1), torch.arange(9) % 2), "test": (torch.ones(3, 1), torch.tensor([0, 1, 5]))}
        )
    with pytest.raises(LimbeckError, match="Did you mean 'crop_flip'"):
        load_data("digits", augment="crop_flp")
    stream = torch.utils.data.DataLoader(
        type("S", (torch.utils.data.IterableDataset,), {"__iter__": lambda self: iter([1])})()
    )
    with pytest.raises(DataError, match="stream"):
        load_data(stream)


FILES = {  # what is in the file, and what is said of it
    "twice.csv": (b"a,a,label\n1,2,x\n3,4,y\n", "several columns called 'a'"),
    "latin.csv": ("text,label\ncaf\xe9,x\nth\xe9,y\n".encode("latin-1"), "not written in UTF-8.*iconv"),
    "semicolons.csv": (b"a;b;label\n1;2;x\n3;4;y\n", "parted by ';'"),
    "tabs.csv": (b"a\tlabel\n1\tx\n2\ty\n", "name it .tsv"),
    "ragged.csv": (b"a,label\n1,x\n2,y,z,z\n", "could not be read as csv.*line 3"),
    "bytes.parquet": (b"PAR1 and nothing", "could not be read as parquet"),
    "broken.jsonl": (b'{"a": 1, "label": 2}\n{"a": oops}\n', r"jsonl \(line 2\)"),
    "silent.jsonl": (b'{"text": null, "label": 1}\n{"text": "b", "label": 2}\n', r"1 of 2 samples have no text.*\[0\]"),
    "one.csv": (b"a,label\n1,x\n", "one value only"),
}


@pytest.mark.parametrize("name", FILES)
def test_broken_files(tmp_path, name):
    content, message = FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as found:
        load_data(tmp_path / name)
    assert name in str(found.value)


def test_texts_of_any_script_and_a_byte_order_mark(tmp_path):
    rows = [("\u65e5\u672c\u8a9e", "\u732b"), ("\u00e9t\u00e9", "\u72ac")] * 20
    (tmp_path / "t.csv").write_text("text,label\n" + "".join(f"{a},{b}\n" for a, b in rows), encoding="utf-8-sig")
    data = load_data(tmp_path / "t.csv")
    assert (data.kind, data.classes) == ("text", ["\u72ac", "\u732b"])
    assert data.train.gather(torch.tensor([0]))[0] in ("\u65e5\u672c\u8a9e", "\u00e9t\u00e9")


def test_broken_image_folders(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for kind in ("cat", "dog"):
        (tmp_path / "set" / kind).mkdir(parents=True)
        for number in range(6):
            image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "set" / kind / f"{number}.png")
    with pytest.raises(LimbeckError, match="image_size=0"):
        load_data(tmp_path / "set", image_size=0)
    assert load_data(tmp_path / "set", image_size=4).train.batch([0]).inputs.shape == (1, 3, 4, 4)
    whole = (tmp_path / "set" / "dog" / "3.png").read_bytes()
    for content in (b"\x89PNG no", whole[: len(whole) // 2], b""):
        (tmp_path / "set" / "dog" / "3.png").write_bytes(content)
        with pytest.raises(DataError, match=r"3\.png' could not be read"):
            load_data(tmp_path / "set", image_size=8).fingerprint()
    (tmp_path / "none" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="neither images"):
        load_data(tmp_path / "none")


def test_inputs_of_a_data_set_that_is_read_once_are_checked():
    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 30

        def __getitem__(self, number):
            return torch.full((2,), float("inf") if number == 17 else 1.0), number % 2

    with pytest.raises(DataError, match="sample 17 are NaN or infinite"):
        load_data(Rows())


def test_no_label_is_kept_where_none_is_wanted():
    data = load_data("wine", labelled=0)
    assert not data.train.is_labelled().any()
    assert data.parts["test"].is_labelled().all()


def test_labels_that_are_numbered_anew_are_a_recorded_warning():
    def warnings(labels):
        return load_data((torch.randn(40, 2), torch.tensor(labels * 20))).about["warnings"]

    assert "The labels 2, 7 were numbered from 0" in warnings([2, 7])[0]
    assert warnings([0, 1]) == []


def test_a_class_too_rare_to_stratify_is_a_recorded_warning():
    y = torch.zeros(40, dtype=torch.int64)
    y[0] = 1
    assert "could not be stratified" in load_data((torch.randn(40, 2), y)).about["warnings"][0]


@pytest.mark.shared_data
@pytest.mark.parametrize(("name", "kind", "size"), [("trec", "text", 500), ("fashion_mnist", "image", 10_000)])
def test_shared_data(name, kind, size):
    try:
        data = load_data(name)
    except DataError as missing:
        pytest.skip(str(missing))
    assert (data.kind, len(data.parts["test"])) == (kind, size)
