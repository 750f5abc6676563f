"""The page: whole, small, safe, and without the sections it has nothing for."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from html.parser import HTMLParser
from typing import Any

import pytest
import sample_records as records
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.report import render
from limbeck.report.build import page

VOID = {"meta", "link", "br", "hr", "img", "input", "wbr"}


class Page(HTMLParser):
    """Reads a page; fails where tags do not close in order. Keeps ids, headings, and the text outside scripts."""

    def __init__(self, written: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words = ""
        self.figures: dict[str, Any] = {}
        self.feed(written)
        self.close()
        assert self.open == [], f"never closed: {self.open}"
        assert len(self.ids) == len(set(self.ids)), "an id stands twice"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if found.get("id"):
            self.ids.append(str(found["id"]))
        if found.get("href"):
            self.links.append(str(found["href"]))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> is out of order"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script" and data.startswith("{"):
            self.figures = json.loads(data)
        elif not self.open or self.open[-1] not in ("script", "style"):
            self.words += data


def sections(read: Page) -> list[str]:
    known = [
        "models", "size", "curves", "reliability", "fidelity", "samples", "confusion", "exports", "data", "dry-run", "again",
    ]  # fmt: skip
    return [name for name in known if name in read.ids]


def test_the_file_is_whole_small_and_carries_plotly_once(tmp_path):
    path = render(records.full(), tmp_path / "new" / "report.html")
    assert path == tmp_path / "new" / "report.html"
    assert path.stat().st_size < 6_000_000
    written = path.read_text(encoding="utf-8")
    assert written.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert len(re.findall(r"\* plotly\.js v", written)) == 1
    read = Page(written)
    assert sections(read) == [
        "models",
        "size",
        "curves",
        "reliability",
        "fidelity",
        "confusion",
        "exports",
        "data",
        "dry-run",
        "again",
    ]
    assert {link[1:] for link in read.links if link.startswith("#")} <= set(read.ids)
    assert not [link for link in read.links if not link.startswith(("#", "data:"))]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.html"]


def test_a_folder_gets_report_html(tmp_path):
    assert render(records.only_student(), tmp_path) == tmp_path / "report.html"


def test_long_curves_and_many_classes_stay_small(tmp_path):
    record = records.many_classes()
    record["curves"] = records.curves(200_000)
    path = render(record, tmp_path)
    assert path.stat().st_size < 6_000_000
    read = Page(path.read_text(encoding="utf-8"))
    assert "plot-confusion" not in read.ids  # 120 classes: the pairs as a table instead
    assert "Most frequent disagreements" in read.words
    lines = read.figures["plot-curves0"]["data"]
    assert all(len(line["x"]) <= 602 for line in lines)
    assert lines[0]["x"][-1] == 999_995  # the last step is always drawn


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (records.only_student(), ["models"]),
        (records.regression(), ["models", "size", "curves", "data", "again"]),
        ({}, []),
        ({"warnings": ["mind"]}, ["data"]),
        ({"dry_run": {"seconds": 12.5, "peak_memory_bytes": 2_000_000_000}}, ["dry-run"]),
    ],
    ids=["only a student", "regression", "nothing", "a warning", "dry run"],
)
def test_what_is_missing_leaves_its_section_out(record, expected):
    read = Page(page(record))
    assert sections(read) == expected
    assert read.tags.count("h2") == len(expected)
    assert read.tags.count("section") == len(expected)


def test_a_mixture_of_domains_is_drawn():
    record = records.only_student() | {"mixture": {
        "step": [0, 10], "share": {"a <b>": [0.5, 0.7], "c": [0.5, 0.3]},
        "student": {"a <b>": [9.0, 6.0], "c": [4.0, 3.0]}, "teacher": {"a <b>": [3.0, 3.0], "c": [2.0, 2.0]},
    }}  # fmt: skip
    read = Page(page(record))
    assert sections(read) == ["models", "curves"]
    assert [line["y"] for line in read.figures["plot-mixture0"]["data"]] == [[0.5, 0.7], [0.5, 0.3]]
    assert [line["y"] for line in read.figures["plot-mixture1"]["data"]] == [[3.0, 2.0], [2.0, 1.5]]


def test_names_are_words_and_never_markup():
    read = Page(page(records.worse_than_alone()))
    assert "b" not in read.tags[: read.tags.index("h1")]
    assert "img" not in read.tags
    assert read.tags.count("script") == 3  # plotly, the figures, the page's own
    assert "<img src=x onerror=alert(1)>" in read.words
    assert "<script>alert(1)</script>" in read.words
    ticks = read.figures["plot-confusion"]["layout"]["xaxis"]["ticktext"]
    assert ticks[0] == "&lt;script&gt;alert\u2026"
    assert not [tick for tick in ticks if "<" in tick]


def test_each_number_of_the_table_stands_in_the_page():
    words = Page(page(records.full())).words.replace("\u00a0", " ")
    for expected in ("95.1 ± 0.4 %", "96.2 %", "294 k", "1/38 of the teacher", "1.18 MB", "2.65 M", "1.92 ms", "p95 2.38 ms",
                     "521/s", "96.7 ± 0.1 %", "1 h 11 min", "2.9×10⁻⁶", "5 seeds", "12,000", "8.00 GB"):  # fmt: skip
        assert expected in words, expected
    assert records.COMMAND in words
    assert records.PYTHON in words
    assert "How close the two models' probabilities lie" in words


def test_the_split_and_long_lists_are_said_shortly():
    record = records.full()
    record["data"] |= {
        "split": {
            "seed": 3,
            "made": {"test": 1200, "valid": 40},
            "given": ["train"],
            "sizes": {"train": 5, "test": 1200},
        },
        "standardized": {"mean": [0.123456789] * 30},
    }
    words = Page(page(record)).words.replace("\u00a0", " ")
    assert "test 1,200, valid 40 (seed 3)" in words
    assert "Parts that were given" in words
    assert "Split, sizes" not in words
    assert words.count("0.123,") == 20
    assert "(30 in all)" in words


def test_no_axis_of_shares_goes_beyond_all():
    record = records.full()
    record["models"][0]["scores"]["accuracy"] = {"mean": 1.0, "std": None, "values": [1.0]}
    low, high = Page(page(record)).figures["plot-size"]["layout"]["yaxis"]["range"]
    assert low < 95
    assert 100 < high < 101


def test_the_part_that_was_scored_is_named():
    record = records.full()
    record["data"]["scored on"] = "valid"
    words = Page(page(record)).words
    assert "Quality on the valid part" in words
    assert "of 2,000 valid samples" in words


def test_no_path_of_the_machine_and_every_warning():
    record = records.full()
    record["models"][0]["cost"]["warnings"] = ["Multiply-accumulates are unknown: LSTM cannot be counted."]
    words = Page(page(record)).words
    assert "student.int8.onnx" in words
    assert "elsewhere" not in words
    assert "3 warnings" in words
    assert "teacher: Multiply-accumulates are unknown" in words


def test_worse_is_said_as_plainly_as_better():
    worse, better = (Page(page(record)).words for record in (records.worse_than_alone(), records.full()))
    assert "Worse than the same student trained alone: accuracy (93.1\u00a0% against 94.9\u00a0%)" in worse
    assert "Better than the same student trained alone" not in worse
    assert "Better than the same student trained alone: accuracy (95.1\u00a0% against 88.9\u00a0%)" in better
    assert "Worse than" not in better


def test_the_best_small_model_is_marked_only_where_the_difference_is_clear():
    assert (
        page(records.full()).count('class="best"') == 10
    )  # five scores and two agreements; three of them again in the section about fidelity
    record = records.full()
    for each in record["models"][1:]:
        each["agreement"] = {}
        each["scores"] = {"accuracy": {"values": [0.90, 0.95] if each["role"] == "student" else [0.93, 0.91]}}
    written = page(record)
    assert 'class="best"' not in written
    assert "No clear difference to the same student trained alone" in written


def test_a_missing_baseline_is_said():
    words = Page(page(records.no_baseline())).words
    assert "The same student was not trained alone, so what distillation added is not known." in words
    assert "Student against alone" not in words


def test_the_record_s_own_verdict_comes_first():
    assert "It's settled." not in Page(page(records.full())).words
    assert "It\u2019s settled." in Page(page({**records.full(), "verdict": "It's settled."})).words


def test_roles_keep_their_colours_in_every_plot():
    figures = Page(page(records.full())).figures
    for place, role in enumerate(("teacher", "student", "baseline")):
        assert figures["plot-size"]["data"][place]["marker"]["line"]["color"] == f"var(--{role})"
        assert figures["plot-latency"]["data"][place]["marker"]["color"] == f"var(--{role})"
        assert figures[f"plot-reliability{place}"]["data"][1]["line"]["color"] == f"var(--{role})"


def test_plots_show_the_record_s_numbers():
    record = records.full()
    figures = Page(page(record)).figures
    student = figures["plot-size"]["data"][1]
    assert student["x"] == [pytest.approx(record["models"][1]["cost"]["bytes"], rel=1e-5)]
    assert student["y"] == [95.1]
    assert student["error_y"]["array"][0] == pytest.approx(
        100 * record["models"][1]["scores"]["accuracy"]["std"], rel=1e-4
    )
    hollow = figures["plot-size"]["data"][3]  # the int8 file; the others are as large as the student
    assert hollow["x"] == [331_008]
    assert len(figures["plot-size"]["data"]) == 4
    heat = figures["plot-confusion"]["data"][0]
    assert heat["text"][1][0] == str(record["confusion"]["matrix"][1][0])
    assert heat["customdata"][1][0][:3] == ["T-shirt", "Trouser", record["confusion"]["matrix"][1][0]]
    bars = figures["plot-reliability0"]["data"][2]["y"]
    assert sum(bars) == pytest.approx(100)


def broken(record: Any, dice: random.Random) -> Any:
    """The same record with parts missing, None, or not finite."""
    if isinstance(record, dict):
        kept = {key: broken(value, dice) for key, value in record.items() if dice.random() < 0.9}
        return kept if dice.random() < 0.97 else None
    if isinstance(record, float) and dice.random() < 0.1:
        return dice.choice([None, float("nan"), float("inf"), 0.0])
    if isinstance(record, list) and record and isinstance(record[0], dict):
        return [broken(value, dice) or {} for value in record]
    return record


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_a_record_with_holes_still_gives_a_page(seed):
    record = records.full(steps=20) if seed % 2 else records.regression()
    hole = broken(record, random.Random(seed)) or {}
    assert Page(page(hole)).tags.count("h1") == 1


def test_the_report_needs_no_torch():
    line = "import sys, limbeck.report; print('torch' in sys.modules, 'plotly' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"
