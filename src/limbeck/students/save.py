"""Models on disk: a folder with weights in safetensors and a config that says how to build the module again.

    save_model(student, "runs/x/student", task={"name": "classification", "classes": ["cat", "dog"]})
    student = load_module("runs/x/student")

`config.json` holds the format "limbeck-module", the builder with its arguments (or the class, where no builder is
known), the cut, the task, and of an encoder the hash of its teacher. Transformers models are saved by their own
`save_pretrained`, with `limbeck.json` beside them.
"""

from __future__ import annotations

import copy
import importlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.disk import sync, writing
from limbeck.errors import ModelError, nearest
from limbeck.students import adapters, pretrained
from limbeck.students.chain import chain_spec
from limbeck.students.cut import apply_cut, conform, find_cut
from limbeck.students.declare import seeded
from limbeck.students.pretrained import check_keys, is_pretrained, read_part, read_pretrained, write_pretrained

FORMAT = "limbeck-module"
WEIGHTS = "model.safetensors"
PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".joblib")
Builder = Callable[..., nn.Module] | str


def save_model(
    module: nn.Module, folder: str | Path, *, task: Any = None, extra: Mapping[str, Any] | None = None
) -> Path:
    """Save a module into a folder of its own, all or nothing: an interrupted save leaves the old folder as it was.

    `task`: a task, its name, or a mapping of plain values; `extra`: anything plain to keep beside it. A module without
    a builder is saved too; loading it then takes `builder=`. A model of peft is saved merged, from a copy, unless it was
    made with `Lora(merge=False)`. Raises ModelError where the folder holds something else
    than a saved model, or the state holds what safetensors cannot.
    """
    folder = Path(folder)
    module = getattr(module, "_orig_mod", module)  # torch.compile
    if adapters.has_adapters(module) and not hasattr(module, "limbeck_base"):
        module = adapters.merged(copy.deepcopy(module))
    about: dict[str, Any] = {}
    if task is not None:
        about["task"] = dict(task) if isinstance(task, Mapping) else {"name": getattr(task, "name", task)}
    if hasattr(module, "limbeck_shrink"):
        about["shrink"] = module.limbeck_shrink
    about |= taught(module)
    if extra:
        about["extra"] = dict(extra)
    with replacing(folder) as aside:
        if adapters.has_adapters(module):
            adapters.write_adapter(module, aside, about)
        elif is_pretrained(module):
            write_pretrained(module, aside, about)
        else:
            _write(module, aside, about)
    return folder


def taught(module: nn.Module) -> dict[str, Any]:
    """{"teacher": hash, "prompts": {"query", "document"}} of an encoder that knows in whose space its vectors are, and what
    it wants before texts; of other modules nothing."""
    known, prompts = getattr(module, "limbeck_teacher", None), getattr(module, "prompts", None)
    prompts = prompts if isinstance(prompts, dict) and any(prompts.values()) else None
    return {name: value for name, value in (("teacher", known), ("prompts", prompts)) if value is not None}


