"""The page of a language model's run: its words, its texts, what was written, and the section about fidelity."""

from __future__ import annotations

import pytest
import sample_records as records
from sample_language import language, monitor
from test_report import Page

from limbeck.report import table_rows, verdict
from limbeck.report.build import page
from limbeck.report.fidelity import fidelity
from limbeck.report.monitor import warning


def words(record):
    return " ".join(Page(page(record)).words.replace("\u00a0", " ").split())


def test_a_language_model_is_spoken_of_in_its_own_words():
    said = words(language())
    for expected in ("Perplexity", "KL to the teacher", "Top-1 agreement", "Share of tokens", "share of the tokens"):
        assert expected in said
    for wrong in ("Label agreement", "samples with that confidence", "on the same labels", "Train, labelled"):
        assert wrong not in said
    assert "trained alone on the same text" in verdict(language())
    figures = Page(page(language())).figures
    assert figures["plot-reliability1"]["layout"]["yaxis2"]["title"]["text"] == "tokens (%)"
    assert "tokens" in figures["plot-reliability1"]["data"][1]["hovertemplate"]


def test_the_texts_in_numbers_once():
    said = words(language())
    assert "train5,5607,987509,156498,453512861,7433.1 %40.4 %" in said  # cells stand one behind the other
    assert "Split, sizes" not in said
    assert "Statistics," not in said


def test_one_evaluation_is_no_course():
    figures = Page(page(language())).figures
    assert "plot-score0" in figures
    assert "plot-score1" not in figures


def test_samples_side_by_side_as_text():
    read = Page(page(language()))
    assert read.tags.count("article") == 7
    assert "<script>alert(1)</script>" in read.words
    assert "<b>no</b>" in read.words
    assert "judge says" in read.words
    assert "w" * 1501 not in read.words
    said = words(language())
    assert "7 prompts: edit similarity" in said
    assert "3 more" in said  # four are in sight
    assert "AnswersUnfinished16400.0130" in said


def test_no_samples_no_section():
    record = language()
    record |= {"samples": [], "generated": []}
    assert "samples" not in Page(page(record)).ids


def test_fidelity_in_a_sentence_and_a_table():
    said = words(language())
    assert (
        "The student finds the same token the likeliest as its teacher for 72.0 % of the tokens: 82.0 % where the teacher "
        "is right and 62.0 % where the teacher is wrong."
    ) in said
    for name in (
        "Jensen-Shannon divergence",
        "Total variation",
        "Same second choice",
        "Right where the teacher is wrong",
    ):
        assert said.count(name) == 1  # in this section only
    assert fidelity(records.regression()) == []
    assert fidelity({}) == []


def test_better_and_nearer_are_told_apart():
    cases = {
        ((3.1, 0.72), (3.4, 0.61)): "It is both better and more like its teacher than the same student trained alone",
        ((3.1, 0.60), (3.4, 0.61)): "but not more like its teacher: what it gained is not its teacher\u2019s way",
        ((3.4, 0.72), (3.1, 0.61)): "It is more like its teacher than the same student trained alone",
        ((3.4, 0.60), (3.1, 0.61)): "neither better nor more like its teacher than the same student trained alone",
    }
    for (student, alone), expected in cases.items():
        assert expected.replace("\u2019", "'") in words(language(student, alone))
    record = language()
    for each in record["models"]:
        for kind in ("scores", "agreement"):
            each[kind] = {name: found["values"][:1] for name, found in each[kind].items()}
    assert "one seed, so all this may be chance" in words(record)
    record["models"] = record["models"][:2]
    assert "trained alone, which" not in words(record)


def test_teacher_hacking_is_drawn_and_said():
    record = language()
    watched = record["monitor"]
    assert watched["alarm"]
    said = words(record)
    assert watched["sentence"] in said
    assert "to the held-out text (negative log-likelihood)" in said
    figures = Page(page(record)).figures
    over = figures["plot-monitor-steps"]
    assert (over["layout"]["xaxis"]["type"], over["layout"]["yaxis"]["type"]) == ("log", "log")
    assert over["data"][0]["x"] == watched["step"]
    assert over["data"][1]["y"] == pytest.approx(watched["golden"], rel=1e-5)
    turned = over["data"][-1]
    assert (turned["name"], turned["x"]) == ("turned here", [watched["finding"]["turned"]])
    path = figures["plot-monitor-path"]["data"][0]
    assert path["x"] == pytest.approx(watched["proxy"], rel=1e-5)
    assert path["customdata"] == watched["step"]
    assert watched["sentence"] in warning(watched)
    assert "KL to the teacher against negative log-likelihood, valid part" in warning(watched)
    calm = language() | {"monitor": monitor(hacks=False)}
    assert "No teacher hacking" in words(calm)
    assert "turned here" not in str(Page(page(calm)).figures)
    assert "monitor" not in Page(page({**language(), "monitor": None})).ids


def test_what_the_terminal_leaves_out_is_in_the_rows():
    student = table_rows(language())[1]
    assert student["top1_agreement_teacher_wrong"] is not None
    assert student["js_to_teacher"] is not None
    assert "confusion" not in Page(page(language())).ids
