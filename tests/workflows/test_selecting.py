"""Which samples of a pool to have labelled next: from files to a file."""

from __future__ import annotations

import csv
import random

import pytest
import torch

import limbeck as lb
from limbeck.cli import app
from limbeck.errors import ArgumentError, DataError, ModelError


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp("pool"), random.Random(0)
    with open(folder / "known.csv", "w") as known, open(folder / "pool.csv", "w") as pool:
        write, more = csv.writer(known), csv.writer(pool)
        write.writerow(["a", "b", "kind"])
        more.writerow(["a", "b"])
        for number in range(160):
            a, b = draw.gauss(5, 2), draw.gauss(-1, 3)  # not scaled: the scale of the training must be used
            row = [f"{a:.4f}", f"{b:.4f}"]
            write.writerow([*row, "yes" if a + b > 4 else "no"]) if number < 60 else more.writerow(row)
    lb.distill("alone", data=str(folder / "known.csv"), label="kind", student="mlp:16", steps=200, progress=False,
               out=folder / "run", measure=False, learning_rate=1e-2)  # fmt: skip
    return folder


def options(place):
    return {"model": str(place / "run"), "data": str(place / "known.csv"), "unlabelled": str(place / "pool.csv")}


def test_the_least_sure_of_the_pool(place, tmp_path):
    found = lb.select("margin", count=8, out=tmp_path / "chosen.csv", **options(place))
    assert (len(found.rows), found.pool) == (8, 100)
    gaps = [row["gap"] for row in found.rows]
    assert gaps == sorted(gaps, reverse=True)
    with open(place / "pool.csv") as file:
        pool = [(float(row["a"]), float(row["b"])) for row in csv.DictReader(file)]
    near = [abs(pool[row["row"]][0] + pool[row["row"]][1] - 4) for row in found.rows]
    every = [abs(a + b - 4) for a, b in pool]
    assert sum(near) / 8 < sum(every) / 100 / 2  # they lie at the border, which is where a + b is 4
    with open(tmp_path / "chosen.csv") as file:
        written = list(csv.DictReader(file))
    assert [int(row["row"]) for row in written] == [row["row"] for row in found.rows]
    assert {row["prediction"] for row in written} <= {"yes", "no"}
    found.show()


@pytest.mark.parametrize("name", ["entropy", "core_set", "badge", "pcoreset", "rad", "random"])
def test_every_selector_names_rows_of_the_pool(name, place):
    rows = [row["row"] for row in lb.select(name, count=30, **options(place)).rows]
    assert len(set(rows)) == 30
    assert set(rows) <= set(range(100))


def test_a_function_chooses_and_more_than_there_are_are_all(place):
    found = lb.select(lambda pool, count: torch.arange(count), count=500, **options(place))
    assert [row["row"] for row in found.rows] == list(range(100))


def test_wrong_inputs(place, tmp_path):
    with pytest.raises(DataError, match="Every sample of 'known' has a label"):
        lb.select(model=str(place / "run"))
    for change, message in (({"count": 0}, "count=0"), ({"wrong": 1.0}, "wrong=1.0")):
        with pytest.raises(ArgumentError, match=message):
            lb.select(**options(place), **change)
    with pytest.raises(ArgumentError, match="Did you mean 'margin'"):
        lb.select("margins", **options(place))
    with pytest.raises(ArgumentError, match="Give data="):
        lb.select(model=torch.nn.Linear(2, 2))
    with pytest.raises(ModelError, match="does not take the inputs"):
        lb.select(
            model=torch.nn.Linear(3, 2), data=str(place / "known.csv"), unlabelled=str(place / "pool.csv"), label="kind"
        )


def test_the_command(place, tmp_path):
    from typer.testing import CliRunner

    words = [f"{key}={value}" for key, value in options(place).items()]
    done = CliRunner().invoke(app, ["select", "entropy", *words, "count=3", f"out={tmp_path / 'c.csv'}"])
    assert done.exit_code == 0
    assert "3 of 100 samples without a label, by entropy" in " ".join(done.output.split())
    assert len((tmp_path / "c.csv").read_text().splitlines()) == 4
    missing = CliRunner().invoke(app, ["select"])
    assert isinstance(missing.exception, ArgumentError)
    assert "Missing: model=" in str(missing.exception)
