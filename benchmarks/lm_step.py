"""One training step of a language model's distillation: whole logits, Limbeck's walk, and TRL's losses, side by side.

    python benchmarks/lm_step.py [--threads 1 2] [--rows 4] [--repeats 2] [--cases "walk, forward KL" ...]

Random GPT-2s with tied heads: vocabulary 50,257, teacher 8 layers x 512, student 4 x 256; rows of 256 tokens of which 224
count; fused AdamW. Each case runs in a process of its own, `repeats` times in turns with the others: the median process CPU
time of some steps after a warm-up, and how far the peak of resident memory rose above the loaded models. Ratios are to whole
logits (forward KL, float32) in the same round; with several rounds their spread is shown. The losses of all cases of one
divergence must agree.

TRL is taken where it is installed (`pip install trl`): its GKD loss on whole logits, and its tiled loss, which off a GPU
projects every row, once as it is and once given the rows that count.
"""

from __future__ import annotations

import argparse
import atexit
import json
import multiprocessing
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck import objectives as o
from limbeck.data.base import Batch, Data
from limbeck.machine import describe
from limbeck.signals import store_signals, walk
from limbeck.signals.step import Step, count_items
from limbeck.tasks.causal_lm import CausalLM, TokenPart
from limbeck.teachers.stored import StoredTeacher

Loss = Callable[[nn.Module, nn.Module, Batch], Tensor]
Make = Callable[[nn.Module, Batch], Loss]
TASK = CausalLM()
VOCABULARY, TOKENS, COUNTED = 50_257, 256, 224
OBJECTIVES: dict[str, Callable[[], Any]] = {
    "forward KL": o.forward_kl,
    "reverse KL": o.reverse_kl,
    "JSD": lambda: o.jensen_shannon(beta=0.5),
    "skew KL": o.skew_forward_kl,
    "TVD": o.total_variation,
    "CE + KL": lambda: 0.5 * o.cross_entropy() + 0.5 * o.forward_kl(),
}


def model(layers: int, width: int, seed: int) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(n_layer=layers, n_embd=width, n_head=width // 64, vocab_size=VOCABULARY, resid_pdrop=0.0,
                        embd_pdrop=0.0, attn_pdrop=0.0)  # fmt: skip
    return GPT2LMHeadModel(config)


def memory(kind: str) -> int:
    """Resident bytes of this process now (VmRSS) or at most so far (VmHWM)."""
    found = re.search(rf"{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def batch_of(rows: int) -> Batch:
    ids = torch.randint(VOCABULARY, (rows, TOKENS), generator=torch.Generator().manual_seed(0))
    labels = ids.roll(-1, 1)
    labels[:, COUNTED:] = -100
    return Batch(ids, torch.arange(rows), labels, extra={"mask": labels != -100})


def walked(objective: Any, precision: str) -> Loss:
    """Limbeck: lazy logits, the walk, through the task and the objective as the engine calls them."""

    def loss(student: nn.Module, teacher: nn.Module, batch: Batch) -> Tensor:
        step = Step(batch, 0.0, counts=count_items(batch))
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            with torch.no_grad():
                step.put("teacher", TASK.signals(TASK.forward(teacher, batch.inputs)))
            step.put("self", TASK.signals(TASK.forward(student, batch.inputs)))
        return objective.evaluate(step)[0]

    return loss


def alone(student: nn.Module, teacher: nn.Module, batch: Batch) -> Tensor:
    """The student on the texts alone, walked: what training from a store is to be compared with."""
    step = Step(batch, 0.0, counts=count_items(batch))
    step.put("self", TASK.signals(TASK.forward(student, batch.inputs)))
    return o.cross_entropy().evaluate(step)[0]


def plain(student: nn.Module, teacher: nn.Module, batch: Batch) -> Tensor:
    """A user's own function, walked by autograd within a few rows."""
    with torch.no_grad():
        target = TASK.signals(TASK.forward(teacher, batch.inputs))["logits"]
    own = TASK.signals(TASK.forward(student, batch.inputs))["logits"]
    keep = batch.labels != -100
    weights = torch.ones(1) / keep.sum()
    return walk(own, target, None, keep, [lambda s, t, _: naive_kl(s, t)], weights)[0]


def stored(objective: Any) -> Make:
    """Limbeck with a teacher of whose logits a store kept the top 64: no teacher is run, and none in memory."""

    def make(teacher: nn.Module, batch: Batch) -> Loss:
        part = TokenPart("train", batch.inputs, torch.ones_like(batch.inputs), batch.labels != -100)
        folder = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, folder)
        store_signals(teacher, Data("rows", "text", {"train": part}), folder, task=TASK, top_k=64, batch_size=4)
        kept = StoredTeacher(folder)

        def loss(student: nn.Module, _: nn.Module, batch: Batch) -> Tensor:
            step = Step(batch, 0.0, counts=count_items(batch))
            step.put("teacher", kept.read(batch, ["logits"], TASK))
            step.put("self", TASK.signals(TASK.forward(student, batch.inputs)))
            return objective.evaluate(step)[0]

        return loss

    return make


