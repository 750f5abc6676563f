"""Taps: names for places in a module where a signal is read or replaced.

Grammar: `path[@call][#part][#mean]`. `path` is a module's dotted name; in a pattern `*` stands for any characters but a dot.
`@2` is the second call of a module that runs several times in one forward (ALBERT's shared group). `#input` is the
first positional input, `#call` the whole call `(args, kwargs)`, `#1` the element 1 of a tuple output. Without a part:
the output, or its first tensor. `#mean` is its mean over the positions of a map, or over the tokens of a text that the
`attention_mask` with which the model is called says are no padding; what is not a map and no tokens is given as it is.

    with Taps(model, read=["layer.2", "layer.*.output"]) as taps:
        output = taps.run(lambda: model(x))     # None where `stop=True` ended the forward early
        taps.signals["layer.2"]
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import SignalError, nearest
from limbeck.functional.transforms import pooled

Replacement = Any  # a value, or a function of the original value


@dataclass(frozen=True)
class Tap:
    """A parsed tap."""

    path: str
    call: int = 1
    part: str = ""
    mean: bool = False

    @classmethod
    def parse(cls, text: str) -> Tap:
        match = re.fullmatch(r"(?P<path>[^@#]*)(@(?P<call>\d+))?(#(?P<part>input|call|\d+))?(?P<mean>#mean)?", text)
        if match is None or match["call"] == "0":
            raise SignalError(
                f"{text!r} is not a tap. Expected path[@call][#input|#call|#number][#mean], such as 'layer.2', 'group@2', "
                "'layer.2#input', 'layer.2#mean'; calls are counted from 1."
            )
        return cls(match["path"], int(match["call"] or 1), match["part"] or "", bool(match["mean"]))


def mean_of(tap: str) -> str:
    """The tap of the mean over places of what a tap gives; of one that is a mean itself."""
    return tap if Tap.parse(tap).mean else f"{tap}#mean"


class _Stop(BaseException):
    """Ends a forward pass from inside; not an Exception, so that no `except Exception` in a model swallows it."""

    def __init__(self, owner: Taps):
        self.owner = owner


class ChangedInPlace(SignalError):
    """A tapped value was overwritten later in the same forward pass."""

    def __init__(self, tap: str):
        super().__init__(
            f"The value of tap {tap!r} was changed in place after it was read (an in-place ReLU, for example), so that "
            f"it is not what the module gave. Ask for a copy: Taps(..., clone=[{tap!r}])."
        )
        self.tap = tap


def _plain(name: str) -> str:
    """Names as the user knows them: torch.compile and DDP put prefixes into them."""
    return ".".join(part for part in name.split(".") if part not in ("_orig_mod", "_fsdp_wrapped_module"))


def module_names(module: nn.Module) -> dict[str, nn.Module]:
    """Every name of every submodule, shared ones under each of their names."""
    return {_plain(name): child for name, child in module.named_modules(remove_duplicate=False)}


def match(module: nn.Module, pattern: str) -> list[str]:
    """The taps that a pattern names, in the order of the module. Raises SignalError with near matches when none."""
    tap = Tap.parse(pattern)
    names = module_names(module)
    suffix = pattern[len(tap.path) :]
    if "*" not in tap.path:
        if tap.path not in names:
            raise SignalError(
                f"The tap {pattern!r} names no module of {type(module).__name__}."
                + _near(tap.path, filter(None, names))
            )
        return [pattern]
    found = [name + suffix for name in names if _expression(tap.path).fullmatch(name)]
    if not found:
        raise SignalError(
            f"The pattern {pattern!r} matches no module of {type(module).__name__} (* does not cross a dot)."
            + _near(tap.path, {re.sub(r"(?<![^.])\d+(?![^.])", "*", name) for name in names if name})
        )
    return found


def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\*", "[^.]*"))


def _near(path: str, names: Iterable[str]) -> str:
    """A hint: the names that end as the path does, else those spelt most like it."""
    names = sorted(set(names), key=lambda name: (name.count("."), name))
    ending = [name for name in names if name.endswith(f".{path}")]
    near = ending[:3] or difflib.get_close_matches(path, names, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else nearest(path, names)


def first_tensor(value: Any) -> Any:
    """A tensor, or the first tensor of a tuple, list or mapping; else the value itself."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        for element in value:
            if isinstance(element, Tensor):
                return element
    return value


