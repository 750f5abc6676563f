"""Masked language models as teachers: texts with words left out, the same ones for student and teachers (DistilBERT, 2019)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.data.base import Batch, Inputs
from limbeck.errors import ArgumentError, ModelError
from limbeck.signals.layers import layers
from limbeck.signals.step import Ref, Step
from limbeck.students.cut import evenly
from limbeck.tasks.base import Task
from limbeck.tasks.text import tokenize, tokenizer_of
from limbeck.teachers.base import ModuleTeacher
from limbeck.teachers.live import Derived

if TYPE_CHECKING:
    from limbeck.training.job import Job

HEADS = ("cls", "lm_head")  # of BERT and of RoBERTa, as Transformers calls what follows the hidden states


@dataclass
class Masking:
    """Leaves out a `rate` of the tokens of a text, at least one: 80 % become [MASK], 10 % another token, 10 % stay (BERT)."""

    module: nn.Module
    rate: float

    def of(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """`input_ids` with tokens left out, `attention_mask`, and `left_out` [batch, tokens], drawn once in a step."""
        return step.once("masked", lambda generator: self._draw(tokenize(self.module, batch.inputs), generator))

    def _draw(self, inputs: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        tokenizer, ids = tokenizer_of(self.module), inputs["input_ids"]
        chance, kind = (torch.rand(ids.shape, generator=generator).to(ids.device) for _ in range(2))
        words = inputs["attention_mask"].bool() & ~torch.isin(
            ids, torch.tensor(tokenizer.all_special_ids).to(ids.device)
        )
        chance = chance.masked_fill(~words, 2.0)
        left_out = words & ((chance < self.rate) | (chance == chance.min(1, keepdim=True).values))
        other = torch.randint(len(tokenizer.get_vocab()), ids.shape, generator=generator).to(ids.device)
        masked = torch.where(kind < 0.8, tokenizer.mask_token_id, torch.where(kind < 0.9, other, ids))
        return {"input_ids": torch.where(left_out, masked, ids), "attention_mask": inputs["attention_mask"],
                "labels": ids, "left_out": left_out}  # fmt: skip

    def view(self, batch: Batch, step: Step) -> Inputs:
        """What a model is given of a batch of texts."""
        found = self.of(batch, step)
        return {name: found[name] for name in ("input_ids", "attention_mask")}


class Masked(Derived):
    """A teacher that reads the masked texts."""

    def __init__(self, base: ModuleTeacher, masking: Masking):
        self.base, self.masking = base, masking

    def sources(self, taps: Sequence[str]) -> list[Ref]:
        return []

    def derive(self, step: Step, taps: Sequence[str], task: Task) -> dict[str, Any]:
        self.base.to(step.batch.ids.device)
        batch = replace(step.batch, inputs=self.masking.view(step.batch, step))
        return self.base.read(batch, taps, task, progress=step.progress)


@dataclass
class MaskedStage:
    """What a stage on masked texts needs: `views` and `roles` for `Job.stage`, and where the terms look."""

    views: dict[str, Any]
    roles: dict[str, Any]
    masking: Masking
    student: str
    teachers: list[Ref]
    head: nn.Module


def masked_stage(job: Job, given: Any, rate: float, begin: bool) -> MaskedStage:
    """Read masked language models, `given` as one or as a list, of one vocabulary, which is the student's.

    With `begin` the student's embeddings and layers get the weights of the first, evenly spread over its layers: of twice as
    many every second. Raises ArgumentError and ModelError where they do not fit.
    """
    if job.data.kind != "text":
        raise ArgumentError(f"teachers= are masked language models, and these data are of kind {job.data.kind!r}.")
    if not 0 < rate < 1:
        raise ArgumentError(f"rate={rate}: expected the share of tokens that are left out, between 0 and 1.")
    modules = [_load(one) for one in (given if isinstance(given, list | tuple) else [given])]
    if not modules:
        raise ArgumentError("teachers= is empty: give one masked language model, or a list of them.")
    ours = tokenizer_of(job.student)
    for number, module in enumerate(modules):
        theirs = tokenizer_of(module)
        if ours is None or theirs is None or theirs.get_vocab() != ours.get_vocab() or ours.mask_token_id is None:
            raise ArgumentError(
                f"The masked language model {number} and the student must have one tokenizer, with a mask token: their "
                "probabilities are averaged word by word. Build the student with the teacher's."
            )
    taps, first = job.layers("student"), modules[0]
    name = next((name for name in HEADS if hasattr(first, name)), None)
    if name is None:
        raise ModelError(f"A {type(first).__name__} is no masked language model: no {' or '.join(HEADS)} gives words.")
    if begin and not job.rehearsal:
        _begin(job.student, taps, first)
    masking = Masking(job.student, rate)
    roles = {f"masked{number}": Masked(ModuleTeacher(module), masking) for number, module in enumerate(modules)}
    refs = [Ref(role, layers(module)[-1]) for role, module in zip(roles, modules, strict=True)]
    head = copy.deepcopy(getattr(first, name)).requires_grad_(True)
    return MaskedStage({"student/masked": masking.view}, roles, masking, taps[-1], refs, head)


def _load(given: Any) -> nn.Module:
    if isinstance(given, nn.Module):
        return given.eval()
    if not isinstance(given, str | Path):
        raise ArgumentError(
            f"teachers={given!r}: expected masked language models, as modules, folders or names of the hub."
        )
    from transformers import AutoModelForMaskedLM

    from limbeck.students.pretrained import attach, check_keys, from_pretrained, unreachable

    source: dict[str, Any] = {"local_files_only": Path(given).is_dir() or unreachable()}
    try:
        module, report = from_pretrained(AutoModelForMaskedLM, str(given), **source)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{str(given)!r} could not be loaded as a masked language model: {error}") from error
    check_keys(repr(str(given)), set(report["missing_keys"]), (), list(report["mismatched_keys"]))
    attach(module, str(given), **source)
    return module


def _begin(student: nn.Module, taps: Sequence[str], teacher: nn.Module) -> None:
    theirs = layers(teacher)
    if len(taps) > len(theirs):
        raise ArgumentError(f"The student has {len(taps)} layers, the teacher {len(theirs)}: give begin=false.")
    pairs = [(tap, theirs[number]) for tap, number in zip(taps, evenly(len(taps), len(theirs)), strict=True)]
    tables = [
        next((n for n, _ in module.named_modules() if n.endswith(".embeddings")), "") for module in (student, teacher)
    ]
    for ours, other in [(tables[0], tables[1]), *pairs]:
        try:
            student.get_submodule(ours).load_state_dict(teacher.get_submodule(other).state_dict())
        except RuntimeError as error:
            raise ModelError(
                f"The student's {ours!r} cannot begin at the teacher's {other!r}, which is of another shape. Give the student "
                "the teacher's sizes, or begin=false."
            ) from error
