"""Whole runs on each kind of data: what is read is what is trained on, split once, written down."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import limbeck as lb
from limbeck.errors import ArgumentError, DataError
from toys import weights

QUICK = {"measure": False, "progress": False, "learning_rate": 0.02, "steps": 30, "batch_size": 16}
WORDS = {"no": ["awful", "dull", "poor", "weak"], "yes": ["fine", "great", "bright", "strong"]}


def table(rows=80, seed=0):
    """Two columns of numbers and one of words; the class is the sign of the sum of the numbers."""
    draw = np.random.default_rng(seed)
    a, b = draw.normal(size=rows), 100 + 20 * draw.normal(size=rows)
    kind = draw.choice(["red", "blue"], rows)
    return pd.DataFrame(
        {"a": a, "b": b, "kind": kind, "answer": np.where(a + (b - 100) / 20 > 0, "yes", "no"), "id": np.arange(rows)}
    )


def sentences(rows=80, seed=0):
    draw = np.random.default_rng(seed)
    answers = ["yes", "no"] * (rows // 2)
    return pd.DataFrame(
        {
            "words": [f"number {i} is {' '.join(draw.choice(WORDS[a], 4))}" for i, a in enumerate(answers)],
            "answer": answers,
        }
    )


def write(frame, path):
    path.parent.mkdir(exist_ok=True, parents=True)
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_parquet(path)
    return path


def accuracy(run):
    return next(row["accuracy"] for row in run.table if row["role"] == "student")


def taught(data, student, teacher=None, **options):
    """A teacher trained on the labels, and a student of it that never sees one."""
    alone = lb.distill("alone", student=teacher or student, data=data, **{**QUICK, **options})
    return alone, lb.distill("ssld", teacher=alone.student, student=student, data=data, **{**QUICK, **options})


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_files_of_columns_and_of_texts(ending, tmp_path):
    columns, texts = write(table(), tmp_path / f"t.{ending}"), write(sentences(), tmp_path / f"s.{ending}")
    alone, run = taught(columns, "mlp:8", label="answer", features=["a", "b", "kind"])
    assert alone.data.features == ["a", "b", "kind=blue", "kind=red"]
    assert (accuracy(alone) > 0.8, accuracy(run) > 0.8, run.data.classes) == (True, True, ["no", "yes"])
    alone, run = taught(texts, "bag", label="answer", text="words")
    assert (accuracy(alone), accuracy(run), run.data.kind) == (1.0, 1.0, "text")


def test_the_same_table_in_any_clothes_gives_the_same_student(tmp_path):
    """A file, a frame, a `datasets` object, arrays, tensors and a loader: all the same samples, so the same bits."""
    import datasets

    frame = table()[["a", "b", "answer"]].astype({"a": "float32", "b": "float32"})
    x, y = frame[["a", "b"]].to_numpy(), (frame["answer"] == "yes").to_numpy().astype(int)
    pair = TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    clothes = [
        frame, datasets.Dataset.from_pandas(frame), (x, y), pair, DataLoader(pair, batch_size=3, shuffle=True),
        write(frame, tmp_path / "t.parquet"), {"train": frame},
    ]  # fmt: skip
    found = []
    for data in clothes:
        labelled = {} if isinstance(data, tuple | TensorDataset | DataLoader) else {"label": "answer"}
        found.append(weights(lb.distill("alone", student="mlp:4", data=data, **labelled, **QUICK).student))
    for number, other in enumerate(found):
        assert torch.equal(found[0], other), type(clothes[number])


def test_parts_that_are_given_are_kept(tmp_path):
    for split, rows in (("train", 60), ("valid", 14), ("test", 22)):
        write(table(rows, seed=rows), tmp_path / "parts" / f"{split}.csv")
    parts = {split: tmp_path / "parts" / f"{split}.csv" for split in ("train", "valid", "test")}
    runs = [lb.distill("alone", student="mlp:4", data=data, label="answer", features=["a", "b"], **QUICK)
            for data in (tmp_path / "parts", parts)]  # fmt: skip
    for run in runs:
        assert {name: len(part) for name, part in run.data.parts.items()} == {"train": 60, "valid": 14, "test": 22}
        assert run.record["data"]["counts"] == {"train, labelled": 60, "train, unlabelled": 0, "valid": 14, "test": 22}
    assert torch.equal(weights(runs[0].student), weights(runs[1].student))
    logits = runs[0].student(runs[0].data.parts["test"].batch(range(22)).inputs)  # standardised as training was
    truth = (table(22, seed=22)["answer"] == "yes").to_numpy().astype(int)
    assert accuracy(runs[0]) == pytest.approx((logits.argmax(1).numpy() == truth).mean())


def test_a_folder_of_images(tmp_path):
    from PIL import Image

    for number in range(12):
        kind, shade = ("night", 30) if number % 2 else ("day", 220)
        (tmp_path / kind).mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), (shade, shade, 9 * number)).save(tmp_path / kind / f"{number}.png")
    alone, run = taught(tmp_path, None, teacher="cnn:4", valid=2, test=4, batch_size=6, augment="flip", best="last")
    assert (accuracy(alone), accuracy(run)) == (1.0, 1.0)
    assert (run.data.classes, run.data.kind) == (["day", "night"], "image")
    assert hasattr(run.student, "block3")  # no student was named: images of 16 pixels get a small CNN
    small = lb.distill("alone", student="mlp:4", data=tmp_path, image_size=4, valid=2, test=4, **QUICK)
    assert small.student.hidden1.linear.in_features == 3 * 4 * 4


@pytest.mark.parametrize(("name", "student"), [("digits", "cnn:8"), ("breast_cancer", "mlp:16"), ("wine", None)])
def test_bundled_data(name, student):
    alone, run = taught(name, student, **{"steps": 60, "batch_size": 64})
    assert accuracy(alone) > 0.8
    assert accuracy(run) > 0.7


def test_hidden_labels_are_never_seen_and_their_samples_are():
    """The unlabelled rest reaches the student through the teacher, and only so."""
    teacher = lb.distill("alone", student="mlp:32", data="digits", **{**QUICK, "steps": 100}).student
    options = {"student": "mlp:16", "data": "digits", "labelled": 20, **QUICK, "steps": 60}
    run = lb.distill("kd", teacher=teacher, baseline="alone", **options)
    labels, known = run.data.train.labels, run.data.train.is_labelled()
    assert run.record["data"]["counts"]["train, unlabelled"] == len(known) - 20
    assert [int((labels == kind).sum()) for kind in range(10)] == [2] * 10  # the same share of each class
    rows = {row["role"]: row for row in run.table}
    assert rows["student"]["label_agreement"] > rows["baseline"]["label_agreement"] + 0.05
    # what the hidden labels were does not matter
    data = lb.load_data("digits")
    masked = data.train.with_labels(torch.where(known, data.train.labels, -100))
    hidden = lb.Data(data.name, data.kind, {**data.parts, "train": masked}, classes=data.classes)
    same = lb.distill("kd", teacher=teacher, **{**options, "data": hidden, "labelled": None})
    assert torch.equal(weights(same.student), weights(run.student))


def test_a_file_without_labels_joins_the_training(tmp_path):
    from datasets import Dataset as frames

    known, more = (
        write(table(40), tmp_path / "known.csv"),
        write(table(60, 1).drop(columns="answer"), tmp_path / "more.csv"),
    )
    options = {"label": "answer", "features": ["a", "b"], **QUICK}
    teacher = lb.distill("alone", student="mlp:8", data=write(table(200, 2), tmp_path / "t.csv"), **options).student
    run = lb.distill("kd", teacher=teacher, student="mlp:8", data=known, unlabelled=more, **options)
    assert run.record["data"]["counts"]["train, unlabelled"] == 60
    inputs = run.data.train.batch(range(len(run.data.train))).inputs[-60:]
    frame, first = table(60, 1), lb.load_data(known, label="answer", features=["a", "b"]).about["standardized"]
    expected = (frame[["a", "b"]].to_numpy() - first["mean"]) / first["std"]
    np.testing.assert_allclose(inputs, expected, atol=1e-4)  # on the scale of the labelled ones
    plain = lb.distill("kd", teacher=teacher, student="mlp:8", data=known, **options)
    assert not torch.equal(weights(plain.student), weights(run.student))
    frame = frame.drop(columns="answer")
    for data, extra in (
        ({"train": known, "unlabelled": more}, None),
        (known, frame),
        (known, frames.from_pandas(frame)),
    ):
        same = lb.distill("kd", teacher=teacher, student="mlp:8", data=data, unlabelled=extra, **options)
        assert torch.equal(weights(same.student), weights(run.student))


@pytest.mark.parametrize("data", ["wine", "frame", "texts"])
def test_unlabelled_samples_of_another_shape_are_named(data, tmp_path):
    texts = write(sentences().drop(columns="answer"), tmp_path / "texts.csv")
    other = write(table().drop(columns="answer"), tmp_path / "table.csv")
    source = {
        "wine": "wine",
        "frame": write(table(), tmp_path / "frame.csv"),
        "texts": write(sentences(), tmp_path / "s.csv"),
    }
    label = {} if data == "wine" else {"label": "answer"}
    for unlabelled in {"wine": [texts, other], "frame": [texts], "texts": [other]}[data]:
        with pytest.raises(DataError, match="The unlabelled samples are"):
            lb.distill("kd", teacher=nn.Linear(1, 1), data=source[data], unlabelled=unlabelled, **label, **QUICK)


def test_regression_with_hidden_labels():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(120, 3, generator=draw)
    y = x @ torch.tensor([1.0, -2.0, 0.5])
    teacher = nn.Linear(3, 1)
    data = lb.load_data((x, y.numpy()))
    part = data.train.batch(range(len(data.train)))
    rows = torch.cat([part.inputs, torch.ones(len(part), 1)], 1)
    solved = torch.linalg.lstsq(rows, part.labels[:, None]).solution
    teacher.weight.data, teacher.bias.data = solved[:-1].T.clone(), solved[-1].clone()
    run = lb.distill(
        teacher=teacher, student="mlp:16", data=(x, y.numpy()), labelled=10, baseline="alone", **{**QUICK, "steps": 100}
    )
    assert run.record["recipe"]["name"] == "regression_kd"
    rows = {row["role"]: row for row in run.table}
    assert rows["teacher"]["mse"] < 1e-6
    assert rows["student"]["mse"] < rows["baseline"]["mse"]


def test_whole_numbers_can_be_values_where_that_is_said(tmp_path):
    """Stars from 1 to 9 look like classes; as such they would be counted 0, 1, 2, ..."""
    frame = table()[["a", "b"]].assign(stars=(5 + 2 * table()["a"].round()).clip(1, 9).astype(int))
    options = {
        "recipe": "alone",
        "student": "mlp:16",
        "data": write(frame, tmp_path / "t.csv"),
        "label": "stars",
        **QUICK,
    }
    assert lb.distill(**options).task.name == "classification"
    with pytest.raises(DataError, match="target=values"):
        lb.distill(**options, task="regression")
    run = lb.distill(**options | {"target": "values", "steps": 150})
    assert run.task.name == "regression"
    assert set(run.data.train.labels.tolist()) <= {1.0, 3.0, 5.0, 7.0, 9.0}
    assert run.table[0]["r2"] > 0.5


def test_splits_are_written_down_and_used_again(tmp_path):
    first = lb.distill("alone", student="mlp:4", data="wine", out=tmp_path / "a", seed=3, **QUICK)
    again = lb.distill("kd", teacher=first.student, student="mlp:4", data="wine", out=tmp_path / "b", seed=3, **QUICK)
    other = lb.distill("alone", student="mlp:4", data="wine", out=tmp_path / "c", seed=4, **QUICK)
    written = [json.loads((tmp_path / name / "data.json").read_text()) for name in "abc"]
    assert written[0]["split"] == {"seed": 3, "made": {"test": 36, "valid": 18}, "given": ["train"],
                                   "sizes": {"train": 124, "test": 36, "valid": 18}}  # fmt: skip
    assert written[0] == written[1]
    assert written[0]["fingerprint"] == first.data.fingerprint() != written[2]["fingerprint"]
    assert torch.equal(first.data.parts["test"].ids, again.data.parts["test"].ids)
    assert not torch.equal(first.data.parts["test"].ids, other.data.parts["test"].ids)


def test_seeds_share_one_split():
    run = lb.distill("alone", student="mlp:4", data="wine", seeds=2, **QUICK)
    values = run.record["models"][0]["scores"]["nll"]["values"]
    assert (len(values), values[0] == values[1]) == (2, False)
    assert sum(run.record["data"]["split"]["sizes"].values()) == 178


def test_data_that_cannot_be_used_say_why(tmp_path):
    from datasets import Dataset, DatasetDict

    frame = Dataset.from_pandas(table())
    odd = DatasetDict(train=frame, matched=frame)
    odd.save_to_disk(tmp_path / "odd")
    for data, options, kind, said in [
        (write(table(), tmp_path / "t.csv"), {"label": "anwser"}, DataError, "answer"),
        (tmp_path / "t.csv", {"label": "answer", "features": "a", "augment": "flip"}, DataError, "images"),
        ("wines", {}, DataError, "wine"),
        ("wine", {"labeled": 10}, ArgumentError, "labelled"),
        ("wine", {"test": 200}, DataError, "empty part"),
        ((torch.randn(20, 2), torch.zeros(20, dtype=torch.int64)), {}, DataError, "one value"),
        (odd, {"label": "answer"}, DataError, "part is called 'matched'"),
        (tmp_path / "odd", {"label": "answer"}, DataError, "'matched'.*Say which is which"),
    ]:
        with pytest.raises(kind, match=said):
            lb.distill("alone", student="mlp:4", data=data, **options, **QUICK)
