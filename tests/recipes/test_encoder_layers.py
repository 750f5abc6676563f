"""Recipes for encoders of texts: their stages against the models' own outputs, what they need, and what they refuse."""

import pytest
import torch
import torch.nn.functional as F

from encoder_toys import TEXTS, job_of
from limbeck.errors import ArgumentError, LimbeckError, SignalError
from limbeck.functional import attention_scores
from limbeck.objectives import as_step
from limbeck.recipes import as_bound, find
from limbeck.recipes.toy import toy_job
from limbeck.recipes.toy_embedding import words_tokenizer
from limbeck.students.build import build_student, text_encoder
from limbeck.teachers.base import as_teacher
from limbeck.training.execute import Runner
from limbeck.training.general import general_part

TINY, MINI, MINI2, PKD, ERNIE = (find(name) for name in ("tinybert", "minilm", "minilm_v2", "pkd_bert", "ernie_tiny"))


def values_of(stage, job):
    """The terms of a stage's student on one padded batch, by the engine; and what both models give, unpadded, text by text."""
    part = job.data.parts["valid"]
    batch = part.batch(torch.arange(len(part)))
    learner = stage.learners["student"]
    learner.module.eval()
    taps = {role: [ref.tap for ref in learner.objective.needs() if ref.role == role] for role in ("self", "teacher")}
    with torch.no_grad():
        inputs = job.task.view(batch, learner.module, "student")
        mine = job.task.read(learner.module, inputs, taps["self"])
        theirs = stage.teachers["teacher"].read(batch, taps["teacher"], job.task)
        step = as_step(mine, theirs, batch)
        learner.objective.prepare(step)
        lengths = inputs["attention_mask"].sum(1).tolist()
        assert len(set(lengths)) > 1  # something is padded
        found = {term.name: term.values(step) for term in learner.objective.terms}
        outputs = []
        for row, length in zip(inputs["input_ids"], lengths, strict=True):
            models = []
            for model in (learner.module, stage.teachers["teacher"].module):
                model.set_attn_implementation("eager")
                models.append(model(row[None, :length], output_hidden_states=True, output_attentions=True))
            outputs.append(models)
    return learner.objective, found, outputs


def test_tinybert_inside():
    """Against the hidden states and attentions that the models return; scores up to what a softmax does not see."""
    job = job_of(TINY, width=8)
    stage = next(TINY(job))
    objective, found, outputs = values_of(stage, job)
    mapped = next(term for term in objective.terms if term.name == "hidden_mse").projector
    expected = []
    for student, teacher in outputs:
        pairs = [(student.hidden_states[i], teacher.hidden_states[2 * i]) for i in range(3)]
        with torch.no_grad():
            expected.append(sum(F.mse_loss(mapped(s), t) for s, t in pairs))
    torch.testing.assert_close(found["hidden_mse"], torch.stack(expected))
    scores = next(term for term in objective.terms if term.name == "attention_mse")
    assert [(ours.query, theirs.query) for ours, theirs in scores.pairs] == [
        (f"bert.encoder.layer.{i}.attention.self.query", f"bert.encoder.layer.{2 * i + 1}.attention.self.query")
        for i in range(2)
    ]
    assert found["attention_mse"].min() > 0


def test_tinybert_scores_are_those_before_the_softmax():
    job = job_of(TINY)
    objective, found, outputs = values_of(next(TINY(job)), job)
    looks = next(term for term in objective.terms if term.name == "attention_mse")
    part, total = job.data.parts["valid"], []
    for row, (student, teacher) in enumerate(outputs):
        batch = part.batch(torch.tensor([row]))
        value = 0.0
        for number, (ours, theirs) in enumerate(looks.pairs):
            scores = []
            for model, look, given in ((job.student, ours, student), (job.teacher.module, theirs, teacher)):
                with torch.no_grad():
                    read = job.task.read(model, job.task.view(batch, model, "x"), [look.query, look.key])
                scores.append(attention_scores(read[look.query], read[look.key], 2))
                own = given.attentions[number if model is job.student else 2 * number + 1]
                torch.testing.assert_close(scores[-1].softmax(-1), own)
            value += F.mse_loss(*scores)
        total.append(value)
    torch.testing.assert_close(found["attention_mse"], torch.stack(total))


