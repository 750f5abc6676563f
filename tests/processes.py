"""Start a function of a test file in two processes, as torchrun does, on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def in_two_processes(file: str, call: str, folder: Path) -> None:
    """Run `call`, such as "child('x')", of a test file in each of two processes; their errors are this one's."""
    here = Path(file).parent
    script = folder / "child.py"
    path = [str(here), str(here.parent)]
    name = Path(file).stem
    lines = [
        "import os, sys, torch",
        f"sys.path[:0] = {path}",
        "torch.set_num_threads(1)",
        f"import {name} as t",
        f"t.{call}",
        "torch.distributed.barrier()",
        "sys.stdout.flush()",
        "os._exit(0)  # gloo's threads abort one exit in seven after all is done",
    ]
    script.write_text("\n".join(lines))
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment)
    assert found.returncode == 0, found.stderr[:8000]
