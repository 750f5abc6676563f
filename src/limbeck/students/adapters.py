"""Students that are a frozen model with small trained adapters (LoRA, Hu et al., 2021), by peft.

    lb.distill("lm_kd", teacher="big", student="small", lora=16, data="texts.jsonl", out="runs/x")

Only the adapters learn, and only they stand in checkpoints. The student that is left is merged: a plain model without
adapters; with `merge=False` it stays a base and an adapter, and the run's folder holds the adapter alone.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck._optional import need
from limbeck.errors import ArgumentError, ModelError, nearest
from limbeck.shards import spread_state, whole
from limbeck.students import declare
from limbeck.students.declare import seeded, share
from limbeck.students.pretrained import TOKENIZER_FILES, is_pretrained, read_part

FORMAT = "limbeck-adapter"
KINDS = {"causal_lm": "CAUSAL_LM", "classification": "SEQ_CLS"}


@dataclass(frozen=True)
class Lora:
    """What is trained of a student instead of its weights: W + alpha / rank * B A, with A [rank, in] and B [out, rank].

    `rank`: of the adapters. `alpha`: their strength, twice the rank by default. `dropout`: of what they receive.
    `targets`: names of the modules that get one, by default all linear layers but the head. `train`: modules that are
    trained whole beside them, such as ["lm_head"]; a matrix that is shared with the embedding is then no longer shared.
    `merge`: whether the student that is left has the adapters in its weights.
    """

    rank: int = 16
    alpha: float | None = None
    dropout: float = 0.0
    targets: str | tuple[str, ...] = "all-linear"
    train: tuple[str, ...] = ()
    merge: bool = True

    def __post_init__(self) -> None:
        declare.whole("lora rank", self.rank)
        share("lora dropout", self.dropout)
        if self.alpha is not None and (isinstance(self.alpha, bool) or not self.alpha > 0):
            raise ArgumentError(f"lora alpha={self.alpha!r}: expected a positive number.")
        for name in ("targets", "train"):
            value = getattr(self, name)
            if not isinstance(value, str):
                object.__setattr__(self, name, tuple(value))
            elif name == "train":
                raise ArgumentError(f"lora train={value!r}: expected a list of names, [{value}].")


def as_lora(value: Any) -> Lora | None:
    """A `Lora` from a rank, a mapping of its fields, or itself; None for none. Raises ArgumentError for anything else."""
    if value is None or isinstance(value, Lora):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return Lora(rank=value)
    if not isinstance(value, Mapping):
        raise ArgumentError(f"lora={value!r}: expected a rank, lora=16, or options, lora={{rank: 16, alpha: 32}}.")
    known = [field.name for field in fields(Lora)]
    for name in value:
        if name not in known:
            raise ArgumentError(f"lora has no option {name!r}.{nearest(str(name), known)}")
    return Lora(**value)


def has_adapters(module: nn.Module) -> bool:
    """Whether a module is a model of peft; does not import peft to say so."""
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(module, peft.PeftModel)


def add_adapters(base: nn.Module, lora: Lora, task: str, seed: int, source: Any = None) -> Any:
    """A model of peft around `base`, whose own weights are frozen; the adapters are drawn from `seed`.

    `source`: the folder or hub name of the base, which a saved adapter names. Raises ArgumentError for a base that has
    nothing to keep or no source to name, ModelError where peft finds no such modules.
    """
    if not is_pretrained(base) or base.main_input_name != "input_ids" or task not in KINDS:  # type: ignore[comparison-overlap]
        raise ArgumentError(
            f"lora= trains adapters of Transformers models of texts for {' and '.join(KINDS)}; this student is a "
            f"{type(base).__name__} for {task}. Leave lora out."
        )
    if getattr(base, "limbeck_fresh", False):
        raise ArgumentError("lora= keeps the student's own weights, and those of a new one are random. Leave lora out.")
    if not lora.merge and source is None:
        raise ArgumentError(
            "merge=false leaves an adapter, which is of no use without its base, and this student comes from no folder or "
            "hub name. Save it first (lb.save_model) and give the folder, or leave merge out."
        )
    peft = need("peft", "lora")
    mark = weights_print(base) if not lora.merge else None
    config = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha or 2 * lora.rank, lora_dropout=lora.dropout, task_type=KINDS[task],
        target_modules=lora.targets if isinstance(lora.targets, str) else list(lora.targets),
        modules_to_save=list(lora.train) or None,
    )  # fmt: skip
    try:
        with seeded(seed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Conv1D, and of a head that is no longer tied, as `train` says
            found = peft.get_peft_model(base, config)
    except ValueError as error:
        raise ModelError(f"lora: {error} Linear layers of this student: {', '.join(_linear(base))}.") from error
    for name in lora.train:
        if not any(place.endswith(f"{name}.modules_to_save") for place, _ in found.named_modules()):
            raise ModelError(
                f"lora train={name!r}: {type(base).__name__} has no such module.{nearest(name, _names(base))}"
            )
    found.train(base.training)  # peft makes its wrapper and adapters in train mode
    if mark is not None:
        found.limbeck_base = {
            "source": str(Path(source).resolve()) if Path(source).exists() else str(source),
            "print": mark,
        }
    return found


def _names(base: nn.Module) -> list[str]:
    return sorted(
        {name.rsplit(".", 1)[-1] for name, child in base.named_modules() if name and list(child.parameters())}
    )


def _linear(base: nn.Module) -> list[str]:
    kinds = ("Linear", "Conv1D")
    return sorted({name.rsplit(".", 1)[-1] for name, child in base.named_modules() if type(child).__name__ in kinds})


def merged(module: Any) -> Any:
    """The plain model that gives the same: adapters added to its weights, which may be trained again. Uses up `module`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = module.merge_and_unload()
    for parameter in plain.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return plain.eval()


