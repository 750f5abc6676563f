"""Rows of the CIFAR tables: resnet56 to resnet20 and wrn-40-2 to wrn-16-2, with the last and the best epoch.

    python benchmarks/cifar.py                               # on a GPU: 240 epochs of CIFAR-10; on a CPU: a check of minutes
    python benchmarks/cifar.py --pairs resnet56:resnet20 --recipes alone,kd --epochs 60 --seeds 3
    python benchmarks/cifar.py --data FOLDER_OF_CIFAR100     # anything that limbeck.load_data reads as images of 32 x 32

The schedule is the benchmarks': SGD with momentum 0.9, weight decay 5e-4, batches of 64, rate 0.05 divided by 10 at 150, 180
and 210 of 240 epochs (a shorter run keeps these fractions), random crops of images padded by 4 and flips. Images lie on the
device and are cropped there. Crops and flips are 162 views of an image: the teacher reads all of them once, and students look
its logits up, exactly as if it ran. On a GPU a step is captured once for each rate and replayed.

Published rows average the last
epoch (RepDistiller) or the best one on the test part (mdistiller): both are in the record.

On a CPU the defaults are a few images and epochs: that this runs, not what a recipe gives; the record says so.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import limbeck as lb
from limbeck import functional as f
from limbeck.data.augment import CropFlip
from limbeck.machine import describe
from limbeck.students.build import resnet, wide_resnet
from limbeck.students.declare import seeded

FULL, DROPS = 240, (150 / 240, 180 / 240, 210 / 240)
VIEWS = CropFlip(4)
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def alone(student: Tensor, teacher: Tensor, labels: Tensor, ramp: Tensor) -> Tensor:
    return f.cross_entropy(student, labels)


def kd(student: Tensor, teacher: Tensor, labels: Tensor, ramp: Tensor) -> Tensor:
    return 0.1 * f.cross_entropy(student, labels) + 0.9 * f.forward_kl(student, teacher, temperature=4.0)


def dkd(beta: float) -> Loss:
    """The target's weight and temperature of the paper; `ramp` rises to 1 over a twelfth of the schedule, 20 of 240 epochs."""

    def loss(student: Tensor, teacher: Tensor, labels: Tensor, ramp: Tensor) -> Tensor:
        decoupled = f.decoupled_kl(student, teacher, labels, alpha=1.0, beta=beta, temperature=4.0)
        return f.cross_entropy(student, labels) + ramp * decoupled

    return loss


def dist(student: Tensor, teacher: Tensor, labels: Tensor, ramp: Tensor) -> Tensor:
    rows = f.pearson_rows(student, teacher, temperature=4.0)
    columns = f.pearson_columns(student, teacher, temperature=4.0)
    return f.cross_entropy(student, labels) + 2 * rows + 2 * columns


def standardized(student: Tensor, teacher: Tensor, labels: Tensor, ramp: Tensor) -> Tensor:
    soft = f.forward_kl(f.standardize(student), f.standardize(teacher), temperature=2.0)
    return 0.1 * f.cross_entropy(student, labels) + 9 * soft


@dataclass
class Plan:
    epochs: int
    train: int
    test: int
    batch: int = 64
    rate: float = 0.05
    seeds: int = 1


def build(name: str, classes: int, seed: int) -> nn.Module:
    """resnet20, resnet8x4, wrn-16-2, ... with fresh weights."""
    with seeded(seed):
        if name.startswith("wrn-"):
            depth, width = map(int, name.removeprefix("wrn-").split("-"))
            return wide_resnet(3, classes, depth=depth, width=width)
        depth, _, factor = name.removeprefix("resnet").partition("x")
        return resnet(3, classes, depth=int(depth), **({"width": 64, "stem": 32} if factor == "4" else {}))


class Images:
    """The images of a part on the device, as they are stored, and their labels."""

    def __init__(self, part: Any, count: int, device: torch.device):
        batch = part.batch(torch.arange(min(count, len(part))))
        self.pixels, self.labels = batch.inputs.to(device), batch.labels.to(device)
        if self.pixels.ndim != 4 or self.pixels.shape[1:] != (3, 32, 32):
            raise SystemExit(f"Expected colour images of 32 x 32; these are {list(self.pixels.shape[1:])}.")
        mean = self.pixels.float().mean((0, 2, 3), keepdim=True)
        self.mean, self.std = mean, self.pixels.float().std((0, 2, 3), keepdim=True)

    def __len__(self) -> int:
        return len(self.labels)

    def seen(self, places: Tensor, views: Tensor) -> Tensor:
        return (VIEWS.apply(self.pixels[places], views) - self.mean) / self.std


