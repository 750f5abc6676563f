"""Objectives: the formulas of `limbeck.functional` made composable, their algebra, and what learns in them.

    from limbeck.objectives import cross_entropy, forward_kl
    objective = 0.1 * cross_entropy() + 0.9 * forward_kl(temperature=4)
    loss = objective(student_logits, teacher_logits, labels)

Names are resolved when they are first used, so that listing recipes does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limbeck.objectives.algebra import Objective, Sum, Term
    from limbeck.objectives.chunks import chunk_likelihoods, sorted_l1_by_index, sorted_l1_of_chunks
    from limbeck.objectives.flows import flow
    from limbeck.objectives.formula import Formula, compose
    from limbeck.objectives.fusion import review
    from limbeck.objectives.graphs import token_graph
    from limbeck.objectives.information import mutual_information
    from limbeck.objectives.library import *  # noqa: F403
    from limbeck.objectives.masked import reconstruction
    from limbeck.objectives.memory import contrast
    from limbeck.objectives.messages import conversation
    from limbeck.objectives.nearest import nearest_layers
    from limbeck.objectives.paced import paced_target
    from limbeck.objectives.paraphrases import paraphrase
    from limbeck.objectives.policy import kl_estimate, policy_gradient, selected, weighed
    from limbeck.objectives.prototypes import assignment_kl
    from limbeck.objectives.sequences import dpo, per_sequence, redi
    from limbeck.objectives.subsets import learned_subset_kl, span_correlation
    from limbeck.objectives.tokens import attention_kl, attention_mse, hidden_mse, relation_kl
    from limbeck.objectives.transport import transported
    from limbeck.objectives.variational import variational_information
    from limbeck.objectives.views import confident_mse, told_apart, view_contrast
    from limbeck.objectives.weights import Weight, between, cosine, learned, ramp

_PLACES = {
    "Objective": "algebra", "Sum": "algebra", "Term": "algebra", "as_step": "algebra",
    "Formula": "formula", "compose": "formula",
    "Weight": "weights", "ramp": "weights", "cosine": "weights", "between": "weights", "learned": "weights",
    "projector": "projectors",
    "dpo": "sequences", "redi": "sequences", "per_sequence": "sequences",
    "policy_gradient": "policy", "kl_estimate": "policy", "selected": "policy", "weighed": "policy",
    "paced_target": "paced", "review": "fusion", "flow": "flows",
    "mutual_information": "information", "contrast": "memory", "variational_information": "variational",
    "nearest_layers": "nearest", "conversation": "messages",
    "hidden_mse": "tokens", "attention_mse": "tokens", "attention_kl": "tokens", "relation_kl": "tokens",
    "paraphrase": "paraphrases", "learned_subset_kl": "subsets", "span_correlation": "subsets",
    "token_graph": "graphs", "assignment_kl": "prototypes",
    "view_contrast": "views", "told_apart": "views", "confident_mse": "views",
    "reconstruction": "masked", "transported": "transport",
    "chunk_likelihoods": "chunks", "sorted_l1_by_index": "chunks", "sorted_l1_of_chunks": "chunks",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    if name in _PLACES:
        return getattr(import_module(f"limbeck.objectives.{_PLACES[name]}"), name)
    library = import_module("limbeck.objectives.library")
    try:
        return getattr(library, name)
    except AttributeError:
        from limbeck.errors import nearest

        message = f"limbeck.objectives has no {name!r}.{nearest(name, [*_PLACES, *library.__all__])}"
        raise AttributeError(message) from None


def __dir__() -> list[str]:
    return sorted([*_PLACES, *import_module("limbeck.objectives.library").__all__])
