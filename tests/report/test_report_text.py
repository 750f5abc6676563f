"""The table for a terminal and for --json."""

from __future__ import annotations

import json

import sample_records as records
from rich.console import Console

from limbeck.report import table, table_rows
from limbeck.report.text import show


def shown(record, width=80):
    console = Console(width=width, no_color=True, highlight=False)
    with console.capture() as captured:
        console.print(table(record))
    return captured.get()


def test_rows_are_flat_and_all_have_the_same_keys():
    rows = table_rows(records.full())
    assert [row["role"] for row in rows] == ["teacher", "student", "baseline"]
    assert len({tuple(row) for row in rows}) == 1
    student = rows[1]
    assert student["accuracy"] == 0.951
    assert 0 < student["accuracy_std"] < 0.01
    assert student["parameters"] == 294_000
    assert student["p50_ms[torch, 1]"] == 1.92
    assert rows[0]["label_agreement"] is None
    assert rows[0]["accuracy_std"] is None  # one seed has no spread
    assert "peak_memory_bytes" not in student  # nobody measured it
    json.dumps(rows, allow_nan=False)
    assert table_rows({}) == []


def test_a_terminal_of_80_columns_shows_every_number_whole():
    text = shown(records.full())
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    first = next(line for line in text.splitlines() if line.startswith("Accuracy"))
    assert first.split("  ")[0] == "Accuracy"
    for expected in ("96.2 %", "95.1 ± 0.4 %", "88.9 ± 0.3 %", "better"):
        assert expected in first
    assert "1.18 MB" in text
    assert "521/s" in text


def test_the_verdict_and_every_warning_follow_the_table(capsys):
    record = records.no_baseline() | {
        "verdict": "The student [of a kind] is good.",
        "warnings": ["Look out.", "Mind the gap."],
    }
    show(record)
    lines = capsys.readouterr().out.splitlines()
    assert "against alone" not in lines[0]
    end = ["The student [of a kind] is good.", "Warning: Look out.", "Warning: Mind the gap."]
    assert lines[lines.index(end[0]) : lines.index(end[-1]) + 1] == end


def test_names_with_brackets_are_not_styles():
    record = records.only_student()
    record["models"][0]["name"] = "[red]mine[/red]"
    assert "[red]mine[/red]" in shown(record)
