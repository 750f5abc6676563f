"""Limbeck: knowledge distillation, from a model that works to a small one that is nearly as good, with proof."""

from __future__ import annotations

__version__ = "0.1.0"
