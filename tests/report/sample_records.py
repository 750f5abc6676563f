"""Records such as a run writes, built in code."""

from __future__ import annotations

import math
import random
from typing import Any

COMMAND = "limbeck distill kd teacher=runs/teacher student=cnn data=clothes temperature=4 seeds=5 out=runs/clothes"
PYTHON = """import limbeck as lb

lb.distill(
    "clothes/", teacher="runs/teacher", student="cnn",
    recipe="kd", temperature=4, seeds=5,
)"""
HOSTILE = [
    "<script>alert(1)</script>",
    "</script><b>bold</b>",
    "%{x} \"quoted\" & 'single'",
    "var(--student)",
    "a" * 70,
    "7",
]


def stat(mean: float, spread: float, seeds: int, seed: int = 0) -> dict[str, Any]:
    """A score over seeds, with that mean and roughly that spread."""
    rng = random.Random(f"{mean} {seed}")
    values = [mean + spread * rng.gauss(0, 1) for _ in range(seeds)]
    shift = mean - sum(values) / seeds
    values = [value + shift for value in values]
    std = math.sqrt(sum((value - mean) ** 2 for value in values) / (seeds - 1)) if seeds > 1 else 0.0
    return {"mean": mean, "std": std, "values": values}


def bins(ece: float, samples: int, seed: int) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    rows = []
    for place in range(15):
        count = int(samples * 0.62 * 0.55 ** (14 - place))
        middle = (place + 0.5) / 15
        right = min(1.0, max(0.0, middle - 2 * ece * math.sin(math.pi * middle) + rng.gauss(0, 0.012)))
        rows.append({"lower": place / 15, "upper": (place + 1) / 15, "count": count,
                     "confidence": middle if count else None, "accuracy": right if count else None})  # fmt: skip
    return rows


def latency(p50: float) -> list[dict[str, Any]]:
    return [
        {"backend": "torch", "batch": 1, "p50_ms": p50, "p95_ms": p50 * 1.24, "throughput": 1000 / p50},
        {"backend": "torch", "batch": 64, "p50_ms": p50 * 21, "p95_ms": p50 * 23.5, "throughput": 64000 / (p50 * 21)},
    ]


def model(name: str, role: str, accuracy: float, seeds: int, parameters: int, p50: float, ece: float) -> dict[str, Any]:
    wrong = 1 - accuracy
    spread = 0.0 if role == "teacher" else 0.004
    scores = {"accuracy": stat(accuracy, spread, seeds), "macro_f1": stat(accuracy - 0.006, spread, seeds),
              "nll": stat(3.3 * wrong, spread * 3, seeds), "brier": stat(1.55 * wrong, spread * 1.5, seeds),
              "ece": stat(ece, spread / 2, seeds)}  # fmt: skip
    agreement = {} if role == "teacher" else {
        "label_agreement": stat(0.967 if role == "student" else 0.904, 0.003, seeds),
        "probability_loyalty": stat(0.912 if role == "student" else 0.781, 0.004, seeds),
        "label_agreement_teacher_wrong": stat(0.58 if role == "student" else 0.31, 0.03, seeds),
    }  # fmt: skip
    return {
        "name": name, "role": role, "scores": scores, "agreement": agreement,
        "cost": {"parameters": parameters, "bytes": parameters * 4 + 2048, "macs": parameters * 9, "peak_memory_bytes": None,
                 "latency": latency(p50)},
        "reliability": bins(ece, 2000, len(name)),
    }  # fmt: skip


def curves(steps: int) -> dict[str, Any]:
    rng = random.Random(1)
    at = list(range(0, steps * 5, 5))

    def falling(first: float, last: float, noise: float) -> list[float]:
        return [
            (last + (first - last) * math.exp(-step / (steps * 0.9))) * math.exp(noise * rng.gauss(0, 1)) for step in at
        ]

    terms = {
        "cross_entropy": falling(2.3, 0.14, 0.3),
        "forward_kl": falling(9.5, 0.62, 0.25),
        "hint": falling(0.9, 0.21, 0.08),
    }
    terms = {"total": [sum(values) for values in zip(*terms.values())], **terms}
    return {"student": {"step": at, **terms}}


