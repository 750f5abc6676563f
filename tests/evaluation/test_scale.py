"""The arithmetic of scale against real models: parameters, activations, operations; and the page against the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from limbeck.errors import ArgumentError
from limbeck.evaluation.scale import SHAPES, WALK, Shape, memory, read_shape, speed, table
from limbeck.signals import sweep

transformers = pytest.importorskip("transformers")
PAGE = Path(__file__).parents[2] / "docs" / "scale.md"


def config(shape: Shape, kind: str = "Llama", **options):
    return getattr(transformers, f"{kind}Config")(
        vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.ffn, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv // shape.head, head_dim=shape.head,
        tie_word_embeddings=shape.tied, **options,
    )  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_are_those_of_the_model(name):
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config(SHAPES[name]))
    assert SHAPES[name].parameters == sum(p.numel() for p in model.parameters())
    assert SHAPES[name].layer == sum(p.numel() for p in model.model.layers[0].parameters())
    assert Shape.of(model.config) == SHAPES[name]


def kept(shape: Shape, checkpointing: bool = False) -> float:
    """Bytes that a forward pass in bfloat16 keeps for its backward pass, for each token, beside float32 weights."""
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config(shape)).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen = {}

    def count(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage._cdata] = storage.nbytes(), storage
        return tensor

    saving = torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor)
    with saving, torch.autocast("cpu", dtype=torch.bfloat16):
        model.model(torch.randint(0, shape.vocabulary, (2, 32)), use_cache=False)
    return sum(size for size, _ in seen.values()) / 64


@pytest.mark.parametrize("shape", [Shape(1, 64, 128, 4, 16, 64, 64), Shape(1, 64, 192, 4, 16, 32, 64),
                                   Shape(1, 128, 256, 8, 16, 32, 64)], ids=["llama", "grouped", "wider"])  # fmt: skip
def test_activations_are_those_that_are_kept(shape):
    from dataclasses import replace

    two = replace(shape, layers=2)
    rounded = 2 * (shape.layer - 2 * shape.width) / 64  # the matrices of a layer in bfloat16
    assert kept(two) - kept(shape) == pytest.approx(shape.activations() + rounded, rel=0.02)
    assert kept(two, True) - kept(shape, True) == 4 * shape.width


def test_operations_are_two_for_each_weight():
    """By torch's own counter, which counts the whole square of attention, not the half that is causal."""
    from torch.utils.flop_counter import FlopCounterMode

    shape, length = Shape(2, 64, 128, 4, 16, 32, 96), 16
    model = transformers.LlamaForCausalLM(config(shape, attn_implementation="eager"))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, length, dtype=torch.int64), use_cache=False)
    square = 2 * 2 * shape.layers * shape.heads * shape.head * length
    assert counter.get_total_flops() / length == pytest.approx(shape.forward_flops(length) + square / 2, rel=0.01)


def test_twice_the_processes_hold_half_the_pieces():
    one, two = (memory(SHAPES["8b"], SHAPES["70b"], n, 4096) for n in (16, 32))
    for name, size in one["always"].items():
        assert two["always"][name] == size / 2
    assert one["while running"] == two["while running"]
    assert sum(one["always"].values()) * 16 == 16 * SHAPES["8b"].parameters + 2 * SHAPES["70b"].parameters
    assert sweep.MEMORY == WALK


def test_speed_follows_its_assumptions():
    given = {"processes": 16, "tokens": 8192, "length": 4096, "peak": 1e15, "share": 0.4, "bandwidth": 5e10}
    found = speed(SHAPES["8b"], SHAPES["70b"], **given)
    faster = speed(SHAPES["8b"], SHAPES["70b"], **{**given, "peak": 2e15})
    assert faster["computing"] == pytest.approx(found["computing"] / 2)
    assert faster["communicating"] == found["communicating"]
    assert found["not hidden"] < found["hidden"] <= 16 * 8192 / found["computing"] * 1.0001
    even = speed(SHAPES["8b"], SHAPES["70b"], **{**given, "tokens": found["tokens that hide it"]})
    assert even["computing"] == pytest.approx(even["communicating"])


def test_shapes_are_read_from_folders(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config(SHAPES["1b"]).to_dict()))
    assert read_shape(tmp_path) == SHAPES["1b"]
    with pytest.raises(ArgumentError, match=r"no shape, nor a folder.*Did you mean '70b'"):
        read_shape("70bb")


def test_the_page_shows_what_the_command_prints():
    assert table() in PAGE.read_text()
