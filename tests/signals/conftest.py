"""What the tests of lazy logits share."""

from __future__ import annotations

import pytest

from limbeck.signals import sweep


@pytest.fixture(autouse=True)
def few_rows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block of a toy problem is compared in parts, as one of a large vocabulary is."""
    monkeypatch.setattr(sweep, "CACHE", 3 * 30 * 8)
