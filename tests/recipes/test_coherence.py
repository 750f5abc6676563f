"""QuantiDCE: levels of candidates, then a few ratings, with a frozen copy against forgetting."""

import copy

import numpy as np
import pytest
import torch

import limbeck as lb
from embedding_toys import TEXTS, encoder, same
from goldens import load
from limbeck import functional as f
from limbeck.data.rankings import read_ratings
from limbeck.errors import ArgumentError, DataError
from limbeck.recipes import find
from limbeck.recipes.toy import toy_job
from limbeck.students.rankers import ranker
from limbeck.students.save import load_module
from limbeck.training.execute import Runner

RECIPE = find("quanti_dce")
ROWS = [{"query": TEXTS[i], "documents": [TEXTS[(i + step) % 48] for step in (1, 5, 9, 14, 20, 31)]} for i in range(24)]
RATED = [{"sentence1": TEXTS[i], "sentence2": TEXTS[(5 * i + 1) % 48], "score": 1.0 + i % 5} for i in range(20)]


def by_loops(x, levels, lower, upper):
    size, total = x.shape[1] // levels, np.zeros(len(x))
    for row in range(len(x)):
        groups = [x[row, size * i : size * (i + 1)] for i in range(levels)]
        c = [group.mean() for group in groups]
        for i in range(levels):
            total[row] += max(0, np.mean([abs(v - c[i]) for v in groups[i]]) - upper)
            for j in range(i + 1, levels):
                total[row] += max(0, lower * (j - i) - abs(c[i] - c[j])) + max(0, abs(c[j]) - abs(c[i]))
    return total


@pytest.mark.parametrize(("levels", "lower", "upper"), [(3, 0.3, 0.1), (2, 0.5, 0.0), (6, 0.1, 0.05)])
def test_levels_by_loops(levels, lower, upper):
    x = torch.rand(5, 6, generator=torch.Generator().manual_seed(levels), dtype=torch.float64).requires_grad_()
    found = f.multi_level_ranking(x, levels=levels, lower=lower, upper=upper, reduction="none")
    same(found.detach(), torch.from_numpy(by_loops(x.detach().numpy(), levels, lower, upper)), 1e-12)
    assert torch.autograd.gradcheck(lambda v: f.multi_level_ranking(v, levels=levels, lower=lower, upper=upper), x)
    apart = torch.tensor([[0.95, 0.95, 0.6, 0.6, 0.1, 0.1]])
    assert float(f.multi_level_ranking(apart)) == 0
    with pytest.raises(ArgumentError, match="do not fall into levels=4"):
        f.multi_level_ranking(x, levels=4)


@pytest.mark.shared_data
def test_levels_and_ratings_as_published():
    case = load("embeddings-graphs-datasets", "quanti_dce_mlr")
    levels = [value for key, value in sorted(case.items()) if key.startswith("in_")]
    scores = torch.cat([level[..., 0].T for level in levels], 1).double()  # [batch, levels x responses]
    parts = sum(float(case[key]) for key in case if key.startswith("out_") and key != "out_loss")
    expected = float(case["out_loss"]) if "out_loss" in case else parts
    assert float(f.multi_level_ranking(scores, levels=len(levels))) == pytest.approx(expected, rel=1e-5)


def test_ratings_by_hand():
    z, r = torch.tensor([[0.0, 2.0]]), torch.tensor([[3.0, 5.0]])
    s = 1 / (1 + np.exp(-2.0))
    assert float(f.rating_mse(z, r)) == pytest.approx(((1 + 4 * s) - 5) ** 2 / 2)
    assert float(f.rating_mse(z, r, low=0, high=10)) == pytest.approx(((5 - 3) ** 2 + (10 * s - 5) ** 2) / 2)


@pytest.mark.parametrize("kind", ["cross", "mlp"])
def test_the_frozen_copy_stands_still_and_both_stages_learn(kind):
    job = toy_job(RECIPE, steps=30, learning_rate=1e-2)
    if kind == "mlp":
        job.student = ranker("mlp", encoder())
    frozen = copy.deepcopy(job.student.encoder.state_dict())
    runner, result, stages = Runner(cpu=True), None, []
    plan = RECIPE(job, ratings=RATED, rating_epochs=10, rating_rate=1.0)
    while True:
        try:
            stage = plan.send(result)
        except StopIteration:
            break
        stages.append(stage)
        teacher = stage.roles.get("teacher")
        before = None if teacher is None else copy.deepcopy(teacher.module.state_dict())
        result = runner.stage(stage)
        if teacher is not None:
            for name, value in teacher.module.state_dict().items():
                same(value, before[name], 0)
            assert teacher.module is not result.student
            assert not teacher.module.training
    assert [stage.name for stage in stages] == ["levels", "ratings"]
    assert len(stages[1].source.part) == len(RATED)
    if kind == "mlp":
        for name, value in result.student.encoder.state_dict().items():
            same(value, frozen[name], 0)
    for number in range(2):
        losses = [
            each["terms"]["loss"] for each in runner.metrics.records if "terms" in each and each["stage"] == number
        ]
        assert min(losses[-3:]) < losses[0]


def test_a_frozen_encoder_reads_a_text_once(tmp_path, monkeypatch):
    module = ranker("mlp", encoder()).eval()
    found = module(**module.prepare(TEXTS[:2], TEXTS[2:8]))["scores"]
    monkeypatch.setattr(module.encoder, "forward", None)  # what is remembered is not read again
    same(module(**module.prepare(TEXTS[:2], TEXTS[2:8]))["scores"], found, 0)
    vectors = encoder().eval()
    with torch.no_grad():
        u, v = (vectors.read([TEXTS[i]])[0] for i in (1, 6))
        same(module.head(torch.cat([u, v, (u - v).abs(), u * v]))[0], found[1, 1], 1e-5)
    run = lb.distill("quanti_dce", student=ranker("mlp", encoder()), data=ROWS, ratings=RATED, test=4, steps=3, rating_epochs=1,
                     progress=False, measure=False, out=tmp_path / "run")  # fmt: skip
    again = load_module(tmp_path / "run" / "student")
    same(
        again(**again.prepare(TEXTS[:1], TEXTS[3:4]))["scores"],
        run.student(**run.student.prepare(TEXTS[:1], TEXTS[3:4]))["scores"],
    )


def test_what_does_not_fit_is_said():
    options = {"data": ROWS, "test": 4, "steps": 1, "progress": False}
    with pytest.raises(ArgumentError, match="ranker:cross,FOLDER"):
        lb.distill("quanti_dce", student=ranker("dot", encoder()), **options)
    with pytest.raises(ArgumentError, match="do not fall into levels=4"):
        lb.distill("quanti_dce", student=ranker("cross", encoder()), levels=4, **options)
    for rows, match in (([{"query": "a", "positive": "b"}], "a rating for each pair"),
                        ([{"query": "a", "positive": "b", "rating": 7}], "1 of 1 ratings .* beyond 1 to 5"),
                        ([{"query": "a", "positive": "b", "rating": None}], "expected 1 numbers")):  # fmt: skip
        with pytest.raises(DataError, match=match):
            read_ratings(rows, 1, 5)
