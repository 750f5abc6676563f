"""Embedding: a text becomes one vector. Data are texts; what a student is worth is measured by its vectors' neighbours."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.data.base import Batch, Data, Inputs, Part
from limbeck.data.splits import spread
from limbeck.errors import ArgumentError, ModelError
from limbeck.students.encoders import Encoder, SentenceEncoder, StaticEncoder, small_encoder
from limbeck.tasks.base import Distance, Task
from limbeck.tasks.text import tokenize, tokenizer_of

if TYPE_CHECKING:
    from limbeck.objectives import Objective

LOOKED_AT = 20_000  # texts, evenly spread, that are searched for tokens before training


class Embedding(Task):
    """One vector for a text. Signal "embedding" [batch, width], normalised where the model normalises."""

    name = "embedding"
    outputs = ("embedding",)
    exported = "sentence_embedding"
    best = ("cosine", "max")
    default_recipe = "leaf"
    measures = tokenized = keyed = True
    at_once = 2048  # so that texts of like length are read together
    learns_alone = False
    builders = {"encoder": small_encoder}
    exports = ("onnx", "onnx-int8", "safetensors", "sentence-transformers", "static-int8")

    def __init__(self) -> None:
        self.length = None  # of training texts, in tokens of each model
        self._width: int | None = None
        self.benches: dict[str, Any] = {}
        self.prompts = {"query": "", "document": ""}
        self.forms = False  # whether vectors made smaller are scored too

    # what it is about
    def load(self, spec: Any, models: Sequence[Any] = (), **options: Any) -> Data:
        """Texts to train on (the option `text` names their column), with what students are measured on.

        See `limbeck.data.texts.load_texts`. `forms`: score vectors in bytes, signs and fewer numbers too. The width of the
        teacher's vectors is that of the student's.
        """
        from limbeck.data.texts import load_texts

        self.length = options.pop("length", None)
        if self.length is not None and (not isinstance(self.length, int) or self.length < 1):
            raise ArgumentError(f"length={self.length!r}: expected how many tokens of a text count, 1 or more.")
        self.forms = options.pop("forms", None) or False
        if not isinstance(self.forms, bool):
            raise ArgumentError(f"forms={self.forms!r}: expected true or false.")
        stated = None if options.get("prompts") is not None else _stated(models)
        data = load_texts(spec, **(options if stated is None else {**options, "prompts": stated}))
        if stated is not None:
            told = " and ".join(f"{prompt!r} before a {role}" for role, prompt in stated.items() if prompt)
            data.about["warnings"].append(
                f"The model's own prompts are used: {told}. Give them to encode(prompt=) too, or leave all out by prompts={{}}."
            )
        self.benches, self.prompts = data.benches, data.about["prompts"]
        teachers = [model for model in models if isinstance(model, nn.Module)]
        if teachers:
            self._width = self.probe(data, teachers[-1], "teacher").shape[1]
        return data

    def pretrained(self, name: str, *, role: str, trust_remote_code: bool, seed: int) -> nn.Module:
        from limbeck.teachers.load_encoders import read_encoder

        return read_encoder(name, trust_remote_code=trust_remote_code, seed=seed)

    def whole(self) -> Embedding:
        """The same task where texts are as long as a model takes them: how what is searched is read."""
        other = copy.copy(self)
        other.length = None
        return other

    def queries(self, texts: Sequence[str]) -> list[str]:
        """Texts as a model reads them that asks."""
        return [self.prompts["query"] + text for text in texts]

    def documents(self, texts: Sequence[str]) -> list[str]:
        """Texts as a model reads them that is searched."""
        return [self.prompts["document"] + text for text in texts]

    # how a model is run
    def view(self, batch: Batch, module: nn.Module | None, role: str) -> Inputs:
        if module is None:
            raise ModelError(f"The {role} has no model to say how texts are tokenized.")
        if not isinstance(batch.inputs, list):
            return batch.inputs
        limits = [limit for limit in (self.length, getattr(module, "max_length", None),
                                      getattr(module, "max_seq_length", None)) if limit]  # fmt: skip
        return tokenize(module, batch.inputs, min(limits, default=None))

    def forward(self, module: nn.Module, inputs: Inputs) -> Any:
        if type(module).__module__.startswith("sentence_transformers."):
            return module(dict(inputs))
        return module(**inputs) if isinstance(inputs, dict) else module(inputs)

    def signals(self, output: Any) -> dict[str, Tensor]:
        if isinstance(output, Mapping):
            output = output.get("sentence_embedding", output)
        if not isinstance(output, Tensor) or output.ndim != 2:
            raise ModelError(
                f"The model returned {getattr(output, 'shape', type(output).__name__)}. Expected one vector for each text, "
                "[batch, width]: an encoder of sentence-transformers, a Transformers model by its folder or name (which gets a "
                "pooling), or a module of yours that pools."
            )
        return {"embedding": output}

    def read(self, module: nn.Module, inputs: Inputs, taps: Sequence[str], **options: Any) -> dict[str, Any]:
        # texts of like length together, where nothing inside is looked at and nothing learns
        plain = set(taps) <= set(self.outputs) and not options.get("replace") and not torch.is_grad_enabled()
        if plain and isinstance(module, SentenceEncoder) and isinstance(inputs, dict):
            return self.signals(module.together(**inputs))
        return super().read(module, inputs, taps, **options)

    # how it is supervised and measured
    def supervised(self) -> Objective:
        raise ArgumentError(
            "A student of vectors learns from a teacher; texts alone teach nothing here. Leave baseline out."
        )

    def measure(self, model: Any, part: Part, teacher: Any = None) -> dict[str, Any]:
        from limbeck.evaluation.embeddings import measure

        return measure(self, model, part, teacher)

    def distances(self, model: Any, part: Part, teacher: Any, oracle: Any = None,
                  most: int = 256) -> tuple[Distance, Distance]:  # fmt: skip
        """1 - cosine to the teacher ("cosine_distance"), and to the oracle."""
        from limbeck.data.splits import take
        from limbeck.evaluation.embeddings import cosine, vectors

        part = take(part, spread(len(part), most), part.name)
        if oracle is None:
            raise ArgumentError("A monitor of vectors needs a better model to compare with: give oracle=.")
        own, *others = (vectors(self, each, part) for each in (model, teacher, oracle))
        proxy, truth = (("cosine_distance", 1 - cosine(own, other)) for other in others)
        return proxy, truth

    def finish(self, student: nn.Module, teacher: Any) -> None:
        """The hash of the teacher in whose space the vectors are (`limbeck.export.index` refuses the index of another), and
        the prompts that it learnt."""
        student.limbeck_teacher = None if teacher is None else teacher.identity()  # type: ignore[assignment]
        if isinstance(student, Encoder):
            student.prompts = dict(self.prompts) if any(self.prompts.values()) else None

    def width(self, data: Data) -> int | None:
        """How wide a student's vectors are: as the teacher's."""
        return self._width

    def check_export(self, format: str, module: nn.Module | None = None) -> None:
        super().check_export(format, module)
        kind = type(module).__name__
        if format == "static-int8" and module is not None and not isinstance(module, StaticEncoder):
            raise ArgumentError(
                f"static-int8 is for static students (student=static), not a {kind}. Others leave as onnx-int8."
            )
        if format == "onnx-int8" and isinstance(module, StaticEncoder):
            raise ArgumentError("A static student has no products to make in 8 bits; its tables leave as static-int8.")
        if format == "sentence-transformers":
            if isinstance(module, StaticEncoder) and module.pair_table is not None:
                raise ArgumentError(
                    "A static student with a table of pairs is no folder of sentence-transformers, whose static embedding has "
                    "rows of tokens alone. It leaves as safetensors, which limbeck.export.static reads without torch, or as "
                    "onnx."
                )
            if module is not None and not isinstance(module, StaticEncoder | SentenceEncoder):
                raise ArgumentError(
                    f"A {kind} is no folder of sentence-transformers; its weights leave as safetensors."
                )

    def probe(self, data: Data, module: nn.Module, role: str) -> Tensor:
        """The vectors of two texts, in eval mode, with errors that name the role."""
        from limbeck.evaluation.modes import device_of, evaluating

        if type(module).__module__.startswith("sentence_transformers.") and not callable(tokenizer_of(module)):
            raise ModelError(
                f"The {role} is a static model of sentence-transformers, whose tokenizer gives no padded batches. Give its "
                f"folder or name, which is read as a static student is: {role}='path/or/hub/name'."
            )
        if tokenizer_of(module) is None:
            raise ModelError(
                f"The {role}, a {type(module).__name__}, has no tokenizer, and the data are texts. Hang one on it: "
                "module.tokenizer = AutoTokenizer.from_pretrained(...)."
            )
        part = data.train
        batch = part.batch(torch.arange(min(2, len(part)))).to(device_of(module))
        try:
            with evaluating(module):
                return self.signals(self.forward(module, self.view(batch, module, role)))["embedding"]
        except (RuntimeError, TypeError, IndexError) as error:
            raise ModelError(f"The {role} does not take texts as token ids: {error}") from error

    def check(self, data: Data, models: dict[str, nn.Module]) -> None:
        """Raise where a model's vectors cannot be compared with the teacher's: another width, or another norm."""
        found = {role: self.probe(data, module, role) for role, module in models.items()}
        self._count_empty(data, models.get("student"))
        if "teacher" not in found:
            return
        theirs, own = found["teacher"], found.get("student", found["teacher"])
        if own.shape[1] != theirs.shape[1]:
            raise ModelError(
                f"The student's vectors have {own.shape[1]} numbers, the teacher's {theirs.shape[1]}. Let the student end in a "
                f"linear map to {theirs.shape[1]}, as student='static:{own.shape[1]}' does, so that both are in one space."
            )
        unit = [bool(torch.allclose(rows.norm(dim=1), torch.ones(len(rows), device=rows.device), atol=1e-3))
                for rows in (theirs, own)]  # fmt: skip
        if unit == [False, True]:
            student = models["student"]
            if isinstance(student, Encoder) and hasattr(student, "limbeck_fresh"):
                student.normalize = False  # a student of ours follows its teacher
                return
            raise ModelError(
                "The teacher's vectors are not of length 1 and the student's are: their distance can never be 0. Let the "
                "student not normalise (student.normalize = False), or normalise the teacher."
            )

    def _count_empty(self, data: Data, student: Any) -> None:
        """A warning where texts have no token that a static student knows: one row stands for all of them."""
        nothing = getattr(getattr(student, "tokenizer", None), "nothing", None)
        texts = getattr(data.train, "texts", None)
        if not isinstance(student, StaticEncoder) or nothing is None or texts is None:
            return
        seen = [texts[place] for place in spread(len(texts), LOOKED_AT).tolist()]
        count = sum(ids == [nothing] for ids in student.tokenizer(seen)["input_ids"])  # type: ignore[misc, operator]
        if count:
            data.about["warnings"].append(
                f"{count:,} of {len(seen):,} texts have no token that the student knows: one row stands for all such texts."
            )


def _stated(models: Sequence[Any]) -> dict[str, str] | None:
    """The prompts that a model, the teacher first, was saved with."""
    from limbeck.teachers.load_encoders import prompts_of

    for model in reversed(models):
        stated = getattr(model, "prompts", None)
        if isinstance(model, nn.Module) and isinstance(stated, Mapping):
            found = prompts_of(dict(stated), getattr(model, "default_prompt_name", None))
            if found is not None:
                return found
    return None