def test_layers_are_named_by_patterns():
    job = job_of(TINY, width=8)
    stage = next(TINY(job, student_layers="bert.encoder.layer.*", teacher_layers="bert.encoder.layer.*"))
    assert str(stage.learners["student"].objective) == str(next(TINY(job)).learners["student"].objective)
    with pytest.raises(SignalError, match=r"Did you mean 'bert\.encoder\.layer\.\*'"):
        next(TINY(job, student_layers="encoder.layer.*"))


def test_a_layer_map_by_hand():
    stage = next(as_bound("tinybert", {"layers": [0, 3]})(job_of(TINY)))
    pairs = next(term for term in stage.learners["student"].objective.terms if term.name == "hidden_mse").pairs
    assert [theirs for _, theirs in pairs] == [f"bert.encoder.layer.{i}" for i in ("0#input", "0", "3")]
    with pytest.raises(ArgumentError, match="0 to 3, for each of the student's 2"):
        next(TINY(job_of(TINY), layers=[4, 4]))
    with pytest.raises(ArgumentError, match="cannot take layers"):
        as_bound("tinybert", {"layers": "every"})


def kl(p, q):
    return (p * (p / q).log()).sum(-1)


def relation(x, heads):
    return attention_scores(x, x, heads).softmax(-1)


def test_minilm_against_the_attention_of_the_models():
    job = job_of(MINI, width=8)
    objective, found, outputs = values_of(next(MINI(job)), job)
    expected = [kl(teacher.attentions[-1], student.attentions[-1]).mean() for student, teacher in outputs]
    torch.testing.assert_close(found["attention_kl"], torch.stack(expected), rtol=1e-3, atol=1e-6)
    (pair,) = next(term for term in objective.terms if term.name == "relation_kl").pairs
    assert [pair[0].query, pair[1].query] == [f"bert.encoder.layer.{i}.attention.self.value" for i in (1, 3)]


def test_minilm_v2_relations_of_any_heads():
    job = job_of(MINI2, width=8)
    job.student = text_encoder(4, words_tokenizer(), 2, 8, heads=1, ffn=32, max_length=32, dropout=0.0)
    stage = next(MINI2(job, relation_heads=4))
    objective, found, _ = values_of(stage, job)
    assert objective.terms[0].pairs[0][0].heads == 4
    part, expected = job.data.parts["valid"], []
    for row in range(len(part)):
        batch, value = part.batch(torch.tensor([row])), 0.0
        for kind in ("query", "key", "value"):
            read = []
            for model, layer in ((job.student, 1), (job.teacher.module, 3)):
                tap = f"bert.encoder.layer.{layer}.attention.self.{kind}"
                with torch.no_grad():
                    read.append(relation(job.task.read(model, job.task.view(batch, model, "x"), [tap])[tap], 4))
            value += kl(read[1], read[0]).mean()
        expected.append(value)
    torch.testing.assert_close(found["relation_kl"], torch.stack(expected), rtol=1e-3, atol=1e-6)
    assert (
        next(MINI2(job)).learners["student"].objective.terms[0].pairs[0][0].heads == 2
    )  # 8 and 16 wide, four or more each
    with pytest.raises(LimbeckError, match="5 heads do not divide"):
        Runner(cpu=True).stage(next(MINI2(job, relation_heads=5)))


def test_minilm_v2_takes_an_upper_middle_layer_of_deep_teachers():
    job = job_of(MINI2, teacher=16)
    theirs = next(MINI2(job)).learners["student"].objective.terms[0].pairs[0][1]
    assert theirs.query == "bert.encoder.layer.13.attention.self.query"  # layer 14 of 16, as 21 of 24
    theirs = next(MINI2(job, teacher_layer="bert.encoder.layer.2")).learners["student"].objective.terms[0].pairs[0][1]
    assert theirs.query.startswith("bert.encoder.layer.2.")


