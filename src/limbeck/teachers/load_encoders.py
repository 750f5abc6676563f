"""Sentence encoders from folders and hub names: those of sentence-transformers, and any Transformers body."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck._optional import need
from limbeck.errors import ModelError
from limbeck.students.encoders import POOLINGS, Encoder, around, static
from limbeck.students.pretrained import attach, check_keys, from_pretrained, read_part, unreachable
from limbeck.students.rankers import PairClassifier, Ranker

MODULES = "modules.json"
ROLES = {"query": ("query",), "document": ("document", "passage", "corpus")}
OF_POOLING = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "last"}


def read_encoder(name: str, *, trust_remote_code: bool = False, seed: int = 0) -> Encoder:
    """An encoder with the pooling, the linear map and the normalisation that lie beside it.

    A Transformers model that says nothing of them is read with mean pooling and L2 norm 1 (`encoder.assumed` then says
    so). Raises ModelError for modules of sentence-transformers that are not known here: give such a model as an object.
    """
    folder = _folder(name)
    steps = json.loads((folder / MODULES).read_text()) if (folder / MODULES).is_file() else []
    by_kind: dict[str, list[Path]] = {}
    for step in steps:
        by_kind.setdefault(step["type"].rsplit(".", 1)[-1], []).append(folder / step["path"])
    unknown = set(by_kind) - {"Transformer", "Pooling", "Dense", "Normalize", "StaticEmbedding"}
    if unknown or len(by_kind.get("Dense", [])) > 1:
        named = ", ".join(sorted(unknown)) or "several Dense"
        raise ModelError(
            f"{name!r} has modules of sentence-transformers that are not read here: {named}. "
            "Give the model as an object: teacher=SentenceTransformer(...)."
        )
    dense = by_kind.get("Dense", [None])[0]
    outputs = None if dense is None else int(_config(dense)["out_features"])
    if "StaticEmbedding" in by_kind:
        module: Any = _static(by_kind["StaticEmbedding"][0], "Normalize" in by_kind, outputs)
        if dense is not None:
            _fill_dense(module, dense, name)
        return module
    body = _body(str(by_kind["Transformer"][0]) if "Transformer" in by_kind else name, trust_remote_code, seed)
    if not steps:
        module = around(body, seed=seed)
        module.assumed = True
        return module
    pooling = _pooling(by_kind["Pooling"][0], name) if "Pooling" in by_kind else "mean"
    module = around(body, pooling, "Normalize" in by_kind, outputs, _longest(by_kind["Transformer"][0]), seed)
    if dense is not None:
        _fill_dense(module, dense, name)
    file = folder / "config_sentence_transformers.json"
    stated = json.loads(file.read_text()) if file.is_file() else {}
    module.prompts = prompts_of(stated.get("prompts"), stated.get("default_prompt_name"))
    return module


def prompts_of(stated: Any, default: str | None) -> dict[str, str] | None:
    """What sentence-transformers puts before a "query" and a "document" by its `prompts` and the default one's name."""
    stated = stated if isinstance(stated, dict) else {}
    always = stated.get(default) or ""
    found = {role: next((stated[name] for name in names if stated.get(name)), always) for role, names in ROLES.items()}
    return found if any(found.values()) else None


def task_of_texts(spec: Any) -> str | None:
    """ "embedding" or "ranking" where a module, or the folder of a model or a run, is of that; else None. No hub is asked."""
    if isinstance(spec, nn.Module):
        of_theirs = type(spec).__module__.startswith("sentence_transformers.")
        return (
            "embedding" if isinstance(spec, Encoder) or of_theirs else "ranking" if isinstance(spec, Ranker) else None
        )
    if not isinstance(spec, str | Path):
        return None
    for folder in (Path(spec), Path(spec) / "student"):
        if (folder / MODULES).is_file():
            return "embedding"
        if (folder / "config.json").is_file():
            config = _config(folder)
            task = {"name": "embedding"} if "static_encoder" in str(config.get("builder")) else config.get("task")
            name = task.get("name") if isinstance(task, dict) else None
            return name if name in ("embedding", "ranking") else None
    return None