class LooksUp:
    """The teacher's logits of every view of every image: [images, 162, classes]."""

    def __init__(self, teacher: nn.Module, images: Images, classes: int, dtype: torch.dtype = torch.float16):
        self.logits = torch.empty(len(images), VIEWS.count, classes, dtype=dtype, device=images.pixels.device)
        teacher.eval()
        with torch.no_grad():
            for view in range(VIEWS.count):
                for places in torch.arange(len(images), device=images.pixels.device).split(1000):
                    views = torch.full((len(places),), view, device=places.device)
                    self.logits[places, view] = teacher(images.seen(places, views)).to(dtype)
        places = torch.arange(min(64, len(images)), device=images.pixels.device)
        views = torch.arange(len(places), device=places.device) % VIEWS.count
        with torch.no_grad():
            live = teacher(images.seen(places, views))
        gap = float((live - self(places, views)).abs().max() / live.abs().max())
        if gap > 2e-3:
            raise SystemExit(f"The stored logits are {gap:.1e} from the teacher's: it does not give the same twice.")

    def __call__(self, places: Tensor, views: Tensor) -> Tensor:
        return self.logits[places, views].float()


class Training:
    """One student. Steps are eager on a CPU; on a GPU they are captured, anew whenever the rate changes."""

    def __init__(self, student: nn.Module, loss: Loss, images: Images, teacher: LooksUp | None, plan: Plan):
        self.student, self.loss, self.images, self.teacher, self.plan = student, loss, images, teacher, plan
        device = images.pixels.device
        self.places = torch.zeros(plan.batch, dtype=torch.long, device=device)
        self.views, self.ramp = torch.zeros_like(self.places), torch.zeros((), device=device)
        self.optimizer = torch.optim.SGD(student.parameters(), plan.rate, momentum=0.9, weight_decay=5e-4)
        self.graph: Any = None
        self.captured_at = -1.0

    def step(self) -> None:
        labels = self.images.labels[self.places]
        outputs = self.student(self.images.seen(self.places, self.views))
        target = outputs.detach() if self.teacher is None else self.teacher(self.places, self.views)
        self.optimizer.zero_grad(set_to_none=False)
        self.loss(outputs, target, labels, self.ramp).backward()
        self.optimizer.step()

    def run(self, rate: float, eager: bool) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if eager or self.places.device.type != "cuda":
            self.step()
            return
        if self.captured_at != rate:
            torch.cuda.synchronize()
            self.graph, self.captured_at = torch.cuda.CUDAGraph(), rate
            with torch.cuda.graph(self.graph):
                self.step()
        self.graph.replay()

    def train(self, test: Images, seed: int) -> tuple[float, float, float]:
        """The accuracy after the last epoch and the best one, in percent, and seconds of training."""
        device, scores, seconds, done = self.images.pixels.device, [], 0.0, 0
        draw = torch.Generator(device).manual_seed(seed)
        for epoch in range(self.plan.epochs):
            begun = time.perf_counter()
            self.student.train()
            self.ramp.fill_(min((epoch + 1) / max(1.0, self.plan.epochs / 12), 1.0))
            rate = self.plan.rate * 0.1 ** sum(epoch >= drop * self.plan.epochs for drop in DROPS)
            order = torch.randperm(len(self.images), generator=draw, device=device)
            for places in order.split(self.plan.batch):
                if len(places) < self.plan.batch:
                    continue
                self.places.copy_(places)
                self.views.copy_(torch.randint(VIEWS.count, (len(places),), generator=draw, device=device))
                self.run(rate, eager=done < 11)  # buffers of the optimizer must be there before a capture
                done += 1
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds += time.perf_counter() - begun
            scores.append(accuracy(self.student, test, self.images))
        return scores[-1], max(scores), seconds


