"""The composable face of a pure function: `forward_kl(temperature=4)` is a term that knows which signals to compare."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Self, overload

import torch
from torch import Tensor, nn

from limbeck.errors import ArgumentError, SignalError, nearest
from limbeck.functional.core import Declaration
from limbeck.objectives.algebra import Term
from limbeck.objectives.projectors import projector
from limbeck.signals.blocks import TokenTerm
from limbeck.signals.step import Ref, Step
from limbeck.signals.store_encode import TopK

P = ParamSpec("P")


class Formula(Term):
    """A declared function with its options, and the signals it compares.

    `.on("layer2")` compares that tap of both; `.on("layer2", "blocks.5")` the student's and the teacher's;
    `"role:tap"` names another role. `.projected()` puts a learnable projector behind the student's signal.
    `.through(f)` applies a pure function to both signals first.
    """

    def __init__(self, function: Callable[..., Tensor], options: dict[str, Any]):
        declaration: Declaration = function.declaration  # type: ignore[attr-defined]
        super().__init__(declaration.name)
        self.function, self.options, self.declaration = function, options, declaration
        self.per = declaration.per
        self.labelled = declaration.labels and declaration.unlabelled == "drop"
        self.student_ref = Ref("self", declaration.student) if declaration.student else None
        self.teacher_ref = Ref("teacher", declaration.teacher) if declaration.teacher else None
        self.transform: Callable[[Tensor], Tensor] | None = None
        self.projection: str | None = None
        self.projector: nn.Module | None = None

    # saying what is compared
    def on(self, student: str, teacher: str | None = None) -> Self:
        """Compare these taps. With one name, the same tap of both."""
        for tap in (student, teacher or student):
            if "*" in tap:
                raise ArgumentError(
                    f"{self.name}().on({tap!r}): a pattern names several taps, and a term compares one with one. In a recipe: "
                    f"sum(... .on(*pair) for pair in job.layer_pairs('uniform', {tap!r}))."
                )
        if self.student_ref is not None:
            self.student_ref = Ref.parse(student, "self")
        if self.teacher_ref is not None:
            self.teacher_ref = Ref.parse(teacher or student, "teacher")
        if self.declaration.student == "features":
            self.name = f"{self.declaration.name}({student})"
        return self

    def against(self, role: str) -> Self:
        """Take the target from another role: a peer, an average, a second teacher."""
        if self.teacher_ref is None:
            raise ArgumentError(f"{self.name!r} has no target to take from {role!r}: it needs labels only.")
        self.teacher_ref = Ref(role, self.teacher_ref.tap)
        return self

    def projected(self, kind: str = "auto", **options: Any) -> Self:
        """Put a learnable projector (see `projectors.KINDS`: "auto", "linear", "conv", ...) behind the student's signal."""
        self.projection, self.projection_options = kind, options
        return self

    def through(self, transform: Callable[[Tensor], Tensor]) -> Self:
        """Apply a pure function (`standardize`, a normalisation) to both signals, after the projector."""
        self.transform = transform
        return self

    # Term
    def needs(self) -> list[Ref]:
        refs = [ref for ref in (self.student_ref, self.teacher_ref) if ref is not None]
        for ref in refs:
            if ref.tap == "features":
                raise ArgumentError(
                    f"{self.name}() compares features: say which, as in {self.name}().on('layer3') or "
                    f"{self.name}().on('student_layer', 'teacher_layer')."
                )
        return refs

    @property
    def is_built(self) -> bool:
        return self.projection is None or self.projector is not None

    def make(self, step: Step, seed: int) -> None:
        if self.projection is None or self.projector is not None:
            return
        student, teacher = (step.signal(ref) for ref in self.needs())
        self.projector = projector(
            self.projection, tuple(student.shape), tuple(teacher.shape), seed, **self.projection_options
        )
        self.projector.to(student.device, upcast(student).dtype)

    def check(self, step: Step) -> None:
        if self.transform is None and self.student_ref is not None and self.teacher_ref is not None:
            check_one_tokenizer(self.name, step, self.student_ref, self.teacher_ref)

    def is_lazy(self, step: Step) -> bool:
        if self.student_ref is None:
            return False
        value = step.signals.get(self.student_ref)
        return value is not None and not isinstance(value, Tensor) and hasattr(value, "whole")

    def token_term(self) -> TokenTerm:
        """What a walk over lazy logits evaluates block by block."""
        return TokenTerm(self.function, self.options)

    def values(self, step: Step) -> Tensor:
        if self.per == "item":
            return self.function(*self.arguments(step), **self.options, reduction="none")
        arguments = self.arguments(step)
        if step.gather is not None:
            arguments = step.gather(arguments)
        elif step.batch.weight is not None:
            arguments = [value[step.batch.weight > 0] for value in arguments]
        return self.function(*arguments, **self.options)

    def arguments(self, step: Step) -> list[Tensor]:
        """The tensors that the function takes, in its order."""
        found = []
        for kind in self.declaration.inputs:
            if kind == "labels":
                if step.batch.labels is None:
                    if self.declaration.unlabelled == "drop" and step.counts.get("sample, labelled", 1):
                        raise SignalError(f"{self.name!r} needs labels and this batch has none.")
                    raise SignalError(f"{self.name!r} needs labels (unlabelled items may be -100); the batch has none.")
                found.append(step.batch.labels)
                continue
            ref = self.student_ref if kind == "student" else self.teacher_ref
            assert ref is not None
            if ref.tap == "features":
                self.needs()  # says what to write
            value = upcast(step.signal(ref))
            if kind == "teacher":
                value = value.detach()
            elif self.projection is not None:
                if self.projector is None:
                    raise SignalError(f"{self.name!r} is not built. Call objective.build(...) with one batch first.")
                value = self.projector(value)
            found.append(value if self.transform is None else self.transform(value))
        return found

    def __str__(self) -> str:
        options = ", ".join(f"{key}={value:g}" if isinstance(value, float) else f"{key}={value!r}"
                            for key, value in self.options.items())  # fmt: skip
        text = f"{self.declaration.name}({options})"
        default = (self.declaration.student, self.declaration.teacher)
        refs = [ref for ref in (self.student_ref, self.teacher_ref) if ref is not None]
        if [ref.tap for ref in refs] != [tap for tap in default if tap]:
            text += f".on({', '.join(repr(ref.tap) for ref in refs)})"
        if self.teacher_ref is not None and self.teacher_ref.role != "teacher":
            text += f".against({self.teacher_ref.role!r})"
        if self.projection:
            text += f".projected({self.projection!r})"
        if self.transform is not None:
            text += f".through({getattr(self.transform, '__name__', 'function')})"
        return text if self.group is None else f"{text}.among({self.group!r})"


