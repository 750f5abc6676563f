"""DistillNearest and DistillWeighted: similarities against other derivations, what is trained of which rows, what is saved."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.decomposition import PCA

import limbeck as lb
from goldens import load
from limbeck import functional as f
from limbeck.errors import ArgumentError, ModelError
from limbeck.recipes import find
from limbeck.recipes.toy import toy_job
from limbeck.students.build import cnn
from limbeck.students.declare import seeded
from limbeck.training.execute import Runner
from limbeck.training.similar import SourceModel, load_sources, weigh

WEIGHTED, NEAREST = find("distill_weighted"), find("distill_nearest")


def sources():
    with seeded(1):
        return {"three": cnn(1, 3, width=4, depth=1, size=8), "seven": cnn(1, 7, width=6, depth=1, size=8)}


@pytest.mark.shared_data
def test_similarities_are_those_of_the_golden_case():
    case = load("classifiers", "task_similarity")
    assert f.parc(case["in_features"], case["in_labels"], dimensions=None) == pytest.approx(float(case["out_parc"]))
    assert f.leep(case["in_source_probs"], case["in_labels"]) == pytest.approx(float(case["out_leep"]))


def test_parc_of_principal_components_against_scikit_learn_and_scipy():
    draw = np.random.default_rng(0)
    labels = draw.integers(3, size=20)
    features = draw.normal(size=(20, 9)) + 2 * labels[:, None] * draw.normal(size=9)
    reduced = PCA(4, svd_solver="full").fit_transform(features)
    reduced = reduced / reduced.std(0)
    upper = np.triu_indices(20, 1)
    hot = np.eye(3)[labels]
    apart = np.round(1 - np.corrcoef(hot), 9)[upper]  # rounding apart, equal labels are equally far
    expected = 100 * spearmanr((1 - np.corrcoef(reduced))[upper], apart)[0]
    assert f.parc(torch.tensor(features), torch.tensor(labels), dimensions=4) == pytest.approx(expected)


def test_leep_against_loops_and_its_limits():
    draw = torch.Generator().manual_seed(0)
    p, y = torch.rand(12, 4, generator=draw).softmax(-1), torch.arange(12) % 3
    total = 0.0
    for i in range(12):
        likelihood = 0.0
        for z in range(4):
            joint = sum(float(p[k, z]) for k in range(12) if y[k] == y[i])
            likelihood += joint / sum(float(p[k, z]) for k in range(12)) * float(p[i, z])
        total += math.log(likelihood)
    assert f.leep(p, y) == pytest.approx(total / 12)
    assert f.leep(torch.eye(3)[y], y) == pytest.approx(0)  # a source that knows our classes
    assert f.leep(torch.full((12, 4), 0.25), y) == pytest.approx(-math.log(3))  # one that says nothing


def test_a_bootstrap_leaves_out_a_sample_beside_itself():
    features, labels = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2
    twice = torch.arange(8).repeat(2)
    once = f.parc(features, labels, dimensions=None)
    assert f.parc(features[twice], labels[twice], dimensions=None) != pytest.approx(once, abs=1)
    # each pair of two samples now stands there four times, which moves no rank
    doubled = f.parc(features[twice], labels[twice], dimensions=None, samples=twice)
    assert doubled == pytest.approx(once, abs=0.1)  # but for equal distances that rounding tells apart
    low, high = f.bootstrap_interval(lambda at: float(at.double().mean()), 400, draws=300)
    error = 1.96 * 400 / 12**0.5 / 20  # of the mean of 400 places, evenly spread
    assert (low, high) == pytest.approx((199.5 - error, 199.5 + error), abs=3)


def test_weights():
    def weights(similarities, how, power):
        found = [SourceModel(str(number), None, value) for number, value in enumerate(similarities)]
        weigh(found, how, power)
        return [source.weight for source in found]

    assert weights([20.0, -5.0, 10.0], "parc", 2) == pytest.approx([0.8, 0, 0.2])
    assert weights([20.0, -5.0, 10.0], "parc", None) == [1, 0, 0]
    assert weights([-20.0, -5.0], "parc", 2) == [0, 1]  # none is near: the nearest
    assert weights([math.log(0.5), math.log(0.25)], "leep", 1) == pytest.approx([2 / 3, 1 / 3])


def test_its_loss_is_that_of_labelled_rows_and_of_unlabelled_ones():
    job = toy_job(WEIGHTED, steps=1)
    stage = WEIGHTED(job, sources=sources(), similarity="leep", power=1.0, hard=0.5)
    assert stage.source.labelled == 8
    runner = Runner(cpu=True)
    terms = stage.learners["student"].objective
    runner.stage(stage)
    record = next(r["terms"] for r in runner.metrics.records if "terms" in r)
    assert {name.split("(")[1].rstrip(")") for name in terms.names if "source" in name} == {"three", "seven"}
    batch = stage.source.micro_batches(0)[0]
    unknown = batch.labels == -100
    assert torch.equal(batch.extra["unlabelled"], unknown)
    # heads at the student's features, of the sources' classes, learn outside the student
    heads = [term.projector.weight.shape[0] for term in terms.terms if getattr(term, "projector", None) is not None]
    assert heads == [3, 7]
    weights = [float(weight(0.0)[0]) for weight, _ in terms.weighted()]
    assert weights[0] == 0.5
    assert sum(weights[1:]) == pytest.approx(0.5)
    assert record["loss"] == pytest.approx(sum(w * record[n] for w, n in zip(weights, terms.names)), rel=1e-5)


def test_a_run_with_sources_of_other_classes_saves_the_plain_student(tmp_path):
    inputs = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = (inputs.mean((1, 2, 3)) > 0.5).long()
    run = lb.distill("distill_nearest", data=(inputs.numpy(), labels.numpy()), student="cnn:4", sources=sources(), steps=3,
                     batch_size=8, labelled=20, out=tmp_path / "run", measure=False, progress=False)  # fmt: skip
    told = [text for text in run.record["warnings"] if text.startswith("Similarity of the sources by PARC")]
    assert len(told) == 1
    assert "three" in told[0]
    assert "95 % interval" in told[0]
    again = lb.load_model(str(tmp_path / "run"))
    plain = cnn(1, 2, width=4, size=8)
    assert set(again.state_dict()) == set(run.student.state_dict())
    assert not any("projector" in name for name in run.student.state_dict())
    assert type(run.student) is type(plain)


@pytest.mark.parametrize(("arguments", "match"), [
    ({"sources": []}, "empty"),
    ({"sources": {"a": lambda x: x}}, "its features are read"),
    ({"hard": 1.0}, "share between 0 and 1"),
    ({"power": 0.0}, "above 0"),
])  # fmt: skip
def test_what_is_wrong_is_said(arguments, match):
    with pytest.raises(ArgumentError, match=match):
        WEIGHTED(toy_job(WEIGHTED), **arguments)


def test_a_source_that_cannot_read_the_data_is_named():
    with pytest.raises(ModelError, match="source 'wide' does not take"):
        load_sources(toy_job(WEIGHTED), {"wide": cnn(3, 4, width=4, depth=1, size=8)})
    job = toy_job(NEAREST)
    job.teacher = None
    NEAREST(job)
    assert any("labels alone" in text for text in job.warnings)
