"""Slicing a decoder's weights: which heads, neurons and channels stay, and every matrix that they run through."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.students.decoder_families import Family
from limbeck.students.encoder import head_importance


@dataclass(frozen=True)
class Sizes:
    """Of a decoder: hidden size, query heads, key-value groups, size of a head, feed-forward width."""

    hidden: int
    heads: int
    groups: int
    size: int
    ffn: int


class Weights:
    """A state dict, cut in place; matrices are [outputs, inputs] here, whichever way a family keeps them."""

    def __init__(self, state: dict[str, Tensor], family: Family) -> None:
        self.state = state
        self.family = family

    def matrix(self, name: str) -> Tensor:
        weight = self.state[f"{name}.weight"].float()
        return weight.T if self.family.transposed else weight

    def keep(self, name: str, outputs: Tensor | None = None, inputs: Tensor | None = None) -> None:
        """Keep these rows and columns of a layer's matrix."""
        axes = (1, 0) if self.family.transposed else (0, 1)
        if outputs is not None:
            self.pick(f"{name}.weight", outputs, axes[0])
            self.pick(f"{name}.bias", outputs)
        if inputs is not None:
            self.pick(f"{name}.weight", inputs, axes[1])

    def pick(self, name: str, index: Tensor, axis: int = -1) -> None:
        if name in self.state:
            self.state[name] = self.state[name].index_select(axis, index.to(self.state[name].device))

    def scale(self, norm: str) -> Tensor | float:
        """What a norm multiplies by, [hidden]; 1 where there is no such norm or it has no weight."""
        if f"{norm}.weight" not in self.state:
            return 1.0
        return self.state[f"{norm}.weight"].float() + (1.0 if self.family.gemma else 0.0)


def measure(weights: Weights, layer: str, size: int) -> Sizes:
    """The sizes of a layer, by its weights and the size of a head."""
    family = weights.family
    output, down = weights.matrix(f"{layer}.{family.output}"), weights.matrix(f"{layer}.{family.down}")
    heads = output.shape[1] // size
    rows = weights.matrix(f"{layer}.{family.key}").shape[0] // size
    groups = (rows - heads) // 2 if family.key == family.query else rows
    return Sizes(output.shape[0], heads, groups, size, down.shape[1])


def cut_ffn(weights: Weights, layer: str, count: int) -> None:
    """Keep the `count` neurons with the largest product of the norms of their weights, in and out."""
    family = weights.family
    names = list(dict.fromkeys(family.up))
    matrices = [weights.matrix(f"{layer}.{name}") for name in names]
    if len(names) < len(family.up):
        matrices = list(matrices[0].chunk(len(family.up)))
    importance = weights.matrix(f"{layer}.{family.down}").norm(dim=0)
    for matrix in matrices:
        importance = importance * matrix.norm(dim=1)
    kept = importance.topk(count).indices.sort().values
    rows = kept
    if len(names) < len(family.up):
        rows = torch.cat([kept + i * len(importance) for i in range(len(family.up))])
    for name in names:
        weights.keep(f"{layer}.{name}", outputs=rows)
    weights.keep(f"{layer}.{family.down}", inputs=kept)


