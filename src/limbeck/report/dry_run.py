"""What a dry run found, as a table in the terminal."""

from __future__ import annotations

from typing import Any


def show_dry_run(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from limbeck.report.numbers import size

    console, table = Console(), Table(title="Dry run: nothing was trained", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("objective", found["objective"])
    for name, shape in found["shapes"].items():
        table.add_row(f"signal {name}", str(shape))
    for name, groups in found["parameter_groups"].items():
        for group in groups:
            table.add_row(f"parameters of {name}", ", ".join(f"{key} {value}" for key, value in group.items()))
    for name, count in found["samples"].items():
        table.add_row(f"samples, {name}", f"{count:,}")
    for name, each in found.get("texts", {}).items():
        if length := each.get("length"):
            lengths = f"p50 {length['p50']:,}, p95 {length['p95']:,}, longest {length['max']:,}"
            lost = f"{each.get('cut', 0):.1%} cut, {each['left_out']:,} left out"
            table.add_row(f"tokens of a text, {name}", f"{lengths}; {lost}")
    table.add_row(
        "steps", f"{found['steps']} at {found['seconds_per_step'] * 1000:.1f} ms, {found['trainings']} training(s)"
    )
    table.add_row("time, estimated", f"{found['estimated_seconds']} s, without evaluation")
    for name, count in found["estimated_bytes"].items():
        table.add_row(f"memory, {name}", size(count))
    if written := found.get("generation"):
        most = f"{written['tokens_at_most']:,} tokens at most, of all models together"
        table.add_row("answers for the report", f"{written['prompts']} prompts of {written['part']}: {most}")
    console.print(table)
