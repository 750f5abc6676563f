"""Causal language models: the next token of every position. Logits are lazy wherever the model's head allows it.

Here: token ids given or tokenized from texts, lazy logits with a probe of the head, supervised loss, perplexity and token
accuracy without whole logits. A teacher with another tokenizer sees the same texts in its own tokens (tasks/sides.py).
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.data.base import Batch, Data, Inputs, Part, TensorPart, TextPart
from limbeck.data.language_pack import check_packed
from limbeck.data.language_parts import PairPart
from limbeck.data.splits import spread
from limbeck.data.token_bytes import same_tokens
from limbeck.errors import DataError, ModelError
from limbeck.evaluation.modes import device_of, evaluating
from limbeck.evaluation.tokens import TokenTally
from limbeck.functional.core import UNLABELLED
from limbeck.signals.blocks import Post
from limbeck.signals.lazy import Lazy
from limbeck.signals.scores import label_log_probabilities, sequence_log_probabilities
from limbeck.students.adapters import has_adapters
from limbeck.students.pretrained import is_pretrained
from limbeck.tasks.base import Distance, Task
from limbeck.tasks.head import check_head, head_of, vocabulary_of
from limbeck.tasks.sides import ChunkGaps, Sides
from limbeck.tasks.text import length_limit, tokenizer_of
from limbeck.teachers.base import Teacher

if TYPE_CHECKING:
    from limbeck.objectives import Objective


class CausalLM(Task):
    """A model of the next token. Signal "logits" [batch, tokens, vocabulary], a `Lazy` where the head allows it.

    `logits[:, t]` belong to the token t + 1, and so do the labels of a `TokenPart` at `[:, t]`. `vocabulary` is the number
    of tokens that the tokenizer knows: what a padded matrix has beyond it is left out of every comparison. `lazy=False`
    takes the model's own, whole logits.
    """

    name = "causal_lm"
    best = ("perplexity", "min")
    default_recipe = "lm_kd"
    measures = tokenized = writes = True
    exports = ("safetensors",)

    def __init__(self, vocabulary: int | None = None, lazy: bool = True):
        self.vocabulary, self.lazy, self.tokenizer = vocabulary, lazy, None
        self.sides = Sides()
        self._posts: weakref.WeakKeyDictionary[nn.Module, Post] = weakref.WeakKeyDictionary()

    def load(self, spec: Any, models: Sequence[Any] = (), *, tokenizer: Any = None, **options: Any) -> Data:
        """Token rows of texts, answers or chats (see `load_language_data`), by the student's own tokenizer, or the teacher's.

        `models`: the student, and perhaps the teacher. `tokenizer`: the student's, where it brings none, or "bpe:4096" to
        learn one from the texts. Where the teacher has another one, rows carry both tokenizations and are not packed
        unless `pack` says so.
        """
        from limbeck.data.language import load_language_data
        from limbeck.data.language_named import named_language
        from limbeck.data.tokenizer import as_tokenizer, texts_of

        if isinstance(spec, Data):
            self._reads(spec.tokenizer)
            self.sides.set(spec.tokenizer, spec.teacher_tokenizer)
            return spec
        texts = named_language(spec)
        found = None if tokenizer is None else as_tokenizer(tokenizer, lambda: texts_of(texts))
        own = [tokenizer_of_spec(model) for model in models]
        found = next((one for one in (found, *own) if one is not None), None)
        if found is None:
            raise ModelError(
                "No model here brings a tokenizer, so that the texts cannot be read. Give tokenizer=, a folder or hub name, or "
                "tokenizer=bpe:4096 to learn one from these texts."
            )
        self._reads(found)
        other = next((one for one in own[1:] if one is not None and not same_tokens(found, one)), None)
        self.sides.set(found, other)
        if other is not None:
            limit = length_limit(models[1], other) if isinstance(models[1], nn.Module) else None
            options = {"pack": False, "teacher": other, "teacher_length": limit, **options}
        data = load_language_data(texts, found, **options)
        if texts is not spec:
            data.name = data.about["source"] = spec
        return data

    def _reads(self, tokenizer: Any) -> None:
        """Take the data's tokenizer: for students made here, and for the number of tokens that count."""
        if tokenizer is not None:
            self.tokenizer, self.vocabulary = tokenizer, max(tokenizer.get_vocab().values()) + 1

    def view(self, batch: Batch, module: nn.Module | None, role: str) -> Inputs:
        """Token ids [batch, tokens] (with a mask, where there is padding), tokenized for this role if they are texts."""
        if isinstance(batch.inputs, list):
            from limbeck.tasks.text import tokenize

            if module is None:
                raise ModelError(f"The {role} has no model to say how texts are tokenized.")
            inputs = tokenize(module, batch.inputs)
            if not inputs["attention_mask"][:, 0].all() and "position_ids" in signature(module.forward).parameters:
                # padded on the left: a model with a table of positions would count the padding
                inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
            return inputs
        return self.sides.inputs(batch, module, role)

    def read(self, module: nn.Module, inputs: Inputs, taps: Sequence[str], **options: Any) -> dict[str, Any]:
        self._head(module)  # before taps are opened: the passes of its probe are none of theirs
        return super().read(module, inputs, taps, **options)

    def _head(self, module: nn.Module) -> tuple[nn.Module, nn.Linear] | None:
        """The base model and the output layer of lazy logits, once they are proved; None for whole ones."""
        head = head_of(module) if self.lazy else None
        if head is not None and module not in self._posts:
            self._posts[module] = check_head(module)
        return head

    def forward(self, module: nn.Module, inputs: Inputs) -> Any:
        """A `Lazy` from the base model and the output matrix, or the model's own output."""
        inputs = inputs if isinstance(inputs, dict) else {"input_ids": inputs}
        head, size = self._head(module), self.sides.vocabulary(module, self.vocabulary)
        if head is None:  # with a cache, packed documents would see each other
            cached = is_pretrained(module) or has_adapters(module)
            output = module(**inputs, **({"use_cache": False} if cached else {}))
            return output if size == self.vocabulary else Cut(output.logits[..., :size])
        base, output = head
        hidden = base(**inputs, use_cache=False).last_hidden_state
        weight = output.weight  # read in every forward: it may be a computed tensor
        return Lazy(hidden, weight, output.bias, self._posts[module], min(size or len(weight), len(weight)))

    def signals(self, output: Any) -> dict[str, Any]:
        if isinstance(output, Lazy | Cut):
            return {"logits": output if isinstance(output, Lazy) else output.logits}
        logits = getattr(output, "logits", output)
        if not isinstance(logits, Tensor) or logits.ndim != 3:
            seen = list(logits.shape) if isinstance(logits, Tensor) else type(output).__name__
            raise ModelError(
                f"The model returned {seen}. Expected logits [batch, tokens, vocabulary], as causal LMs give."
            )
        return {"logits": logits[..., : self._size(logits.shape[-1])]}

    def _size(self, rows: int) -> int:
        return rows if self.vocabulary is None else min(rows, self.vocabulary)

    def supervised(self) -> Objective:
        """Cross-entropy of the next token; positions labelled -100 are left out."""
        from limbeck.objectives import cross_entropy

        return cross_entropy()

    def scores(self, outputs: Any, labels: Tensor, classes: Sequence[str] | None = None) -> dict[str, float]:
        """`perplexity` (e to the mean nll), `token_accuracy`, `nll` (nats per token), `ece` over all labelled tokens.

        `outputs` [n, tokens, vocabulary], lazy or whole; `labels` [n, tokens] of the next tokens, -100 left out.
        Raises DataError when nothing is labelled or shapes do not meet.
        """
        return token_scores([(outputs, labels)])

    def measure(self, model: Any, part: Part, teacher: Any = None, batch_size: int = 16,
                most: int | None = None) -> dict[str, Any]:  # fmt: skip
        """Scores of a model (a module or a teacher) on a part, and its agreement with a teacher, without whole logits.

        `most`: of so many rows, spread evenly over the part. Of preference pairs the tokens of the chosen answers count, and
        how often these are likelier than the rejected ones.
        Where they have different tokenizers, each is scored on its own tokens, in `bits_per_byte` too, and they agree by
        `chunk_gap`: |log p_T - log p_S| of a chunk of text, the mean in nats.
        """
        tally = TokenTally()
        side = self.sides.of(model, "student") if isinstance(model, nn.Module) else "teacher"
        gaps = ChunkGaps()
        with torch.no_grad(), self._resting(model), self._resting(teacher):
            for positions in spread(len(part), most).split(batch_size):
                batch = part.batch(positions)
                if batch.labels is None:
                    raise DataError(f"The part {part.name!r} has no next tokens. Make it with token_part().")
                ours, labels = self._logits(model, batch, "student"), batch.labels
                theirs = None if teacher is None else self._logits(teacher, batch, "teacher").to(ours.device)
                if "twin" in batch.extra:
                    if side == "teacher":
                        labels = batch.extra["twin"]["labels"]
                    elif theirs is not None:
                        gaps.add(ours, theirs, batch, labels)
                    theirs = None  # other tokens
                    tally.bytes += self.sides.bytes(labels, side) or 0
                if isinstance(part, PairPart):
                    tally.add_pairs(*sequence_log_probabilities(ours, labels.to(ours.device)).view(-1, 2).unbind(1))
                    labels = labels.masked_fill(batch.extra["rejected"][:, None], UNLABELLED)
                tally_rows(tally, ours, labels, theirs)
        return {"scores": tally.scores(), "agreement": {**tally.agreement(), **gaps.mean()},
                "reliability": tally.reliability()}  # fmt: skip

    def distances(self, model: Any, part: Part, teacher: Any, oracle: Any = None,
                  most: int = 64) -> tuple[Distance, Distance]:  # fmt: skip
        """KL(other || model) of the next tokens ("kl_to_teacher"), the cross-entropy of the text ("nll"): nats per token."""
        found = self.measure(model, part, teacher, most=most)
        if oracle is None:
            return next(iter(found["agreement"].items())), ("nll", found["scores"]["nll"])
        other = self.measure(model, part, oracle, most=most)
        return next(iter(found["agreement"].items())), next(iter(other["agreement"].items()))

    @torch.no_grad()
    def novelty(self, model: nn.Module, part: Part, batch_size: int = 16) -> Tensor:
        """The log of each row's perplexity: its mean negative log-likelihood over predicted tokens."""
        found = []
        with self._resting(model):
            for positions in torch.arange(len(part)).split(batch_size):
                batch = part.batch(positions)
                if batch.labels is None:
                    raise DataError(f"The part {part.name!r} has no next tokens. Make it with token_part().")
                logits = self._logits(model, batch, "student")
                labels = batch.labels.to(logits.device)
                values = label_log_probabilities(logits, labels)
                found.append(-values.double().sum(-1) / (labels != UNLABELLED).sum(-1).clamp(min=1))
        return torch.cat(found).cpu()

    def _logits(self, model: Any, batch: Batch, role: str) -> Any:
        if not isinstance(model, nn.Module):
            place = next((device_of(module) for module in model.modules()), batch.ids.device)
            return model.read(batch.to(place), ["logits"], self)["logits"]
        batch = batch.to(device_of(model))
        return self.signals(self.forward(model, self.view(batch, model, role)))["logits"]

    def _resting(self, model: Any) -> AbstractContextManager[object]:
        return evaluating(model) if isinstance(model, nn.Module) else nullcontext()

    def check(self, data: Data, models: dict[str, nn.Module]) -> None:
        """Probe heads and packing; raise where a label is no token of a model, or the data are texts.

        Of a stream it is the tokenizer that must know no token beyond the model's: its labels are not there yet.
        """
        for part in data.parts.values():
            if isinstance(part, TextPart):
                raise DataError(
                    f"The part {part.name!r} holds texts. Training compares tokens: make it with token_part(name, "
                    "tokenizer(texts)['input_ids'])."
                )
        labels = [part.labels for part in data.parts.values() if part.labels is not None and part.labels.numel()]
        most = max((int(some.max()) for some in labels), default=UNLABELLED)
        if data.train.order == "stream":
            most = max(most, (self.vocabulary or 0) - 1)
        self.sides.check(data, models, self.tokenizer)
        check_packed(data.parts.values(), models)
        for role, module in models.items():
            try:
                rows = vocabulary_of(module)
                if self.lazy and head_of(module) is not None:
                    self._posts[module] = check_head(module)
            except ModelError as error:
                raise ModelError(f"The {role}: {error}") from error
            size = self._size(rows or most + 1)
            if most >= size and self.sides.of(module, role) == "student":
                raise DataError(
                    f"The data {data.name!r} have the token {most}, and the {role} knows {size}. Tokenize the data with "
                    f"the {role}'s own tokenizer."
                )


