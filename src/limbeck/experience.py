"""What earlier searches teach about a new task: boosted trees from a task and a pipeline to how good it was among its like."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.disk import read
from limbeck.errors import ArgumentError
from limbeck.recommend import Pipeline

Record = dict[str, Any]
LEAST = 10  # trials, of all searches together, from which anything is learned
DRAWN = 512  # pipelines of which the best is recommended
TOP = 3  # that a search begins with, each of another recipe


@dataclass(frozen=True)
class Searched:
    """One search: what was known of its task, and each pipeline with its rank, 0 the worst and 1 the best of them."""

    name: str
    features: Record
    pipelines: list[Record]
    ranks: list[float]


def searched(
    name: str, features: Record, trials: Sequence[tuple[Record, float | None]], more_is_better: bool
) -> Searched:
    """A search from pipelines and scores. One without a score is the worst; equal ones share their mean rank."""
    from scipy.stats import rankdata

    sign = 1 if more_is_better else -1
    values = [-math.inf if score is None or not math.isfinite(score) else sign * score for _, score in trials]
    ranks = (rankdata(values) - 1) / max(len(values) - 1, 1)
    return Searched(name, features, [pipeline for pipeline, _ in trials], ranks.tolist())


def read_searches(given: Any) -> list[Searched]:
    """The searches in folders that `limbeck auto out=...` wrote, or in folders of such. Raises ArgumentError."""
    from limbeck.report.words import measure

    found = []
    for each in given if isinstance(given, list | tuple) else [given]:
        if not isinstance(each, str | Path):
            raise ArgumentError(f"earlier={each!r}: expected folders of earlier searches.")
        files = [Path(each) / "auto.json"]
        if not files[0].is_file():
            files = sorted(Path(each).glob("*/auto.json"))
        if not files:
            raise ArgumentError(
                f"earlier={str(each)!r}: no search is there. Give the out= of a `limbeck auto` that came to its end, or a "
                "folder that holds some."
            )
        for file in files:
            record = read(file)
            if any("pipeline" not in trial for trial in record["trials"]):
                raise ArgumentError(
                    f"{str(file)!r} was written by an older Limbeck, which did not keep its pipelines whole."
                )
            trials = [(trial["pipeline"], trial["valid"]) for trial in record["trials"]]
            better = measure(record["measure"]).better == "more"
            found.append(searched(str(file.parent), record["features"], trials, better))
    count = sum(len(each.ranks) for each in found)
    if count < LEAST:
        raise ArgumentError(f"earlier= holds {count} trials; at least {LEAST} are needed to learn anything from.")
    return found


def described(features: Mapping[str, Any], pipeline: Mapping[str, Any]) -> Record:
    """A task and a pipeline as named numbers and words, which is what the trees see."""
    share = features["labelled"] / max(features["samples"], 1)
    row: Record = {
        "task": features["kind"], "log samples": math.log(features["samples"]), "share of labels": share,
        "log classes": math.log(max(features["classes"], 1)), "log capacity": math.log(max(features["capacity"], 1e-3)),
        "teacher": features["teacher"], "recipe": pipeline["recipe"], "log rate": math.log(pipeline["factor"]),
    }  # fmt: skip
    for name, value in pipeline["arguments"].items():
        key = f"{pipeline['recipe']}.{name}"
        row[key] = value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
    return row | {name: str(value) for name, value in pipeline["options"].items()}


class Experience:
    """Trees that were fitted to earlier searches."""

    def __init__(self, searches: Sequence[Searched], seed: int = 0):
        from sklearn.ensemble import GradientBoostingRegressor
        from sklearn.feature_extraction import DictVectorizer
        from sklearn.pipeline import make_pipeline

        self.searches, self.seed = list(searches), seed
        rows = [described(each.features, pipeline) for each in searches for pipeline in each.pipelines]
        trees = GradientBoostingRegressor(
            n_estimators=200, max_depth=3, learning_rate=0.05, subsample=0.7, random_state=seed
        )
        self.model = make_pipeline(DictVectorizer(sparse=False), trees)
        self.model.fit(rows, [rank for each in searches for rank in each.ranks])

    def predict(self, features: Mapping[str, Any], pipelines: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """The expected rank of each pipeline on a task, about 0 to 1."""
        return self.model.predict([described(features, pipeline) for pipeline in pipelines])

    def recommend(
        self, features: Mapping[str, Any], drawn: Sequence[tuple[Record, Record]]
    ) -> list[tuple[Pipeline, Record]]:
        """The best of drawn pipelines, `TOP` of different recipes, each with what was drawn for it; the best first.

        `drawn`: (how a search names its choices, the pipeline).
        """
        expected = self.predict(features, [pipeline for _, pipeline in drawn])
        count = sum(len(each.ranks) for each in self.searches)
        told = (
            f"Trees fitted to {count} trials of {len(self.searches)} earlier search{'es' * (len(self.searches) > 1)} expected "
            f"most of it out of {len(drawn)} pipelines: rank"
        )
        found: dict[str, tuple[Pipeline, Record]] = {}
        trust = self._trust()
        for place in np.argsort(-expected, kind="stable"):
            names, pipeline = drawn[place]
            if pipeline["recipe"] not in found and len(found) < TOP:
                reasons = (f"{told} {expected[place]:.2f} (0 the worst, 1 the best of a search).", trust)
                found[pipeline["recipe"]] = (
                    Pipeline(pipeline["recipe"], pipeline["arguments"], reasons, pipeline["factor"]), names
                )  # fmt: skip
        return list(found.values())

    def _trust(self) -> str:
        """How well searches are foretold by the others."""
        from scipy.stats import spearmanr

        if len(self.searches) < 2:
            return "Only one search was learned from: that its task is like this one is assumed."
        found = []
        for number, each in enumerate(self.searches):
            others = Experience([*self.searches[:number], *self.searches[number + 1 :]], self.seed)
            if len(set(each.ranks)) > 1:
                value = float(spearmanr(others.predict(each.features, each.pipelines), each.ranks)[0])
                found.append(0.0 if math.isnan(value) else value)
        low, middle = min(found), sum(found) / len(found)
        return (
            f"Each search left out in turn, the ranks foretold and found correlate by {middle:.2f} (least {low:.2f})."
        )
