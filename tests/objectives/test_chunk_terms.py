"""Terms across tokenizers: values by hand, golden cases, lazy and whole logits, micro-batches, what is refused."""

import json

import numpy as np
import pytest
import torch

from limbeck import functional as f
from limbeck import objectives as o
from limbeck.data.base import Batch
from limbeck.data.shared import find_golden
from limbeck.errors import ArgumentError, DataError, SignalError
from limbeck.recipes import find
from limbeck.recipes.toy import toy_job
from limbeck.recipes.toy_language import spelling
from limbeck.signals.lazy import Lazy
from limbeck.training.execute import Runner
from toys import losses, weights


def case(dtype=torch.float64):
    """A batch of the toy and logits of both sides, without a padded matrix."""
    batch = spelling("train", 6, 3).batch(range(6))
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(*batch.labels.shape, 6, generator=generator, dtype=dtype, requires_grad=True)
    teacher = torch.randn(*batch.extra["twin"]["labels"].shape, 10, generator=generator, dtype=dtype)
    return batch, student, teacher


def by_hand(batch, student, teacher, population):
    """(log p_S, log p_T, teacher tokens) of every chunk that counts, token by token."""
    found = []
    for row in range(len(batch)):
        scores = []
        for side, logits, labels in (
            ("student", student, batch.labels),
            ("teacher", teacher, batch.extra["twin"]["labels"]),
        ):
            sums = {}
            for place, chunk in enumerate(batch.extra["chunks"][side][row].tolist()):
                if chunk >= 0:
                    if population == "word":
                        chunk = int(batch.extra["chunks"]["words"][row, chunk])
                    known = sums.setdefault(chunk, [0.0, 0])
                    known[0] = known[0] + logits[row, place].log_softmax(-1)[labels[row, place]]
                    known[1] += 1
            scores.append(sums)
        for chunk, counts in enumerate(batch.extra["populations"][population][row].tolist()):
            if counts:
                found.append((scores[0][chunk][0], scores[1][chunk][0], scores[1][chunk][1]))
    return found


@pytest.mark.parametrize(
    "measure", ["binary_kl", "binary_cross_entropy", "binary_reverse_kl", "rate_kl", "likelihood_gap"]
)
@pytest.mark.parametrize(("ends", "population"), [("bytes", "chunk"), ("space", "word")])
@pytest.mark.parametrize("weigh", ["chunks", "tokens"])
def test_likelihoods_of_chunks_by_hand(measure, ends, population, weigh):
    batch, student, teacher = case()
    term = o.chunk_likelihoods(measure, temperature=10.0, ends=ends, weigh=weigh)
    found = term(student, teacher, batch)
    chunks = by_hand(batch, student, teacher, population)
    options = {"temperature": 10.0} if measure.startswith("binary") else {}
    values = [getattr(f, measure)(s, t, **options) * (n if weigh == "tokens" else 1) for s, t, n in chunks]
    expected = sum(values) / (sum(n for *_, n in chunks) if weigh == "tokens" else len(chunks))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(loss, student)[0] for loss in (found, expected)))


@pytest.mark.parametrize(("ends", "population"), [("bytes", "chunk"), ("space", "word")])
def test_that_a_word_ends_there_is_part_of_a_chunk_by_hand(ends, population):
    batch, student, teacher = case()
    opens = {
        "student": torch.tensor([0, 1, 0, 0, 1, 0]) > 0,
        "teacher": torch.tensor([0, 1, 0, 0, 1, 0, 1, 0, 0, 0]) > 0,
    }
    batch.extra["chunks"]["opens"] = opens
    found = o.chunk_likelihoods(ends=ends, boundary=True)(student, teacher, batch)
    values = []
    for row in range(len(batch)):
        for chunk in batch.extra["populations"][population][row].nonzero()[:, 0].tolist():
            scores = []
            for side, logits, labels in (
                ("student", student, batch.labels),
                ("teacher", teacher, batch.extra["twin"]["labels"]),
            ):
                log_p, own = logits[row].log_softmax(-1), batch.extra["chunks"][side][row]
                inside = [k for k, c in enumerate(own.tolist()) if c >= 0 and chunk == (
                    c if ends == "bytes" else int(batch.extra["chunks"]["words"][row, c]))]  # fmt: skip
                score = sum(log_p[k, labels[row, k]] for k in inside)
                if int(labels[row, inside[0]]) != 1:  # the end, behind which nothing stands
                    score = score + log_p[inside[-1] + 1][opens[side]].logsumexp(-1)
                scores.append(score)
            values.append(f.binary_kl(*scores))
    torch.testing.assert_close(found, torch.stack(values).mean())
    torch.testing.assert_close(*(torch.autograd.grad(x, student)[0] for x in (found, torch.stack(values).mean())))


