"""Answers that are mended at their worst token: which one, by what, and what follows."""

import pytest
import torch
from torch import nn

from limbeck.data.generate import Answers, Sampling, answered, as_prompts, bare
from limbeck.data.generate_models import sampler_of
from limbeck.recipes import find
from limbeck.recipes.toy import toy_job
from limbeck.recipes.toy_language import END, SYMBOLS
from limbeck.tasks.causal_lm import CausalLM
from limbeck.teachers.base import as_teacher
from limbeck.training.execute import Runner
from limbeck.training.repair import repaired

TASK = CausalLM(lazy=False)


class After(nn.Module):
    """Next tokens by a table of the token before: {before: {next: logit}}; else `otherwise`."""

    def __init__(self, table, otherwise):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(SYMBOLS, SYMBOLS))
        with torch.no_grad():
            self.table[:, otherwise] = 5.0
            for before, nexts in table.items():
                self.table[before] = 0
                for token, logit in nexts.items():
                    self.table[before, token] = logit

    def forward(self, input_ids, attention_mask=None):
        return self.table[input_ids]


def mend(student, teacher, rows, answers, most=6):
    asked, sampling = as_prompts(rows), Sampling(most, greedy=True)
    sampler = sampler_of(student, TASK, [END])
    return repaired(asked, Answers.cut(answers, [END]), student, as_teacher(teacher), TASK, sampler, sampling, None, 0)


def test_the_worst_token_becomes_the_teachers_and_the_student_goes_on():
    """They differ after 3 (by little) and after 4 (by much); the student goes 3 4 5 end, the teacher takes 7 after 4."""
    student = After({3: {4: 5.0}, 4: {5: 9.0}, 5: {END: 5.0}, 7: {8: 5.0}, 8: {END: 5.0}}, END)
    teacher = After({3: {4: 4.5, 9: 5.0}, 4: {7: 9.0}}, END)
    found, mended = mend(student, teacher, [[2, 3], [6, 6, 3]], [[4, 5, END], [4, 5, END]])
    assert [row.tolist() for row in found.tokens] == [[4, 7, 8, END]] * 2
    assert found.finished.all()
    assert mended.all()


def test_where_the_teacher_would_stop_the_answer_stops():
    student = After({4: {5: 9.0}}, 5)
    found, _ = mend(student, After({4: {END: 9.0}}, 5), [[3, 4]], [[5, 5, 5, 5, 5, 5]])
    assert found.tokens[0].tolist() == [END]
    assert found.finished.tolist() == [True]


def test_an_answer_on_which_both_agree_stays():
    model = After({4: {5: 9.0}}, END)
    found, mended = mend(model, model, [[3, 4]], [[5, END]])
    assert found.tokens[0].tolist() == [5, END]
    assert not mended.any()


def test_a_mended_answer_is_no_longer_than_others():
    student, teacher = After({}, 5), After({5: {6: 9.0}}, 5)
    found, _ = mend(student, teacher, [[3, 4]], [[5, 5, 5, 5]], most=4)
    assert found.tokens[0].tolist() == [5, 6, 5, 5]
    assert not found.finished.any()
    one, _ = mend(student, After({4: {6: 9.0}}, 5), [[3, 4]], [[5]], most=1)
    assert one.tokens[0].tolist() == [6]


def test_the_worst_token_is_that_of_a_loop_over_tokens():
    job = toy_job(find("scrg"))
    student, teacher = job.student, job.teacher
    asked, sampling = as_prompts([[3, 4], [5, 2], [9, 9]]), Sampling(8)
    sampler = sampler_of(student, job.task, [END])
    numbers = sampling.numbers(3, torch.Generator().manual_seed(3))
    answers = sampler.generate(asked, sampling, numbers=numbers)
    found, mended = repaired(asked, answers, student, teacher, job.task, sampler, sampling, numbers, 0)
    for number, (prompt, answer) in enumerate(zip(bare(asked), answers.tokens, strict=True)):
        ids = torch.tensor([prompt + answer.tolist()])
        with torch.no_grad():
            q, p = (model(ids).logits[0].softmax(-1) for model in (student, teacher.module))
        best = None
        for place, token in enumerate(answer.tolist()):
            at = len(prompt) + place - 1
            if q[at].argmax() != p[at].argmax() and (best is None or q[at, token] - p[at, token] > best[0]):
                best = (q[at, token] - p[at, token], place, int(p[at].argmax()))
        assert bool(mended[number]) == (best is not None)
        if best is not None:
            assert found.tokens[number][: best[1] + 1].tolist() == [*answer[: best[1]].tolist(), best[2]]
    rows = answered(asked, found, padding=0)
    assert int(rows.counts.sum()) == int(found.sizes.sum())


def test_the_recipe_trains_on_mended_and_given_answers():
    recipe = find("scrg")
    job = toy_job(recipe, batch_size=8, steps=2)
    stage = recipe(job, max_new_tokens=6)
    runner = Runner(cpu=True)
    runner.run(stage)
    terms = next(record["terms"] for record in runner.metrics.records if "terms" in record)
    assert set(terms) == {"loss", "cross_entropy(given)", "learned_subset_kl", "span_correlation"}
    assert terms["loss"] == pytest.approx(sum(value for name, value in terms.items() if name != "loss"), rel=1e-5)
