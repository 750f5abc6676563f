"""DHO: two heads on one backbone against one, with few labels and a teacher that is often wrong."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _common import score, trained
from torch import Tensor, nn

from limbeck import functional as f
from limbeck import objectives as o
from limbeck.proving import paired
from limbeck.recipes.registry import recipe

CLAIM = (
    "On digits with 5 labels a class and a teacher of about 80 % (a linear probe of 3x3 pixels), DHO is more accurate than one "
    "head with the same losses, which is more accurate than labels alone; and than the teacher."
)
SEEDS = range(5)
NOTE = (
    "mlp:32, 500 steps, nothing tuned but DHO's a and b, on validation. Beside it: the mean cosine between the gradients of "
    "the two losses on the backbone after 150 steps, over 20 batches of all labelled and 32 unlabelled images."
)
FEW = {"labelled": 50, "steps": 500}


@recipe(paper="the losses of DHO on one head", year=2025, field="classifiers", needs=("logits", "labels"))
def one_head(job: Any, temperature: float = 2.0) -> Any:
    """0.5 CE + 0.5 (KD of labelled + KD of unlabelled samples) on the same logits."""
    loss = 0.5 * o.cross_entropy() + 1.0 * o.forward_kl(temperature=temperature)
    return job.stage(loss, labelled_per_batch=int(job.settings.batch_size) // 2)


def probe() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(9, 10))


def conflict(run: Any, teacher: nn.Module) -> float:
    """The mean cosine of the gradients of both losses on what both heads share."""
    student, part = run.student, run.data.train
    known = part.is_labelled().nonzero()[:, 0]
    unknown = (~part.is_labelled()).nonzero()[:, 0].split(32)
    dual = hasattr(student, "hard")
    body = [p for name, p in student.named_parameters() if not name.startswith(("hard", "soft", "fc"))]

    def logits(inputs: Tensor, head: str) -> Tensor:
        return student.get_submodule(head)(student.features(inputs)) if dual else student(inputs)

    found = []
    for chosen in unknown[:20]:
        batch, labelled = part.batch(torch.cat([known, chosen])), part.batch(known)
        hard = f.cross_entropy(logits(labelled.inputs, "hard"), labelled.labels)
        with torch.no_grad():
            target = teacher(batch.inputs)
        soft = f.forward_kl(logits(batch.inputs, "soft"), target, temperature=2.0)
        one, other = (torch.cat([g.flatten() for g in torch.autograd.grad(loss, body)]) for loss in (hard, soft))
        found.append(float(F.cosine_similarity(one, other, dim=0)))
    return sum(found) / len(found)


def measure(seed: int) -> dict[str, float]:
    taught = trained("alone", seed=seed, student=probe, steps=600, learning_rate=3e-2)  # type: ignore[arg-type]
    few = {**FEW, "seed": seed, "teacher": taught.student}
    dho, single = trained("dho", **few), trained(one_head, **few)
    early = {**few, "steps": 150, "best": "last"}
    return {
        "dho": score(dho), "one_head": score(single), "alone": score(trained("alone", **FEW, seed=seed)),
        "teacher": score(taught), "share": float(dho.student.mixture[0]), "temperature": float(dho.student.mixture[1]),
        "cosine_dho": conflict(trained("dho", **early), taught.student),
        "cosine_one_head": conflict(trained(one_head, **early), taught.student),
    }  # fmt: skip


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    gap, error = paired(rows, "dho", "one_head")
    one, one_error = paired(rows, "one_head", "alone")
    above, above_error = paired(rows, "dho", "teacher")
    stands = gap > 2 * error and one > 2 * one_error and above > 2 * above_error
    return stands, (
        f"DHO is {gap:+.2f} ± {error:.2f} points from one head with its losses, which is {one:+.1f} ± {one_error:.1f} from "
        f"labels alone; DHO is {above:+.1f} ± {above_error:.1f} from the teacher."
    )
