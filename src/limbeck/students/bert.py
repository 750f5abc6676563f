"""The shape of a small BERT from scratch, for a tokenizer that is there."""

from __future__ import annotations

from typing import Any

from limbeck._optional import need
from limbeck.errors import ArgumentError, ModelError
from limbeck.students.declare import share, whole


def bert_config(tokenizer: Any, layers: int, width: int, heads: int, ffn: int | None, max_length: int,
                dropout: float) -> Any:  # fmt: skip
    """A BertConfig with the words of a Transformers tokenizer. `ffn`: of the feed-forward layers, None for 4 x width.

    Raises ModelError where the tokenizer has no vocabulary, ArgumentError for sizes that cannot be.
    """
    transformers = need("transformers", "language")
    if not hasattr(tokenizer, "get_vocab"):
        raise ModelError(
            f"The student 'encoder': a {type(tokenizer).__name__} has no vocabulary. Expected a Transformers tokenizer: the "
            "teacher's (teacher.tokenizer) or AutoTokenizer.from_pretrained(...)."
        )
    if whole("width", width) % whole("heads", heads):
        raise ArgumentError(f"The student 'encoder': width={width} is not a multiple of heads={heads}.")
    return transformers.BertConfig(
        vocab_size=max(tokenizer.get_vocab().values()) + 1, hidden_size=width, num_attention_heads=heads,
        num_hidden_layers=whole("layers", layers), intermediate_size=4 * width if ffn is None else whole("ffn", ffn),
        max_position_embeddings=whole("max_length", max_length, 2), hidden_dropout_prob=share("dropout", dropout),
        attention_probs_dropout_prob=dropout, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