def _write(module: nn.Module, folder: Path, about: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    record: dict[str, Any] = {"format": FORMAT, **how_to_build(module), **about}
    state, tied = _untied(module)
    if tied:
        record["tied"] = tied
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    tokenizer: Any = getattr(module, "tokenizer", None)
    if hasattr(tokenizer, "save_pretrained"):
        tokenizer.save_pretrained(folder / "tokenizer")
    (folder / "config.json").write_text(json.dumps(record, indent=1) + "\n")


def how_to_build(module: nn.Module) -> dict[str, Any]:
    """The builder that gives this module again, with its cut; else the name of its class."""
    spec = getattr(module, "limbeck_spec", None)
    if spec is not None:
        try:
            with torch.device("meta"):
                built = _find(spec["builder"])(**spec["arguments"])
        except (ModelError, RuntimeError, NotImplementedError):
            return dict(spec)  # a builder inside a function or notebook: it can still be passed when loading
        cut = find_cut(built, module)
        if cut is not None:
            return {**spec, **({"cut": cut} if cut else {})}
    chain = chain_spec(module)
    if chain is not None:
        return chain
    return {"class": f"{type(module).__module__}:{type(module).__qualname__}"}


def _find(name: str) -> Callable[..., nn.Module]:
    module, _, function = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in function.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ModelError(f"There is no builder {name!r}: {error}. Expected 'package.module:function'.") from error
    if not callable(found):
        raise ModelError(f"{name!r} is a {type(found).__name__}. A builder is a function that returns a module.")
    return found


def _untied(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The state with every tensor once, and which names stand for another (tied weights)."""
    state: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    storages: set[int] = set()
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor):
            raise ModelError(f"{name!r} in the state is a {type(value).__name__}; only tensors can be saved safely.")
        storage = value.untyped_storage().data_ptr()
        key = (storage, value.storage_offset(), tuple(value.shape), value.stride(), value.dtype)
        if value.numel() and key in seen:
            tied[name] = seen[key]
            continue
        seen[key] = name
        # views of one storage are copied: safetensors keeps each tensor by itself
        state[name] = value.detach().clone().contiguous() if storage in storages else value.detach().contiguous()
        storages.add(storage)
    return state, tied


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """An empty folder to fill, which then takes the place of `folder`; on an error, `folder` is as it was."""
    if folder.exists() and not _ours(folder):
        raise ModelError(
            f"{folder} holds something else than a saved model, and saving replaces the whole folder. "
            "Name a new or empty one."
        )
    aside, old = (folder.with_name(f".{folder.name}.{word}-{os.getpid()}") for word in ("new", "old"))
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        try:
            aside.mkdir()
            yield aside
            for path in [*aside.rglob("*"), aside]:
                sync(path)
            if folder.exists():
                os.replace(folder, old)
            os.replace(aside, folder)
            sync(folder.parent)
        except BaseException:
            if old.exists() and not folder.exists():
                os.replace(old, folder)
            raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _ours(folder: Path) -> bool:
    return folder.is_dir() and (not any(folder.iterdir()) or is_saved(folder) or is_exported(folder))


def _record(folder: Path) -> dict[str, Any] | None:
    """What Limbeck wrote about a saved model; None where the folder is not one."""
    for name in ("limbeck.json", "config.json"):
        if (folder / name).is_file():
            try:
                record = json.loads((folder / name).read_text())
            except ValueError as error:
                raise ModelError(f"{folder / name} is not JSON: {error}") from error
            if isinstance(record, dict) and record.get("format") in (FORMAT, pretrained.FORMAT, adapters.FORMAT):
                return record
    return None


def is_exported(folder: Path) -> bool:
    """Whether a folder is one that Limbeck exported for others to read."""
    for name in ("limbeck.json", "config.json"):
        file = folder / name
        if file.is_file() and '"format": "limbeck-' in file.read_text(errors="replace"):
            return True
    return False


def is_saved(folder: str | Path) -> bool:
    """Whether a folder holds a model that Limbeck saved."""
    return Path(folder).is_dir() and _record(Path(folder)) is not None


def read_config(folder: str | Path) -> dict[str, Any]:
    """What was saved beside a model: format, builder, arguments, cut, shrink, teacher, task, extra. ModelError if none."""
    record = _record(Path(folder))
    if record is None and Path(folder).is_dir() and is_exported(Path(folder)):
        raise ModelError(
            f"{folder} is a student as it was exported for others to read: sentence-transformers, or limbeck.export.static. "
            "Name the saved one, the folder student of its run."
        )
    if record is None:
        raise ModelError(
            f"{folder} is not a model saved by Limbeck: it has no config.json or limbeck.json of its format."
        )
    return record


def load_module(path: str | Path, builder: Builder | None = None) -> nn.Module:
    """The module of a saved folder, in eval mode, equal to the last bit; or of a .safetensors file, with a builder.

    `builder`: a function that returns the module, or "package.module:function", which is imported and run: name only
    code that you trust. Without it, only Limbeck's own builders are. Raises ModelError where weights and module do not
    fit in every key and shape, and for pickled weights.
    """
    path = Path(path)
    refuse_pickle(path)
    if not path.exists():
        siblings = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ModelError(f"There is no {path}.{nearest(path.name, siblings)}")
    record: dict[str, Any] = {}
    if path.is_dir():
        record = read_config(path)
        if record["format"] == adapters.FORMAT:
            return adapters.read_adapter(path, record, None if builder is None else _built(path, {}, builder))
        if record["format"] != FORMAT and builder is None:
            return read_pretrained(path, record)
        weights = path / WEIGHTS
    else:
        weights = path
    if weights.suffix != ".safetensors" or not weights.is_file():
        raise ModelError(f"{path} has no weights to read. Expected {WEIGHTS} in a folder, or a .safetensors file.")
    module = _built(path, record, builder)
    _fill(module, weights, record)
    if (path / "tokenizer").is_dir():
        own = getattr(module, "read_tokenizer", None)
        module.tokenizer = (read_part(str(path / "tokenizer"), "tokenizer") if own is None
                            else own(str(path / "tokenizer")))  # fmt: skip
    if "shrink" in record:
        module.limbeck_shrink = record["shrink"]
    if "teacher" in record:
        module.limbeck_teacher = record["teacher"]
    if "prompts" in record:
        module.prompts = record["prompts"]
    return module.eval()


def refuse_pickle(path: Path) -> None:
    """Raise ModelError for weights that only pickle reads, with the line that converts them."""
    pickles = [path] if path.suffix in PICKLES else []
    if path.is_dir() and not any(path.glob("*.safetensors")):
        pickles = sorted(file for file in path.iterdir() if file.suffix in PICKLES)
    if pickles:
        raise ModelError(
            f"{pickles[0]} is a pickle, which may run any code when it is read, so Limbeck does not. Convert weights that "
            "you trust once: from safetensors.torch import save_file; save_file(torch.load("
            f"{pickles[0].name!r}, weights_only=True), 'model.safetensors'), then load that file."
        )


def build_from(spec: Mapping[str, Any]) -> nn.Module:
    """A module by {"builder": one of Limbeck's, "arguments": ...}, with fresh weights: a part of what a builder builds."""
    return _built(Path("the part"), dict(spec), None)


def _built(path: Path, record: dict[str, Any], builder: Builder | None) -> nn.Module:
    arguments = record.get("arguments", {})
    with seeded(0):  # every weight is overwritten
        if builder is not None:
            function = _find(builder) if isinstance(builder, str) else builder
            module = function(**arguments)
        elif "builder" in record:
            name = str(record["builder"])
            if not name.startswith("limbeck.") or not hasattr(_find(name), "limbeck_builder"):
                raise ModelError(
                    f"{path} was made by {name!r}, which is not a builder of Limbeck; loading it runs that code. "
                    f"If you trust it: load_module({str(path)!r}, builder={name!r})."
                )
            module = _find(name)(**arguments)
        else:
            kind = f" of class {record['class']!r}" if "class" in record else ""
            raise ModelError(
                f"{path} holds the weights{kind} and not how to build the module. Give a function that does: "
                f"load_module({str(path)!r}, builder=lambda: MyModel(...))."
            )
    if not isinstance(module, nn.Module):
        raise ModelError(f"The builder returned a {type(module).__name__}, not a torch module.")
    return apply_cut(module, record.get("cut", {}))


def _fill(module: nn.Module, weights: Path, record: dict[str, Any]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(weights)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{weights} cannot be read: {error}") from error
    for name, other in record.get("tied", {}).items():
        if other in state:
            state[name] = state[other]
    wanted = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    if not record:  # a bare weights file says nothing of ties: names that share a tensor in the module may be left out
        pointers = {value.data_ptr(): state[name] for name, value in wanted.items() if name in state}
        state = {**{name: pointers[value.data_ptr()] for name, value in wanted.items()
                    if name not in state and value.numel() and value.data_ptr() in pointers}, **state}  # fmt: skip
    mismatched = [
        (name, state[name].shape, wanted[name].shape)
        for name in wanted if name in state and state[name].shape != wanted[name].shape
    ]  # fmt: skip
    check_keys(str(weights), wanted.keys() - state.keys(), state.keys() - wanted.keys(), mismatched)
    conform(module, state, shapes=False)
    module.load_state_dict(state, strict=True)