class Taps:
    """Reads and replaces signals of a module while it is open. See the head of this file for the names of taps.

    `stop=True` ends the forward pass after the last signal that is read. `clone` names taps to copy at once, for
    modules that overwrite them in place. A replacing tap must stay open until backward is done when the model
    recomputes activations (checkpointing); reading ones keep the first value.
    """

    def __init__(self, module: nn.Module, read: Iterable[str] = (), replace: Mapping[str, Replacement] | None = None,
                 *, stop: bool = False, clone: Iterable[str] = ()):  # fmt: skip
        self.module = module
        self.names = [name for pattern in read for name in match(module, pattern)]
        self.replace = {name: value for pattern, value in (replace or {}).items() for name in match(module, pattern)}
        self.stop, self.clone = stop, set(clone)
        self.signals: dict[str, Any] = {}
        self._versions: dict[str, tuple[Tensor, int]] = {}
        self._handles: list[Any] = []
        self._calls: dict[str, int] = {}
        self._active = False
        self._mask: Tensor | None = None  # of the tokens of this forward pass, where a mean is wanted
        if meant := [name for name in self.replace if Tap.parse(name).mean]:
            raise SignalError(f"{meant[0]!r} is a mean, and what it is a mean of cannot be replaced by it.")

    # the life of the hooks
    def __enter__(self) -> Taps:
        modules = module_names(self.module)
        wanted: dict[str, list[tuple[str, Tap]]] = {}
        for name in dict.fromkeys([*self.replace, *self.names]):
            tap = Tap.parse(name)
            wanted.setdefault(tap.path, []).append((name, tap))
        if any(tap.mean for taps in wanted.values() for _, tap in taps):
            self._handles.append(self.module.register_forward_pre_hook(self._called, with_kwargs=True))
        for path, taps in wanted.items():
            before = [item for item in taps if item[1].part in ("input", "call")]
            after = [item for item in taps if item[1].part not in ("input", "call")]
            # the first of the two hooks counts the call, so that both see the same number
            self._handles.append(modules[path].register_forward_pre_hook(self._before(path, before), with_kwargs=True))
            if after:
                self._handles.append(modules[path].register_forward_hook(self._after(path, after)))
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the hooks. The signals stay."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._versions.clear()

    def run(self, call: Callable[[], Any]) -> Any:
        """Call the model; returns its output, or None when the forward pass was stopped. Fills `signals`."""
        self.signals, self._versions, self._calls, self._active = {}, {}, {}, True
        output = None
        try:
            output = call()
        except _Stop as stopped:
            if stopped.owner is not self:
                raise
        finally:
            self._active = False
        missing = [name for name in self.names if name not in self.signals]
        if missing:
            raise SignalError(
                f"No signal came from {missing}: those modules (or that call of them) did not run in this forward "
                "pass, or the model was compiled as a whole before the tap was set. Compile its blocks, or tap others."
            )
        for name, (value, version) in self._versions.items():
            if value._version != version:
                raise ChangedInPlace(name)
        return output

    # the hooks
    def _called(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._mask = kwargs.get("attention_mask")

    def _before(self, path: str, taps: list[tuple[str, Tap]]) -> Callable[..., Any]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            number = self._calls[path] = self._calls.get(path, 0) + 1
            changed = False
            for name, tap in taps:
                if name in self.replace and self._now(tap, number):
                    value = self.replace[name]
                    if tap.part == "call":
                        args, kwargs = value((args, kwargs)) if callable(value) else value
                    else:
                        args = (value(args[0]) if callable(value) else value, *args[1:])
                    changed = True
                if self._active and number == tap.call and name in self.names:
                    if tap.part == "input" and not args:
                        raise SignalError(
                            f"{name!r}: the module was called with keywords only; tap {path}#call instead."
                        )
                    self._keep(name, (args, kwargs) if tap.part == "call" else self._meant(args[0], tap))
            return (args, kwargs) if changed else None

        return hook

    def _after(self, path: str, taps: list[tuple[str, Tap]]) -> Callable[..., Any]:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            number, changed = self._calls[path], False
            for name, tap in taps:
                if name in self.replace and self._now(tap, number):
                    output, changed = _replaced(output, self.replace[name], tap), True
                if self._active and number == tap.call and name in self.names:
                    self._keep(name, self._meant(_part(output, tap, name), tap))
            return output if changed else None

        return hook

    def _meant(self, value: Any, tap: Tap) -> Any:
        return pooled(value, self._mask) if tap.mean and isinstance(value, Tensor) else value

    def _now(self, tap: Tap, number: int) -> bool:
        # after the forward pass a call is a recomputation for backward: it must see the same replacement
        return tap.call == number if self._active else True

    def _keep(self, name: str, value: Any) -> None:
        if name in self.clone and isinstance(value, Tensor):
            value = value.clone()
        elif isinstance(value, Tensor) and not value.is_inference():
            self._versions[name] = (value, value._version)
        self.signals[name] = value
        if self.stop and len(self.signals) == len(set(self.names)):
            raise _Stop(self)


def _part(output: Any, tap: Tap, name: str) -> Any:
    if tap.part:
        index = int(tap.part)
        value = output[index] if isinstance(output, tuple | list) and index < len(output) else None
        if value is None:
            raise SignalError(
                f"{name!r} is empty. Attention weights are only computed by the eager implementation: load the model "
                "with attn_implementation='eager'."
            )
        return value
    value = first_tensor(output)
    if not isinstance(value, Tensor):
        raise SignalError(
            f"{name!r} gave no tensor but {type(value).__name__}. Tap another module, or a part of it (#1)."
        )
    return value


def _replaced(output: Any, value: Replacement, tap: Tap) -> Any:
    if isinstance(output, Tensor):
        return value(output) if callable(value) else value
    if isinstance(output, tuple | list):
        index = int(tap.part) if tap.part else 0
        new = value(output[index]) if callable(value) else value
        return type(output)((*output[:index], new, *output[index + 1 :]))
    raise SignalError(
        f"The output of {tap.path!r} is a {type(output).__name__}; only tensors and tuples can be replaced."
    )


def record_call(module: nn.Module, path: str, call: Callable[[], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with which a submodule is called in a forward pass, detached: the batch of a block-local run."""
    with Taps(module, [f"{path}#call"], stop=True) as taps, torch.no_grad():
        taps.run(call)
    return taps.signals[f"{path}#call"]
