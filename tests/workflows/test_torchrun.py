"""`torchrun -m limbeck distill`: two processes, one folder, the student of one process."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

ARGUMENTS = ["distill", "kd", "student=mlp:8", "data=digits", "steps=12", "batch_size=32", "labelled=300", "--json"]


def run(folder, teacher, *start):
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-m", *start, "limbeck", *ARGUMENTS, f"teacher={teacher}", f"out={folder}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)


@pytest.mark.processes
def test_two_processes_leave_one_run_like_that_of_one(tmp_path):
    from limbeck.students.build import mlp
    from limbeck.students.save import save_model

    torch.manual_seed(0)
    teacher = save_model(mlp(64, 10, hidden=(16,)), tmp_path / "teacher") or tmp_path / "teacher"
    one = run(tmp_path / "one", teacher)
    assert one.returncode == 0, one.stderr[-2000:]
    two = run(tmp_path / "two", teacher, "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    assert two.returncode == 0, two.stderr[-2000:]
    assert json.loads(two.stdout)["verdict"]  # one process speaks
    weights = [load_file(tmp_path / name / "student" / "model.safetensors") for name in ("one", "two")]
    for key in weights[0]:
        torch.testing.assert_close(weights[0][key], weights[1][key], atol=1e-5, rtol=0)
    lines = [(tmp_path / name / "metrics.jsonl").read_text().count("\n") for name in ("one", "two")]
    assert lines[0] == lines[1]