class Cut(NamedTuple):
    """Whole logits, cut to the vocabulary of the tokenizer that the model reads."""

    logits: Tensor


def tokenizer_of_spec(model: Any) -> Any:
    """The tokenizer of a module or teacher, of the folder of a model or a run, of a model of the hub; None where there is
    none. A hub that does not answer is asked again, and named, when the model itself is loaded."""
    from limbeck.students.build import names_model
    from limbeck.students.pretrained import TOKENIZER_FILES, read_part, unreachable

    if isinstance(model, nn.Module):
        return tokenizer_of(model)
    if isinstance(model, Teacher):
        return next((found for found in map(tokenizer_of, model.modules()) if found is not None), None)
    if isinstance(model, str | Path):
        for folder in (Path(model), Path(model) / "student"):
            if any((folder / file).is_file() for file in TOKENIZER_FILES):
                return read_part(str(folder), "tokenizer")
        if names_model(model) and not Path(model).exists():
            with suppress(ModelError):
                return read_part(str(model), "tokenizer", local_files_only=unreachable())
    return None


# the data
class TokenPart(TensorPart):
    """Rows of token ids, padded on the right. Labels [n, tokens] are the next tokens, -100 where none is to be predicted.

    `batch.extra["mask"]` [batch, tokens] says which positions count, with or without a label.
    """

    def __init__(self, name: str, tokens: Tensor, mask: Tensor, counts: Tensor):
        super().__init__(name, {"input_ids": tokens, "attention_mask": mask})
        self.counts = counts
        self.labels = tokens.roll(-1, 1).where(counts, UNLABELLED)

    def extra(self, positions: Tensor) -> dict[str, Any]:
        return {"mask": self.counts[positions]}