@pytest.mark.parametrize(("patience", "layers"), [("skip", [1, 3]), ("last", [3, 4])])
def test_pkd_in_closed_form(patience, layers):
    job = job_of(PKD, student=3, teacher=6)
    stage = PKD(job, patience=patience, alpha=0.3, beta=7.0, temperature=2.0)
    objective, _, outputs = values_of(stage, job)
    part = job.data.parts["valid"]
    total = 0.0
    for (student, teacher), label in zip(outputs, part.labels, strict=True):
        q, p = (x.logits / 2 for x in (student, teacher))
        soft = 4 * F.kl_div(q.log_softmax(-1), p.softmax(-1), reduction="batchmean")
        near = [
            F.mse_loss(
                *(F.normalize(x.hidden_states[n + 1][:, 0], dim=-1) for x, n in ((student, i), (teacher, layer)))
            )
            for i, layer in enumerate(layers)
        ]
        total += 0.7 * F.cross_entropy(student.logits, label[None]) + 0.3 * soft + 7 * sum(near) / 2
    batch = part.batch(torch.arange(len(part)))
    taps = [[ref.tap for ref in objective.needs() if ref.role == role] for role in ("self", "teacher")]
    with torch.no_grad():
        mine = job.task.read(job.student, job.task.view(batch, job.student, "student"), taps[0])
        theirs = stage.teachers["teacher"].read(batch, taps[1], job.task)
        torch.testing.assert_close(objective(mine, theirs, batch), total / len(part))


def test_a_cut_student_is_patient_at_once():
    """The first layers of the teacher as the student: what its first token is, is the teacher's in those layers."""
    job = job_of(PKD)
    job.student = build_student("shrink(depth=3)", teacher=job.teacher)
    objective, found, _ = values_of(PKD(job, patience="skip"), job)
    assert len(objective.terms) == 4
    assert float(found["feature_mse(bert.encoder.layer.0)"].max()) == pytest.approx(0, abs=1e-12)


def left():
    tokenizer = words_tokenizer()
    tokenizer.padding_side = "left"
    return tokenizer


@pytest.mark.parametrize(("recipe", "change", "said"), [
    (TINY, {"student": lambda: text_encoder(4, words_tokenizer(), 5, 16)}, "student has 5 layers and the teacher 4"),
    (TINY, {"student": lambda: text_encoder(4, words_tokenizer(), 2, 16, heads=4)}, r"head with head.*4 heads.*minilm_v2"),
    (MINI, {"student": lambda: text_encoder(4, words_tokenizer(), 2, 16, heads=4)}, "head with head"),
    (PKD, {"student": lambda: text_encoder(4, words_tokenizer(), 1, 16)}, "one layer"),
    (PKD, {"student": lambda: text_encoder(4, left(), 2, 16)}, "pads on the left"),
    (PKD, {"student": lambda: text_encoder(4, words_tokenizer(), 2, 8)}, "Put a learned projector"),
    (MINI2, {"teacher": lambda: lambda texts: torch.zeros(len(texts), 4)}, "looks inside the teacher"),
])  # fmt: skip
def test_models_that_do_not_fit(recipe, change, said):
    job = job_of(recipe)
    for role, make in change.items():
        setattr(job, role, as_teacher(make()) if role == "teacher" else make())
    with pytest.raises(LimbeckError, match=said):
        Runner(cpu=True).run(recipe(job))


@pytest.mark.parametrize("recipe", [TINY, MINI, MINI2, PKD, ERNIE])
def test_tokenizers_must_be_one(recipe):
    job = job_of(recipe)
    other = words_tokenizer()
    other.add_tokens(["new"])
    job.student = text_encoder(4, other, 2, 16)
    with pytest.raises(ArgumentError, match="different tokenizers"):
        Runner(cpu=True).run(recipe(job))


@pytest.mark.parametrize("recipe", [TINY, MINI, MINI2, ERNIE])
def test_models_without_layers_of_attention(recipe):
    job = toy_job()
    with pytest.raises(SignalError, match="No queries, keys and values"):
        Runner(cpu=True).run(recipe(job))
    with pytest.raises(ArgumentError, match="kind 'image'"):
        general_part(job, TEXTS)