def test_a_chunk_that_a_side_does_not_predict_moves_nothing():
    batch, student, teacher = case()
    o.chunk_likelihoods()(student, teacher, batch).backward()
    for row in range(len(batch)):
        for place, chunk in enumerate(batch.extra["chunks"]["student"][row].tolist()):
            counts = chunk >= 0 and bool(batch.extra["populations"]["chunk"][row, chunk])
            assert bool(student.grad[row, place].any()) == counts


def lazy(logits, width=5):
    """Lazy logits that stand for a projection of other numbers, and the same whole."""
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(*logits.shape[:-1], width, generator=generator, dtype=logits.dtype, requires_grad=True)
    made = Lazy(hidden, torch.randn(logits.shape[-1], width, generator=generator, dtype=logits.dtype))
    return made, hidden


@pytest.mark.parametrize("make", [
    o.chunk_likelihoods, lambda: o.chunk_likelihoods(boundary=True), lambda: o.sorted_l1_by_index(block=4),
    lambda: o.sorted_l1_of_chunks(block=4),
])  # fmt: skip
def test_lazy_logits_give_what_whole_ones_do(make):
    batch, student, teacher = case()
    (mine, hidden), (theirs, _) = lazy(student), lazy(teacher)
    values = []
    for one, other in ((mine, theirs), (mine.whole(), theirs.whole())):
        loss = make()(one, other, batch)
        values.append((loss, *torch.autograd.grad(loss, hidden)))
    torch.testing.assert_close(*values)


def test_with_one_tokenizer_every_token_is_a_chunk():
    labels = torch.tensor([[1, 2, -100], [0, -100, -100]])
    student, teacher = torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 3, 4)
    batch = Batch(None, torch.arange(2), labels, extra={"mask": labels != -100})
    scores = [f.label_log_probabilities(logits, labels) for logits in (student, teacher)]
    expected = f.binary_kl(*scores, mask=labels != -100)
    torch.testing.assert_close(o.chunk_likelihoods()(student, teacher, batch), expected)


def test_sorted_probabilities_by_index_by_hand():
    batch, student, teacher = case()
    found = o.sorted_l1_by_index(student_temperature=2.0)(student, teacher, batch)
    samples = []
    for row in range(len(batch)):
        mine, theirs = (
            logits[row][labels[row] != -100]
            for logits, labels in ((student, batch.labels), (teacher, batch.extra["twin"]["labels"]))
        )
        count = min(len(mine), len(theirs))
        samples.append(f.sorted_l1(mine[:count], theirs[:count], student_temperature=2.0))
    torch.testing.assert_close(found, torch.stack(samples).mean())


@pytest.mark.parametrize("merge", ["observed", "bayesian"])
def test_sorted_probabilities_of_chunks_by_hand(merge):
    batch, student, teacher = case()
    found = o.sorted_l1_of_chunks(merge=merge)(student, teacher, batch)
    values = []
    for row in range(len(batch)):
        for chunk in batch.extra["populations"]["chunk"][row].nonzero()[:, 0].tolist():
            merged = []
            for side, logits, labels in (
                ("student", student, batch.labels),
                ("teacher", teacher, batch.extra["twin"]["labels"]),
            ):
                places = (batch.extra["chunks"][side][row] == chunk).nonzero()[:, 0].tolist()
                p = logits[row].softmax(-1)
                own = places[0] if merge == "observed" else places[-1]
                rest = [p[k, labels[row, k]] for k in places if k != own]
                merged.append(p[own] * torch.stack([torch.tensor(1.0, dtype=p.dtype), *rest]).prod())
            values.append(f.sorted_gap(*merged))
    torch.testing.assert_close(found, torch.stack(values).mean())
    torch.testing.assert_close(*(torch.autograd.grad(x, student)[0] for x in (found, torch.stack(values).mean())))


