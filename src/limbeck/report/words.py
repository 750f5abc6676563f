"""What each number is called and means, in a line that needs no textbook. The report, the table and the verdict use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from limbeck.report import numbers
from limbeck.report.numbers import MINUS, Stat


@dataclass(frozen=True)
class Measure:
    """A score: how it is called, what it means, whether `more` or `less` of it is better ("" where unknown).

    `share`: lies in 0 to 1 and is shown as percent. `counted`: the share of test samples for which something holds.
    """

    key: str
    label: str
    meaning: str = ""
    better: str = ""
    share: bool = False
    counted: bool = False

    @property
    def name(self) -> str:
        """The label inside a sentence: 'accuracy', but 'R²' and 'Brier score'."""
        proper = self.label.startswith(("Brier", "Pearson", "Spearman")) or not self.label[1:2].islower()
        return self.label if proper else self.label[0].lower() + self.label[1:]

    def text(self, value: float, digits: int | None = None) -> str:
        """One value: 95.1 %, or 0.173."""
        return numbers.share(value, 1 if digits is None else digits) if self.share else numbers.plain(value, digits)

    def spread(self, given: Stat, digits: int | None = None) -> str:
        """Mean and spread: 95.1 ± 0.2 %."""
        if digits is None:
            digits = numbers.decimals([given.mean], self.share)
        if given.std is None:
            return self.text(given.mean, digits)
        scale, unit = (100, " %") if self.share else (1, "")
        return f"{numbers.plain(given.mean * scale, digits)} ± {numbers.plain(given.std * scale, digits)}{unit}"

    def step(self, value: float, error: float | None = None, digits: int | None = None) -> str:
        """A difference: +6.1 ± 0.3 points, or −0.021 ± 0.004."""
        scale, unit = (100, " points") if self.share else (1, "")
        digits = numbers.decimals([value], self.share) if digits is None else digits
        text = numbers.plain(value * scale, digits)
        text = text if text.startswith(MINUS) else "+" + text
        return text + (f" ± {numbers.plain(error * scale, digits)}" if error is not None else "") + unit


_ALL = [
    Measure("accuracy", "Accuracy", "Share of samples for which the right class is named.", "more", True, True),
    Measure(
        "token_accuracy", "Token accuracy", "Share of tokens for which the right one is the likeliest.", "more", True
    ),
    Measure(
        "macro_f1",
        "Macro F1",
        "F1 score of each class, averaged, so that rare classes count as much as common ones.",
        "more",
        True,
    ),
    Measure(
        "nll",
        "Negative log-likelihood",
        "How surprised the model is by the right answer, in nats; confident errors cost most.",
        "less",
    ),
    Measure("brier", "Brier score", "Mean squared distance of the probabilities from the truth, 0 to 2.", "less"),
    Measure(
        "ece",
        "Calibration error",
        "Expected calibration error: how far stated confidence and the share of right answers lie apart on average.",
        "less",
        True,
    ),
    Measure("mse", "Mean squared error", "Mean of the squared errors, in the target's unit squared.", "less"),
    Measure("rmse", "Root mean squared error", "Typical size of an error, in the target's unit.", "less"),
    Measure("mae", "Mean absolute error", "Mean size of an error, in the target's unit.", "less"),
    Measure(
        "r2", "R²", "Share of the targets' variance that is explained: 1 is all, 0 no better than their mean.", "more"
    ),
    Measure(
        "auroc", "AUROC", "Chance that a positive sample scores above a negative one; one half is guessing.", "more"
    ),
    Measure("aupr", "AUPR", "Average precision of the positive samples, over all thresholds.", "more"),
    Measure(
        "far95",
        "FAR95",
        "Share of known samples that are taken for novel where 95 % of the novel are found.",
        "less",
        True,
    ),
    Measure(
        "preference_accuracy",
        "Preference accuracy",
        "Share of pairs whose chosen answer the model finds likelier than the rejected one.",
        "more",
        True,
    ),
    Measure("perplexity", "Perplexity", "Among how many equally likely tokens the model seems to choose.", "less"),
    Measure(
        "bits_per_byte",
        "Bits per byte",
        "What the model would need to write down a byte of the text; comparable "
        "between tokenizers, which per-token scores are not.",
        "less",
    ),
    Measure(
        "chunk_gap",
        "Gap per chunk",
        "How far the two models' log-probabilities of a chunk of text, the smallest that both "
        "tokenizers cut out, lie apart on average, in nats.",
        "less",
    ),
    Measure("spearman", "Spearman correlation", "How well the order of the values agrees, −1 to 1.", "more"),
    Measure(
        "ndcg@10",
        "nDCG@10",
        "How well the ten best-ranked documents are chosen and ordered, by their judged grades; 1 is the best order there is.",
        "more",
    ),
    Measure("recall@100", "Recall@100", "Share of a query's relevant documents among its 100 best-ranked.", "more"),
    Measure("mrr", "MRR", "One over the rank of the first relevant document, the mean over queries.", "more"),
    Measure(
        "cosine", "Cosine to the teacher", "Of the two vectors of a held-out text, the mean; 1 is the same.", "more"
    ),
    Measure(
        "neighbours",
        "Shared neighbours",
        "Share of a held-out text's ten nearest that both models agree on.",
        "more",
        True,
    ),
    Measure(
        "cosine_of_translations",
        "Cosine of translations",
        "Of the student's vector of a held-out translation and the teacher's of its text, the mean.",
        "more",
    ),
    Measure(
        "translations_found",
        "Translations found",
        "Share of held-out translations whose own text is the nearest of all held-out texts, by the teacher's vectors.",
        "more",
        True,
    ),
    Measure("pearson", "Pearson correlation", "How well the values agree along a line, −1 to 1.", "more"),
    Measure(
        "label_agreement",
        "Label agreement",
        "Share of samples for which both name the same class, right or wrong.",
        "more",
        True,
        True,
    ),
    Measure(
        "probability_loyalty",
        "Probability loyalty",
        "How close the two models' probabilities lie: 1 minus the "
        "Jensen-Shannon distance; 100 % is identical, 0 % has nothing in common.",
        "more",
        True,
    ),
    Measure(
        "top1_agreement",
        "Top-1 agreement",
        "Share of tokens for which both find the same one the likeliest, right or wrong.",
        "more",
        True,
    ),
    Measure(
        "kl_to_teacher",
        "KL to the teacher",
        "What is lost, in nats, by taking the student's probabilities for the teacher's; 0 is identical.",
        "less",
    ),
    Measure(
        "js_to_teacher",
        "Jensen-Shannon divergence",
        "How far the two models' probabilities lie apart, in nats: 0 is identical, 0.693 has nothing in common.",
        "less",
    ),
    Measure(
        "tv_to_teacher",
        "Total variation",
        "Share of its probability that the student puts elsewhere than the teacher.",
        "less",
        True,
    ),
    Measure(
        "second_choice_agreement",
        "Same second choice",
        "Of what both get right, the share for which they name the same runner-up: right for the teacher's reasons.",
        "more",
        True,
    ),
    Measure(
        "accuracy_teacher_wrong",
        "Right where the teacher is wrong",
        "Share of the teacher's errors that it does not make.",
        "more",
        True,
    ),
    Measure("exact_match", "Exact match", "Share of the generated answers that are the right one.", "more", True, True),
    Measure(
        "rouge_l", "ROUGE-L", "Longest common subsequence of words with the reference, as an F1 score.", "more", True
    ),
    Measure(
        "answer_tokens", "Tokens of an answer", "How long the generated answers are on average, their end counted."
    ),
    Measure(
        "unfinished_answers",
        "Unfinished answers",
        "Share of the answers that were cut before an end.",
        "less",
        True,
        True,
    ),
    Measure("edit_similarity", "Edit similarity", "Share of the words that no edit would touch.", "more", True),
    Measure("step_overlap", "Overlap of steps", "F1 score of the steps that both texts have.", "more", True),
    Measure(
        "answer_agreement", "Same answer", "Share of the texts that come to the same final answer.", "more", True, True
    ),
    Measure("regression_loyalty", "Loyalty of values", "Pearson correlation of the two models' values.", "more"),
    Measure("parameters", "Parameters", "Numbers that were learnt.", "less"),
    Measure("bytes", "Bytes", "Size of the weights when saved.", "less"),
    Measure("macs", "MACs", "Multiply-accumulate operations for one sample.", "less"),
    Measure(
        "peak_memory_bytes",
        "Peak memory",
        "Weights, and the most that answering one sample holds at once; libraries are not counted.",
        "less",
    ),
]
MEASURES = {measure.key: measure for measure in _ALL}
MAIN = ("accuracy", "mse", "bits_per_byte", "perplexity", "spearman", "ndcg@10", "auroc", "macro_f1")
FORMATS = {"parameters": numbers.count, "bytes": numbers.size, "macs": numbers.count, "peak_memory_bytes": numbers.size}
ASYMMETRIC = " asymmetric"
FORMS_OF_VECTORS = {"bytes": "one byte a number", "signs": "one bit a number"}
_SUFFIXES = {"_teacher_right": "where the teacher is right", "_teacher_wrong": "where the teacher is wrong"}

# what the table of models leaves to the section about fidelity
DETAILS = ("js_to_teacher", "tv_to_teacher", "second_choice_agreement")

ROLES = {
    "teacher": "gives the targets",
    "student": "trained with the recipe",
    "baseline": "the same student, trained without a teacher",
}


def measure(key: str) -> Measure:
    """The measure of that name; "cranfield: ndcg@10 asymmetric" is one on a bench of the data.

    An unknown one keeps its name, has no meaning, and none of its values is called better.
    """
    if key in MEASURES:
        return MEASURES[key]
    for suffix, words in _SUFFIXES.items():
        base = MEASURES.get(key.removesuffix(suffix))
        if base and key.endswith(suffix):
            # tables in a terminal have no room for meanings
            short = words.removeprefix("where the ").replace(" is ", " ")
            better = "" if suffix == "_teacher_wrong" else base.better  # to copy errors is neither good nor bad
            return Measure(key, f"{base.label}, {short}", f"The same, {words}.", better, base.share)
    bench, _, rest = key.rpartition(": ")
    rest, _, form = rest.partition(", ")
    base = MEASURES.get(rest.removesuffix(ASYMMETRIC))
    if base and (bench or form or rest.endswith(ASYMMETRIC)):
        where = ", documents of the teacher" if rest.endswith(ASYMMETRIC) else ""
        where += f", {FORMS_OF_VECTORS.get(form, f'{form} numbers')}" if form else ""
        return replace(base, key=key, label=f"{base.label}{where}" + (f" ({bench})" if bench else ""))
    label = key.replace("_", " ")
    return Measure(key, label[:1].upper() + label[1:])


def is_detail(key: str) -> bool:
    """Whether an agreement is shown in the section about fidelity only."""
    return key in DETAILS or key.endswith(tuple(_SUFFIXES))


def items_of(record: Mapping[str, Any]) -> str:
    """What scores are shares of: "tokens" or "samples"."""
    return "tokens" if record.get("task") == "causal_lm" else "samples"


def main_measure(record: Mapping[str, Any]) -> Measure | None:
    """The score that the run is about.

    `record["best"]`, a task's pair such as ("accuracy", "max"), or the first known score of the student, or its first.
    """
    best = record.get("best")
    if best:
        key, direction = best
        known = measure(key)
        return Measure(
            key, known.label, known.meaning, "less" if direction == "min" else "more", known.share, known.counted
        )
    models = record.get("models") or []
    first = next((model for model in models if model.get("role") == "student"), models[0] if models else {})
    scores = first.get("scores") or {}
    scores = scores or first.get("agreement") or {}
    main = [name for word in MAIN for name in scores if name.rpartition(": ")[2] == word]
    key = next(iter([*main, *scores]), None)
    return measure(key) if key else None
