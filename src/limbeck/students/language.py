"""A small language model from scratch."""

from __future__ import annotations

from typing import Any

from torch import nn

from limbeck._optional import need
from limbeck.errors import ArgumentError, ModelError
from limbeck.students.declare import share, whole


def text_decoder(tokenizer: Any, layers: int = 2, width: int = 128, heads: int | None = None, ffn: int | None = None,
                 max_length: int = 1024, dropout: float = 0.0) -> nn.Module:  # fmt: skip
    """A small Llama (RMSNorm, rotary positions, gated feed-forward, tied matrix), randomly initialised.

    `tokenizer` is a Transformers tokenizer, often the teacher's. `heads` is width / 32 by default, `ffn` 8/3 of the width.
    The result is a Transformers model (saved, loaded and generated from as one). Needs the extra `language`.
    """
    transformers = need("transformers", "language")
    if not hasattr(tokenizer, "get_vocab"):
        raise ModelError(
            f"text_decoder: a {type(tokenizer).__name__} has no vocabulary. Expected a Transformers tokenizer."
        )
    whole("width", width)
    count = max(1, width // 32) if heads is None else whole("heads", heads)
    if width % (2 * count):
        raise ArgumentError(f"text_decoder: width={width} does not split into {count} heads of an even size.")
    config = transformers.LlamaConfig(
        vocab_size=max(tokenizer.get_vocab().values()) + 1, hidden_size=width, num_hidden_layers=whole("layers", layers),
        num_attention_heads=count, num_key_value_heads=count,
        intermediate_size=-(-8 * width // 3 // 16) * 16 if ffn is None else whole("ffn", ffn),
        max_position_embeddings=whole("max_length", max_length, 2), attention_dropout=share("dropout", dropout),
        tie_word_embeddings=True, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )  # fmt: skip
    module = transformers.LlamaForCausalLM(config)
    module.tokenizer, module.limbeck_fresh = tokenizer, True
    return module
