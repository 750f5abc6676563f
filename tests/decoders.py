"""Tiny decoders of every family that can be cut, and views of their matrices; for tests of `shrink`."""

from __future__ import annotations

from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")

TOKENS = {"bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0}
SIZES = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 5, "num_attention_heads": 8,
         "num_key_value_heads": 4, "max_position_embeddings": 32, "initializer_range": 0.3, **TOKENS}  # fmt: skip
WIDE = {**SIZES, "head_dim": 6, "query_pre_attn_scalar": 9, "sliding_window": 3}
OPT = {"vocab_size": 40, "hidden_size": 32, "ffn_dim": 24, "num_hidden_layers": 5, "num_attention_heads": 8,
       "max_position_embeddings": 32, "init_std": 0.3, "dropout": 0.0, **TOKENS}  # fmt: skip
GPT2 = {
    "vocab_size": 40,
    "n_embd": 32,
    "n_layer": 5,
    "n_head": 8,
    "n_positions": 32,
    "initializer_range": 0.3,
    **TOKENS,
}
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT2),
    "gpt2-inner": ("GPT2LMHeadModel", "GPT2Config", {**GPT2, "n_inner": 24, "scale_attn_by_inverse_layer_idx": True}),
    "llama": ("LlamaForCausalLM", "LlamaConfig", {**SIZES, "attention_bias": True, "mlp_bias": True, "head_dim": 6}),
    "mistral": ("MistralForCausalLM", "MistralConfig", {**SIZES, "sliding_window": 3}),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config",
              {**SIZES, "use_sliding_window": True, "max_window_layers": 2, "sliding_window": 3}),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**SIZES, "head_dim": 6, "tie_word_embeddings": True}),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", {**SIZES, "head_dim": 6}),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", WIDE),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", {**WIDE, "sliding_window_pattern": 2}),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", SIZES),
    "opt": ("OPTForCausalLM", "OPTConfig", OPT),
    "opt-350m": ("OPTForCausalLM", "OPTConfig", {**OPT, "word_embed_proj_dim": 12, "do_layer_norm_before": False}),
}  # fmt: skip
TIED = {"gpt2", "gpt2-inner", "qwen3", "gemma", "gemma2", "gemma3", "opt", "opt-350m"}
TIGHT = {"gpt2", "gpt2-inner", "opt", "opt-350m"}  # hidden size = heads x head size
SIZE = dict.fromkeys((*TIGHT, "mistral", "qwen2", "phi3"), 4)  # of a head; 6 elsewhere


def decoder(kind: str, **changes: Any) -> Any:
    model, config, sizes = KINDS[kind]
    torch.manual_seed(0)
    module = getattr(transformers, model)(getattr(transformers, config)(**{**sizes, **changes})).eval()
    with torch.no_grad():  # biases and norms start at zero and one, where a wrong slice would not show
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def exact(kind: str) -> Any:
    """In double precision: such wild weights blow rounding up."""
    return decoder(kind).double()


X = torch.randint(3, 40, (2, 9), generator=torch.Generator().manual_seed(1))


def logits(module: Any) -> torch.Tensor:
    with torch.no_grad():
        return module(X).logits


def body(module: Any) -> Any:
    base = module.base_model
    return getattr(base, "decoder", base)


def layers_of(module: Any) -> Any:
    return getattr(body(module), "h", None) or body(module).layers


def attention(layer: Any) -> Any:
    return layer.attn if hasattr(layer, "attn") else layer.self_attn


def parts(layer: Any, kv: int = 4) -> dict[str, torch.Tensor]:
    """Views of a layer's matrices, [outputs, inputs], fused ones taken apart."""
    inner = attention(layer)
    if hasattr(layer, "attn"):
        query, key, value = inner.c_attn.weight.data.T.chunk(3)
        ups, output, down = [layer.mlp.c_fc.weight.data.T], inner.c_proj.weight.data.T, layer.mlp.c_proj.weight.data.T
    elif hasattr(inner, "qkv_proj"):
        fused, size = inner.qkv_proj.weight.data, inner.head_dim
        query, key, value = fused.split([len(fused) - 2 * kv * size, kv * size, kv * size])
        ups = list(layer.mlp.gate_up_proj.weight.data.chunk(2))
        output, down = inner.o_proj.weight.data, layer.mlp.down_proj.weight.data
    elif hasattr(layer, "fc1"):
        query, key, value = (part.weight.data for part in (inner.q_proj, inner.k_proj, inner.v_proj))
        ups, output, down = [layer.fc1.weight.data], inner.out_proj.weight.data, layer.fc2.weight.data
    else:
        query, key, value = (part.weight.data for part in (inner.q_proj, inner.k_proj, inner.v_proj))
        ups = [layer.mlp.gate_proj.weight.data, layer.mlp.up_proj.weight.data]
        output, down = inner.o_proj.weight.data, layer.mlp.down_proj.weight.data
    return {"query": query, "key": key, "value": value, "output": output, "down": down, "up": ups[0], "last": ups[-1]}


def found(full: torch.Tensor, part: torch.Tensor) -> list[int]:
    """Which rows of `full` those of `part` are, in order."""
    rows = [int((full == row).all(1).nonzero()[0]) for row in part]
    assert rows == sorted(rows)
    return rows


def skip(module: Any, kept: list[int]) -> Any:
    """Layers that are not kept pass on what comes in."""
    for number, layer in enumerate(layers_of(module)):
        if number not in kept:
            pairs = type(layer).__name__ == "GPTNeoBlock"  # returns a pair
            layer.forward = lambda hidden, *args, pairs=pairs, **kwargs: (hidden, None) if pairs else hidden
    return module
