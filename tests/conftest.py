"""What all tests share: one thread, so that results do not depend on the machine and tests may run side by side; a browser."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from browsers import CHROMIUM

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install 'limbeck[dev]')")
    with api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM)
        yield running
        running.close()
