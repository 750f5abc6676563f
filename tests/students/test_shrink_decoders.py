"""Decoders: what is cut is exactly as if it were zero or skipped, and the most important stays."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from decoders import KINDS, TIGHT, X, attention, body, decoder, exact, found, layers_of, logits, parts, skip
from limbeck.students.shrink import shrink


def zero_heads_and_neurons(teacher: Any, student: Any, heads: int, kv: int, columns: list[int] | None = None) -> Any:
    """A copy of the teacher in which what the student lacks is zero, the student's rows found by their values."""
    masked = copy.deepcopy(teacher)
    for full, small in zip(layers_of(masked), layers_of(student)):
        old, new = parts(full, 4), parts(small, kv)
        size = attention(full).head_dim
        read = slice(None) if columns is None else columns
        rows, neurons = found(old["query"][:, read], new["query"]), found(old["up"][:, read], new["up"])
        assert found(old["last"][:, read], new["last"]) == neurons
        assert len(rows) == heads * size
        assert len({row // size for row in rows}) == heads  # whole heads
        groups = {row // size for row in found(old["key"][:, read], new["key"])}
        assert groups == {row // size for row in found(old["value"][:, read], new["value"])}
        share = len(old["query"]) // len(old["key"])
        assert {row // size // share for row in rows} == groups
        old["output"][:, [i for i in range(old["output"].shape[1]) if i not in rows]] = 0
        old["down"][:, [i for i in range(old["down"].shape[1]) if i not in neurons]] = 0
    return masked


@pytest.mark.parametrize(("heads", "kv"), [(4, 4), (2, 2)])
@pytest.mark.parametrize("kind", KINDS)
def test_cut_heads_and_neurons_are_exactly_zeroed_ones(kind, heads, kv):
    teacher = exact(kind)
    student = shrink(teacher, width=0.5, heads=heads)
    kv = heads if kind in TIGHT else kv
    assert student.limbeck_shrink["heads"] == heads
    assert student.limbeck_shrink["kv_heads"] == kv
    masked = zero_heads_and_neurons(teacher, student, heads, kv)
    torch.testing.assert_close(logits(student), logits(masked), rtol=0, atol=1e-5)
    assert not torch.allclose(logits(student), logits(teacher), atol=1e-1)


@pytest.mark.parametrize("heads", [6, 3])
@pytest.mark.parametrize("kind", ["mistral", "qwen2", "qwen3", "phi3"])
def test_fewer_groups_stay_where_heads_would_not_share_them(kind, heads):
    student = shrink(exact(kind), heads=heads)
    assert student.config.num_key_value_heads == 3
    masked = zero_heads_and_neurons(exact(kind), student, heads, 3)
    torch.testing.assert_close(logits(student), logits(masked), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_depth_cuts_are_skipped_layers(kind):
    teacher = exact(kind)
    types = getattr(teacher.config, "layer_types", None)
    for depth, kept in ((3, [0, 2, 4]), (2, [0, 4]), (0.8, [0, 1, 3, 4])):
        student = shrink(teacher, depth=depth)
        assert student.limbeck_shrink == {"layers": kept, "of": 5}
        assert student.config.num_hidden_layers == len(kept)
        assert [attention(layer).layer_idx for layer in layers_of(student)] == list(range(len(kept)))
        if types:
            assert student.config.layer_types == [types[i] for i in kept]
        torch.testing.assert_close(logits(student), logits(skip(copy.deepcopy(teacher), kept)), rtol=0, atol=1e-5)
    if kind in ("qwen2", "gemma2", "gemma3"):
        assert len(set(types)) == 2  # both kinds were there, and a window shorter than the text


class Narrow(nn.Module):
    """A norm over some channels; the others come out as zeros."""

    def __init__(self, norm: Any, columns: list[int]) -> None:
        super().__init__()
        self.norm, self.columns = copy.deepcopy(norm), columns
        if isinstance(norm, nn.LayerNorm):
            self.norm.normalized_shape = (len(columns),)
        for name, value in self.norm._parameters.items():
            if value is not None:
                self.norm._parameters[name] = nn.Parameter(value[columns])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(x)
        out[..., self.columns] = self.norm(x[..., self.columns])
        return out


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_hidden_size_is_channels_that_nothing_touches(kind):
    teacher = exact(kind)
    student = shrink(teacher, hidden=16)
    heads = 4 if kind in TIGHT else 8
    old, new = parts(layers_of(teacher)[0])["up"].T, parts(layers_of(student)[0])["up"].T
    columns = found(old, new)
    assert len(columns) == student.config.hidden_size == 16
    masked = zero_heads_and_neurons(teacher, student, heads, heads if kind in TIGHT else 4, columns)
    untouched = [i for i in range(32) if i not in columns]
    for name, module in list(masked.named_modules()):
        if isinstance(module, nn.Embedding) and module.weight.shape[1] == 32:
            module.weight.data[:, untouched] = 0
        if type(module).__name__.endswith(("RMSNorm", "LayerNorm")) and len(module.weight) == 32:
            parent, _, last = name.rpartition(".")
            setattr(masked.get_submodule(parent), last, Narrow(module, columns))
    if kind == "opt-350m":  # its embeddings are narrower than its hidden size
        body(masked).project_in.weight.data[untouched] = 0
        assert body(student).project_in.weight.shape == (16, 12)
    torch.testing.assert_close(logits(student), logits(masked), rtol=0, atol=1e-5)
    assert logits(student).std() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_the_most_important_heads_neurons_and_channels_stay(kind):
    teacher = decoder(kind)
    with torch.no_grad():
        for layer in layers_of(teacher):
            matrices, size = parts(layer), attention(layer).head_dim
            matrices["output"][:, 5 * size : 6 * size] *= 30  # head 5: of key-value head 2 where two share one
            matrices["down"][:, 3] *= 30
            matrices["up"][7] *= 30
    student = shrink(teacher, width=2, heads=1)
    for full, small in zip(layers_of(teacher), layers_of(student)):
        old, new, size = parts(full), parts(small, 1), attention(full).head_dim
        group = 5 if kind in TIGHT else 2
        assert torch.equal(new["query"], old["query"][5 * size : 6 * size])
        assert torch.equal(new["key"], old["key"][group * size : (group + 1) * size])
        assert torch.equal(new["value"], old["value"][group * size : (group + 1) * size])
        assert torch.equal(new["up"], old["up"][[3, 7]])
        assert torch.equal(new["down"], old["down"][:, [3, 7]])
    teacher = decoder(kind)
    channels = list(range(3, 32, 4))
    with torch.no_grad():
        for layer in layers_of(teacher):
            matrices = parts(layer)
            for name in ("query", "key", "value", "up", "last"):
                matrices[name][:, channels] *= 30
    student = shrink(teacher, hidden=8)
    full, small = (parts(layers_of(module)[0])["up"] for module in (teacher, student))
    assert torch.equal(small, full[:, channels])


def test_untied_gemma_keeps_the_size_of_embeddings_and_logits():
    teacher = decoder("gemma2", tie_word_embeddings=False)
    student = shrink(teacher, hidden=31, heads=1)
    # one channel of 32 less: with embeddings rescaled by the root of 31 / 32 or logits by as much, this would not hold
    columns = found(parts(layers_of(teacher)[0])["up"].T, parts(layers_of(student)[0])["up"].T)
    torch.testing.assert_close(body(student).embed_tokens(X), body(teacher).embed_tokens(X)[..., columns])
    assert torch.equal(student.lm_head.weight, teacher.lm_head.weight[:, columns])
    assert torch.equal(body(student).norm.weight, body(teacher).norm.weight[columns])
