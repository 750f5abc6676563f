"""The report of a run: the page, the table, the verdict. Needs no torch."""

from limbeck.report.build import render
from limbeck.report.text import table, table_rows
from limbeck.report.verdict import verdict

__all__ = ["render", "table", "table_rows", "verdict"]
