"""What a walk over lazy logits works on: a block of rows, the terms that compare it, and closed forms of their gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from limbeck.errors import SignalError
from limbeck.functional.core import Declaration
from limbeck.functional.topk import largest
from limbeck.signals.store_encode import TopK


@dataclass(frozen=True)
class Post:
    """What a model does to its logits after the matrix: multiply by `scale`, then `softcap * tanh(x / softcap)`."""

    scale: float = 1.0
    softcap: float | None = None

    def __post_init__(self) -> None:
        if not self.scale or (self.softcap is not None and not self.softcap > 0):
            raise SignalError(f"{self}: the scale must not be 0, and the cap must be positive (or None).")

    def __call__(self, logits: Tensor) -> Tensor:
        if self.scale != 1:
            logits = logits * self.scale
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap

    def apply_(self, logits: Tensor) -> Tensor:
        """The same, in place."""
        if self.scale != 1:
            logits.mul_(self.scale)
        return logits if self.softcap is None else logits.div_(self.softcap).tanh_().mul_(self.softcap)

    def chain_(self, gradient: Tensor, logits: Tensor) -> Tensor:
        """From the gradient at the result `logits` to the one at the raw product. Overwrites both."""
        if self.softcap is not None:
            gradient.mul_(logits.div_(self.softcap).square_().neg_().add_(1))  # 1 - tanh^2
        return gradient if self.scale == 1 else gradient.mul_(self.scale)


@dataclass(frozen=True, eq=False)
class TokenTerm:
    """A token divergence: a function, its options, and the tensors that are trained in it.

    `function` is a declared formula, called with the inputs that it declares, its options and `reduction="none"`; or any
    `f(student [block, V], teacher [block, V] | None, labels [block] | None, **options) -> values [block]`. An option that
    requires gradients (a learned temperature) is trained. What a function trains by closing over it must be named in
    `parameters`: a walk refuses what it would otherwise lose.
    """

    function: Callable[..., Tensor]
    options: Mapping[str, Any] = field(default_factory=dict)
    parameters: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        trained = [value for value in self.options.values() if isinstance(value, Tensor) and value.requires_grad]
        object.__setattr__(self, "parameters", (*self.parameters, *trained))

    @property
    def declaration(self) -> Declaration | None:
        return getattr(self.function, "declaration", None)

    @property
    def name(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    @property
    def labelled(self) -> bool:
        """Whether items without a label do not count."""
        declaration = self.declaration
        return declaration is not None and declaration.labels and declaration.unlabelled == "drop"

    @property
    def sparse(self) -> bool:
        """Whether it takes what a store kept of a teacher as it is."""
        return self.declaration is not None and self.declaration.sparse

    def check(self, teacher: bool, labels: bool) -> None:
        """Raise SignalError where this term cannot be walked with what is given."""
        declaration = self.declaration
        if declaration is None:
            return
        if declaration.per != "item":
            raise SignalError(f"{self.name!r} has one value for a whole batch and cannot be walked block by block.")
        for kind, given in (("teacher", teacher), ("labels", labels)):
            if kind in declaration.inputs and not given:
                raise SignalError(f"{self.name!r} needs {kind}, and the walk was given none.")

    def __call__(self, student: Tensor, teacher: Tensor | TopK | None, labels: Tensor | None) -> Tensor:
        """Values [block] of a block of rows."""
        declaration = self.declaration
        if declaration is None:
            values = self.function(student, teacher, labels, **self.options)
        else:
            given = {"student": student, "teacher": teacher, "labels": labels}
            values = self.function(*(given[name] for name in declaration.inputs), **self.options, reduction="none")
        if not isinstance(values, Tensor) or values.shape != student.shape[:1]:
            seen = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise SignalError(
                f"{self.name!r} gave {seen} for {len(student)} tokens. Expected one value for each token."
            )
        return values

    def check_parameters(self, values: Tensor, leaf: Tensor) -> None:
        """Raise where `values` train something that was not declared: its gradient would be lost without a word."""
        seen = {p.grad_fn for p in self.parameters if p.grad_fn is not None}
        known = {id(leaf), *map(id, self.parameters)}
        stack = [values.grad_fn]
        while stack:
            node = stack.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            variable = getattr(node, "variable", None)
            if variable is not None and id(variable) not in known:
                raise SignalError(
                    f"{self.name!r} trains a tensor of shape {list(variable.shape)} that it did not declare. Write "
                    "TokenTerm(function, parameters=(tensor,)), or detach it."
                )
            stack.extend(following for following, _ in node.next_functions)

    def closed(self) -> ClosedForm | None:
        """The closed form of its gradient, where one is registered for these options."""
        import limbeck.signals.closed  # noqa: F401  (registers those of the house)

        declaration, tensors = self.declaration, any(isinstance(value, Tensor) for value in self.options.values())
        if declaration is None or self.function not in _FORMS or self.parameters or tensors:
            return None
        form, accepts = _FORMS[self.function]
        options = {**declaration.options, **self.options}
        return (lambda block, coefficient: form(block, coefficient, **options)) if accepts(**options) else None


class Block:
    """A few rows of logits that are compared at once, in buffers that the next ones overwrite, and what closed forms share.

    `logits` [rows, V], `teacher_logits` [rows, V] or None, `labels` [rows] or None; `kept`: what a store kept of a
    teacher, where that is the teacher, whose logits are then made when they are asked for. Softmaxes are computed once for all
    terms. On a CPU there are no more rows than its cache holds: most of the time is spent in passes over these buffers.
    `overwrite`: a log-softmax at temperature 1 may take the place of its logits, since none but closed forms read them,
    which see no difference (others temperatures included: a softmax is blind to a shift).
    """

    def __init__(self, rows: int, size: int, dtype: torch.dtype, device: torch.device, overwrite: bool = False):
        self._full, self._dtype, self._device, self.overwrite = (rows, size), dtype, device, overwrite
        self._buffers: dict[str, Tensor] = {}
        self._ready: set[str] = set()
        self._points: dict[float, list[tuple[Tensor, Tensor]]] = {}
        self._totals: dict[float, Tensor] = {}
        self._logits: dict[str, Tensor] = {}
        self.labels: Tensor | None = None
        self.kept: TopK | None = None

    def start(self, student: Tensor, teacher: Tensor | TopK | None, labels: Tensor | None) -> None:
        """The next rows. Nothing of the last ones is valid any more."""
        self.rows, self.labels = len(student), labels
        self._logits = {"student": student}
        self.kept = teacher if isinstance(teacher, TopK) else None
        if isinstance(teacher, Tensor):
            self._logits["teacher"] = teacher
        self._ready.clear()
        self._points.clear()
        self._totals.clear()

    def buffer(self, name: str) -> Tensor:
        """Memory [rows, V] that keeps its content within a block. "scratch" is anyone's for a moment."""
        if name not in self._buffers:
            self._buffers[name] = torch.empty(self._full, dtype=self._dtype, device=self._device)
        full = self._buffers[name]
        return full if self.rows == self._full[0] else full[: self.rows]

    @property
    def logits(self) -> Tensor:
        return self._logits["student"]

    @property
    def teacher_logits(self) -> Tensor | None:
        if self.kept is not None and "teacher" not in self._logits:
            self._logits["teacher"] = self.kept.dense()[:, : self._full[1]].to(self._dtype)
        return self._logits.get("teacher")

    # what closed forms read; none of it may be changed
    def largest(self, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """The teacher's k largest: ids [rows, k], log-probabilities [rows, k], and the log mass [rows] of the rest."""
        return largest(self.teacher_logits if self.kept is None else self.kept, k)

    def log_student(self, temperature: float = 1.0) -> Tensor:
        """log softmax(student / temperature) [rows, V]."""
        return self._log_softmax("student", temperature)

    def log_teacher(self, temperature: float = 1.0) -> Tensor:
        """log softmax(teacher / temperature) [rows, V]."""
        return self._log_softmax("teacher", temperature)

    def student(self, temperature: float = 1.0) -> Tensor:
        """softmax(student / temperature) [rows, V]."""
        return self._softmax("student", temperature)

    def teacher(self, temperature: float = 1.0) -> Tensor:
        """softmax(teacher / temperature) [rows, V]."""
        return self._softmax("teacher", temperature)

    def _softmax(self, side: str, temperature: float) -> Tensor:
        name = f"{side} {temperature}"
        out = self.buffer(name)
        if name not in self._ready:
            torch.exp(self._log_softmax(side, temperature), out=out)
            self._ready.add(name)
        return out

    def _log_softmax(self, side: str, temperature: float) -> Tensor:
        name, logits = f"log {side} {temperature}", self.logits if side == "student" else self.teacher_logits
        assert logits is not None
        out = logits if self.overwrite and temperature == 1 else self.buffer(name)
        if name not in self._ready:
            if temperature != 1:
                logits = torch.div(logits, temperature, out=self.buffer("scratch"))
            torch.log_softmax(logits, -1, out=out)
            self._ready.add(name)
        return out

    # what closed forms write
    def add(self, temperature: float, slope: Tensor, coefficient: Tensor, total: Tensor | float) -> None:
        """Add coefficient [rows] * slope [rows, V] to the gradient at `log_student(temperature)`.

        `total`: what each row of the slope sums to, [rows] or one number.
        """
        name, coefficient = f"slope {temperature}", coefficient if temperature == 1 else coefficient / temperature
        if name in self._ready:
            self.buffer(name).addcmul_(slope, coefficient[:, None])
        else:
            torch.mul(slope, coefficient[:, None], out=self.buffer(name))
            self._ready.add(name)
        self._total(temperature, coefficient if isinstance(total, int) and total == 1 else total * coefficient)

    def _total(self, temperature: float, coefficient: Tensor) -> None:
        known = self._totals.get(temperature)
        self._totals[temperature] = coefficient if known is None else known + coefficient

    def add_at(self, temperature: float, index: Tensor, slope: Tensor) -> None:
        """Add slope [rows, n] to the gradient at `log_student(temperature)` at some classes, index [rows, n]."""
        slope = slope / temperature
        self._points.setdefault(temperature, []).append((index, slope))
        self._total(temperature, slope.sum(-1))

    def add_gradient(self, gradient: Tensor) -> None:
        """Add a gradient [rows, V] at the logits themselves."""
        own = self.buffer("gradient")
        if "gradient" in self._ready:
            own.add_(gradient)
        else:
            own.copy_(gradient)
            self._ready.add("gradient")

    def finish(self) -> Tensor | None:
        """The sum of what was added, as a gradient [rows, V] at the logits; None when nothing was. Ends the softmaxes."""
        gradient = self.buffer("gradient") if "gradient" in self._ready else None
        for temperature, total in self._totals.items():
            # softmax's own derivative, slope - q * sum(slope), once for all terms of a temperature
            name = f"slope {temperature}"
            q = (
                self.student(temperature)
                if f"student {temperature}" in self._ready
                else self.log_student(temperature).exp_()
            )
            if name in self._ready:
                slope = torch.addcmul(self.buffer(name), q, total[:, None], value=-1, out=q)
            else:
                slope = q.mul_(-total[:, None])
            for index, more in self._points.get(temperature, ()):
                slope.scatter_add_(1, index, more)
            gradient = slope if gradient is None else gradient.add_(slope)
        return gradient


ClosedForm = Callable[..., Tensor]
_FORMS: dict[Callable[..., Tensor], tuple[ClosedForm, Callable[..., bool]]] = {}


def closed_form(formula: Callable[..., Tensor],
                accepts: Callable[..., bool] = lambda **_: True) -> Callable[[ClosedForm], ClosedForm]:  # fmt: skip
    """Register the closed form of a declared formula: `form(block, coefficient, **options) -> values [rows]`.

    It gives the values of a `Block` and, by `block.add` or `block.add_at`, their gradient at the student's log
    probabilities times `coefficient` [rows] (which holds the term's weight). All options of the formula are passed;
    for those that `accepts(**options)` denies, autograd is used. Without a closed form a term works as well, in more memory.
    """

    def register(form: ClosedForm) -> ClosedForm:
        _FORMS[formula] = (form, accepts)
        return form

    return register
