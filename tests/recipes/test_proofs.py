"""Proofs as they are recorded: complete, able to fail, and what the pages say."""

import importlib.util
import json
import random
import sys

import pytest

from limbeck.proving import paired, proofs
from limbeck.recipes import docs
from limbeck.recipes.proofs import VERDICTS, results

FIELDS = {"name", "claim", "verdict", "finding", "note", "rows", "mean", "std", "seconds", "machine", "date", "command"}


@pytest.mark.parametrize("name", sorted(results()))
def test_a_result_is_complete_and_belongs_to_a_proof(name):
    record = results()[name]
    assert set(record) >= FIELDS
    assert record["verdict"] in VERDICTS
    assert proofs()[name].claim == record["claim"]
    assert len(record["rows"]) >= 3


def load(name):
    path = proofs()[name].path
    sys.path.insert(0, str(path.parent))
    try:
        specification = importlib.util.spec_from_file_location(f"proof_{name}", path)
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        return module
    finally:
        sys.path.pop(0)


@pytest.mark.parametrize("name", sorted(set(proofs()) - set(results())))
def test_a_proof_that_was_not_run_is_whole_and_unproven(name):
    module = load(name)
    assert len(list(module.SEEDS)) >= 3
    assert callable(module.measure)
    assert callable(module.judge)
    assert proofs()[name].verdict == "unproven"


@pytest.mark.parametrize("name", sorted(results()))
def test_a_proof_can_stand_and_can_fail(name):
    """Rows in which the columns stand in other orders must not all be judged alike."""
    module, rows = load(name), results()[name]["rows"]
    verdict, finding = module.judge(rows)
    assert ("stands" if verdict else "failed") == results()[name]["verdict"]
    assert finding == results()[name]["finding"]
    columns = [key for key in rows[0] if key != "seed"]
    judged = set()
    for best in columns:  # one column far above, one far below all others
        for worst in columns:
            if best != worst:
                judged.add(module.judge([{**row, best: 1000.0 + row[best], worst: -1000.0} for row in rows])[0])
    for seed in range(300):  # a claim of several parts wants several columns where they belong
        order = random.Random(seed).sample(columns, len(columns))
        judged.add(
            module.judge([{**row, **{key: 100.0 * (1 + order.index(key)) for key in columns}} for row in rows])[0]
        )
    for seed in range(300):  # and one of equality wants equal columns
        high = set(random.Random(seed).sample(columns, len(columns) // 2))
        judged.add(module.judge([{**row, **{key: 100.0 * (key in high) for key in columns}} for row in rows])[0])
    judged.add(module.judge([dict.fromkeys(columns, 0.0) | {"seed": row["seed"], columns[0]: 0.0} for row in rows])[0])
    assert judged == {True, False}


def test_paired_differences():
    rows = [{"a": 3.0, "b": 1.0}, {"a": 5.0, "b": 2.0}, {"a": 4.0, "b": 3.0}]
    mean, error = paired(rows, "a", "b")
    assert mean == pytest.approx(2.0)
    assert error == pytest.approx(1 / 3**0.5)


def test_the_page_and_the_verdicts_are_those_of_the_results():
    assert docs.PAGE.read_text() == docs.page(), "run `make docs`"
    assert docs.OBJECTIVES.read_text() == docs.objectives(), "run `make docs`"
    assert json.loads(docs.VERDICTS.read_text()) == json.loads(docs.verdicts()), "run `make docs`"
