"""A tokenizer of whole words, white space and punctuation, so that token rows can be read; templates; tiny models."""

from __future__ import annotations

import tokenizers
import torch
import transformers

from limbeck.data.language import load_language_data

WORDS = [*"abcdefghijklmnopqrstuvwxyz0123456789 ,.?!:\n", "user", "assistant", "system", "Q", "A"]
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<start>", "<end>"]
VOCABULARY = [*SPECIAL, *WORDS]

# like ChatML: <start>role\ncontent<end>\n
CHATML = (
    "{% for m in messages %}{{ '<start>' + m['role'] + '\n' + m['content'] + '<end>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start>assistant\n' }}{% endif %}"
)
MARKED = (
    "{% for m in messages %}{{ '<start>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] + '<end>' }}{% endgeneration %}{% else %}{{ m['content'] + '<end>' }}{% endif %}"
    "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start>assistant\n' }}{% endif %}"
)

CHAT = [
    {"role": "user", "content": "a"}, {"role": "assistant", "content": "b c"},
    {"role": "user", "content": "d"}, {"role": "assistant", "content": "e"},
]  # fmt: skip


def make_tokenizer(template: str | None = None, *, bos: bool = False, **options):
    """Ids are places in VOCABULARY. `bos`: <s> before every text."""
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: number for number, word in enumerate(VOCABULARY)}, unk_token="<unk>")
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"[a-zA-Z]+|[\s\S]"), "isolated")
    made.add_special_tokens(SPECIAL)
    if bos:
        made.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    options = {"pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>", **options}
    found = transformers.PreTrainedTokenizerFast(tokenizer_object=made, **{k: v for k, v in options.items() if v})
    found.chat_template = template
    return found


def words(ids) -> list[str]:
    """Token ids as words."""
    return [VOCABULARY[int(number)] for number in ids]


def shown(part, number: int = 0) -> tuple[str, str]:
    """A row as text without padding, and the same with `_` for every token that is not predicted."""
    batch = part.batch([number])
    ids, labels = batch.inputs["input_ids"][0], batch.labels[0]
    size = int(part.sizes[number])
    assert (labels[size:] == -100).all()
    predicted = ["_", *("_" if label == -100 else VOCABULARY[label] for label in labels[: size - 1].tolist())]
    assert labels[size - 1] == -100
    return "|".join(words(ids[:size])), "|".join(predicted)


def load(spec, tokenizer=None, **options):
    """Unpacked, without a validation part, unless told otherwise."""
    return load_language_data(
        spec, tokenizer or make_tokenizer(), **{"valid": 0, "length": 64, "pack": False, **options}
    )


def rows(spec, tokenizer=None, **options):
    """(text, predicted) of every training row."""
    part = load(spec, tokenizer, **options).train
    return [shown(part, number) for number in range(len(part))]


def tiny(family: str, **options):
    """A random model of two layers, with weights large enough for what it sees to show."""
    torch.manual_seed(0)
    common = {"vocab_size": 64, "initializer_range": 0.3, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    layers = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes = {
        "GPT2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
        "OPT": {**layers, "ffn_dim": 32, "max_position_embeddings": 64, "word_embed_proj_dim": 16},
        "Llama": {**layers, "intermediate_size": 32, "max_position_embeddings": 64},
        "Bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2},
    }[family]
    name = {"GPT2": "GPT2LMHeadModel"}.get(family, f"{family}ForCausalLM")
    config = getattr(transformers, f"{family}Config")(**{**common, **sizes, **options})
    return getattr(transformers, name)(config).eval()