def token_part(name: str, rows: Sequence[Sequence[int]], *, predict: Sequence[Sequence[bool]] | None = None,
               length: int | None = None, padding: int = 0) -> TokenPart:  # fmt: skip
    """A part made of rows of token ids: cut to `length`, padded on the right with `padding` (masked).

    `predict` says for every token whether it is to be predicted (False for a prompt); by default all but the first are.
    Raises DataError for rows that leave nothing to predict, and where `predict` does not fit `rows`.
    """
    if predict is not None and [len(row) for row in predict] != [len(row) for row in rows]:
        raise DataError(f"The part {name!r}: predict must have one value for every token of every row.")
    width = min(max((len(row) for row in rows), default=0), length or 1 << 62)
    tokens = torch.full((len(rows), width), padding)
    mask = torch.zeros(len(rows), width, dtype=torch.int64)
    counts = torch.zeros(len(rows), width, dtype=torch.bool)
    for number, row in enumerate(rows):
        size = min(len(row), width)
        wanted = [True] * size if predict is None else predict[number][:size]
        tokens[number, :size] = torch.as_tensor(row[:size], dtype=torch.int64)
        mask[number, :size] = 1
        counts[number, : max(size - 1, 0)] = torch.as_tensor(wanted[1:], dtype=torch.bool)
    empty = int((~counts.any(1)).sum())
    if empty or not len(rows):
        raise DataError(
            f"The part {name!r}: {empty} of {len(rows)} rows have no token to predict after the cut to {width} tokens. "
            "Leave them out, or raise the length."
        )
    return TokenPart(name, tokens, mask, counts)


