"""Terms over tokens: against loops over texts without padding, in and out of the engine."""

import pytest
import torch

from limbeck import functional as f
from limbeck.errors import ArgumentError, SignalError
from limbeck.objectives import as_step, attention_kl, attention_mse, hidden_mse, relation_kl
from limbeck.objectives.algebra import Sum
from limbeck.objectives.tokens import tokens_of
from limbeck.signals.layers import Attention
from limbeck.signals.step import count_items

G = torch.Generator().manual_seed(0)
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 1, 1]])  # padding on either side
ONE, TWO = Attention("q1", "k1", "v1", 2), Attention("q2", "k2", "v2", 2)


def signals(width, mask=MASK, seed=0):
    draw = torch.Generator().manual_seed(seed)
    found = {
        name: torch.randn(3, 4, width, generator=draw) for name in ("q1", "k1", "v1", "q2", "k2", "v2", "h1", "h2")
    }
    return {**found, "#call": ((), {"attention_mask": mask})}


STUDENT, TEACHER = signals(4), signals(6, seed=1)
TERMS = {
    "attention_mse": lambda: attention_mse(student=[ONE, TWO], teacher=[TWO, ONE]),
    "attention_kl": lambda: attention_kl(student=[ONE, TWO], teacher=[TWO, ONE]),
    "relation_kl": lambda: relation_kl(student=["v1", "h1"], teacher=["v2", "h2"], heads=2),
    "hidden_mse": lambda: hidden_mse(student=["h1", "h2"], teacher=["h2", "h1"]),
}


def one_text(values, row):
    """The signals of one text without its padding."""
    kept = MASK[row].bool()
    found = {key: value[row : row + 1, kept] for key, value in values.items() if key != "#call"}
    return {**found, "#call": ((), {"attention_mask": None})}


@pytest.mark.parametrize("name", TERMS)
def test_a_batch_is_its_texts_one_by_one_without_padding(name):
    term = TERMS[name]().build(STUDENT, TEACHER)
    alone = [term.values(as_step(one_text(STUDENT, row), one_text(TEACHER, row))) for row in range(3)]
    torch.testing.assert_close(term.values(as_step(STUDENT, TEACHER)), torch.cat(alone))
    torch.testing.assert_close(term(STUDENT, TEACHER), torch.cat(alone).mean())
    assert term.additive


@pytest.mark.parametrize("name", TERMS)
def test_micro_batches_add_up(name):
    term = TERMS[name]().build(STUDENT, TEACHER)
    whole = as_step(STUDENT, TEACHER)
    total = 0.0
    for part in (slice(0, 1), slice(1, 3)):
        cut = [{k: v[part] for k, v in values.items() if k != "#call"} for values in (STUDENT, TEACHER)]
        cut[0]["#call"] = ((), {"attention_mask": MASK[part]})
        step = as_step(*cut)
        step.counts = count_items(whole.batch)
        total = total + term.evaluate(step)[0]
    torch.testing.assert_close(total, term.evaluate(whole)[0])


def test_layers_are_added_and_each_is_its_formula():
    step = as_step(STUDENT, TEACHER)

    def of(values, place):
        return f.attention_scores(values[place.query], values[place.key], 2)

    expected = sum(
        f.attention_mse(of(STUDENT, ours), of(TEACHER, theirs), tokens=MASK, reduction="none")
        for ours, theirs in ((ONE, TWO), (TWO, ONE))
    )
    torch.testing.assert_close(TERMS["attention_mse"]().values(step), expected)
    value = f.attention_scores(STUDENT["v1"], STUDENT["v1"], 4), f.attention_scores(TEACHER["v1"], TEACHER["v1"], 2)
    with pytest.raises(ArgumentError, match="head with head"):
        relation_kl(student=["v1"], teacher=["v1"], heads=(4, 2))
    assert value[0].shape[1] != value[1].shape[1]


def test_one_linear_map_for_all_hidden_states():
    term = TERMS["hidden_mse"]().build(STUDENT, TEACHER)
    assert term.projector.weight.shape == (6, 4)
    assert len(list(term.parameters())) == 2
    maps = [term.projector(STUDENT[name]) for name in ("h1", "h2")]
    expected = sum(
        f.hidden_mse(s, TEACHER[t], tokens=MASK, reduction="none") for s, t in zip(maps, ("h2", "h1"), strict=True)
    )
    torch.testing.assert_close(term.values(as_step(STUDENT, TEACHER)), expected)
    plain = hidden_mse(student=["h1"], teacher=["h2"], project=False)
    assert not list(plain.parameters())
    torch.testing.assert_close(
        plain.values(as_step(STUDENT, signals(4, seed=2))),
        f.hidden_mse(STUDENT["h1"], signals(4, seed=2)["h2"], tokens=MASK, reduction="none"),
    )
    with pytest.raises(SignalError, match=r"4 wide.*6.*project=True"):
        plain.values(as_step(STUDENT, TEACHER))
    with pytest.raises(SignalError, match="projector that does not exist yet"):
        list(TERMS["hidden_mse"]().parameters())


def test_only_the_student_learns_and_padding_gets_nothing():
    student = {key: value.clone().requires_grad_() if key != "#call" else value for key, value in STUDENT.items()}
    teacher = {key: value.clone().requires_grad_() if key != "#call" else value for key, value in TEACHER.items()}
    loss = Sum([pair for name in TERMS for pair in TERMS[name]().weighted()])
    loss.build(student, teacher)
    loss(student, teacher).backward()
    assert all(value.grad is None for key, value in teacher.items() if key != "#call")
    for key, value in student.items():
        if key not in ("#call", "v2"):
            assert value.grad[MASK == 0].abs().max() == 0
            assert value.grad[MASK == 1].abs().min(0).values.max() > 0


def test_half_precision_is_compared_in_full():
    half = [{k: v.bfloat16() if k != "#call" else v for k, v in values.items()} for values in (STUDENT, TEACHER)]
    term = TERMS["attention_kl"]()
    assert term(*half).dtype == torch.float32
    torch.testing.assert_close(term(*half), term(STUDENT, TEACHER), rtol=0.1, atol=0.02)


def test_what_cannot_be_compared():
    with pytest.raises(ArgumentError, match="2 places of the student and 1 of the teacher"):
        attention_kl(student=[ONE, TWO], teacher=[ONE])
    with pytest.raises(ArgumentError, match=r"3 heads in 'q1', the teacher 2.*encoder\(heads=2\)"):
        attention_mse(student=[ONE._replace(heads=3)], teacher=[ONE])
    with pytest.raises(SignalError, match="3 heads do not divide"):
        relation_kl(student=["v1"], teacher=["v1"], heads=3)(STUDENT, TEACHER)
    longer = {**TEACHER, "v1": torch.randn(3, 5, 6)}
    with pytest.raises(SignalError, match="one tokenizer"):
        relation_kl(student=["v1"], teacher=["v1"], heads=2)(STUDENT, longer)
    with pytest.raises(SignalError, match=r"attention_mask is \[3, 1, 4\]"):
        tokens_of(as_step({**STUDENT, "#call": ((), {"attention_mask": MASK[:, None]})}))


def test_it_says_what_it_compares():
    assert str(TERMS["hidden_mse"]()) == "hidden_mse(h1 > h2, h2 > h1, project=True)"
    assert str(TERMS["relation_kl"]()) == "relation_kl(v1 > v2, h1 > h2, heads=2)"
    assert str(TERMS["attention_mse"]()) == "attention_mse(q1 x k1 > q2 x k2, q2 x k2 > q1 x k1, heads=2)"
