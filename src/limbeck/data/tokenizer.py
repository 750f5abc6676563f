"""A tokenizer for texts that come without one: byte-level BPE learnt from the training texts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from limbeck._optional import need
from limbeck.errors import ArgumentError, ModelError

PAD, END = "<|pad|>", "<|end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
SMALLEST = 256 + 2 + len(ROLES)  # every byte, and what stands for no text
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}{% else %}{{ message['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str], size: int = 4096) -> Any:
    """A Transformers tokenizer of at most `size` tokens: byte-level BPE, so that every text can be written.

    It has an end token, a padding token, and a chat template that marks what the assistant says. `size=261` is bytes.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < SMALLEST:
        raise ArgumentError(f"A tokenizer of {size!r} tokens: expected {SMALLEST} or more (every byte and 5 marks).")
    tokenizers, transformers = need("tokenizers", "language"), need("transformers", "language")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size, special_tokens=[PAD, END, *ROLES], show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    made.train_from_iterator(texts, trainer)
    found = transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token=PAD, eos_token=END)
    found.chat_template = TEMPLATE
    return found


def texts_of(spec: Any) -> Iterator[str]:
    """All that is written in the training part of a source of texts, answers or chats, to learn a tokenizer from."""
    from limbeck.data.language_domains import is_mapping_of_domains
    from limbeck.data.language_read import read_splits

    def words(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            for inner in value.values():
                yield from words(inner)
        elif isinstance(value, list | tuple):
            for inner in value:
                yield from words(inner)

    if is_mapping_of_domains(spec):
        return (text for source in spec.values() for text in texts_of(source))
    return words(read_splits(spec)["train"])


def as_tokenizer(spec: Any, texts: Callable[[], Iterable[str]]) -> Any:
    """A tokenizer from what a user writes: "bpe:512" (learnt from `texts()`), "bytes", a folder or hub name, or itself."""
    if not isinstance(spec, str | Path):
        if not (callable(spec) and hasattr(spec, "get_vocab")):
            raise ArgumentError(
                f"tokenizer= is a {type(spec).__name__}. Expected a Transformers tokenizer, a folder, or 'bpe:4096'."
            )
        return spec
    learnt = re.fullmatch(r"bpe(?::(\d+))?", str(spec))
    if str(spec) == "bytes" or learnt:
        return train_tokenizer(texts(), int(learnt[1] or 4096) if learnt else SMALLEST)
    transformers = need("transformers", "language")
    try:
        return transformers.AutoTokenizer.from_pretrained(str(spec), local_files_only=Path(spec).is_dir())
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(
            f"The tokenizer {str(spec)!r} could not be loaded ({str(error).splitlines()[0]}). Give a folder or hub name that "
            "holds one, or learn one from the texts: tokenizer=bpe:4096."
        ) from error