def trained_state(module: nn.Module) -> dict[str, Any]:
    """The state of a module without the frozen parameters of models with adapters, which training leaves as they are.

    What lies in pieces over processes is whole on the first one (`limbeck.shards.whole`).
    """
    kept = _frozen(module)
    return whole({key: value for key, value in module.state_dict().items() if key not in kept})


def load_trained(module: nn.Module, state: Mapping[str, Any]) -> None:
    """What `trained_state` gave, back into a module. Raises RuntimeError where it is another module's."""
    own, kept = module.state_dict(), _frozen(module)
    module.load_state_dict({**{key: own[key] for key in kept}, **spread_state(state, own)})


def _frozen(module: nn.Module) -> set[str]:
    found = set()
    for place, child in module.named_modules():
        if has_adapters(child):
            state = child.state_dict(prefix=f"{place}." if place else "", keep_vars=True)
            found |= {k for k, value in state.items() if isinstance(value, nn.Parameter) and not value.requires_grad}
    return found


def weights_print(module: nn.Module, frozen: bool = False) -> str:
    """A hash of all parameters, or of those that are `frozen`, by name."""
    import xxhash

    digest = xxhash.xxh3_128()
    for name, value in sorted(module.named_parameters()):
        if not frozen or not value.requires_grad:
            plain: Tensor = whole(value, everywhere=True).detach().cpu().contiguous()
            digest.update(f"{name}{plain.dtype}{tuple(plain.shape)}".encode())
            if plain.numel():
                digest.update(plain.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_adapter(module: Any, folder: Path, about: dict[str, Any]) -> None:
    """The adapter of a model that names its base, and limbeck.json, into an existing folder."""
    source = module.limbeck_base["source"]
    for config in module.peft_config.values():
        config.base_model_name_or_path = source
    module.save_pretrained(str(folder))
    tokenizer: Any = getattr(module, "tokenizer", None)
    if hasattr(tokenizer, "save_pretrained"):
        tokenizer.save_pretrained(folder)
    record = {"format": FORMAT, "base": module.limbeck_base, **about}
    (folder / "limbeck.json").write_text(json.dumps(record, indent=1) + "\n")


def read_adapter(folder: Path, record: dict[str, Any], base: nn.Module | None = None) -> Any:
    """A base and its saved adapter, in eval mode. Raises ModelError where the base cannot be found or has changed."""
    from limbeck.teachers.load import load_model

    source = record["base"]["source"]
    if base is None:
        try:
            found = load_model(source, role="student")
        except ModelError as error:
            raise ModelError(
                f"{folder} is an adapter, and its base {source!r} cannot be loaded: {error} If it has moved: "
                "load_module(folder, builder=lambda: base)."
            ) from error
        assert isinstance(found, nn.Module)
        base = found
    if weights_print(base) != record["base"]["print"]:
        raise ModelError(
            f"{folder} is an adapter of {source!r}, whose weights are others now. Load it onto its old base."
        )
    module = need("peft", "lora").PeftModel.from_pretrained(base, str(folder))
    module.limbeck_base = record["base"]
    if getattr(base, "tokenizer", None) is None and any((folder / file).is_file() for file in TOKENIZER_FILES):
        base.tokenizer = read_part(str(folder), "tokenizer")
    return module.eval()
