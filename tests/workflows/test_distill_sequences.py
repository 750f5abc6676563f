"""Systems that choose, cut or mix the data of language models, from files to a report."""

from __future__ import annotations

import json

import pytest

import limbeck as lb
from language_toys import make_tokenizer, tiny
from limbeck.errors import DataError
from limbeck.report.build import page


def model(family: str, **options):
    found = tiny(family, **options)
    found.tokenizer = make_tokenizer()
    return found


TEXTS = [{"text": " ".join("abcdefghij"[n % 5 : n % 5 + 4]), "kind": ["letters", "numbers"][n % 2]} for n in range(60)]
FEW = {"progress": False, "measure": False, "steps": 6, "batch_size": 4, "length": 16, "learning_rate": 0.01}


def test_ddk_from_a_column_to_the_report(tmp_path):
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(map(json.dumps, TEXTS)))
    given = {"teacher": model("GPT2"), "student": model("Llama"), "data": str(file), **FEW}
    run = lb.distill("ddk", domain="kind", every=2, valid=0.2, out=tmp_path / "run", **given)
    assert run.record["mixture"]["step"] == [0, 2, 4]
    assert set(run.record["mixture"]["share"]) == {"letters", "numbers"}
    assert "plot-mixture0" in page(run.record)
    assert run.record["data"]["domains"]["letters"]["statistics"]["train"]["samples"] == 24
    with pytest.raises(DataError, match="no domains"):
        lb.distill("ddk", **given)
