"""What models write, scored: against answers worked out by hand, and in a whole run."""

import json
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import limbeck as lb
from limbeck.data.generate import Answers
from limbeck.errors import ArgumentError
from limbeck.evaluation.checkers import as_checker, exact, final, number
from limbeck.evaluation.written import Writing, rouge_l, written_scores
from limbeck.recipes import find
from limbeck.recipes.toy import toy_job
from limbeck.recipes.toy_language import END, SYMBOLS


# checkers
def test_checkers_look_at_what_they_say():
    assert exact("", "a  b\n", "a b") == 1
    assert exact("", "a", "a b") == 0
    assert final("", "so 3 + 4\n#### 7", "other way\n#### 7") == 1
    assert final("", "first\nsecond", "second") == 1
    assert final("", "", "") == 0
    assert number("", "it is 1,200 in all", "#### 1200.0") == 1
    assert number("", "none", "3") == 0
    assert number("", "-3", "3") == 0
    assert as_checker(exact) is exact
    with pytest.raises(ArgumentError, match="Did you mean 'final'"):
        as_checker("finel")


# ROUGE-L
def longest_by_trying(one, two):
    for size in range(min(len(one), len(two)), 0, -1):
        for places in combinations(range(len(one)), size):
            rest = iter(two)
            if all(one[place] in rest for place in places):
                return size
    return 0


@given(st.lists(st.sampled_from("abc"), max_size=6), st.lists(st.sampled_from("abc"), max_size=6))
@settings(max_examples=60, deadline=None)
def test_rouge_l_is_the_longest_common_subsequence(one, two):
    found = longest_by_trying(one, two)
    expected = 2 * found / (len(one) + len(two)) if one or two else 1.0
    assert rouge_l(" ".join(one), " ".join(two)) == pytest.approx(expected)


def test_rouge_l_of_a_known_pair():
    """The example of Lin (2004): "police kill the gunman" has 3 of 4 words of the reference in order."""
    assert rouge_l("Police, kill the gunman!", "police killed the gunman") == pytest.approx(3 / 4)


def test_scores_are_means_over_answers():
    answers = Answers.cut([[5, 6, 1], [1], [7, 7]], [1])
    found = written_scores([("p", "5 6"), ("p", "5"), ("p", "7 8")], answers, answers.texts(), exact)
    assert found == pytest.approx(
        {"exact_match": 1 / 3, "rouge_l": (1 + 0 + 0.5) / 3, "answer_tokens": 2.0, "unfinished_answers": 1 / 3}
    )


# of a job
class Counts(nn.Module):
    """Counts on rightly, as `recipes.toy_language` does, unless it is `wrong`."""

    def __init__(self, wrong=False):
        super().__init__()
        self.wrong, self.scale = wrong, nn.Parameter(torch.tensor(9.0))

    def forward(self, input_ids, attention_mask=None):
        logits = torch.zeros(*input_ids.shape, SYMBOLS)
        for row, ids in enumerate(input_ids.tolist()):
            start, step = ids[0] - 2, ids[1] - 2
            for place in range(1, len(ids)):
                right = END if place == 5 else 2 + (start + step * place) % (SYMBOLS - 2)
                logits[row, place, 2 if self.wrong and place == 4 else right] = 1.0
        return self.scale * logits


def test_a_model_that_is_right_is_told_from_one_that_is_not():
    job = toy_job(find("lm_kd"))
    writing = Writing.of(job, "valid", None, "exact")
    assert len(writing.places) == 8
    right, texts = writing.measure(Counts())
    assert right == {"exact_match": 1.0, "rouge_l": 1.0, "answer_tokens": 5.0, "unfinished_answers": 0.0}
    assert texts == [reference for _, reference in writing.told()]
    wrong, _ = writing.measure(Counts(wrong=True))
    assert wrong["exact_match"] < 0.3
    assert wrong["rouge_l"] == pytest.approx(0.75, abs=0.1)
    assert Writing.of(job, "valid", 3, "exact").describe(models=2) == {
        "prompts": 3, "part": "valid", "max_new_tokens": 16, "greedy": True, "checker": "exact", "tokens_at_most": 96,
    }  # fmt: skip


def test_what_cannot_be_asked_is_refused_before_training():
    job = toy_job(find("lm_kd"))
    assert Writing.of(job, "valid", 0) is None
    with pytest.raises(ArgumentError, match="generate=-1"):
        Writing.of(job, "valid", -1)
    with pytest.raises(ArgumentError, match="no checker"):
        Writing.of(job, "valid", 4, "right")
    job.data.parts["valid"].prompts = torch.zeros(8, dtype=torch.int64)
    assert Writing.of(job, "valid", None) is None
    with pytest.raises(ArgumentError, match="no prompts to answer"):
        Writing.of(job, "valid", 4)
    with pytest.raises(ArgumentError, match="do not write"):
        lb.distill("alone", data="digits", student="mlp:8", steps=1, generate=4)


def test_a_run_has_the_scores_and_the_texts_side_by_side(tmp_path):
    pytest.importorskip("transformers")
    from limbeck.data.language import load_language_data
    from limbeck.data.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(["0123456789+="], 261)
    sums = [{"prompt": f"{a}+{b}=", "response": str(a + b)} for a in range(9) for b in range(9)]
    data = load_language_data(sums, tokenizer, valid=8, test=20, template="plain", join="", pack=False)
    options = {"data": data, "student": "decoder:1,32", "steps": 3, "batch_size": 16, "progress": False}
    teacher = lb.distill("alone", task="causal_lm", measure=False, **options).student
    asked = []

    def check(prompt, answer, reference):
        asked.append((prompt, reference))
        return float(answer.strip() == reference)

    given = {"teacher": teacher, "baseline": "alone", "checker": check, **options}
    cost = lb.distill("lm_kd", dry_run=True, **given)["generation"]
    assert cost["tokens_at_most"] == 3 * 20 * 16
    run = lb.distill("lm_kd", out=tmp_path, **given)
    assert {f"{a['prompt']}{a['response']}" for a in sums} >= {prompt + right for prompt, right in asked}
    record = json.loads((tmp_path / "report.json").read_text())
    for model in record["models"]:
        assert set(model["scores"]) >= {"exact_match", "rouge_l", "answer_tokens", "unfinished_answers", "perplexity"}
    assert len(record["samples"]) == 20
    assert set(record["samples"][0]) == {"prompt", "reference", "teacher", "student", "baseline"}
    assert record["generation"]["checker"] == "check"
    assert record["config"]["checker"] == "<function>"
    assert "What they write" in (tmp_path / "report.html").read_text()
    assert "generation" not in lb.distill("lm_kd", **{**given, "generate": 0, "baseline": None}).record
    assert run.record["models"]
    asked.clear()  # the same checker for rewards and for scores
    rewarded = lb.distill("kdrl", **{**given, "baseline": None, "measure": False}, answers=4, max_new_tokens=4)
    assert len(asked) == 3 * 16
    assert "generation" not in rewarded.record
