"""A teacher that is known by its top k walks as the logits do that it stands for, which are made for a few tokens only."""

from __future__ import annotations

import pytest
import torch
from lazy_toys import Spy, memory_of, relative
from torch import Tensor, nn

from limbeck import objectives as o
from limbeck.data.base import Batch, Data
from limbeck.functional.response import cross_entropy, forward_kl, jensen_shannon, reverse_kl
from limbeck.functional.topk import topk_forward_kl, topk_hinge, topk_jensen_shannon, topk_ranking, topk_total_variation
from limbeck.signals import Lazy, TokenTerm, label_log_probabilities, store_signals, token_values, walk
from limbeck.signals.step import Step, count_items
from limbeck.signals.store_encode import TopK, top_k
from limbeck.tasks.causal_lm import CausalLM, token_part, token_scores
from limbeck.teachers.stored import StoredTeacher
from limbeck.teachers.tempered import tempered

TERMS = {
    "kl": TokenTerm(forward_kl, {"temperature": 2.0}), "reverse": TokenTerm(reverse_kl), "js": TokenTerm(jensen_shannon),
    "a user's": lambda student, teacher, labels: (student.softmax(-1) - teacher.softmax(-1)).abs().sum(-1),
    "top 3": TokenTerm(topk_forward_kl, {"k": 3, "temperature": 1.5}), "top 6": TokenTerm(topk_forward_kl, {"k": 6}),
    "more than was kept": TokenTerm(topk_forward_kl, {"k": 9}),
    "top, no rest": TokenTerm(topk_forward_kl, {"k": 4, "missing": "zero"}),
    "top alone": TokenTerm(topk_forward_kl, {"k": 4, "missing": "conditional"}),
    "top js": TokenTerm(topk_jensen_shannon, {"k": 6}), "top tv": TokenTerm(topk_total_variation, {"k": 2}),
    "hinge": TokenTerm(topk_hinge, {"k": 4}), "ranking": TokenTerm(topk_ranking, {"k": 6}),
}  # fmt: skip


def problem(vocabulary: int = 30, k: int = 6, dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], TopK]:
    """A student's leaves, and what was kept of a teacher of 30 tokens."""
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(4, 9, 6, generator=draw).requires_grad_()
    weight = torch.randn(vocabulary, 6, generator=draw).requires_grad_()
    values, ids, tail = top_k(2 * torch.randn(36, 30, generator=draw), k)
    kept = TopK(values.to(dtype).view(4, 9, k), ids.to(torch.uint8).view(4, 9, k), tail.to(dtype).view(4, 9), 30)
    return [hidden, weight], kept


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("vocabulary", [30, 41, 23])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_it_is_the_logits_that_it_stands_for(name: str, vocabulary: int, dtype: torch.dtype):
    leaves, kept = problem(vocabulary, dtype=dtype)
    one = torch.ones(1)
    found = [
        walk(Lazy(*leaves), teacher, None, None, [TERMS[name]], one, memory=memory_of(7, 30, 1, 4))[0]
        for teacher in (kept, kept.dense())
    ]
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(*(torch.autograd.grad(total, leaves) for total in found)):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_all_of_a_vocabulary_may_be_kept():
    leaves, kept = problem(k=30)
    for name in ("kl", "top 6", "more than was kept"):
        values = [token_values(Lazy(*leaves), teacher, None, None, TERMS[name]) for teacher in (kept, kept.dense())]
        torch.testing.assert_close(*values, rtol=1e-5, atol=1e-5)


