"""Pairs whose rejected answers are a model's own."""

import torch

from limbeck.data.generate import Sampling
from limbeck.data.generate_pairs import answered_pairs
from limbeck.recipes.toy_language import END, TinyLM, miscounting
from limbeck.students.declare import seeded
from limbeck.tasks.causal_lm import CausalLM

PART, TASK = miscounting("train", 7, 0, first=3), CausalLM()
with seeded(0):
    MODEL = TinyLM()


def make(seed=0, batch_size=64, sampling=Sampling(max_new_tokens=9)):  # noqa: B008
    return answered_pairs(PART, MODEL, TASK, sampling, seed=seed, batch_size=batch_size)


def test_chosen_answers_stay_and_rejected_ones_are_the_model_s():
    made = make(sampling=Sampling(max_new_tokens=9, greedy=True))
    for pair in range(7):
        assert torch.equal(made.rows.document(2 * pair), PART.rows.document(2 * pair))
        text = PART.rows.document(2 * pair)[
            :2
        ].tolist()  # by hand: the likeliest token after the prompt, again and again
        while len(text) < 11 and text[-1] != END:
            with torch.no_grad():
                text.append(int(MODEL(torch.tensor([text])).logits[0, -1].argmax()))
        assert made.rows.document(2 * pair + 1).tolist() == text
    batch, before = made.batch([0, 4]), PART.batch([0, 4])
    assert torch.equal(batch.ids, before.ids)
    assert torch.equal(batch.extra["pair"], before.extra["pair"])
    assert torch.equal(batch.labels[::2, :7], before.labels[::2])
    own = made.rows.document(1)
    assert (
        batch.labels[1, 1 : len(own) - 1].tolist() == own[2:].tolist()
    )  # all of the answer is predicted, the prompt not
    assert int(batch.labels[1, 0]) == -100


def test_the_seed_alone_decides():
    one, again, other = make(), make(), make(seed=1)
    assert torch.equal(one.rows.tokens, again.rows.tokens)
    assert one.rows.tokens.tolist() != other.rows.tokens.tolist()
    assert torch.is_grad_enabled() and MODEL.training


def test_the_batches_make_no_difference():
    assert torch.equal(make(batch_size=3).rows.tokens, make().rows.tokens)
