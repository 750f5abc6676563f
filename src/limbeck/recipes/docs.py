"""`python -m limbeck.recipes.docs` writes docs/systems.md, the table of formulas, and the verdicts in the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from limbeck.recipes.proofs import results, results_folder
from limbeck.recipes.registry import FIELDS, recipes

ROOT = results_folder().parents[1]
PAGE = ROOT / "docs" / "systems.md"
OBJECTIVES = ROOT / "docs" / "objectives.md"
VERDICTS = Path(__file__).with_name("verdicts.json")


def page() -> str:
    """Every recipe with its proof, by field; and the proofs that are of the engine and not of a recipe."""
    proofs, known = results(), recipes()
    lines = [
        "# Systems", "",
        "Made by `make docs` from the recipes and the recorded proofs; do not edit. A proof is an experiment that could have",
        "failed: `limbeck prove NAME` runs it again. *stands* and *failed* are what it found; *unproven*: there is none yet.",
        "",
    ]  # fmt: skip
    for field in FIELDS:
        rows = [recipe for recipe in known.values() if recipe.field == field]
        if not rows:
            continue
        lines += [
            f"## {field}",
            "",
            "| recipe | paper | needs | proof | what was found |",
            "| --- | --- | --- | --- | --- |",
        ]
        for recipe in sorted(rows, key=lambda one: (one.year, one.name)):
            proof = proofs.get(recipe.name, {})
            lines.append(
                f"| `{recipe.name}` | {recipe.paper} ({recipe.year}) | {', '.join(recipe.needs)} | "
                f"{proof.get('verdict', 'unproven')} | {proof.get('finding', '')} |"
            )
        lines.append("")
    lines += ["## Claims", ""]
    for name, proof in sorted(proofs.items()):
        how = f"{proof['verdict']}, {len(proof['rows'])} seeds, {proof['seconds']:.0f} s, {proof['date']}"
        lines += [f"**{name}** ({how}): {proof['claim']}"]
        lines += [f"{proof['finding']} {proof['note']}".strip(), "", table(proof), ""]
    return "\n".join(lines).rstrip() + "\n"


def table(proof: dict[str, Any]) -> str:
    """The numbers of a proof: mean and standard deviation over seeds."""
    names = list(proof["mean"])
    head = f"| {' | '.join(names)} |\n| {' | '.join('---' for _ in names)} |"
    cells = [f"{proof['mean'][name]:.4g} ± {proof['std'][name]:.2g}" for name in names]
    return f"{head}\n| {' | '.join(cells)} |"


def objectives() -> str:
    """docs/objectives.md with a row for every declared formula, by the file it lives in."""
    from limbeck.functional import declared

    rows = ["| formula | room | per | what it is |", "| --- | --- | --- | --- |"]
    for name, function in sorted(declared().items(), key=lambda item: (item[1].__module__, item[0])):
        first = (function.__doc__ or "").split("\n")[0].strip().replace("|", "\\|")
        room = function.__module__.rsplit(".", 1)[-1]
        rows.append(f"| `{name}` | {room} | {function.declaration.per} | {first} |")  # type: ignore[attr-defined]
    before, rest = OBJECTIVES.read_text().split("<!-- formulas -->\n")
    return f"{before}<!-- formulas -->\n" + "\n".join(rows) + "\n<!-- end -->\n" + rest.split("<!-- end -->\n")[1]


def verdicts() -> str:
    """What an installed package knows of the proofs."""
    kept = {
        name: {key: proof[key] for key in ("name", "claim", "verdict", "finding")}
        for name, proof in sorted(results().items())
    }
    return json.dumps(kept, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    PAGE.write_text(page())
    OBJECTIVES.write_text(objectives())
    VERDICTS.write_text(verdicts())
    print(f"{PAGE.name}: {len(recipes())} recipes, {len(results())} proofs")


if __name__ == "__main__":
    main()