@torch.no_grad()
def accuracy(module: nn.Module, test: Images, train: Images) -> float:
    """Of the images as they are, with the mean and deviation of the training part, in percent."""
    module.eval()
    right = 0
    for places in torch.arange(len(test), device=test.pixels.device).split(1000):
        outputs = module((test.pixels[places] - train.mean) / train.std)
        right += int((outputs.argmax(-1) == test.labels[places]).sum())
    return 100 * right / len(test)


def losses(pair: str) -> dict[str, Loss]:
    """With the weights that the papers give a pair."""
    beta = 2.0 if pair == "resnet56:resnet20" else 6.0 if pair.count("wrn-") == 2 else 8.0
    return {"alone": alone, "kd": kd, "dkd": dkd(beta), "dist": dist, "logit_standardization": standardized}


def spread(values: list[float]) -> dict[str, float]:
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else math.nan}


def rows_of(pair: str, recipes: list[str], train: Images, test: Images, classes: int, plan: Plan) -> dict[str, Any]:
    teacher_name, student_name = pair.split(":")
    device = train.pixels.device
    teacher = build(teacher_name, classes, seed=1000).to(device)
    last, best, seconds = Training(teacher, alone, train, None, plan).train(test, seed=1000)
    print(f"{pair}: teacher {last:.2f} (best {best:.2f}), {seconds:.0f} s", flush=True)
    begun = time.perf_counter()
    cache = LooksUp(teacher, train, classes)
    record: dict[str, Any] = {
        "teacher": {"last": last, "best": best, "seconds": seconds}, "cache_seconds": time.perf_counter() - begun,
        "cache_bytes": cache.logits.numel() * cache.logits.element_size(), "rows": {},
    }  # fmt: skip
    for name in recipes:
        found = [
            Training(build(student_name, classes, seed).to(device), losses(pair)[name], train, cache, plan).train(
                test, seed
            )
            for seed in range(plan.seeds)
        ]
        row = {"last": spread([one[0] for one in found]), "best": spread([one[1] for one in found]),
               "seconds": statistics.fmean(one[2] for one in found)}  # fmt: skip
        record["rows"][name] = row
        print(
            f"  {name:24} last {row['last']['mean']:.2f}, best {row['best']['mean']:.2f}, {row['seconds']:.0f} s",
            flush=True,
        )
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    known = list(losses(""))
    gpu = torch.cuda.is_available()
    parser.add_argument("--data", default="cifar10")
    parser.add_argument(
        "--pairs", default="resnet56:resnet20,wrn-40-2:wrn-16-2" if gpu else "resnet14:resnet8,wrn-16-1:wrn-10-1"
    )
    parser.add_argument("--recipes", default=",".join(known))
    parser.add_argument("--epochs", type=int, default=FULL if gpu else 3)
    parser.add_argument("--train", type=int, default=50_000 if gpu else 512, help="images to train on")
    parser.add_argument("--test", type=int, default=10_000 if gpu else 1000)
    parser.add_argument("--seeds", type=int, default=3 if gpu else 1)
    parser.add_argument("--out", default=str(Path(__file__).parent / "results" / "cifar.json"))
    given = parser.parse_args()
    recipes = given.recipes.split(",")
    if unknown := [name for name in recipes if name not in known]:
        sys.exit(f"There is no {unknown[0]!r} here, only {', '.join(known)}.")
    net = r"(resnet\d+(x4)?|wrn-\d+-\d+)"
    for pair in given.pairs.split(","):
        if not re.fullmatch(f"{net}:{net}", pair):
            sys.exit(f"{pair!r} is no pair of these tables: expected TEACHER:STUDENT, such as resnet56:resnet20.")
    device = torch.device("cuda" if gpu else "cpu")
    data = lb.load_data(given.data, valid=0)
    classes = len(data.classes or [])
    train, test = Images(data.train, given.train, device), Images(data.parts["test"], given.test, device)
    plan = Plan(given.epochs, len(train), len(test), seeds=given.seeds)
    full = plan.epochs == FULL and len(train) == 50_000
    what = "the full schedule" if full else "a SHORT schedule: a check of the harness, not rows of a table"
    print(f"{given.data}, {len(train)} images, {plan.epochs} epochs on {device.type}: {what}", flush=True)
    pairs = {pair: rows_of(pair, recipes, train, test, classes, plan) for pair in given.pairs.split(",")}
    record = {"what": what, "data": given.data, "plan": asdict(plan), "machine": describe(), "pairs": pairs}
    Path(given.out).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
