"""Two processes under torchrun equal one process on the same global batch: masks, unequal slices, a short last batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from limbeck.objectives.weights import learned
from limbeck.training.execute import Runner
from pairs import pair_stage
from toys import gram, hard, kl, losses, near, net, toy_data, toy_job, weights

HERE = Path(__file__).parent
DOUBLE = torch.float64


def plan(kind):
    """37 samples in batches of 8: the last has 5, so that the slices differ; 11 samples have no label."""
    if kind == "pairs":  # 40 pairs: 7 a step in 3 micro-batches
        return pair_stage("all", accumulate=3)
    if kind == "short pairs":  # 40 = 39 + 1: one process has no pair of the last step
        return pair_stage("all", batch_size=39, steps=2)
    data = toy_data(37, unlabelled=11, dtype=DOUBLE)
    job = toy_job(data=data, dtype=DOUBLE, steps=10, accumulate=1 if kind in ("relation", "short") else 3,
                  batch_size=9 if kind == "short" else 8)  # fmt: skip
    if kind == "sum":
        objective = hard() + learned().double() * kl() + near().on("1", "teacher:1").projected()
        return job, job.stage(objective)
    if kind == "relation":
        return job, job.stage(hard() + gram())
    if kind == "short":  # 37 = 4 * 9 + 1: the last batch has one sample, and one process has none of it
        return job, job.stage(hard() + kl() + gram())
    peer = job.learner("peer", hard() + kl().against("student"), net(5).double())
    return job, job.stage(hard() + kl().against("peer"), learners=[peer])


def child(kind, out):
    torch.set_num_threads(1)
    _, stage = plan(kind)
    runner = Runner(cpu=True)
    assert runner.accelerator.num_processes == 2, "torchrun with ACCELERATE_USE_CPU gives two processes"
    runner.run(stage)
    rank = runner.accelerator.process_index
    torch.save(
        {"losses": losses(runner), "weights": weights(nn.ModuleList(stage.learners.values()))}, f"{out}/{rank}.pt"
    )
    runner.accelerator.wait_for_everyone()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads abort one exit in seven after all is done


@pytest.mark.processes
@pytest.mark.parametrize("kind", ["sum", "relation", "short", "peers", "pairs", "short pairs"])
def test_two_processes_equal_one(tmp_path, kind):
    script = tmp_path / "child.py"
    path = [str(HERE), str(HERE.parent)]
    lines = [
        f"import sys; sys.path[:0] = {path}",
        "import test_processes as t",
        f"t.child({kind!r}, {str(tmp_path)!r})",
    ]
    script.write_text("\n".join(lines))
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert found.returncode == 0, found.stderr[-3000:]
    both = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    _, stage = plan(kind)
    runner = Runner(cpu=True)
    runner.run(stage)
    assert torch.equal(both[0]["weights"], both[1]["weights"])
    assert torch.allclose(both[0]["weights"], weights(nn.ModuleList(stage.learners.values())), atol=1e-10, rtol=0)
    assert both[0]["losses"] == pytest.approx(losses(runner), abs=1e-10)
