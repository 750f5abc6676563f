"""A student of digits that has seen no digit as the teacher knew them: washed-out ones among letters and noise."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from _common import score
from PIL import Image, ImageDraw, ImageFont

import limbeck as lb
from limbeck.data import load_data
from limbeck.data.base import Data, TensorPart
from limbeck.proving import paired

CLAIM = (
    "With a teacher of digits and only other images to learn from (digits of another brightness, contrast and place, letters, "
    "noise), a student by KD^3 is more accurate on digits than by KD on all of these images, and than by KD on as many of them "
    "by chance (mean of 5 seeds)."
)
SEEDS = range(5)
NOTE = (
    "Teacher: a CNN of width 16 trained on digits; student: mlp:32, 1,500 steps. 3,000 images without labels: 700 digits that "
    "the teacher did not see, darker or inverted and shifted, 1,500 letters, 800 of noise. The last weights are kept: there is "
    "no validation part. KD at temperature 4, as KD^3; the share of images kept is its default, half."
)
BUDGET: dict[str, Any] = {"student": "mlp:32", "steps": 1500, "learning_rate": 3e-3, "best": "last", "progress": False,
                          "measure": False}  # fmt: skip


@functools.cache
def digits() -> Data:
    return load_data("digits", valid=0, test=0.5, seed=0)


@functools.cache
def teacher() -> torch.nn.Module:
    torch.set_num_threads(1)
    return lb.distill("alone", data=digits(), **{**BUDGET, "student": "cnn(width=16, depth=3)", "steps": 400}).student


def letter(name: str, rng: np.random.Generator) -> np.ndarray:
    """A letter, drawn large, tilted, and brought to 8 x 8."""
    page = Image.new("L", (48, 48))
    ImageDraw.Draw(page).text((12, 4), name, fill=255, font=ImageFont.load_default(size=36))
    page = page.rotate(float(rng.uniform(-20, 20))).resize((8, 8), Image.Resampling.BOX)
    return np.asarray(page, dtype=np.float32) / 255


def web(seed: int) -> TensorPart:
    """Images of other kinds, without labels. The digits among them are of the half that is neither taught nor tested."""
    rng = np.random.default_rng(seed)
    test = digits().parts["test"]
    places = rng.permutation(len(test))[:700]
    some = test.batch(torch.as_tensor(np.sort(places))).inputs.float().numpy()[:, 0]
    some = np.stack([np.roll(each, rng.integers(-1, 2, 2), (0, 1)) for each in some])
    some = np.where(
        rng.random(len(some))[:, None, None] < 0.3, 1 - some, some * rng.uniform(0.3, 0.8, (len(some), 1, 1))
    )
    letters = np.stack([letter(chr(65 + int(rng.integers(26))), rng) for _ in range(1500)])
    noise = rng.random((800, 8, 8)) ** rng.uniform(0.5, 3, (800, 1, 1))
    images = np.concatenate([some, letters, noise]).astype(np.float32)
    return TensorPart("train", torch.from_numpy(images)[:, None], None)


def measure(seed: int) -> dict[str, float]:
    part, rng = web(seed), np.random.default_rng(1000 + seed)
    test = digits().parts["test"]
    seen = np.random.default_rng(seed).permutation(len(test))[:700]
    unseen = torch.as_tensor(np.setdiff1d(np.arange(len(test)), seen))
    from limbeck.data.splits import take

    rest = take(test, unseen, "test")
    half = take(part, torch.as_tensor(np.sort(rng.permutation(len(part))[: len(part) // 2])), "train")

    def run(recipe: str, train: TensorPart, **more: Any) -> float:
        data = Data("web", "image", {"train": train, "test": rest}, target="classes", classes=digits().classes)
        return score(lb.distill(recipe, data=data, teacher=teacher(), seed=seed, **{**BUDGET, **more}))

    plain: dict[str, Any] = {"temperature": 4.0, "soft": 1.0}
    whole = lb.distill("kd", data=Data("web", "image", {"train": part, "test": rest}, target="classes",
                                       classes=digits().classes), teacher=teacher(), seed=seed, **plain, **BUDGET)  # fmt: skip
    return {
        "kd3": run("kd3", part), "kd": score(whole), "chance": run("kd", half, **plain),
        "no_choice": run("kd3", part, keep=1.0), "no_invariance": run("kd3", part, invariance=0.0),
        "teacher": score(whole, role="teacher"),
    }  # fmt: skip


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    kd, kd_error = paired(rows, "kd3", "kd")
    chance, chance_error = paired(rows, "kd3", "chance")
    mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return kd > 2 * kd_error and chance > 2 * chance_error, (
        f"KD^3 {mean['kd3']:.1f} %, {kd:+.1f} ± {kd_error:.1f} points over KD on all images and {chance:+.1f} ± "
        f"{chance_error:.1f} over KD on half of them; without choice {mean['no_choice']:.1f} %, without invariance "
        f"{mean['no_invariance']:.1f} %; the teacher {mean['teacher']:.1f} %."
    )
