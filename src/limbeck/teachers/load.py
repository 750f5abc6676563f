"""From whatever the user has to a teacher (or a pretrained student): objects, folders, hub names, lists of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from limbeck._optional import need
from limbeck.errors import ArgumentError, LimbeckError, ModelError, nearest
from limbeck.students.build import SHORT, timm_model
from limbeck.students.declare import seeded
from limbeck.students.fill import outputs_of
from limbeck.students.precision import hold
from limbeck.students.pretrained import attach, check_keys, from_pretrained, unreachable
from limbeck.students.save import Builder, is_exported, is_saved, load_module, read_config, refuse_pickle
from limbeck.teachers.base import Teacher, as_teacher

if TYPE_CHECKING:
    from limbeck.data.base import Data
    from limbeck.tasks.base import Task

FORMS = (
    "What can be loaded: a torch module; a folder written by save_model, or a run's folder; a Transformers folder or hub "
    "name ('user/model'); 'timm:NAME'; a .safetensors file with builder=; a fitted scikit-learn estimator; a signal "
    "store; a function from inputs to logits; a list of these, or a mapping of them to weights, for an ensemble."
)
ESTIMATOR_FILES = (".joblib", ".pkl", ".pickle")
MODULES = "modules.json"  # of sentence-transformers


Loaded = nn.Module | Teacher


def load_model(spec: Any, *, data: Data | None = None, task: Task | None = None, role: str = "teacher",
               builder: Builder | None = None, trust_remote_code: bool = False, seed: int = 0,
               precision: str | None = None) -> Loaded:  # fmt: skip
    """A module or teacher from an object, a path or a name; modules and teachers are returned as they are.

    `data` and `task` say how many outputs a model needs and of which kind; `role="student"` lets a pretrained model
    without a fitting head get a new one, initialised from `seed`. `builder` makes the module of a folder or weights
    file that does not say how (see `load_module`). Weights are read from safetensors only, and code from the hub runs
    only with `trust_remote_code=True`. `precision`: hold the weights of a Transformers model in "bf16", "fp16" or "fp32", not
    as they were saved. Raises ModelError, with the ways out, for everything else.
    """
    if isinstance(spec, nn.Module | Teacher):
        if precision is not None:
            raise ArgumentError(
                f"The {role} is a {type(spec).__name__} of yours, which is taken as it is: convert it yourself, as in "
                "teacher.bfloat16()."
            )
        return spec

    def load(inner: Any) -> Loaded:
        return load_model(inner, data=data, task=task, role=role, builder=builder,
                          trust_remote_code=trust_remote_code, seed=seed, precision=precision)  # fmt: skip

    if isinstance(spec, list | tuple | Mapping):
        from limbeck.teachers.ensemble import Ensemble

        if not isinstance(spec, Mapping):
            return Ensemble([load(inner) for inner in spec])
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in spec.values()):
            return Ensemble([load(inner) for inner in spec], list(spec.values()))
        return Ensemble({str(name): load(inner) for name, inner in spec.items()})
    if isinstance(spec, str | Path):
        found = _from_text(spec, data, task, role, builder, trust_remote_code, seed)
    else:
        try:
            found = as_teacher(spec)
        except ModelError as error:
            if hasattr(spec, "fit"):  # an estimator that is not fitted, or gives no probabilities
                raise
            raise ModelError(f"A {type(spec).__name__} cannot be a {role}. {FORMS}") from error
    if precision is not None:
        if not isinstance(found, nn.Module) or getattr(found, "main_input_name", None) != "input_ids":
            raise ArgumentError(
                f"The {role} {spec!r} cannot be held in {precision}: only Transformers models of texts can, which take no "
                "numbers with a fraction. precision=bf16 runs it in bfloat16."
            )
        found = hold(found, precision)
    if data is not None and isinstance(found, Teacher):
        found.check(data)
    return found


def _from_text(spec: str | Path, data: Data | None, task: Task | None, role: str, builder: Builder | None,
               trust: bool, seed: int) -> Loaded:  # fmt: skip
    path, name = Path(spec).expanduser(), str(spec)
    if not name.strip():
        raise ArgumentError(f"{role}= is empty. {FORMS}")
    if path.suffix in ESTIMATOR_FILES:
        raise ModelError(
            f"{name} is a pickle, which may run any code when it is read, so Limbeck does not. If you trust it, load it "
            f"in Python and pass the object: load_model(joblib.load({name!r})), or teacher=joblib.load({name!r})."
        )
    refuse_pickle(path)
    if path.exists():
        return _from_path(path, data, task, role, builder, trust, seed)
    if name.startswith("timm:"):
        return _timm(name[len("timm:") :], data, task, role, seed)
    word = re.split(r"[:(]", name)[0]
    if word in SHORT or word == "shrink":
        raise ModelError(
            f"{name!r} builds an untrained student, which cannot teach. Train it first, then give its run's folder "
            f"(teacher='runs/x'). {FORMS}"
        )
    if isinstance(spec, Path) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise ModelError(f"There is no {role} {name!r}.{_near(name)} {FORMS}")
    if "/" not in name and _timm_knows(name):
        return _timm(name, data, task, role, seed)
    return _transformers(name, data, task, role, trust, seed)


def _near(name: str) -> str:
    """A near file or folder name, or a near word of the command line; nothing where none is near."""
    folder = Path(name).parent
    here = [child.name for child in folder.iterdir()] if folder.is_dir() else []
    words = [] if "/" in name else [*SHORT, "shrink"]
    hint = nearest(re.split(r"[:(]", Path(name).name)[0], [*here, *words])
    if "Did you mean" not in hint:
        return ""
    return hint if folder == Path() else hint.replace("Did you mean '", f"Did you mean '{folder}/")


def _from_path(path: Path, data: Data | None, task: Task | None, role: str, builder: Builder | None, trust: bool,
               seed: int) -> Loaded:  # fmt: skip
    if path.is_file() or is_saved(path) or builder is not None:
        return load_module(path, builder)
    if (path / "manifest.json").is_file():
        from limbeck.teachers.stored import StoredTeacher

        return StoredTeacher(path)
    if is_exported(path) and not (path / MODULES).is_file():
        read_config(path)  # which says what such a folder is for
    if is_saved(path / "student"):
        return load_module(path / "student")
    if (path / "config.json").is_file() or (path / MODULES).is_file():
        return _transformers(str(path), data, task, role, trust, seed)
    raise ModelError(
        f"The folder {path} holds no model. Expected model.safetensors with config.json (a saved module, or a "
        f"Transformers model), student/ (a run), or manifest.json (a signal store). {FORMS}"
    )


def _timm_knows(name: str) -> bool:
    try:
        return bool(need("timm", "vision").is_model(name))
    except LimbeckError:
        return False


def _timm(name: str, data: Data | None, task: Task | None, role: str, seed: int) -> nn.Module:
    """A pretrained timm model; as a student an untrained one with the outputs and channels of the data."""
    timm = need("timm", "vision")
    if role == "student":
        from limbeck.students.build import build_student

        return build_student(f"timm:{name}", data, task, seed=seed)
    if not timm.is_model(name.split(".")[0]):
        raise ModelError(f"timm has no model {name!r}.{nearest(name, timm.list_models())}")
    try:
        module = timm.create_model(name, pretrained=True).eval()
        module.limbeck_pretrained = True  # it must see images normalised as it was trained (tasks/images.py)
    except (OSError, RuntimeError) as error:
        raise ModelError(_unreachable(name, error)) from error
    module.limbeck_spec = {
        "builder": f"{timm_model.__module__}:{timm_model.__qualname__}",
        "arguments": {"name": name.split(".")[0], "outputs": module.num_classes, "channels": 3},
    }
    return module


def _unreachable(name: str, error: Exception) -> str:
    told = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"{name!r} is neither a file or folder here nor a model that could be fetched from the hub ({told}). Check the "
        f"name and the connection, or give a folder that holds the model.{_near(name)} {FORMS}"
    )


HEADS = {"text": "ForSequenceClassification", "image": "ForImageClassification", "tokens": "ForCausalLM"}
CAUSAL = ("ForCausalLM", "LMHeadModel")


def _transformers(name: str, data: Data | None, task: Task | None, role: str, trust: bool, seed: int) -> nn.Module:
    """A Transformers model for sequence or image classification, with its tokenizer or image processor on it."""
    if task is not None:
        found = task.pretrained(name, role=role, trust_remote_code=trust, seed=seed)
        if found is not None:
            return found
    transformers = need("transformers", "language")
    source = {"trust_remote_code": trust, "local_files_only": Path(name).is_dir() or unreachable()}
    try:
        config = transformers.AutoConfig.from_pretrained(name, **source)
    except (OSError, ValueError, KeyError) as error:
        if Path(name).is_dir():
            raise ModelError(f"The config in {name} cannot be read: {error}") from error
        raise ModelError(_unreachable(name, error)) from error
    head = _head(name, config, data, task, role)
    options: dict[str, Any] = dict(source)
    if role == "student" and data is not None and data.kind != "tokens":
        options["num_labels"] = outputs_of(data, task)
        if data.target == "classes" and data.classes:
            options["id2label"] = dict(enumerate(data.classes))
            options["label2id"] = {label: number for number, label in enumerate(data.classes)}
    try:
        with seeded(seed):
            module, report = from_pretrained(getattr(transformers, f"AutoModel{head}"), name, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{name!r} could not be loaded from safetensors: {error}") from error
    _check_weights(name, module, report, role)
    if role == "teacher" and data is not None and data.classes:
        _check_order(name, module, data)
    attach(module, name, **source)
    return module


def is_causal(spec: Any) -> bool:
    """Whether a module, or the folder of a model (a run's too), is a causal language model. Hub names are not asked."""
    if isinstance(spec, nn.Module):
        config = getattr(getattr(spec, "config", None), "architectures", None) or [type(spec).__name__]
        return any(name.endswith(CAUSAL) for name in config)
    if not isinstance(spec, str | Path):
        return False
    for folder in (Path(spec), Path(spec) / "student"):
        if (folder / "config.json").is_file():
            found = json.loads((folder / "config.json").read_text()).get("architectures") or []
            return any(str(name).endswith(CAUSAL) for name in found)
        if (folder / "adapter_config.json").is_file():
            return json.loads((folder / "adapter_config.json").read_text()).get("task_type") == "CAUSAL_LM"
    return False


def _head(name: str, config: Any, data: Data | None, task: Task | None, role: str) -> str:
    """Which of the heads a model has or is to have."""
    architectures = list(config.architectures or [])
    if task is not None and task.name == "causal_lm":
        if any(architecture.endswith(CAUSAL) for architecture in architectures):
            return HEADS["tokens"]
        raise ModelError(f"{name!r} is no causal language model (its architectures: {architectures or 'none'}).")
    for head in HEADS.values():
        if any(architecture.endswith(head) for architecture in architectures):
            return head
    if role == "teacher":
        raise ModelError(
            f"{name!r} has no head for classes or values (its architectures: {architectures or 'none'}), so it has "
            "nothing to teach here. Fine-tune it on the task first, or use it as the student; for a language model, "
            "task=causal_lm."
        )
    if data is not None and data.kind in HEADS:
        return HEADS[data.kind]
    raise ModelError(f"{name!r}: give data of texts or images, so that the model gets the head that fits them.")


def _check_weights(name: str, module: Any, report: dict[str, Any], role: str) -> None:
    """A teacher must be complete. A student may lack its head, which is then new, and nothing else."""
    missing, mismatched = set(report["missing_keys"]), list(report["mismatched_keys"])
    if role == "student":
        body = f"{module.base_model_prefix}."
        missing = {key for key in missing if key.startswith(body) and "pooler" not in key}
        mismatched = [item for item in mismatched if item[0].startswith(body)]
    check_keys(repr(name), missing, (), mismatched)


def _check_order(name: str, module: Any, data: Data) -> None:
    """Refuse a teacher that knows the data's classes in another order: its columns would be taken for other classes."""
    labels = getattr(module.config, "id2label", None) or {}
    theirs = [str(labels[number]).casefold() for number in sorted(labels)]
    ours = [label.casefold() for label in data.classes or []]
    if theirs != ours and sorted(theirs) == sorted(ours):
        raise ModelError(
            f"{name!r} has the classes in the order {theirs[:8]}, the data {data.name!r} in the order {ours[:8]}. Number "
            "the labels of the data as the teacher does."
        )