# the scores
def token_scores(outputs: Iterable[tuple[Any, Tensor]]) -> dict[str, float]:
    """Perplexity, token accuracy, nll and ece of pairs (logits [batch, tokens, V] lazy or whole, labels [batch, tokens]).

    Rows are taken block by block, in float32 at least. Raises DataError when nothing is labelled or shapes do not meet.
    """
    tally = TokenTally()
    for logits, labels in outputs:
        tally_rows(tally, logits, labels)
    return tally.scores()


def tally_rows(tally: TokenTally, logits: Any, labels: Tensor, teacher: Any = None, block: int = 256) -> None:
    """Add the labelled tokens of a batch to a tally, `block` rows at a time."""
    if list(labels.shape) != list(logits.shape[:-1]):
        raise DataError(f"Logits for tokens of shape {list(logits.shape[:-1])}, labels {list(labels.shape)}.")
    flat = labels.reshape(-1).to(logits.device)
    for rows in (flat != UNLABELLED).nonzero()[:, 0].split(block):
        theirs = None if teacher is None else _rows(teacher, rows, labels.shape)
        tally.add(_rows(logits, rows, labels.shape), flat[rows], theirs)


def _rows(logits: Any, rows: Tensor, shape: torch.Size) -> Tensor:
    return logits[torch.unravel_index(rows, shape)] if isinstance(logits, Tensor) else logits.block(rows)
