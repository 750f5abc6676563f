"""Trans-Encoder: two kinds of model that label pairs for each other."""

import copy

import numpy as np
import pytest
import torch

import limbeck as lb
from embedding_toys import TEXTS, encoder, same
from limbeck import functional as f
from limbeck.data.rankings import load_rankings
from limbeck.errors import ArgumentError
from limbeck.recipes import find
from limbeck.recipes.toy import toy_job
from limbeck.students.rankers import CrossRanker, VectorRanker, ranker
from limbeck.tasks import resolve
from limbeck.training.execute import Runner

RECIPE = find("trans_encoder")
PAIRS = [{"sentence1": TEXTS[i], "sentence2": TEXTS[(5 * i + 1) % len(TEXTS)]} for i in range(24)]


def test_soft_cross_entropy_by_loops():
    draw = torch.Generator().manual_seed(0)
    z, t = torch.randn(3, 2, generator=draw, dtype=torch.float64), torch.rand(3, 2, generator=draw, dtype=torch.float64)
    z.requires_grad_()
    expected = np.zeros(3)
    for row in range(3):
        for place in range(2):
            p = 1 / (1 + np.exp(-z[row, place].item()))
            expected[row] -= (float(t[row, place]) * np.log(p) + (1 - float(t[row, place])) * np.log(1 - p)) / 2
    found = f.soft_binary_cross_entropy(z, t, reduction="none")
    same(found.detach(), torch.from_numpy(expected), 1e-12)
    found.sum().backward()
    same(z.grad, (z.detach().sigmoid() - t) / 2, 1e-12)
    assert torch.isfinite(f.soft_binary_cross_entropy(torch.tensor([[200.0, -200.0]]), torch.tensor([[1.0, 0.0]])))


def stages(job, **arguments):
    """The stages of a run, each with the weights that its model began with, and the results."""
    plan, found, result, runner = RECIPE(job, **arguments), [], None, Runner(cpu=True)
    while True:
        try:
            stage = plan.send(result)
        except StopIteration:
            return found, result
        model = stage.learners["student"].module
        found.append((stage, copy.deepcopy(model)))
        result = runner.stage(stage)


def test_each_learns_what_the_other_says():
    job = toy_job(RECIPE, epochs=2, steps=None)
    start = copy.deepcopy(job.student)
    found, result = stages(job, cycles=2)
    assert [stage.name for stage, _ in found] == ["cross 1", "bi 1", "cross 2", "bi 2"]
    assert [stage.settings.epochs for stage, _ in found] == [1, 2, 1, 2]
    part, task = job.data.train, job.task
    cosines = task.scored(start, part).clamp(0, 1).reshape(-1, 1)
    first, second = found[0][0], found[1][0]
    same(first.source.part.scores, torch.cat([cosines, cosines]))
    assert first.source.part.queries[-1] == part.documents[-1][-1]  # turned round
    cross = first.learners["student"].module
    assert isinstance(cross, CrossRanker)
    same(second.source.part.scores, task.scored(cross, part).sigmoid().reshape(-1, 1))
    third = found[2][0]
    same(
        third.source.part.scores[: len(cosines)],
        task.scored(found[1][0].learners["student"].module, part).clamp(0, 1).reshape(-1, 1),
    )
    for _, began in found:  # each from the student's first weights
        for name, value in start.encoder.body.state_dict().items():
            same(began.encoder.body.state_dict()[name], value, 0)
    assert isinstance(result.student, VectorRanker)
    assert float(result.student.log_scale) == 0
    same(job.student.encoder.body.state_dict()["embeddings.word_embeddings.weight"],
         start.encoder.body.state_dict()["embeddings.word_embeddings.weight"], 0)  # fmt: skip


def test_weights_may_be_handed_on():
    found, _ = stages(toy_job(RECIPE, steps=2), cycles=1, inherit=True)
    handed = found[0][0].learners["student"].module.encoder.body.state_dict()
    for name, value in found[1][1].encoder.body.state_dict().items():
        same(value, handed[name], 0)


def test_two_models_label_together():
    job = toy_job(RECIPE, steps=2)
    peer = encoder(seed=3)
    found, result = stages(job, cycles=1, peer=peer, ends="cross")
    assert [stage.name for stage, _ in found] == ["cross 1, model 1", "cross 1, model 2"]
    both = [job.task.scored(model, job.data.train).clamp(0, 1) for model in (ranker("cosine", peer), job.student)]
    same(found[0][0].source.part.scores[: 3 * len(job.data.train)], (sum(both) / 2).reshape(-1, 1))
    assert isinstance(result.student, CrossRanker)
    size = result.student.encoder.body.config.vocab_size
    assert size == job.student.encoder.body.config.vocab_size  # the student's, not the peer's, comes last


def test_it_is_run_saved_and_measured(tmp_path):
    pandas = pytest.importorskip("pandas")
    judged = pandas.DataFrame({
        "sentence1": TEXTS[:12], "sentence2": TEXTS[12:24], "score": [float(i % 5) for i in range(12)]
    })  # fmt: skip
    run = lb.distill("trans_encoder", student=ranker("cosine", encoder()), data=PAIRS, sts=judged, test=6, cycles=1, epochs=1,
                     batch_size=8, progress=False, out=tmp_path / "run")  # fmt: skip
    scores = run.record["models"][-1]["scores"]
    assert set(scores) == {"spearman"}
    again = lb.load_model(tmp_path / "run" / "student")
    part = load_rankings(PAIRS, test=0).train
    same(resolve("ranking").scored(again, part), resolve("ranking").scored(run.student, part))


def test_other_students_are_refused():
    for student in (ranker("dot", encoder()), ranker("cross", encoder())):
        with pytest.raises(ArgumentError, match="ranker:cosine"):
            lb.distill("trans_encoder", student=student, data=PAIRS, test=6, steps=1, progress=False)
    with pytest.raises(ArgumentError, match="cycles=0"):
        lb.distill("trans_encoder", student=ranker("cosine", encoder()), data=PAIRS, test=6, cycles=0, progress=False)