def read_pair_classifier(name: str, *, trust_remote_code: bool = False) -> PairClassifier | None:
    """A cross-encoder that was saved as a classifier with one output; None where the model is no classifier.

    Raises ModelError for one of several outputs.
    """
    config = _config(_folder(name))
    if not any(str(kind).endswith("ForSequenceClassification") for kind in config.get("architectures") or []):
        return None
    transformers = need("transformers", "language")
    source: dict[str, Any] = {
        "trust_remote_code": trust_remote_code,
        "local_files_only": Path(name).is_dir() or unreachable(),
    }
    try:
        model, report = from_pretrained(transformers.AutoModelForSequenceClassification, name, **source)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(f"{name!r} could not be loaded from safetensors: {error}") from error
    check_keys(repr(name), report["missing_keys"], (), report["mismatched_keys"])
    if model.config.num_labels != 1:
        raise ModelError(f"{name!r} has {model.config.num_labels} outputs; a model that scores pairs has one.")
    attach(model, name, **source)
    if getattr(model, "tokenizer", None) is None:
        model.tokenizer = read_part(name, "tokenizer", **source)
    made = PairClassifier(model)
    config = {key: value for key, value in model.config.to_diff_dict().items() if key not in ("id2label", "label2id")}
    arguments = {"config": config | {"model_type": model.config.model_type, "num_labels": 1}}
    made.limbeck_spec = {"builder": "limbeck.students.rankers:pair_classifier", "arguments": arguments}  # type: ignore
    return made


def _folder(name: str) -> Path:
    """Where the small files lie: the folder, or for a hub name what of it was fetched now or before."""
    if Path(name).is_dir():
        return Path(name)
    hub = need("huggingface_hub", "language")
    try:
        wanted = [place + ending for ending in ("*.json", "*.safetensors", "*.txt", "*.model") for place in ("", "*/")]
        return Path(hub.snapshot_download(name, allow_patterns=wanted, local_files_only=unreachable()))
    except Exception as error:  # the hub's errors are many; all mean that it could not be had
        raise ModelError(
            f"There is no folder {name!r}, and it could not be fetched from the hub ({type(error).__name__}: {error}). Check "
            "the name and the connection, or give a folder that holds the model."
        ) from error


def _body(name: str, trust: bool, seed: int) -> Any:
    transformers = need("transformers", "language")
    from limbeck.students.declare import seeded

    source: dict[str, Any] = {"trust_remote_code": trust, "local_files_only": Path(name).is_dir() or unreachable()}
    try:
        with seeded(seed):
            body, report = from_pretrained(transformers.AutoModel, name, **source)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(f"{name!r} could not be loaded from safetensors: {error}") from error
    check_keys(
        repr(name), [key for key in report["missing_keys"] if "pooler" not in key], (), report["mismatched_keys"]
    )
    if hasattr(body, "pooler"):
        body.pooler = None  # a head of its pretraining, which no pooling reads
    attach(body, name, **source)
    if getattr(body, "tokenizer", None) is None:
        body.tokenizer = read_part(name, "tokenizer", **source)
    return body


def _config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def _pooling(folder: Path, name: str) -> str:
    config = _config(folder)
    found = [value for key, value in OF_POOLING.items() if config.get(key)]
    if isinstance(config.get("pooling_mode"), str):
        found = [{"lasttoken": "last"}.get(config["pooling_mode"], config["pooling_mode"])]
    if len(found) != 1 or found[0] not in POOLINGS:
        raise ModelError(
            f"The pooling of {name!r} is {found or config}; known are {', '.join(POOLINGS)}. Give the model as an object: "
            "teacher=SentenceTransformer(...)."
        )
    return found[0]


def _longest(folder: Path) -> int | None:
    file = folder / "sentence_bert_config.json"
    return json.loads(file.read_text()).get("max_seq_length") if file.is_file() else None


def _fill_dense(module: Any, folder: Path, name: str) -> None:
    from safetensors.torch import load_file

    config = _config(folder)
    if not str(config.get("activation_function", "Identity")).endswith("Identity"):
        raise ModelError(
            f"The Dense layer of {name!r} has the activation {config['activation_function']}; only linear ones are read. Give "
            "the model as an object: teacher=SentenceTransformer(...)."
        )
    state = load_file(folder / "model.safetensors")
    if module.projection is None:
        module.projection = nn.Linear(int(config["in_features"]), int(config["out_features"]))
    with torch.no_grad():
        module.projection.weight.copy_(state["linear.weight"])
        module.projection.bias.copy_(state.get("linear.bias", torch.zeros(len(module.projection.bias))))


def _static(folder: Path, normalize: bool, outputs: int | None) -> Encoder:
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    weight = load_file(folder / "model.safetensors")["embedding.weight"]
    width = weight.shape[1]
    module = static(outputs or width, Tokenizer.from_file(str(folder / "tokenizer.json")), width)
    del module.limbeck_fresh
    module.normalize = normalize
    with torch.no_grad():
        module.table.weight[: len(weight)].copy_(weight)
        module.table.weight[len(weight) :].zero_()  # there a text without tokens has a vector of zeros
    return module
