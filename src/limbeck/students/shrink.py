"""A smaller student cut from its teacher: fewer layers, narrower ones, fewer attention heads, weights copied.

    student = shrink(teacher, depth=2, width=0.5, heads=2)     # counts, or fractions of the teacher's
    student.limbeck_shrink                                     # what was kept, in words and numbers

The result is an ordinary module; `save_model` and `load_module` keep its shapes beside its weights.
"""

from __future__ import annotations

from torch import Tensor, nn

from limbeck.errors import ArgumentError, ModelError
from limbeck.students.chain import leaves, shrink_chain
from limbeck.students.decoder import is_decoder, shrink_decoder
from limbeck.students.encoder import shrink_encoder
from limbeck.students.encoders import SentenceEncoder, around
from limbeck.students.pretrained import is_pretrained
from limbeck.students.prune import prune_channels


def shrink(teacher: nn.Module, depth: int | float | None = None, width: int | float | None = None,
           heads: int | float | None = None, hidden: int | float | None = None, *,
           example: Tensor | None = None) -> nn.Module:  # fmt: skip
    """A smaller copy of a teacher; the teacher is not changed.

    - Transformers encoders: `depth` layers, evenly spread, first and last among them (6 of 12: 0 2 4 7 9 11, as in
      DistilBERT, 2019); `width` feed-forward neurons and `heads` heads a layer, those with the largest weights.
    - Encoders of vectors (`SentenceEncoder`): their body so; pooling, linear map and normalisation stay.
    - Transformers decoders (GPT-2, Llama, Mistral, Qwen, Gemma, Phi-3, OPT; others in depth): the same, and `hidden`,
      the hidden size, the channels that most runs through. `heads` are query heads: as many key-value heads as can be
      stay, with equally many query heads each. GPT-2 and OPT: `hidden` takes heads along, hidden = heads x head size.
    - Sequential networks: `depth` hidden blocks, `width` units or channels in each (a count is an upper bound).
    - Other convolutional nets: `width`, a fraction, through torch-pruning; `example` is one image, [1, channels, ...].

    A whole number is a count, a fraction up to 1.0 a share of the teacher's (of decoders: or the nearest that can be,
    with a note in `limbeck_shrink`).
    Raises ModelError where the teacher is built otherwise, ArgumentError for sizes that cannot be.
    """
    if depth is None and width is None and heads is None and hidden is None:
        raise ArgumentError("shrink: nothing to cut. Give depth, width or heads, such as shrink(depth=2, width=0.5).")
    if isinstance(teacher, SentenceEncoder):
        return _shrink_sentence(teacher, shrink(teacher.body, depth, width, heads, hidden))
    if is_pretrained(teacher) and is_decoder(teacher):
        return shrink_decoder(teacher, depth, width, heads, hidden)
    if hidden is not None:
        raise ModelError(
            f"hidden={hidden}: only Transformers decoders (Llama, GPT-2, ...) have a hidden size to cut, not "
            f"{type(teacher).__name__}. Give depth, width or heads."
        )
    if is_pretrained(teacher):
        return shrink_encoder(teacher, depth, width, heads)
    if heads is not None:
        raise ModelError(f"heads={heads}: only Transformers models have heads to cut, not {type(teacher).__name__}.")
    if leaves(teacher) is not None:
        assert isinstance(teacher, nn.Sequential)
        return shrink_chain(teacher, depth, width)
    convolutions = sum(isinstance(layer, nn.Conv2d) for layer in teacher.modules())
    linear = sum(isinstance(layer, nn.Linear) for layer in teacher.modules())
    if convolutions < 2 or linear > convolutions:
        raise ModelError(
            f"{type(teacher).__name__} cannot be shrunk. What can: Transformers models, nn.Sequential networks of "
            "torch.nn layers, convolutional nets. Build a smaller student instead, such as 'mlp:64' or 'resnet:20'."
        )
    if depth is not None or width is None:
        raise ModelError(
            f"{type(teacher).__name__} is not a plain chain: its width can be cut, its depth cannot. Give width=0.5, "
            "or build a shallower student, such as 'resnet:20'."
        )
    return prune_channels(teacher, width, example)


def _shrink_sentence(teacher: SentenceEncoder, body: nn.Module) -> SentenceEncoder:
    """The same encoder around a smaller body."""
    if teacher.projection is not None and int(body.config.hidden_size) != teacher.projection.in_features:  # type: ignore
        raise ModelError(
            f"The teacher ends in a linear map from {teacher.projection.in_features} numbers, and the body would have "
            f"{body.config.hidden_size}. Leave hidden out."  # type: ignore[union-attr]
        )
    student = around(body, teacher.pooling, teacher.normalize, teacher.width, teacher.max_length)
    if student.projection is not None and teacher.projection is not None:
        student.projection.load_state_dict(teacher.projection.state_dict())
    student.limbeck_shrink, student.tokenizer = body.limbeck_shrink, teacher.tokenizer
    return student.train(teacher.training)
