"""One training step of a language model's distillation: whole logits, Limbeck's walk, and TRL's losses, side by side.

    python benchmarks/lm_step.py [--threads 1 2] [--rows 4] [--cases naive walk ...]

Random GPT-2s with tied heads: vocabulary 50,257, teacher 8 layers x 512, student 4 x 256; 4 rows of 256 tokens of which
896 count; fused AdamW. Each case runs in a process of its own: median process CPU time of 5 steps after a warm-up, and how
far the peak of resident memory rose above the loaded models. The losses of all cases of one divergence must agree.

TRL is taken where it is installed (`pip install trl`): its GKD loss on whole logits, and its tiled loss, which off a GPU
projects every row, once as it is and once given the rows that count.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck import objectives as o
from limbeck.data.base import Batch
from limbeck.machine import describe
from limbeck.signals.step import Step, count_items
from limbeck.tasks.causal_lm import CausalLM

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


def walked(objective: Any, precision: str) -> Callable[[nn.Module, nn.Module, Batch], Tensor]:
    """Limbeck: lazy logits, the walk, through the task and the objective as the engine calls them."""
    task = CausalLM()

    def loss(student: nn.Module, teacher: nn.Module, batch: Batch) -> Tensor:
        step = Step(batch, 0.0, counts=count_items(batch))
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            with torch.no_grad():
                step.put("teacher", task.signals(task.forward(teacher, batch.inputs)))
            step.put("self", task.signals(task.forward(student, batch.inputs)))
        return objective.evaluate(step)[0]

    return loss


def naive(divergence: Callable[[Tensor, Tensor], Tensor]) -> Callable[[nn.Module, nn.Module, Batch], Tensor]:
    def loss(student: nn.Module, teacher: nn.Module, batch: Batch) -> Tensor:
        with torch.no_grad():
            target = teacher(batch.inputs, use_cache=False).logits
        logits = student(batch.inputs, use_cache=False).logits
        keep = batch.labels != -100
        return (divergence(logits, target) * keep).sum() / keep.sum()

    return loss


def naive_kl(student: Tensor, teacher: Tensor) -> Tensor:
    return F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="none").sum(-1)


def trl_full(beta: float) -> Callable[[nn.Module, nn.Module, Batch], Tensor]:
    from trl.experimental.gkd import GKDTrainer

    def loss(student: nn.Module, teacher: nn.Module, batch: Batch) -> Tensor:
        with torch.no_grad():
            target = teacher(batch.inputs, use_cache=False).logits
        logits = student(batch.inputs, use_cache=False).logits
        return GKDTrainer.generalized_jsd_loss(logits, target, labels=batch.labels, beta=beta)

    return loss


def cases() -> dict[str, tuple[str, Callable[[], Any]]]:
    """name -> (divergence, what makes its loss)."""
    found: dict[str, tuple[str, Callable[[], Any]]] = {
        "whole logits": ("forward KL", lambda: naive(naive_kl)),
        "walk, forward KL": ("forward KL", lambda: walked(o.forward_kl(), "no")),
        "walk, forward KL, bf16": ("", lambda: walked(o.forward_kl(), "bf16")),
    }
    for name in ("reverse KL", "JSD", "skew KL", "TVD", "CE + KL"):
        found[f"walk, {name}"] = (name, lambda name=name: walked(OBJECTIVES[name](), "no"))  # type: ignore[misc]
    try:
        import trl.experimental.gkd  # noqa: F401
    except ImportError:
        return found
    found["TRL GKD, forward KL"] = ("forward KL", lambda: trl_full(0.0))
    found["TRL GKD, JSD"] = ("JSD", lambda: trl_full(0.5))
    return found


def run(name: str, rows: int, threads: int, steps: int, queue: multiprocessing.Queue) -> None:
    torch.set_num_threads(threads)
    student, teacher, batch = model(4, 256, 0), model(8, 512, 1).eval(), batch_of(rows)
    loss_of = cases()[name][1]()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, fused=True)
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


def floor(rows: int) -> float:
    """GFLOP that no way of computing it avoids: both models' forward, the student's backward, on the rows that count."""
    body = {"student": 4 * 12 * 256**2, "teacher": 8 * 12 * 512**2}
    tokens, counted = rows * TOKENS, rows * COUNTED
    matmul = 2 * tokens * (3 * body["student"] + body["teacher"]) + 2 * counted * VOCABULARY * (3 * 256 + 512)
    return matmul / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--cases", nargs="*")
    options = parser.parse_args()
    context, results = multiprocessing.get_context("spawn"), {}
    for threads in options.threads:
        print(f"\n{options.rows} x {TOKENS} tokens, {threads} thread(s), torch {torch.__version__}, ", end="")
        print(f"floor {floor(options.rows):.0f} GFLOP")
        print(f"{'':28}{'CPU ms':>9}{'of whole':>10}{'peak MB':>9}{'of whole':>10}{'loss':>12}")
        base: tuple[float, float] | None = None
        for name in options.cases or cases():
            queue = context.Queue()
            process = context.Process(target=run, args=(name, options.rows, threads, options.steps, queue))
            process.start()
            ms, peak, value = queue.get()
            process.join()
            base = base or (ms, peak)
            print(f"{name:28}{ms:9.0f}{ms / base[0]:10.2f}{peak:9.0f}{peak / base[1]:10.2f}{value:12.6f}", flush=True)
            results.setdefault(str(threads), {})[name] = {"ms": ms, "peak_mb": peak, "loss": value}
    out = Path(__file__).parent / "results" / f"lm_step_{options.rows}.json"
    out.write_text(
        json.dumps({"results": results, "floor_gflop": floor(options.rows), "machine": describe()}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