def naive_kl(student: Tensor, teacher: Tensor) -> Tensor:
    return F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="none").sum(-1)


def naive(student: nn.Module, teacher: nn.Module, batch: Batch) -> Tensor:
    with torch.no_grad():
        target = teacher(batch.inputs, use_cache=False).logits
    keep = batch.labels != -100
    return (naive_kl(student(batch.inputs, use_cache=False).logits, target) * keep).sum() / keep.sum()


def trl_whole(beta: float) -> Loss:
    def loss(student: nn.Module, teacher: nn.Module, batch: Batch) -> Tensor:
        from trl.experimental.gkd import GKDTrainer

        with torch.no_grad():
            target = teacher(batch.inputs, use_cache=False).logits
        logits = student(batch.inputs, use_cache=False).logits
        return GKDTrainer.generalized_jsd_loss(logits, target, labels=batch.labels, beta=beta)

    return loss


def trl_tiled(beta: float, chosen: bool) -> Loss:
    """`chosen`: it is given the rows that count, as it chooses them itself on a GPU."""

    def loss(student: Any, teacher: Any, batch: Batch) -> Tensor:
        from trl.trainer.distillation_trainer import _chunked_divergence_loss

        with torch.no_grad():
            theirs = teacher.base_model(batch.inputs, use_cache=False).last_hidden_state
        own, keep = student.base_model(batch.inputs, use_cache=False).last_hidden_state, batch.labels != -100
        if chosen:
            own, theirs, keep = own[keep][None], theirs[keep][None], keep[keep][None]
        return _chunked_divergence_loss(own, theirs, student.lm_head.weight, teacher.lm_head.weight, keep, beta)[0]

    return loss


def cases() -> dict[str, tuple[str, Make]]:
    """name -> (divergence whose loss it must give, what makes it of the teacher and the batch)."""
    found: dict[str, tuple[str, Make]] = {
        "whole logits": ("forward KL", lambda *_: naive),
        "walk, forward KL": ("forward KL", lambda *_: walked(o.forward_kl(), "no")),
        "walk, no teacher, CE": ("CE", lambda *_: alone),
        "walk, a plain function": ("forward KL", lambda *_: plain),
        "walk, forward KL, bf16": ("forward KL in bf16", lambda *_: walked(o.forward_kl(), "bf16")),
        "walk, top 64 stored": ("top 64", stored(o.topk_forward_kl(k=64))),
        "walk, KL to 64 stored": ("KL to 64", stored(o.forward_kl())),
    }
    for name in ("reverse KL", "JSD", "skew KL", "TVD", "CE + KL"):
        found[f"walk, {name}"] = (name, lambda *_, name=name: walked(OBJECTIVES[name](), "no"))
    try:
        import trl  # noqa: F401
    except ImportError:
        return found
    for name, beta in (("forward KL", 0.0), ("JSD", 0.5)):
        found[f"TRL GKD, {name}"] = (name, lambda *_, beta=beta: trl_whole(beta))
        found[f"TRL tiled, {name}"] = (name, lambda *_, beta=beta: trl_tiled(beta, chosen=False))
        found[f"TRL tiled, chosen, {name}"] = (name, lambda *_, beta=beta: trl_tiled(beta, chosen=True))
    return found


def run(name: str, rows: int, threads: int, steps: int, queue: multiprocessing.Queue) -> None:
    torch.set_num_threads(threads)
    student, teacher, batch = model(4, 256, 0), model(8, 512, 1).eval(), batch_of(rows)
    loss_of = cases()[name][1](teacher, batch)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, fused=True)
    Path("/proc/self/clear_refs").write_text(
        "5"
    )  # the peak so far is forgotten: that of making the models and the store
    before, times, first = memory("VmRSS"), [], 0.0
    for number in range(steps + 1):
        start = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(student, teacher, batch)
        loss.backward()
        optimizer.step()
        times.append(time.process_time() - start)
        first = float(loss.detach()) if number == 0 else first
    queue.put((1000 * statistics.median(times[1:]), (memory("VmHWM") - before) / 2**20, first))


