"""Samplers of models that lie in this process: Transformers' `generate`, and a plain loop for everything else."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.data.base import Batch, Part
from limbeck.data.generate import Answers, Sampler, Sampling, bare, choose
from limbeck.data.language_parts import PairPart, TokenRows
from limbeck.errors import ArgumentError, ModelError

Ends = Sequence[int]


def sampler_of(model: Any, task: Any, ends: Ends, *, mix: tuple[Any, float] | None = None) -> Sampler:
    """Who writes the answers of a model, whose end tokens are `ends` (see `find_ends`).

    `model`: a Transformers model (its own `generate`, with a cache), any other module or teacher that the task can run (a
    loop without a cache), "vllm:FOLDER", or a `Sampler`. `mix`: a teacher and its share alpha: tokens are then drawn from
    alpha p_teacher + (1 - alpha) p_model. Raises ModelError for what cannot write.
    """
    from limbeck.teachers.base import ModuleTeacher, Teacher, WritingTeacher

    model = model.sampler if isinstance(model, WritingTeacher) else model
    if isinstance(model, Sampler):
        if mix is not None:
            raise ModelError(f"A {type(model).__name__} gives no distributions that a teacher's could be mixed into.")
        return model
    if isinstance(model, str) and model.startswith("vllm:"):
        from limbeck.data.generate_served import VLLMSampler

        return VLLMSampler(model.removeprefix("vllm:"), ends)
    model, partner = (each.module if isinstance(each, ModuleTeacher) else each for each in (model, mix and mix[0]))
    for each in (model, partner):
        if getattr(each, "stored", False):
            raise ModelError(
                "A stored teacher knows the texts it was stored for, and cannot write others. Give a model."
            )
        if each is not None and not isinstance(each, nn.Module | Teacher):
            raise ModelError(
                f"A {type(each).__name__} cannot write answers. Expected a module, a teacher, 'vllm:FOLDER' or a Sampler."
            )
    mixed = None if mix is None else (partner, mix[1])
    if _has_generate(model) and (partner is None or _has_generate(partner)):
        return TransformersSampler(model, ends, vocabulary=getattr(task, "vocabulary", None), mix=mixed)
    return LoopSampler(model, task, ends, mix=mixed)


def _has_generate(model: Any) -> bool:
    return (
        isinstance(model, nn.Module)
        and callable(getattr(model, "generate", None))
        and hasattr(model, "generation_config")
    )


def find_ends(part: Part | None, *models: Any, tokenizer: Any = None) -> tuple[int, ...]:
    """The tokens that end an answer: the one the answers of a part end with, and those that models and tokenizer name.

    Raises ModelError where there is none: a model that cannot stop fills every answer to its limit.
    """
    found: set[int] = set()
    rows = part.rows if isinstance(part, PairPart) else part
    if isinstance(rows, TokenRows):
        found |= _taught(rows)
    for model in models:
        module = getattr(model, "module", model)
        for holder in (getattr(module, "generation_config", None), getattr(module, "config", None)):
            named = getattr(holder, "eos_token_id", None)
            found |= set(named) if isinstance(named, list | tuple) else set() if named is None else {named}
        tokenizer = tokenizer or getattr(module, "tokenizer", None)
    if getattr(tokenizer, "eos_token_id", None) is not None:
        found.add(tokenizer.eos_token_id)
    if not found:
        raise ModelError(
            "No token ends an answer: neither the data nor the models nor a tokenizer names one. Set "
            "tokenizer.eos_token, or load the data with eos=True."
        )
    return tuple(sorted(found))


def _taught(rows: TokenRows) -> set[int]:
    """The last predicted token of the documents, where most of them have the same."""
    index = torch.arange(len(rows.tokens))
    document = torch.searchsorted(rows.starts, index, right=True) - 1
    last = torch.full((len(rows.starts) - 1,), -1).scatter_reduce(0, document, index.where(rows.counts, -1), "amax")
    ends = rows.tokens[last[last >= 0] + 1]  # `counts` stands at the place before
    if not len(ends):
        return set()
    token, count = ends.unique(return_counts=True)
    return {int(token[count.argmax()])} if 2 * int(count.max()) > len(ends) else set()


def room(models: Sequence[Any], width: int, sampling: Sampling) -> int:
    """How many tokens can be written behind a prompt of `width`. Raises ArgumentError where there is no place for one."""
    from limbeck.tasks.text import length_limit

    limits = [length_limit(model, None) for model in models if isinstance(model, nn.Module)]
    limit = min((each for each in limits if each is not None), default=width + sampling.max_new_tokens)
    if limit <= width:
        raise ArgumentError(
            f"A prompt has {width} tokens and the model takes {limit} in all: nothing can be written behind it. Load the "
            "data with a lower length=, or take a model of longer texts."
        )
    return min(sampling.max_new_tokens, limit - width)


def _resting(model: Any) -> AbstractContextManager[object]:
    from limbeck.evaluation.modes import evaluating

    return evaluating(model) if isinstance(model, nn.Module) else nullcontext()


def _device(model: Any) -> torch.device:
    from limbeck.evaluation.modes import device_of

    return device_of(model if isinstance(model, nn.Module) else next(iter(model.modules()), None))


def _drawn(
    prompts: Batch, sampling: Sampling, generator: torch.Generator | None, numbers: Tensor | None
) -> Tensor | None:
    if numbers is None:
        return sampling.numbers(len(prompts), generator)
    if list(numbers.shape) != [len(prompts), sampling.max_new_tokens]:
        raise ArgumentError(
            f"numbers {list(numbers.shape)} for {len(prompts)} prompts: expected [prompts, {sampling.max_new_tokens}]."
        )
    return numbers


def _mixed(student: Tensor, teacher: Tensor, alpha: float) -> Tensor:
    from limbeck.functional.policy import mixed_sampling

    size = min(student.shape[-1], teacher.shape[-1])
    return mixed_sampling(student[..., :size].float(), teacher[..., :size].float(), alpha=alpha)


class LoopSampler(Sampler):
    """Any module or teacher that the task can run: a forward pass of the whole text for every token, without a cache.

    Rows are padded on the right, as in training, so that a model needs neither positions nor a mask to be read rightly.
    """

    def __init__(self, model: Any, task: Any, ends: Ends, *, mix: tuple[Any, float] | None = None):
        self.model, self.task, self.ends, self.mix = model, task, tuple(ends), mix

    def generate(self, prompts: Batch, sampling: Sampling, generator: torch.Generator | None = None, *,
                 numbers: Tensor | None = None) -> Answers:  # fmt: skip
        drawn, given = _drawn(prompts, sampling, generator, numbers), bare(prompts)
        first = torch.tensor([len(row) for row in given])
        device, partner = _device(self.model), None if self.mix is None else self.mix[0]
        new = room([self.model, partner], int(first.max()), sampling)
        rows = torch.zeros(len(given), int(first.max()) + new, dtype=torch.int64, device=device)
        for number, row in enumerate(given):
            rows[number, : len(row)] = torch.tensor(row)
        sizes, ends = first.to(device, copy=True), torch.tensor(self.ends, device=device)
        active = torch.arange(len(given), device=device)
        with torch.no_grad(), _resting(self.model), _resting(partner):
            for t in range(new):
                logits = self._next(self.model, rows, sizes, active)
                if self.mix is not None:
                    logits = _mixed(logits, self._next(partner, rows, sizes, active), self.mix[1])
                chosen = choose(logits, sampling, None if drawn is None else drawn[active.cpu(), t])
                rows[active, sizes[active]] = chosen
                sizes[active] += 1
                active = active[~torch.isin(chosen, ends)]
                if not len(active):
                    break
        found = [row[a:b] for row, a, b in zip(rows.cpu(), first.tolist(), sizes.tolist())]
        finished = torch.ones(len(given), dtype=torch.bool)
        finished[active.cpu()] = False
        return Answers([row.clone() for row in found], finished)

    def _next(self, model: Any, rows: Tensor, sizes: Tensor, active: Tensor) -> Tensor:
        """The logits [active, vocabulary] of the token that comes next."""
        lengths = sizes[active]
        width = int(lengths.max())
        inside = torch.arange(width, device=rows.device) < lengths[:, None]
        inputs = {"input_ids": rows[active, :width].where(inside, 0), "attention_mask": inside.long()}
        batch = Batch(inputs, -1 - active).to(_device(model))  # who joins in may lie elsewhere
        if isinstance(model, nn.Module):
            found = self.task.signals(self.task.forward(model, self.task.view(batch, model, "student")))["logits"]
        else:
            found = model.read(batch, ["logits"], self.task)["logits"]
        last = (torch.arange(len(active), device=found.device), (lengths - 1).to(found.device))
        found = found.block(last[0] * width + last[1]) if hasattr(found, "block") else found[last]
        return found.to(rows.device)


class TransformersSampler(Sampler):
    """A Transformers model, through its own `generate` and cache.

    Tokens are chosen by `choose`, not by `do_sample`: nothing is filtered unasked (`do_sample=True` alone keeps the 50
    likeliest tokens), global random state is not touched, and neither the penalties nor the forced tokens of the
    model's generation config apply: what is drawn is the distribution that is trained. `vocabulary`: tokens beyond it,
    which pad the matrix, are never chosen.
    """

    def __init__(
        self, model: nn.Module, ends: Ends, *, vocabulary: int | None = None, mix: tuple[Any, float] | None = None
    ):
        self.model, self.ends, self.vocabulary, self.mix = model, tuple(ends), vocabulary, mix

    def generate(self, prompts: Batch, sampling: Sampling, generator: torch.Generator | None = None, *,
                 numbers: Tensor | None = None) -> Answers:  # fmt: skip
        from transformers import GenerationConfig

        drawn, device = _drawn(prompts, sampling, generator, numbers), _device(self.model)
        ids, mask = (prompts.inputs[key].to(device) for key in ("input_ids", "attention_mask"))
        partner = None if self.mix is None else self.mix[0]
        new = room([self.model, partner], ids.shape[1], sampling)
        config = GenerationConfig(max_new_tokens=new, do_sample=False, eos_token_id=list(self.ends),
                                  pad_token_id=self.ends[0], use_cache=True)  # fmt: skip
        other = None if partner is None else _Cached(partner, mask)
        pick = _Pick(sampling, drawn, ids.shape[1], self.vocabulary, other, 0.0 if self.mix is None else self.mix[1])
        own = self.model.generation_config
        with _resting(self.model), _resting(partner):
            try:  # `generate` fills what a config leaves open from the model's own, such as a repetition penalty
                self.model.generation_config = config  # type: ignore[assignment]
                found = self.model.generate(  # type: ignore[operator]
                    input_ids=ids, attention_mask=mask, generation_config=config, logits_processor=[pick]
                )
            finally:
                self.model.generation_config = own
        return Answers.cut(found[:, ids.shape[1] :].cpu(), self.ends)


class _Pick:
    """Chooses the next tokens, and leaves `generate` no other choice."""

    def __init__(self, sampling: Sampling, numbers: Tensor | None, width: int, vocabulary: int | None,
                 other: _Cached | None, alpha: float):  # fmt: skip
        self.sampling, self.numbers, self.width, self.vocabulary = sampling, numbers, width, vocabulary
        self.other, self.alpha = other, alpha

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        logits = scores[:, : self.vocabulary]
        if self.other is not None:
            logits = _mixed(logits, self.other(input_ids), self.alpha)
        drawn = None if self.numbers is None else self.numbers[:, input_ids.shape[1] - self.width]
        chosen = choose(logits, self.sampling, drawn)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen[:, None], 0.0)


class _Cached:
    """The next-token logits of another model on the text as it grows."""

    def __init__(self, model: Any, mask: Tensor):
        self.model, self.device, self.seen, self.cache = model, _device(model), 0, None
        self.mask = mask.to(self.device)
        known = inspect.signature(model.forward).parameters
        self.positions = "position_ids" in known
        self.name = "cache" if "cache" in known else "past_key_values"  # as Transformers called it up to 5.23

    def __call__(self, input_ids: Tensor) -> Tensor:
        home, input_ids = input_ids.device, input_ids.to(self.device)
        more = input_ids.shape[1] - self.mask.shape[1]
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), more)], 1)
        inputs: dict[str, Any] = {"input_ids": input_ids[:, self.seen :], "attention_mask": self.mask}
        if self.positions:
            inputs["position_ids"] = (self.mask.cumsum(1) - 1).clamp(min=0)[:, self.seen :]
        output = self.model(**inputs, **{self.name: self.cache}, use_cache=True)
        self.seen, self.cache = input_ids.shape[1], getattr(output, self.name)
        return output.logits[:, -1].to(home)