def over_time(steps: int) -> dict[str, Any]:
    at = [place * steps * 5 // 20 for place in range(1, 21)]
    accuracy = [0.951 - 0.5 * math.exp(-place / 3.2) for place in range(20)]
    return {"accuracy": {"step": at, "value": accuracy}, "macro_f1": {"step": at, "value": [a - 0.01 for a in accuracy]},
            "nll": {"step": at, "value": [0.16 + 1.3 * math.exp(-place / 4) for place in range(20)]}}  # fmt: skip


def confusion(labels: list[str], samples: int = 2000) -> dict[str, Any]:
    rng, n = random.Random(2), len(labels)
    matrix = [[0] * n for _ in range(n)]
    for _ in range(samples):
        teacher = rng.randrange(n)
        student = teacher if rng.random() < 0.967 else min(n - 1, max(0, teacher + rng.choice([-1, 1, 1, 3])))
        matrix[student][teacher] += 1
    return {"rows": "student", "columns": "teacher", "labels": labels, "matrix": matrix}


def full(classes: list[str] | None = None, steps: int = 480) -> dict[str, Any]:
    """Five seeds, three models, and everything a run can measure."""
    labels = classes or [
        "T-shirt",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ]
    return {
        "title": "Clothes on two cores", "limbeck": "0.1.0", "created": "2026-03-04T15:12:09",
        "recipe": {"name": "kd", "arguments": {"temperature": 4.0, "weight": 0.9}, "year": 2015,
                   "paper": "Distilling the Knowledge in a Neural Network",
                   "summary": "Softened targets of the teacher beside the labels."},
        "task": "classification",
        "data": {"name": "clothes", "kind": "images", "classes": labels, "split": {"seed": 0, "by": "label"},
                 "counts": {"train, labelled": 4000, "train, unlabelled": 12000, "valid": 1000, "test": 2000},
                 "scored on": "test"},
        "command": COMMAND, "python": PYTHON,
        "config": {"recipe": "kd", "arguments": {"temperature": 4.0, "weight": 0.9},
                   "optimizer": {"name": "adamw", "lr": 0.001}, "epochs": 12},
        "machine": {"system": "Linux", "processor": "2 cores", "python": "3.11.9", "torch": "2.13.0+cpu",
                    "memory_bytes": 8_000_000_000},
        "seconds": 4312.4, "seeds": [0, 1, 2, 3, 4],
        "models": [model("teacher", "teacher", 0.962, 1, 11_200_000, 23.1, 0.021),
                   model("student", "student", 0.951, 5, 294_000, 1.92, 0.014),
                   model("student alone", "baseline", 0.889, 5, 294_000, 1.93, 0.047)],
        "confusion": confusion(labels), "curves": curves(steps), "scores_over_time": over_time(steps),
        "exports": [
            {"format": "safetensors", "file": "student/model.safetensors", "bytes": 1_178_048, "max_difference": 0.0,
             "scores": {"accuracy": 0.951}, "latency": []},
            {"format": "onnx", "file": "student.onnx", "bytes": 1_192_311, "max_difference": 2.9e-6,
             "scores": {"accuracy": 0.951},
             "latency": [{"backend": "onnxruntime", "batch": 1, "p50_ms": 0.61, "p95_ms": 0.83, "throughput": 1639.0}]},
            {"format": "onnx-int8", "file": "/elsewhere/runs/student.int8.onnx", "bytes": 331_008, "max_difference": 0.31,
             "scores": {"accuracy": 0.948},
             "latency": [{"backend": "onnxruntime int8", "batch": 1, "p50_ms": 0.38, "p95_ms": 0.55, "throughput": 2631.0}]},
        ],
        "dry_run": {"objective": "cross_entropy() + 0.9 * forward_kl(temperature=4)", "steps": 2400, "seconds_per_step": 0.0123,
                    "shapes": {"student logits": [64, 10], "teacher logits": [64, 10]}, "estimated_seconds": 295.2,
                    "parameter_groups": {"student": [{"parameters": 294000, "rate": 0.001, "optimizer": "AdamW"}]},
                    "estimated_bytes": {"weights": 1_176_000, "gradients": 1_176_000, "activations": 5_200_000}},
        "warnings": ["The teacher was trained on 212 of the 2,000 test samples: its scores may be too good.",
                     "Class 'Shirt' has 61 labelled samples; the median class has 412."],
    }  # fmt: skip


def only_student() -> dict[str, Any]:
    """The least: one model, one score, one seed."""
    accuracy = {"mean": 0.9, "std": 0.0, "values": [0.9]}
    return {"title": "least", "models": [{"name": "student", "role": "student", "scores": {"accuracy": accuracy}}]}


def no_baseline() -> dict[str, Any]:
    record = full()
    record["models"] = record["models"][:2]
    return record


def regression() -> dict[str, Any]:
    """Values instead of classes: errors, no confusion, no reliability."""

    def one(name: str, role: str, mse: float, seeds: int, parameters: int, p50: float) -> dict[str, Any]:
        scores = {"mse": stat(mse, 0.02, seeds), "mae": stat(mse * 0.9, 0.01, seeds), "r2": stat(1 - mse, 0.02, seeds)}
        agreement = {} if role == "teacher" else {"regression_loyalty": stat(1 - mse / 2, 0.01, seeds)}
        return {"name": name, "role": role, "scores": scores, "agreement": agreement, "reliability": [],
                "cost": {"parameters": parameters, "bytes": parameters * 4, "macs": None, "latency": latency(p50)}}  # fmt: skip

    models = [one("teacher", "teacher", 0.24, 1, 900_000, 0.9), one("student", "student", 0.27, 3, 12_000, 0.3),
              one("student alone", "baseline", 0.36, 3, 12_000, 0.3)]  # fmt: skip
    return {"title": "Prices", "task": "regression", "seeds": [0, 1, 2], "models": models, "confusion": None,
            "data": {"name": "houses", "kind": "table", "classes": None, "counts": {"train, labelled": 300, "test": 100}},
            "curves": {"student": {"step": [1, 2, 3], "squared_error": [1.0, 0.5, 0.4]}}}  # fmt: skip


def worse_than_alone() -> dict[str, Any]:
    """A student that its teacher harmed, and that answers no faster; class names that are no words."""
    record = full(classes=HOSTILE, steps=12)
    record["title"] = "<img src=x onerror=alert(1)>"
    record["models"] = [model("teacher <b>", "teacher", 0.962, 1, 294_000, 1.9, 0.021),
                        model("student", "student", 0.931, 5, 294_000, 1.92, 0.064),
                        model("student alone", "baseline", 0.949, 5, 294_000, 1.93, 0.047)]  # fmt: skip
    return record


def many_classes() -> dict[str, Any]:
    return full(classes=[f"class {place:03d}" for place in range(120)], steps=5000)
