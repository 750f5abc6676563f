"""How much to trust the teacher and how much the label, learned for each sample on samples held out (TGeo-KD)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from limbeck.data.base import Batch, Part
from limbeck.functional.geometry import trilateral_relations
from limbeck.functional.response import cross_entropy, forward_kl
from limbeck.objectives.algebra import Term
from limbeck.objectives.formula import upcast
from limbeck.signals.step import Ref, Step

Logits = Callable[[Mapping[str, Tensor], Batch], Tensor]  # of the student with other weights


class Ratio(nn.Module):
    """From the relations of a sample [batch, 8 classes] to the share of the teacher in its loss, 0 to 1 [batch]."""

    means: Tensor

    def __init__(self, means: Tensor, hidden: int = 64):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8 * len(means), hidden), nn.ReLU(), nn.Linear(hidden, 1))
        self.register_buffer("means", means)

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        relations = trilateral_relations(student, teacher, labels.clamp(min=0), self.means)
        return self.net(relations.to(self.means.dtype)).squeeze(-1).sigmoid()


def losses(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """KD and cross-entropy of every sample, [batch] each."""
    return (forward_kl(student, teacher, temperature=temperature, reduction="none"),
            cross_entropy(student, labels, reduction="none"))  # fmt: skip


class WeighedKD(Term):
    """alpha KD + (1 - alpha) CE of each sample, alpha from the learner "ratio", detached; KD alone where no label is."""

    def __init__(self, temperature: float):
        super().__init__("weighed_kd")
        self.temperature = temperature

    def needs(self) -> list[Ref]:
        return [Ref("self", "logits"), Ref("teacher", "logits")]

    def values(self, step: Step) -> Tensor:
        student, teacher = (upcast(step.signal(ref)) for ref in self.needs())
        labels = step.batch.labels
        kd, ce = losses(student, teacher, labels, self.temperature)  # type: ignore[arg-type]
        with torch.no_grad():
            alpha = torch.where(labels == -100, 1.0, step.modules["ratio"](student, teacher, labels))  # type: ignore[arg-type]
        return alpha * kd + (1 - alpha) * ce

    def __str__(self) -> str:
        return f"weighed_kd(temperature={self.temperature:g})"


class HeldOut(Term):
    """What the ratio's weights change in the held-out loss after one step of the student: the exact gradient, by one product.

    With a step theta' = theta - rate * gradient of the training loss, d L_held(theta') / d w is -rate times the mean of
    d alpha_i / d w * c_i, where c_i is the derivative of KD_i - CE_i along the gradient of L_held at theta'. The value is
    -alpha_i c_i [batch], with c_i held fixed: the same but for the factor `rate`, which Adam does not see. Samples without a
    label count 0. `logits` runs the student with other weights.
    """

    def __init__(self, logits: Logits, held: Part, temperature: float, rate: float, size: int):
        super().__init__("held_out")
        self.logits, self.held, self.temperature, self.rate, self.size = logits, held, temperature, rate, size

    def needs(self) -> list[Ref]:
        return [Ref("teacher", "logits")]

    def values(self, step: Step) -> Tensor:
        batch, student = step.batch, step.modules["student"]
        teacher, labels = upcast(step.signal(self.needs()[0])), batch.labels
        assert labels is not None
        chosen = torch.randint(len(self.held), (self.size,), generator=step.rng("held out"))
        held = self.held.batch(chosen).to(batch.ids.device)
        theta = {name: value.detach().requires_grad_() for name, value in student.named_parameters()}
        with torch.enable_grad():
            own = self.logits(theta, batch)
            alpha = step.modules["ratio"](own, teacher, labels)
            kd, ce = losses(own, teacher, labels, self.temperature)
            fixed = alpha.detach()
            known = labels != -100
            loss = torch.where(known, fixed * kd + (1 - fixed) * ce, kd).mean()
            gradients = torch.autograd.grad(loss, list(theta.values()), allow_unused=True)
            moved = {name: (value if g is None else value - self.rate * g).detach().requires_grad_()
                     for (name, value), g in zip(theta.items(), gradients, strict=True)}  # fmt: skip
            after = cross_entropy(self.logits(moved, held), held.labels)  # type: ignore[arg-type]
            along = torch.autograd.grad(after, list(moved.values()), allow_unused=True)
            tangents = {name: torch.zeros_like(theta[name]) if g is None else g
                        for name, g in zip(theta, along, strict=True)}  # fmt: skip

            def gap(weights: Mapping[str, Tensor]) -> Tensor:
                first, second = losses(self.logits(weights, batch), teacher, labels, self.temperature)
                return first - second

            slopes: Tensor = torch.func.jvp(
                gap, ({name: value.detach() for name, value in theta.items()},), (tangents,)
            )[1]  # type: ignore[assignment]
        return -alpha * torch.where(known, slopes.detach(), 0.0)

    def __str__(self) -> str:
        return f"held_out({len(self.held)} samples)"
