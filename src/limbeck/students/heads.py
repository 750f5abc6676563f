"""Students with other heads than they came with. What is saved of them is whole: the folder loads back as it was trained."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

CARRIED = ("tokenizer", "processor", "pretrained_cfg", "limbeck_pretrained")  # how a task prepares inputs for a module


class Headed(nn.Module):
    """A model without what came last, `body`, with something else on it. Subclasses define `forward`."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body
        for name in CARRIED:
            if name in vars(body):
                setattr(self, name, vars(body)[name])

    def features(self, *args: Any, **kwargs: Any) -> Tensor:
        """What the body gives now that its classifier is gone."""
        return unwrapped(self.body(*args, **kwargs))


def unwrapped(output: Any) -> Tensor:
    """The tensor of a model's output: itself, its logits, or its first element."""
    if isinstance(output, Mapping) and "logits" in output:
        return output["logits"]
    output = getattr(output, "logits", output)
    return output[0] if isinstance(output, tuple) else output


def without(module: nn.Module, names: Sequence[str]) -> nn.Module:
    """A copy of a module in which the named submodules pass on what they are given."""
    body = copy.deepcopy(module)
    body.__dict__.pop("limbeck_spec", None)  # it no longer says how to build this
    for name in names:
        parent, _, last = name.rpartition(".")
        setattr(body.get_submodule(parent), last, nn.Identity())
    return body
