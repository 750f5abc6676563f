"""Samplers of models that are not modules of this process: a vLLM engine, and a function from texts to texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from limbeck._optional import need
from limbeck.data.base import Batch
from limbeck.data.generate import Answers, Sampler, Sampling, bare
from limbeck.errors import DataError


class VLLMSampler(Sampler):
    """A model that vLLM runs, on the devices that it takes: for teachers, and for students that are done.

    `folder`: a Transformers folder or hub name. A student in training has other weights at every step: it writes through
    `sampler_of(module, ...)`. Each answer has a seed of its own. Needs the package vllm.
    """

    def __init__(self, folder: str, ends: Sequence[int], **options: Any):
        self.vllm, self.ends = need("vllm", "vllm"), list(ends)
        self.engine = self.vllm.LLM(model=folder, **options)

    def generate(self, prompts: Batch, sampling: Sampling, generator: torch.Generator | None = None, *,
                 numbers: Tensor | None = None) -> Answers:  # fmt: skip
        drawn = sampling.numbers(len(prompts), generator) if numbers is None else numbers
        seeds = [None] * len(prompts) if drawn is None else (drawn[:, 0] * 2**31).long().tolist()
        wanted = [
            self.vllm.SamplingParams(
                max_tokens=sampling.max_new_tokens, temperature=0.0 if sampling.greedy else sampling.temperature,
                top_k=sampling.top_k or -1, top_p=sampling.top_p, seed=seed, stop_token_ids=self.ends, detokenize=False,
            )
            for seed in seeds
        ]  # fmt: skip
        given = [{"prompt_token_ids": row} for row in bare(prompts)]
        outputs = [found.outputs[0] for found in self.engine.generate(given, wanted, use_tqdm=False)]
        rows = []
        for output in outputs:
            row = list(output.token_ids)
            if output.finish_reason == "stop" and (not row or row[-1] not in self.ends):
                row.append(output.stop_reason if isinstance(output.stop_reason, int) else self.ends[0])
            rows.append(row)
        return Answers.cut(rows, self.ends)


class TextSampler(Sampler):
    """A black box: a function from prompts as texts to answers as texts, such as a call of a server.

    Its answers are tokenized by `tokenizer`, the student's, and closed with its end token. How the box samples is its own
    affair: of the `sampling` only `max_new_tokens` is kept to, by cutting. None or "" is an empty answer.
    """

    def __init__(self, function: Callable[[list[str]], Sequence[str | None]], tokenizer: Any):
        self.function, self.tokenizer = function, tokenizer

    def generate(self, prompts: Batch, sampling: Sampling, generator: torch.Generator | None = None, *,
                 numbers: Tensor | None = None) -> Answers:  # fmt: skip
        asked = [self.tokenizer.decode(row, skip_special_tokens=True) for row in bare(prompts)]
        texts = list(self.function(asked))
        if len(texts) != len(asked):
            raise DataError(f"The function gave {len(texts)} answers to {len(asked)} prompts; expected one for each.")
        end, most = self.tokenizer.eos_token_id, sampling.max_new_tokens
        rows = [[*self.tokenizer(text or "", add_special_tokens=False)["input_ids"], end] for text in texts]
        return Answers.cut([row[:most] for row in rows], [end])
