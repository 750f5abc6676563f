"""One epoch of KD: Limbeck beside a hand-written loop that does the same work, side by side in one run.

    python benchmarks/kd_epoch.py            # also: --peers, for torchdistill where it is installed

Contestants take turns, epoch by epoch, in one process and one thread; the figures are ratios of process CPU time. The
hand-written loop sees the same batches (by tensor indexing), has the same fused AdamW with the same groups, the same
losses, and the teacher in eval mode without gradient; losses of the first steps are asserted equal.

Goals: Limbeck at most 1.05 of the plain loop; from the signal store at most 1.05 of training without any teacher.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn

import limbeck as lb
from limbeck import objectives as o
from limbeck.data.base import Data, TensorPart
from limbeck.errors import DataError
from limbeck.machine import describe
from limbeck.students.build import build_student
from limbeck.tasks import resolve
from limbeck.teachers.base import as_teacher
from limbeck.training.job import Job
from limbeck.training.loop import Loop
from limbeck.training.settings import Settings

TEMPERATURE, SOFT, BATCH = 4.0, 0.9, 64


def digits() -> tuple[Data, str, str]:
    return lb.load_data("digits", valid=0, test=0.2), "cnn(width=32, depth=3)", "cnn(width=16, depth=2)"


def cifar10(size: int = 2000) -> tuple[Data, str, str]:
    data = lb.load_data("cifar10", valid=0)
    part = data.train
    data.parts = {"train": TensorPart("train", part.gather(torch.arange(size)), part.labels[:size])}
    return data, "resnet:20", "resnet(depth=8)"


def job_of(data: Data, teacher: Any, student: nn.Module, epochs: int) -> Job:
    settings = Settings(epochs=epochs, batch_size=BATCH, schedule="constant", warmup=0.0, best="last")
    return Job(resolve(None, data), data, student, None if teacher is None else as_teacher(teacher), settings)


class Limbeck:
    """The engine, one epoch at a time."""

    def __init__(self, data: Data, teacher: Any, student: nn.Module, epochs: int):
        job = job_of(data, teacher, student, epochs)
        alone = o.cross_entropy()
        kd = (1 - SOFT) * o.cross_entropy() + SOFT * o.forward_kl(temperature=TEMPERATURE)
        self.loop = Loop(job.stage(alone if teacher is None else kd), Accelerator(cpu=True))
        self.steps = self.loop.stage.source.steps_per_epoch
        self.batches = self.loop.batches()

    def epoch(self) -> list[float]:
        with self.loop.teaching():
            for _ in range(self.steps):
                self.loop.step(next(self.batches))
        self.loop.ledger.flush()
        return [record["terms"]["loss"] for record in self.loop.metrics.records[-self.steps :]]


class Plain:
    """The loop that one would write by hand for this very case."""

    def __init__(self, data: Data, teacher: nn.Module | None, student: nn.Module, positions: Callable[[int], torch.Tensor],
                 steps: int):  # fmt: skip
        part = data.train
        self.inputs, self.labels, self.teacher, self.student = (
            part.gather(torch.arange(len(part))),
            part.labels,
            teacher,
            student,
        )
        decayed = [p for p in student.parameters() if p.ndim > 1]
        plain = [p for p in student.parameters() if p.ndim <= 1]
        groups = [{"params": plain, "weight_decay": 0.0}, {"params": decayed}]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.01, fused=True)
        self.positions, self.steps, self.number = positions, steps, 0

    @staticmethod
    def loss(logits: torch.Tensor, target: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        target = (target / TEMPERATURE).log_softmax(-1)
        gap = target.exp() * (target - (logits / TEMPERATURE).log_softmax(-1))
        return (1 - SOFT) * F.cross_entropy(logits, labels) + SOFT * TEMPERATURE**2 * gap.sum(-1).mean()

    def epoch(self) -> list[float]:
        losses = []
        student, teacher, optimizer = self.student, self.teacher, self.optimizer
        student.train()
        for _ in range(self.steps):
            rows = self.positions(self.number)
            inputs, labels = self.inputs[rows], self.labels[rows]
            logits = student(inputs)
            if teacher is None:
                loss = F.cross_entropy(logits, labels)
            else:
                with torch.no_grad():
                    target = teacher(inputs)
                loss = self.loss(logits, target, labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            self.number += 1
        return losses


class Loader(Plain):
    """The same with a torch DataLoader, as most people write it."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        data = torch.utils.data.TensorDataset(self.inputs, self.labels)
        self.loader = torch.utils.data.DataLoader(data, batch_size=BATCH, shuffle=True)

    def epoch(self) -> list[float]:
        inputs, labels = self.inputs, self.labels
        losses = []
        for batch in self.loader:
            self.inputs, self.labels = batch
            self.positions, self.steps = (lambda _: slice(None)), 1
            losses += super().epoch()
        self.inputs, self.labels = inputs, labels
        return losses


