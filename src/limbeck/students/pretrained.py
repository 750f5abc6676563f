"""Transformers models on disk and from the hub: safetensors only, no remote code, strict where Limbeck saved them.

A saved model is what `save_pretrained` writes, with its tokenizer or image processor, and `limbeck.json` beside it,
which holds the task and the cut that the config cannot say.
"""

from __future__ import annotations

import copy
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import nn

from limbeck._optional import need
from limbeck.errors import ModelError
from limbeck.students.cut import Cut, apply_cut, find_cut

FORMAT = "limbeck-transformers"
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model")


def is_pretrained(module: nn.Module) -> bool:
    """Whether a module is a Transformers model; does not import Transformers to say so."""
    transformers = sys.modules.get("transformers")
    return transformers is not None and isinstance(module, transformers.PreTrainedModel)


def write_pretrained(module: Any, folder: Path, about: dict[str, Any]) -> None:
    """Weights, config, tokenizer or processor, and limbeck.json into an existing folder."""
    try:
        with torch.device("meta"):
            cut = find_cut(type(module)(copy.deepcopy(module.config)), module)
    except (RuntimeError, NotImplementedError, ValueError, TypeError):
        cut = {}  # a class that cannot be built without its weights: loading will tell whether they fit
    record = {"format": FORMAT, "class": type(module).__name__, **about}
    if cut:
        record["cut"] = cut
    elif cut is None:
        record["changed"] = "modules were replaced after the model was made; its config alone does not build it again"
    with quiet():
        module.save_pretrained(folder)
    for name in ("tokenizer", "processor"):
        part: Any = getattr(module, name, None)
        if hasattr(part, "save_pretrained"):
            part.save_pretrained(folder)
    (folder / "limbeck.json").write_text(json.dumps(record, indent=1) + "\n")


def read_pretrained(folder: Path, record: dict[str, Any]) -> nn.Module:
    """A model that `write_pretrained` wrote, in eval mode. Raises ModelError where any weight does not fit."""
    transformers = need("transformers", "language")
    kind = getattr(transformers, str(record.get("class")), None)
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        raise ModelError(f"{folder}: this Transformers ({transformers.__version__}) has no {record.get('class')!r}.")
    if "changed" in record:
        raise ModelError(f"{folder} cannot be loaded by itself: {record['changed']}. Pass a builder of the module.")
    module, report = from_pretrained(kind, str(folder), cut=record.get("cut"))
    check_keys(str(folder), report["missing_keys"], report["unexpected_keys"], report["mismatched_keys"])
    attach(module, str(folder))
    if "shrink" in record:
        module.limbeck_shrink = record["shrink"]
    if "teacher" in record:
        module.limbeck_teacher = record["teacher"]
    return module


def from_pretrained(kind: Any, name: str, *, cut: Cut | None = None, **options: Any) -> tuple[Any, dict[str, Any]]:
    """`kind.from_pretrained` from safetensors, with its report of keys; `cut` is applied before weights are read."""
    options = {**options, "use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    if cut is None:
        with quiet():
            module, report = kind.from_pretrained(name, **options)
        return module.eval(), report

    # The cut must happen between building and loading, which from_pretrained does in one go: a class of the same name
    # builds the cut module, and Transformers' own renaming of weights keeps working.
    class Cutting(kind):  # type: ignore[misc,valid-type]
        def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(config, *args, **kwargs)
            apply_cut(self, cut or {})

    Cutting.__name__, Cutting.__qualname__, Cutting.__module__ = kind.__name__, kind.__qualname__, kind.__module__
    with quiet():
        module, report = Cutting.from_pretrained(name, **options)
    module.__class__ = kind
    return module.eval(), report


def unreachable() -> bool:
    """Whether the hub's name does not resolve. Then only cached files are asked for: retries would cost half a minute."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return False
    host = urlsplit(need("huggingface_hub", "language").constants.ENDPOINT).hostname
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return True
    return False


@contextmanager
def quiet() -> Iterator[None]:
    """Transformers without its progress bars and load reports; what they say is checked and raised here."""
    logging = need("transformers", "language").utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def attach(module: Any, name: str, **options: Any) -> None:
    """Hang the tokenizer or image processor that lies beside a model on it, where there is one."""
    images = module.main_input_name == "pixel_values"
    attribute, files = ("processor", PROCESSOR_FILES) if images else ("tokenizer", TOKENIZER_FILES)
    if not Path(name).is_dir() or any((Path(name) / file).exists() for file in files):
        setattr(module, attribute, read_part(name, attribute, **options))


def read_part(name: str, attribute: str, **options: Any) -> Any:
    """The tokenizer or processor of a folder or hub name. Raises ModelError where it cannot be read."""
    transformers = need("transformers", "language")
    kind = transformers.AutoTokenizer if attribute == "tokenizer" else transformers.AutoImageProcessor
    try:
        return kind.from_pretrained(name, **{"trust_remote_code": False, **options})
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise ModelError(f"The {attribute} of {name!r} could not be read: {error}") from error


def check_keys(where: str, missing: Any, unexpected: Any, mismatched: Any) -> None:
    """Raise ModelError with the first few keys of each kind, unless there are none."""
    parts = []
    for label, keys in (("missing", missing), ("unexpected", unexpected)):
        if keys:
            parts.append(f"{len(keys)} {label}: {_few(sorted(keys))}")
    if mismatched:
        shown = [
            f"{key} {list(found)} in the file, {list(wanted)} in the model" for key, found, wanted in sorted(mismatched)
        ]
        parts.append(f"{len(shown)} of another shape: {_few(shown)}")
    if parts:
        raise ModelError(
            f"The weights in {where} are of another architecture than the model. " + "; ".join(parts) + ". "
            "Load them into the model that they were saved from, or correct the builder's arguments."
        )


def _few(items: list[str], count: int = 3) -> str:
    return ", ".join(items[:count]) + (", ..." if len(items) > count else "")