def test_a_class_without_mass_stays_without():
    logits = torch.randn(5, 12, generator=torch.Generator().manual_seed(1))
    logits[:, 3:] = -torch.inf
    kept = TopK(*top_k(logits, 4), 12)  # the fourth has no mass, nor has the rest
    hidden, weight = torch.randn(5, 4, requires_grad=True), torch.randn(12, 4)
    for k in (2, 3, 4):
        values = token_values(Lazy(hidden, weight), kept, None, None, TokenTerm(topk_forward_kl, {"k": k}))
        truth = topk_forward_kl(hidden @ weight.T, logits, k=k, reduction="none")
        torch.testing.assert_close(values, truth, rtol=1e-5, atol=1e-5)
        ours, theirs = (torch.autograd.grad(each.sum(), hidden)[0] for each in (values, truth))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_its_own_scores():
    leaves, kept = problem()
    labels = torch.randint(30, (4, 9), generator=torch.Generator().manual_seed(2))
    truth = label_log_probabilities(kept.dense(), labels)
    torch.testing.assert_close(label_log_probabilities(kept, labels), truth)
    assert token_scores([(kept, labels)]) == token_scores([(kept.dense(), labels)])
    del leaves


@pytest.mark.parametrize("k", [6, 30])
@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.5])
def test_tempered(k: int, temperature: float):
    _, kept = problem(k=k)
    truth = (kept.dense() / temperature).softmax(-1)
    torch.testing.assert_close(tempered(kept, temperature).dense().exp(), truth)


class Decoder(nn.Module):
    """A bag of embeddings with a head, as the task finds them."""

    def __init__(self, vocabulary: int, seed: int):
        super().__init__()
        torch.manual_seed(seed)
        self.embedding, self.head = nn.Embedding(vocabulary, 8), nn.Linear(8, vocabulary, bias=False)

    @property
    def base_model(self) -> nn.Module:
        return Base(self.embedding)

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_):
        logits = self.head(self.embedding(input_ids))
        return type("Output", (), {"logits": logits})()


class Base(nn.Module):
    def __init__(self, embedding: nn.Module):
        super().__init__()
        self.embedding = embedding

    def forward(self, input_ids: Tensor, **_):
        return type("Output", (), {"last_hidden_state": self.embedding(input_ids)})()


@pytest.mark.parametrize("objective", [o.topk_forward_kl(k=8), 0.5 * o.cross_entropy() + o.forward_kl(temperature=2.0)])
def test_from_the_store_to_the_gradient(tmp_path, objective):
    """Nothing of [tokens, vocabulary] is made of a stored teacher, and the loss is that of its dense logits."""
    vocabulary, rows = 700, torch.randint(700, (6, 40), generator=torch.Generator().manual_seed(3)).tolist()
    data = Data("toy", "text", {"train": token_part("train", rows)})
    task, teacher, student = CausalLM(), Decoder(vocabulary, 0), Decoder(vocabulary, 1)
    store_signals(teacher, data, tmp_path, task=task, taps=["logits"], top_k=8, dtype="float32")
    batch: Batch = data.parts["train"].batch(torch.arange(6))

    def loss(dense: bool) -> Tensor:
        step = Step(batch, 0.0, counts=count_items(batch))
        theirs = StoredTeacher(tmp_path).read(batch, ["logits"], task)["logits"]
        step.put("teacher", {"logits": theirs.dense() if dense else theirs})
        step.put("self", task.signals(task.forward(student, task.view(batch, student, "student"))))
        return objective.evaluate(step)[0]

    assert isinstance(StoredTeacher(tmp_path).read(batch, ["logits"], CausalLM(lazy=False))["logits"], Tensor)
    task.forward(student, batch.inputs)  # the probe of the head makes small whole logits
    with Spy() as spy:
        loss(dense=False).backward()
    assert spy.largest < 6 * 40 * vocabulary
    ours = [p.grad.clone() for p in student.parameters()]
    student.zero_grad()
    total = loss(dense=True)
    total.backward()
    for one, other in zip(ours, student.parameters()):
        assert relative(one, other.grad) < 1e-5


def test_labels_beside_a_stored_teacher():
    leaves, kept = problem()
    labels = torch.randint(30, (4, 9), generator=torch.Generator().manual_seed(2))
    labels[0] = -100
    terms, weights = [TokenTerm(cross_entropy), TERMS["top 6"]], torch.tensor([0.5, 2.0])
    found = [walk(Lazy(*leaves), teacher, labels, None, terms, weights) for teacher in (kept, kept.dense())]
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-5, atol=1e-4)