def measured(name: str, rows: int, threads: int, steps: int) -> tuple[float, float, float]:
    """ms, MB and loss of a case in a process of its own."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=run, args=(name, rows, threads, steps, queue))
    process.start()
    while process.is_alive() and queue.empty():
        time.sleep(0.1)
    process.join()
    if process.exitcode:
        raise SystemExit(f"{name!r} failed with exit code {process.exitcode}.")
    found = queue.get()
    print(f"  {name}: {found[0]:.0f} ms, {found[1]:.0f} MB", file=sys.stderr, flush=True)
    return found


def floor(rows: int) -> float:
    """GFLOP that no way of computing it avoids: both models' forward, the student's backward, on the rows that count."""
    body = {"student": 4 * 12 * 256**2, "teacher": 8 * 12 * 512**2}
    tokens, counted = rows * TOKENS, rows * COUNTED
    matmul = 2 * tokens * (3 * body["student"] + body["teacher"]) + 2 * counted * VOCABULARY * (3 * 256 + 512)
    return matmul / 1e9


def rate(threads: int) -> float:
    """GFLOP that a second of CPU time gives in float32 products of the size of a block; the best of several."""
    torch.set_num_threads(threads)
    one, other = torch.randn(256, 512), torch.randn(VOCABULARY, 512)
    best = 1e9
    for _ in range(5):
        start = time.process_time()
        one @ other.T
        best = min(best, time.process_time() - start)
    return 2 * 256 * 512 * VOCABULARY / best / 1e9


def summary(rounds: list[dict[str, tuple[float, float, float]]]) -> dict[str, dict[str, Any]]:
    """The medians of each case over the rounds, and its ratios to the first case of the same round."""
    found: dict[str, dict[str, Any]] = {}
    for name in rounds[0]:
        rows = [(one[name], next(iter(one.values()))) for one in rounds if name in one]
        time_ratios = sorted(own[0] / first[0] for own, first in rows)
        found[name] = {
            "ms": statistics.median(own[0] for own, _ in rows), "of_whole": statistics.median(time_ratios),
            "from_to": [time_ratios[0], time_ratios[-1]], "rounds": len(rows),
            "peak_mb": statistics.median(own[1] for own, _ in rows),
            "peak_of_whole": statistics.median(own[1] / first[1] for own, first in rows),
            "loss": rows[0][0][2],
        }  # fmt: skip
    return found


def show(rows: dict[str, dict[str, Any]]) -> None:
    print(f"{'':30}{'CPU ms':>8}{'of whole':>10}{'from to':>14}{'peak MB':>9}{'of whole':>10}{'loss':>12}")
    for name, row in rows.items():
        spread = "{:.2f} {:.2f}".format(*row["from_to"])
        print(f"{name:30}{row['ms']:8.0f}{row['of_whole']:10.2f}{spread:>14}{row['peak_mb']:9.0f}"
              f"{row['peak_of_whole']:10.2f}{row['loss']:12.6f}", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rows", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--cases", nargs="*", help="beside whole logits; all by default")
    options = parser.parse_args()
    known = cases()
    names = list(dict.fromkeys(["whole logits", *(options.cases or known)]))
    for count in options.rows:
        out = Path(__file__).parent / "results" / f"lm_step_{count}.json"
        results = json.loads(out.read_text())["results"] if out.exists() else {}
        for threads in options.threads:
            speed = rate(threads)
            print(f"\n{count} x {TOKENS} tokens, {threads} thread(s), torch {torch.__version__}: {floor(count):.0f} GFLOP, "
                  f"{1000 * floor(count) / speed:.0f} ms at {speed:.0f} GFLOP/s")  # fmt: skip
            rounds: list[dict[str, tuple[float, float, float]]] = []
            for _ in range(options.repeats):
                rounds.append({})
                for name in names:
                    rounds[-1][name] = measured(name, count, threads, options.steps)
                    # after each case: whoever stops it keeps what was measured
                    mine = results.setdefault(str(threads), {"cases": {}})
                    mine["cases"].update(summary(rounds))
                    mine["floor_ms"] = 1000 * floor(count) / speed
                    text = {"results": results, "floor_gflop": floor(count), "machine": describe()}
                    out.write_text(json.dumps(text, indent=1) + "\n")
            found = summary(rounds)
            show(found)
            for name in found:
                expected = [other["loss"] for key, other in found.items() if known[key][0] == known[name][0]]
                assert max(expected) - min(expected) < 1e-4 * max(expected), f"{name}: other losses: {expected}"


if __name__ == "__main__":
    main()
