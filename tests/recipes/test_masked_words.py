"""Masked language models as teachers: what is left out, the three losses, what the student begins with and ends as."""

import pytest
import torch
from transformers import BertForMaskedLM

import limbeck as lb
from limbeck.data.base import Batch
from limbeck.errors import ArgumentError
from limbeck.functional import forward_kl
from limbeck.objectives.masked_words import mean_log_probabilities
from limbeck.recipes import find
from limbeck.recipes.toy import toy_job
from limbeck.recipes.toy_embedding import encoder_toy, words_tokenizer
from limbeck.signals.step import Step
from limbeck.students.bert import bert_config
from limbeck.students.build import text_encoder
from limbeck.students.declare import seeded
from limbeck.tasks.text import tokenize
from limbeck.training.execute import Runner
from limbeck.training.job import Job
from limbeck.training.masked_words import Masking, masked_stage

ROMANIAN = find("romanian_bert")


def tokenizer():
    made = words_tokenizer()
    made.add_special_tokens({"mask_token": "[MASK]"})
    return made


def teachers(count=2, layers=4):
    found = []
    for seed in range(count):
        words = tokenizer()
        with seeded(seed):
            found.append(BertForMaskedLM(bert_config(words, layers, 16, 2, 32, 32, 0.0)).eval())
        found[-1].tokenizer = words
    return found


def masked_job(**settings):
    job = toy_job(find("tinybert"), **settings)
    with seeded(5):
        student = text_encoder(4, tokenizer(), 2, 16, heads=2, ffn=32, max_length=32, dropout=0.0)
    return Job(job.task, job.data, student, None, job.settings)


def test_a_share_of_the_words_is_left_out_and_no_special_token():
    job = masked_job()
    texts = [" ".join(job.data.train.texts)[:100]] * 400
    found = Masking(job.student, 0.15).of(Batch(texts, torch.arange(400)), Step(None, seed=1))
    out, ids = found["left_out"], found["labels"]
    words = found["attention_mask"].bool() & ~torch.isin(ids, torch.tensor(job.student.tokenizer.all_special_ids))
    assert not (out & ~words).any()
    assert out.any(1).all()
    assert torch.equal(found["input_ids"][~out], ids[~out])
    mask = job.student.tokenizer.mask_token_id
    assert float(out.sum() / words.sum()) == pytest.approx(0.16, abs=0.02)  # a little more: at least one of each text
    assert float((found["input_ids"][out] == mask).double().mean()) == pytest.approx(0.8, abs=0.03)


def test_the_target_is_the_mean_of_probabilities_and_alike_models_have_no_loss():
    a, b = torch.randn(2, 3, 5, dtype=torch.double).unbind()
    mean = 0.5 * ((a / 2).softmax(-1) + (b / 2).softmax(-1))
    torch.testing.assert_close(mean_log_probabilities([a, b], 2.0).exp(), mean)
    # the reference: sum p log p / q of the mean, times T^2
    student = torch.randn(3, 5, dtype=torch.double)
    expected = 4 * (mean * (mean.log() - (student / 2).log_softmax(-1))).sum(-1)
    target = 2 * mean_log_probabilities([a, b], 2.0)
    torch.testing.assert_close(forward_kl(student, target, temperature=2.0, reduction="none"), expected)


def test_a_student_that_is_its_teacher_begins_without_loss_but_for_the_words():
    job, (teacher,) = masked_job(steps=1), teachers(1, layers=2)
    stage = next(ROMANIAN(job, teachers=teacher))
    runner = Runner(cpu=True)
    runner.stage(stage)
    terms = next(r["terms"] for r in runner.metrics.records if "terms" in r)
    assert terms["masked_kl"] == pytest.approx(0, abs=1e-5)
    assert terms["masked_cosine"] == pytest.approx(0, abs=1e-5)
    assert terms["masked_words"] > 1
    assert terms["loss"] == pytest.approx(2 * terms["masked_words"], rel=1e-4)


def test_it_begins_evenly_learns_from_the_mean_and_is_saved_as_a_classifier():
    job, both = masked_job(steps=40), teachers()
    names = set(job.student.state_dict())
    masked_stage(job, both, 0.15, begin=True)
    for ours, theirs in ((0, 0), (1, 3)):
        mine = job.student.get_submodule(job.layers("student")[ours]).state_dict()
        other = both[0].bert.encoder.layer[theirs].state_dict()
        assert all(torch.equal(mine[key], other[key]) for key in other)
    runner = Runner(cpu=True)
    before = [value.clone() for value in both[0].state_dict().values()]
    result = runner.run(ROMANIAN(job, teachers=both, before=0.75))
    assert [stage.settings.steps for stage in runner.stages] == [30, 10]
    assert set(result.student.state_dict()) == names
    assert all(torch.equal(one, other) for one, other in zip(before, both[0].state_dict().values()))
    runner, job = Runner(cpu=True), masked_job(steps=60)
    runner.stage(next(ROMANIAN(job, teachers=both, before=0.9, hard=0.0, begin=False)))
    for name in ("masked_kl", "masked_cosine"):
        found = [r["terms"][name] for r in runner.metrics.records if name in r.get("terms", {})]
        assert found[-1] < 0.8 * found[0]


def test_folders_teach_and_the_saved_student_is_a_plain_classifier(tmp_path):
    for number, module in enumerate(teachers()):
        module.save_pretrained(tmp_path / f"words{number}")
        module.tokenizer.save_pretrained(tmp_path / f"words{number}")
    job = masked_job()
    folders = [str(tmp_path / f"words{number}") for number in range(2)]
    given = {
        "data": job.data,
        "student": job.student,
        "teachers": folders,
        "steps": 6,
        "batch_size": 8,
        "measure": False,
    }
    run = lb.distill("romanian_bert", out=tmp_path / "run", checkpoint_every=1, progress=False, **given)
    again = lb.load_model(str(tmp_path / "run"))
    assert set(again.state_dict()) == set(job.student.state_dict())
    texts = job.data.parts["valid"].texts
    inputs = tokenize(run.student, texts)
    torch.testing.assert_close(again(**inputs).logits, run.student.eval()(**inputs).logits)


@pytest.mark.parametrize(("arguments", "match"), [
    ({"teachers": []}, "empty"), ({"rate": 1.0}, "rate=1"), ({"soft": -1.0}, "soft=-1"), ({"teachers": 3}, "teachers=3"),
])  # fmt: skip
def test_what_is_wrong_is_said(arguments, match):
    with pytest.raises(ArgumentError, match=match):
        next(ROMANIAN(masked_job(), **{"teachers": teachers(1), **arguments}))


def test_one_tokenizer_with_a_mask_is_needed():
    data, student, _ = encoder_toy()
    job = masked_job()
    with pytest.raises(ArgumentError, match="one tokenizer"):
        next(ROMANIAN(Job(job.task, data, student, None, job.settings), teachers=teachers(1)))
    with pytest.raises(ArgumentError, match="of kind 'image'"):
        next(ROMANIAN(toy_job(ROMANIAN), teachers=teachers(1)))
