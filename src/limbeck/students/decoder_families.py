"""The Transformers decoders that can be cut in every way: what their weights are called, what their configs can say.

A matrix that stands for several (GPT-2's c_attn, Phi-3's qkv_proj and gate_up_proj) is named once for each of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Family:
    """Names of a layer's parts in the layer, of the other parts beside the list of layers."""

    title: str
    query: str = "self_attn.q_proj"
    key: str = "self_attn.k_proj"
    value: str = "self_attn.v_proj"
    output: str = "self_attn.o_proj"
    up: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    down: str = "mlp.down_proj"
    attention_norms: tuple[str, ...] = ("input_layernorm",)  # before the attention, and after it where there is one
    ffn_norms: tuple[str, ...] = ("post_attention_layernorm",)
    embeddings: tuple[str, ...] = ("embed_tokens",)
    final_norm: str = "norm"
    ffn: str = "intermediate_size"  # the config's name of the feed-forward width
    free_heads: bool = True  # the config has its own head size; else hidden size = heads x head size
    transposed: bool = False  # weights are [inputs, outputs]
    gemma: bool = False  # norms multiply by 1 + weight, embeddings by the root of the hidden size

    @property
    def attention(self) -> str:
        return self.query.rpartition(".")[0]

    @property
    def projections(self) -> tuple[str, ...]:
        """Query, key and value, each matrix once."""
        return tuple(dict.fromkeys((self.query, self.key, self.value)))


_LLAMA = Family("Llama")
_GEMMA2 = replace(
    _LLAMA, title="Gemma 2", gemma=True, attention_norms=("input_layernorm", "post_attention_layernorm"),
    ffn_norms=("pre_feedforward_layernorm", "post_feedforward_layernorm"),
)  # fmt: skip
_QKV = "self_attn.qkv_proj"

FAMILIES = {  # by the model_type of their configs
    "gpt2": Family(
        "GPT-2", query="attn.c_attn", key="attn.c_attn", value="attn.c_attn", output="attn.c_proj", up=("mlp.c_fc",),
        down="mlp.c_proj", attention_norms=("ln_1",), ffn_norms=("ln_2",), embeddings=("wte", "wpe"),
        final_norm="ln_f", ffn="n_inner", free_heads=False, transposed=True,
    ),
    "llama": _LLAMA,
    "mistral": replace(_LLAMA, title="Mistral"),
    "qwen2": replace(_LLAMA, title="Qwen2"),
    "qwen3": replace(_LLAMA, title="Qwen3"),
    "gemma": replace(_LLAMA, title="Gemma", gemma=True),
    "gemma2": _GEMMA2,
    "gemma3_text": replace(_GEMMA2, title="Gemma 3 (text)"),
    "phi3": replace(_LLAMA, title="Phi-3", query=_QKV, key=_QKV, value=_QKV, up=("mlp.gate_up_proj",) * 2),
    "opt": replace(
        _LLAMA, title="OPT", output="self_attn.out_proj", up=("fc1",), down="fc2",
        attention_norms=("self_attn_layer_norm",), ffn_norms=("final_layer_norm",),
        embeddings=("embed_tokens", "embed_positions"), final_norm="final_layer_norm", ffn="ffn_dim", free_heads=False,
    ),
}  # fmt: skip