def cut_heads(weights: Weights, layer: str, full: Sizes, heads: int, groups: int) -> None:
    """Keep the query heads with the largest output @ value in each key-value group, and the groups where they are."""
    family = weights.family
    share = full.heads // full.groups
    value = weights.matrix(f"{layer}.{family.value}")[-full.groups * full.size :].unflatten(0, (full.groups, full.size))
    output = weights.matrix(f"{layer}.{family.output}").unflatten(1, (full.heads, full.size)).transpose(0, 1)
    importance = head_importance(value.repeat_interleave(share, dim=0), output).view(full.groups, share)
    best = importance.topk(heads // groups, dim=1)
    kept_groups = best.values.square().sum(dim=1).topk(groups).indices.sort().values
    kept_heads = kept_groups[:, None] * share + best.indices[kept_groups].sort(dim=1).values
    queries, keys = _rows(kept_heads.flatten(), full.size), _rows(kept_groups, full.size)
    if family.query == family.key:
        starts = (full.heads * full.size, (full.heads + full.groups) * full.size)
        weights.keep(f"{layer}.{family.query}", outputs=torch.cat([queries, *(start + keys for start in starts)]))
    else:
        weights.keep(f"{layer}.{family.query}", outputs=queries)
        for name in (family.key, family.value):
            weights.keep(f"{layer}.{name}", outputs=keys)
    weights.keep(f"{layer}.{family.output}", inputs=queries)


def _rows(heads: Tensor, size: int) -> Tensor:
    return (heads[:, None] * size + torch.arange(size, device=heads.device)).flatten()


def cut_hidden(weights: Weights, layers: list[str], parent: str, outside: list[str], count: int) -> None:
    """Keep the `count` channels of the hidden states that most is written into and read from.

    Written: what an average token's embedding and unit inputs of the layers put there; read: the mean square of the
    weights that take it up, times the norm before them. `parent`: the prefix of what stands beside the layers;
    `outside`: the heads that read the last hidden states.
    """
    family, state = weights.family, weights.state
    projected = f"{parent}project_in.weight" in state  # OPT with narrower embeddings
    embeddings = [f"{parent}{name}.weight" for name in family.embeddings[projected:]]
    readers = [f"{parent}project_out.weight"] if projected else [f"{name}.weight" for name in outside]
    final = f"{parent}{family.final_norm}"
    full = state[embeddings[0]].shape[1]

    written, read = torch.zeros(full, dtype=torch.float64), torch.zeros(full, dtype=torch.float64)
    for name in embeddings:
        written += state[name].float().square().mean(dim=0).cpu() * (full if family.gemma else 1)
    if projected:
        written += state[f"{parent}project_in.weight"].float().square().sum(dim=1).cpu()
    for name in readers:
        read += (state[name].float() * weights.scale(final)).square().mean(dim=0).cpu()
    for layer in layers:
        for norms, ins, out in ((family.attention_norms, family.projections, family.output),
                                (family.ffn_norms, dict.fromkeys(family.up), family.down)):  # fmt: skip
            before, after = (weights.scale(f"{layer}.{name}") for name in (norms[0], norms[1] if norms[1:] else ""))
            for name in ins:
                read += (weights.matrix(f"{layer}.{name}") * before).square().mean(dim=0).cpu()
            written += (weights.matrix(f"{layer}.{out}").square().sum(dim=1).sqrt() * after).square().cpu()
    kept = (written * read).topk(count).indices.sort().values

    tied = [name for name in readers if state[name].data_ptr() == state[embeddings[0]].data_ptr()]
    for name in (*embeddings, *readers, f"{final}.weight", f"{final}.bias"):
        weights.pick(name, kept)
    if projected:
        weights.pick(f"{parent}project_in.weight", kept, 0)
    for layer in layers:
        for name in (*family.projections, *dict.fromkeys(family.up)):
            weights.keep(f"{layer}.{name}", inputs=kept)
        for name in (family.output, family.down):
            weights.keep(f"{layer}.{name}", outputs=kept)
        for name in (*family.attention_norms, *family.ffn_norms):
            weights.pick(f"{layer}.{name}.weight", kept)
            weights.pick(f"{layer}.{name}.bias", kept)
    if family.gemma:
        _rescale(state, embeddings[0], tied, f"{final}.weight", (full / count) ** 0.5)


def _rescale(state: dict[str, Tensor], embedding: str, tied: list[str], final: str, factor: float) -> None:
    """Gemma multiplies embeddings by the root of the hidden size: keep them, and the logits, as large as before."""
    state[embedding] = state[embedding] * factor
    for name in tied:
        state[name] = state[embedding]
    if tied:
        state[final] = (1 + state[final]) / factor - 1
