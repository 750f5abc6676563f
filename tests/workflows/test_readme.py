"""The README's commands and snippets run as they stand, in an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", *(str(page.relative_to(ROOT)) for page in sorted((ROOT / "docs").glob("*.md")))]


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run(page, tmp_path):
    """All ```bash blocks in order, then all ```python blocks as one program; other fences are not run."""
    scripts, program = blocks(page, "bash"), "\n".join(blocks(page, "python"))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    for command in [["bash", "-euc", script] for script in scripts] + (
        [[sys.executable, "-c", program]] if program else []
    ):
        found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280, env=environment)
        assert found.returncode == 0, f"{page}\n{command[-1]}\n{found.stdout[-1500:]}\n{found.stderr[-2500:]}"
    assert scripts or program or "```" not in (ROOT / page).read_text()


def test_links_of_all_pages_lead_somewhere():
    for page in [*PAGES, "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
            if "://" not in target:
                assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"