@pytest.mark.parametrize("name", ["alm", "uld"])
def test_micro_batches_add_up_to_the_batch(name):
    found = []
    for accumulate in (1, 4):
        job = toy_job(find(name), accumulate=accumulate, batch_size=12, best="last", schedule="constant")
        job.student.double()
        job.teacher.module.double()
        runner = Runner(cpu=True)
        runner.run(find(name)(job))
        found.append((losses(runner), weights(job.student)))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-9)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=0, atol=1e-9)


def test_misfits_are_named_before_training():
    with pytest.raises(ArgumentError, match=r"divergence='binary_k'. Did you mean 'binary_kl'"):
        o.chunk_likelihoods("binary_k")
    with pytest.raises(ArgumentError, match=r"ends='spaces'. Did you mean 'space'"):
        o.chunk_likelihoods(ends="spaces")
    batch, student, teacher = case()
    with pytest.raises(SignalError, match="next tokens as labels"):
        o.chunk_likelihoods()(student, teacher, Batch(None, batch.ids, extra=batch.extra))
    packed = Batch({"input_ids": None, "position_ids": None}, batch.ids, batch.labels, extra=batch.extra)
    with pytest.raises(SignalError, match="pack=False"):
        o.sorted_l1_by_index()(student, teacher, packed)
    one = Batch(None, batch.ids, batch.labels)
    with pytest.raises(SignalError, match="have one tokenizer"):
        o.sorted_l1_of_chunks()(student, student, one)
    with pytest.raises(ArgumentError, match=r"merge='observe'. Did you mean 'observed'"):
        o.sorted_l1_of_chunks(merge="observe")
    with pytest.raises(ArgumentError, match=r"student_temperature=0"):
        o.sorted_l1_by_index(student_temperature=0)
    job = toy_job(find("alm"))
    before = weights(job.student)
    with pytest.raises(SignalError, match=r"different tokenizers. Use a recipe that compares texts: alm, or uld"):
        Runner(cpu=True).run(find("lm_kd")(job))
    assert torch.equal(before, weights(job.student))


def test_terms_say_what_they_are():
    assert str(o.chunk_likelihoods()) == "chunk_likelihoods('binary_kl', temperature=100.0)"
    assert str(o.chunk_likelihoods("rate_kl", ends="space", weigh="tokens")) == (
        "chunk_likelihoods('rate_kl', ends='space', weigh='tokens')"
    )
    assert str(o.cross_entropy() + 1.5 * o.sorted_l1_by_index(teacher_temperature=2.0)) == (
        "cross_entropy() + 1.5 * sorted_l1_by_index(teacher_temperature=2)"
    )


@pytest.mark.shared_data
def test_uld_as_in_released_code():
    try:
        folder = find_golden()
    except DataError as missing:
        pytest.skip(str(missing))
    index = json.loads((folder / "index.json").read_text())["language-models"]["uld"]
    case = {key: torch.from_numpy(value) for key, value in np.load(folder / index["file"]).items()}

    def shifted(labels):  # row i predicts the token i + 1
        return torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], -100)], 1)

    student = case["in_student_logits"].double().requires_grad_()
    batch = Batch(None, torch.arange(len(student)), shifted(case["in_student_labels"]),
                  extra={"twin": {"labels": shifted(case["in_teacher_labels"])}})  # fmt: skip
    loss = o.sorted_l1_by_index()(student, case["in_teacher_logits"].double(), batch)
    assert float(loss.detach()) == pytest.approx(float(case["out_loss"]), rel=1e-6)
    loss.backward()
    torch.testing.assert_close(student.grad, case["grad_student_logits"].double(), rtol=1e-4, atol=1e-8)
