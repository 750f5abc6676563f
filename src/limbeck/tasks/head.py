"""The head of a causal language model: where its logits come from, found by its configuration and proved by a probe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import ModelError
from limbeck.signals.blocks import Post
from limbeck.signals.lazy import Lazy

# how far post(W h + b) may lie from the model's own logits, as a share of the largest of them
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}


def head_of(module: nn.Module) -> tuple[nn.Module, nn.Linear] | None:
    """The base model, whose last hidden state the head receives, and the output layer; None where there are none.

    Raises ModelError for an output layer that is more than a matrix and a bias (an adapter on the head): the matrix alone
    would leave the rest untrained.
    """
    base, output = _parts(module)
    if base is None or output is None:
        return None
    more = {name for name, _ in output.named_parameters()} - {"weight", "bias"}
    if more or not isinstance(output, nn.Linear):
        raise ModelError(
            f"The output layer is a {type(output).__name__} with {sorted(more) or 'other parts'} beside a weight and a "
            "bias, so that its logits cannot be lazy. Use CausalLM(lazy=False), or train without an adapter on the head."
        )
    return base, output


def vocabulary_of(module: nn.Module) -> int | None:
    """How many tokens the output layer of a model knows, None where it has none to find. Raises as `_parts` does."""
    weight = getattr(_parts(module)[1], "weight", None)
    return None if weight is None else weight.shape[0]


def _parts(module: nn.Module) -> tuple[Any, Any]:
    """The base model and the output layer as they are, None for what is not there.

    Raises ModelError for adapters that put learnt tokens before the text: neither sees them.
    """
    inner: Any = module
    for config in (getattr(inner, "peft_config", None) or {}).values():
        if getattr(config, "is_prompt_learning", False):
            raise ModelError(
                f"A {getattr(config.peft_type, 'value', config.peft_type)} adapter puts learnt tokens before the text, so that "
                "its logits are not those of the tokens. Train adapters of the weights instead, such as lora=16."
            )
    if hasattr(inner, "get_base_model"):  # an adapter's wrapper (peft), whose base_model gives logits
        inner = inner.get_base_model()
    base = getattr(inner, "base_model", None)
    output = inner.get_output_embeddings() if hasattr(inner, "get_output_embeddings") else None
    if (
        output is not None and type(output).__name__ == "ModulesToSaveWrapper"
    ):  # the head is trained beside the adapters, by a copy
        output = output.modules_to_save[output.active_adapters[0]]
    return (None if base is inner else base), output


def _candidates(module: nn.Module) -> Iterator[Post]:
    """What the configuration says of the logits after the matrix, most likely first. The probe decides."""
    config: Any = getattr(module, "config", None)
    if hasattr(config, "get_text_config"):  # of a model that also sees
        config = config.get_text_config()

    def number(name: str) -> float | None:
        value = getattr(config, name, None)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value else None

    scales = [number(name) for name in ("logit_scale", "lm_head_multiplier", "output_multiplier")]
    divisor = number("logits_scaling")  # Granite divides by it, HyperCLOVA X multiplies
    if divisor:
        scales += [1 / divisor, divisor]
    cap = number("final_logit_softcapping") or number("logits_soft_cap")
    for scale in [*filter(None, scales), 1.0]:
        for softcap in dict.fromkeys((cap, None)):
            yield Post(scale, softcap)


@torch.no_grad()
def check_head(module: nn.Module, inputs: Tensor | None = None) -> Post:
    """What the model does to its logits after the matrix, proved on two short rows.

    The base model's last hidden states must be what the output layer receives, and `post(hidden @ weight.T + bias)` the
    model's own logits, on `inputs` (token ids [rows, tokens]; by default the first ids of the vocabulary). For the second
    the states are enlarged until the largest product is 100: a missing cap does not show in a fresh model's small logits.
    Raises ModelError, with the largest difference, where either fails.
    """
    found = head_of(module)
    if found is None:
        raise ModelError(f"{type(module).__name__} has no base model and output embeddings. Use CausalLM(lazy=False).")
    base, output = found
    if inputs is None:
        inputs = (torch.arange(16, device=output.weight.device) % output.weight.shape[0]).view(2, 8)
    was = [child for child in module.modules() if child.training]
    module.eval()
    try:
        hidden = base(input_ids=inputs, use_cache=False).last_hidden_state
        received, larger, own = _enlarged(module, output, inputs)
    finally:
        for child in was:
            child.training = True
    tolerance = max(TOLERANCE.get(tensor.dtype, 0.0) for tensor in (hidden, received, own))
    differs = _difference(hidden, received)
    if differs > tolerance * float(received.abs().max()):
        raise ModelError(
            f"The output layer of {type(module).__name__} does not receive the hidden states of its base model: the largest "
            f"difference is {differs:.3g}. Use CausalLM(lazy=False)."
        )
    differences = {
        post: _difference(Lazy(larger, output.weight, output.bias, post).whole(), own) for post in _candidates(module)
    }
    best = min(differences, key=differences.__getitem__)
    limit = tolerance * float(own.abs().max())
    if differences[best] > limit:
        raise ModelError(
            f"The logits of {type(module).__name__} are not {best} of its hidden states times its output matrix: the "
            f"largest difference is {differences[best]:.3g}, where {limit:.2g} is allowed. Use CausalLM(lazy=False)."
        )
    return best


def _enlarged(module: nn.Module, output: nn.Linear, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the output layer receives, the same enlarged, and the model's logits of the latter."""
    seen: list[Tensor] = []

    def enlarge(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        largest = float(output.forward(args[0]).abs().max())
        seen.extend((args[0], args[0] * max(1.0, 100 / max(largest, 1e-6))))
        return (seen[1],)

    handle = output.register_forward_pre_hook(enlarge)
    try:
        own = module(input_ids=inputs, use_cache=False).logits
    finally:
        handle.remove()
    if len(seen) != 2:
        raise ModelError(
            f"{type(module).__name__} runs its output layer {len(seen) // 2} times in a forward pass; once was expected. "
            "Use CausalLM(lazy=False)."
        )
    return seen[0], seen[1], own


def _difference(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).abs().max()) if one.shape == other.shape else float("inf")
