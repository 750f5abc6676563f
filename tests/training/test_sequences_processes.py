"""Data that are mixed, written or cut while a student learns are the same for two processes as for one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from limbeck.recipes import find
from limbeck.recipes.toy import toy_job
from limbeck.training.execute import Runner
from toys import weights

HERE = Path(__file__).parent
OPTIONS = {
    "ddk": {"every": 2},
    "dasd": {"max_new_tokens": 100, "candidates": 3, "mixed": 0.3, "cap": 1.0, "threshold": 0.0},
    "skip_thinking": {"chunks": 3, "checker": lambda *_: 1.0, "search": False},
}


def run(name):
    """The student in double precision, so that sums in another order draw the same tokens, and what was generated."""
    job = toy_job(find(name), steps=8, batch_size=7)
    job.student.double()
    job.teacher.module.double()
    runner = Runner(cpu=True)
    runner.run(find(name)(job, **OPTIONS[name]))
    made = [{**result.generated} for result in runner.results]
    return runner, {"weights": weights(job.student), "made": made, "mixture": runner.metrics.mixture()}


def child(name, out):
    torch.set_num_threads(1)
    runner, found = run(name)
    assert runner.accelerator.num_processes == 2
    torch.save(found, f"{out}/{runner.accelerator.process_index}.pt")
    runner.accelerator.wait_for_everyone()
    sys.stdout.flush()
    os._exit(0)


@pytest.mark.processes
@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_two_processes_equal_one(tmp_path, name):
    script = tmp_path / "child.py"
    path = [str(HERE), str(HERE.parent)]
    script.write_text(
        f"import sys; sys.path[:0] = {path}\nimport test_sequences_processes as t\nt.child({name!r}, {str(tmp_path)!r})"
    )
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert found.returncode == 0, found.stderr[-3000:]
    one = run(name)[1]
    both = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for each in both:
        assert torch.allclose(each["weights"], one["weights"], atol=1e-9, rtol=0)
        assert each["made"] == one["made"]
    if name == "ddk":
        assert both[0]["mixture"]["step"] == [0, 2, 4, 6]
        for domain, shares in one["mixture"]["share"].items():
            assert both[0]["mixture"]["share"][domain] == pytest.approx(shares)