class TorchDistill:
    """torchdistill 1.1: its distillation box with its KDLoss, and the same fused AdamW, as its examples drive it."""

    def __init__(self, data: Data, teacher: nn.Module, student: nn.Module):
        from torchdistill.core.distillation import DistillationBox

        part = data.train
        inputs, labels = part.gather(torch.arange(len(part))), part.labels
        path = {f"{role}_module_{what}": word for role in ("student", "teacher") for what, word in
                (("path", "."), ("io", "output"))}  # fmt: skip
        loss = {"key": "KDLoss", "kwargs": {**path, "temperature": TEMPERATURE, "alpha": 1 - SOFT}}
        config = {
            "num_epochs": 1,
            "train_data_loader": {
                "dataset_id": "train", "requires_supp": False, "kwargs": {"batch_size": BATCH},
                "sampler": {"class_or_func": torch.utils.data.RandomSampler},
            },
            "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
            "student": {"forward_proc": "forward_batch_only"},
            "optimizer": {"key": "AdamW", "kwargs": {"lr": 1e-3, "weight_decay": 0.01, "fused": True}},
            "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"kd": {"criterion": loss, "weight": 1.0}}}},
        }  # fmt: skip
        dataset = {"train": torch.utils.data.TensorDataset(inputs, labels)}
        self.box = DistillationBox(teacher, student, dataset, config, torch.device("cpu"), None, False, 1)
        with torch.no_grad():  # that it does the same work
            ours = Plain.loss(student.eval()(inputs[:BATCH]), teacher(inputs[:BATCH]), labels[:BATCH])
            theirs = self.box.forward_process(inputs[:BATCH], labels[:BATCH])
        torch.testing.assert_close(ours, theirs)

    def epoch(self) -> list[float]:
        losses = []
        self.box.pre_epoch_process(epoch=0)
        for inputs, labels in self.box.train_data_loader:
            self.box.pre_forward_process()
            loss = self.box.forward_process(inputs, labels)
            self.box.post_forward_process(loss=loss)
            losses.append(loss.item())
        self.box.post_epoch_process()
        return losses


def compare(name: str, data: Data, teacher_spec: str, student_spec: str, repeats: int, peers: bool) -> dict[str, Any]:
    teacher = build_student(teacher_spec, data, seed=1).eval()
    student = build_student(student_spec, data, seed=2)
    fresh = lambda: copy.deepcopy(student)  # noqa: E731
    engine = Limbeck(data, teacher, fresh(), repeats + 1)
    source = engine.loop.stage.source
    order = source.positions
    entrants: dict[str, Any] = {"limbeck": engine, "plain loop": Plain(data, teacher, fresh(), order, engine.steps)}
    ours, theirs = (entrant.epoch()[:5] for entrant in entrants.values())
    assert all(abs(a - b) < 1e-4 * abs(b) for a, b in zip(ours, theirs, strict=True)), (ours, theirs)
    entrants["plain loop with DataLoader"] = Loader(data, teacher, fresh(), order, engine.steps)
    with tempfile.TemporaryDirectory() as folder:
        store = lb.store_signals(
            as_teacher(teacher), data, Path(folder) / "s", task=resolve(None, data), dtype="float32"
        )
        entrants["limbeck from the store"] = Limbeck(data, as_teacher(store), fresh(), repeats + 1)
        entrants["limbeck, no teacher"] = Limbeck(data, None, fresh(), repeats + 1)
        entrants["plain loop, no teacher"] = Plain(data, None, fresh(), order, engine.steps)
        if peers:
            entrants["torchdistill"] = TorchDistill(data, teacher, fresh())
        times: dict[str, list[float]] = {key: [] for key in entrants}
        for entrant in list(entrants.values())[2:]:
            entrant.epoch()
        for _ in range(repeats):
            for key, entrant in entrants.items():
                begun = time.process_time()
                entrant.epoch()
                times[key].append(time.process_time() - begun)
    pairs = [
        ("limbeck", "plain loop"), ("limbeck", "plain loop with DataLoader"),
        ("limbeck from the store", "limbeck, no teacher"), ("limbeck from the store", "plain loop, no teacher"),
    ]  # fmt: skip
    pairs += [("limbeck", "torchdistill")] if peers else []
    print(f"\n{name}: {engine.steps} steps of {BATCH} an epoch, {repeats} epochs each")
    middle = {key: statistics.median(values) for key, values in times.items()}
    for key, value in middle.items():
        print(f"  {key:28} {value * 1000:8.1f} ms   {value / engine.steps * 1e6:7.0f} us/step")
    found: dict[str, Any] = {"milliseconds": {key: 1000 * value for key, value in middle.items()}, "ratios": {}}
    for first, second in pairs:
        ratios = sorted(a / b for a, b in zip(times[first], times[second], strict=True))
        row = {"min": ratios[0], "median": statistics.median(ratios), "max": ratios[-1]}
        found["ratios"][f"{first} / {second}"] = row
        print(f"  {first} / {second}: {row['median']:.3f} (min {row['min']:.3f}, max {row['max']:.3f})")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--peers", action="store_true", help="torchdistill too, where it is installed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {"digits": compare("digits", *digits(), options.repeats, options.peers)}
    try:
        results["cifar10"] = compare("cifar10, 2,000 images", *cifar10(), max(5, options.repeats // 4), options.peers)
    except DataError as missing:
        print(f"cifar10 is left out: {missing}")
    out = Path(__file__).parent / "results" / ("kd_epoch_peers.json" if options.peers else "kd_epoch.json")
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({"results": results, "machine": describe()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