def check_one_tokenizer(name: str, step: Step, student: Ref, teacher: Ref) -> None:
    """Raise SignalError where tokens are compared one by one and the teacher reads them from another tokenizer."""
    reads = [ref.role.partition("/")[0] == "teacher" for ref in (student, teacher)]
    if "twin" in step.batch.extra and reads[0] != reads[1]:
        raise SignalError(
            f"{name!r} compares student and teacher token by token, and they have different tokenizers. Use a recipe that "
            "compares texts: alm, or uld; or a student that has the teacher's tokenizer."
        )


def upcast(value: Any) -> Any:
    """Half-precision signals to float32: objectives are computed outside autocast. What a store kept is made whole."""
    if isinstance(value, TopK):
        return value.dense()
    return value.float() if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16) else value


# longest first, so that a checker binds as many tensors as the formula has
@overload
def compose(function: Callable[Concatenate[Tensor, Tensor, Tensor, P], Tensor]) -> Callable[P, Formula]: ...
@overload
def compose(function: Callable[Concatenate[Tensor, Tensor, P], Tensor]) -> Callable[P, Formula]: ...
@overload
def compose(function: Callable[Concatenate[Tensor, P], Tensor]) -> Callable[P, Formula]: ...
def compose(function: Callable[..., Tensor]) -> Callable[..., Formula]:
    """Make a declared function composable: returns a constructor that takes its options."""
    declaration: Declaration | None = getattr(function, "declaration", None)
    if declaration is None:
        raise ArgumentError(f"{function.__name__} is not declared: put @objective(per=...) before it.")
    known = declaration.options

    def make(**options: Any) -> Formula:
        for key in options:
            if key not in known:
                raise ArgumentError(f"{declaration.name}() has no option {key!r}.{nearest(key, known)}")
        required = [key for key, value in known.items() if value is inspect.Parameter.empty and key not in options]
        if required:
            raise ArgumentError(f"{declaration.name}() needs {', '.join(required)}.")
        return Formula(function, options)

    make.__name__ = make.__qualname__ = declaration.name
    make.__doc__ = function.__doc__
    make.function = function  # type: ignore[attr-defined]
    make.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=value) for key, value in known.items()]
    )
    return make
