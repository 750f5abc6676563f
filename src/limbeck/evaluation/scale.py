"""What a large distillation needs on each device, by arithmetic: bytes, and tokens a second from stated assumptions.

    python -m limbeck.evaluation.scale student=8b teacher=70b processes=16 tokens=8192

Nothing is loaded and nothing measured. It is for decoders with gated feed-forward layers (Llama, Mistral, Qwen, Gemma), AdamW,
`shard=true checkpointing=true precision=bf16`, the student in float32 and the teacher in bfloat16. Activations were counted
on small models (tests/evaluation/test_scale.py); buffers of the allocator and of communication come on top.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.errors import ArgumentError, nearest


@dataclass(frozen=True)
class Shape:
    """The numbers of a decoder that decide its size. `kv`: width of keys, and of values."""

    layers: int
    width: int
    ffn: int
    heads: int
    head: int
    kv: int
    vocabulary: int
    tied: bool = False

    @classmethod
    def of(cls, config: Any) -> Shape:
        """From a Transformers config, or what is read from its config.json."""
        known: dict[str, Any] = config if isinstance(config, dict) else config.to_dict()
        heads = known["num_attention_heads"]
        head = known.get("head_dim") or known["hidden_size"] // heads
        return cls(
            known["num_hidden_layers"], known["hidden_size"], known["intermediate_size"], heads, head,
            (known.get("num_key_value_heads") or heads) * head, known["vocab_size"], bool(known.get("tie_word_embeddings")),
        )  # fmt: skip

    @property
    def layer(self) -> int:
        """Parameters of a layer: queries and output, keys and values, three matrices of the feed-forward part, two norms."""
        queries = self.heads * self.head
        return self.width * (2 * queries + 2 * self.kv + 3 * self.ffn + 2)

    @property
    def matrix(self) -> int:
        """Parameters of the output matrix."""
        return self.vocabulary * self.width

    @property
    def rest(self) -> int:
        """Parameters outside of layers: embedding, output matrix (the same where they are tied), last norm."""
        return self.matrix * (1 if self.tied else 2) + self.width

    @property
    def parameters(self) -> int:
        return self.layers * self.layer + self.rest

    def activations(self) -> int:
        """Bytes that a layer keeps for one token in bfloat16 autocast with fused attention, beside its weights."""
        queries = self.heads * self.head
        return 22 * self.width + 8 * queries + 4 * self.kv + 8 * self.ffn + 4 * self.heads + 8

    def forward_flops(self, length: int) -> int:
        """Of one token: two for each weight that multiplies, and attention over half of `length` tokens before it."""
        products = self.layers * (self.layer - 2 * self.width) + self.matrix
        return 2 * products + 2 * self.layers * self.heads * self.head * length


SHAPES = {
    "70b": Shape(80, 8192, 28672, 64, 128, 1024, 128256), "8b": Shape(32, 4096, 14336, 32, 128, 1024, 128256),
    "3b": Shape(28, 3072, 8192, 24, 128, 1024, 128256, True), "1b": Shape(16, 2048, 8192, 32, 64, 512, 128256, True),
}  # fmt: skip
WALK = 1 << 27  # bytes of logits that a walk holds at once, if the matrix is not larger (limbeck.signals.sweep.MEMORY)


def memory(student: Shape, teacher: Shape, processes: int, tokens: int) -> dict[str, dict[str, float]]:
    """Bytes on each device, for `tokens` in a micro-batch of each process.

    "always": pieces. "while running": what is whole for a time, at the worst moment; not all at the same one.
    """
    whole = 4.0 * student.rest
    always = {
        "student's weights, float32": 4 * student.parameters / processes,
        "its gradients": 4 * student.parameters / processes,
        "AdamW's two states": 8 * student.parameters / processes,
        "teacher's weights, bfloat16": 2 * teacher.parameters / processes,
    }
    running = {
        "teacher's embedding, matrix and last norm, whole": 2.0 * teacher.rest,
        "student's embedding, matrix and last norm, whole": whole,
        "their gradients, and the same on its way to the pieces": 2 * whole,
        "gradient of the matrix in the walk, and its scaled copy": 8.0 * student.matrix,
        "two layers of the student, whole, and one in bfloat16": 10.0 * student.layer,
        "gradients of a layer, and the same on its way": 8.0 * student.layer,
        "two layers of the teacher, whole": 4.0 * teacher.layer,
        "inputs of the student's layers": 4.0 * student.width * student.layers * tokens,
        "one layer that is run again": float(student.activations() * tokens),
        "hidden states of both, and their gradient": tokens * (8.0 * student.width + 2 * teacher.width),
        "the matrix in bfloat16, and a block of both models' logits": 2.0 * student.matrix
        + max(WALK, 4 * student.matrix),
    }
    return {"always": always, "while running": running}


def speed(student: Shape, teacher: Shape, processes: int, tokens: int, length: int, peak: float, share: float,
          bandwidth: float) -> dict[str, float]:  # fmt: skip
    """Seconds of a micro-batch for computing and for communicating, and tokens a second over all processes.

    Computed are three forward passes' worth for the student (forward, and twice in the backward pass) and one more for
    checkpointing; one for the teacher; at `share` of `peak` FLOP a second. Sent to each device are the student's weights
    twice and its gradients once, in float32, and the teacher's weights once, in bfloat16, at `bandwidth` bytes a second.
    """
    flops = 4 * student.forward_flops(length) + teacher.forward_flops(length)
    computing = tokens * flops / (peak * share)
    sent = (processes - 1) / processes * (12 * student.parameters + 2 * teacher.parameters)
    communicating = sent / bandwidth
    return {
        "computing": computing, "communicating": communicating,
        "hidden": tokens * processes / max(computing, communicating),
        "not hidden": tokens * processes / (computing + communicating),
        "tokens that hide it": sent / bandwidth * peak * share / flops,
    }  # fmt: skip


def read_shape(name: Any) -> Shape:
    """A shape by its name, or of the folder of a Transformers model."""
    if str(name) in SHAPES:
        return SHAPES[str(name)]
    file = Path(str(name)) / "config.json"
    if not file.is_file():
        raise ArgumentError(f"{name!r} is no shape, nor a folder with a config.json.{nearest(str(name), SHAPES)}")
    config = json.loads(file.read_text())
    return Shape.of(config.get("text_config", config))


def table(*, student: Any = "8b", teacher: Any = "70b", processes: int = 16, tokens: int = 8192, length: int = 4096,
          peak: float = 989e12, share: float = 0.35, bandwidth: float = 50e9, device: float = 80e9) -> str:  # fmt: skip
    """The page's numbers, as text."""
    one, other = read_shape(student), read_shape(teacher)
    lines = [
        f"student {one.parameters:,} parameters, teacher {other.parameters:,}; {processes} processes, "
        f"{tokens:,} tokens a micro-batch on each"
    ]
    total = 0.0
    for title, rows in memory(one, other, processes, tokens).items():
        lines += ["", f"{title}, GB on each device"]
        lines += [f"  {size / 1e9:8.2f}  {name}" for name, size in rows.items()]
        lines.append(f"  {sum(rows.values()) / 1e9:8.2f}  together")
        total += sum(rows.values())
    lines += ["", f"  {total / 1e9:8.2f}  at most, of {device / 1e9:.0f}"]
    logits = tokens * (one.vocabulary * 4)
    lines.append(
        f"  {4 * logits / 1e9:8.2f}  more, if logits were whole: of both, their softmax, their gradient (float32)"
    )
    found = speed(one, other, processes, tokens, length, peak, share, bandwidth)
    lines += [
        "", f"assumed: {peak / 1e12:.0f} TFLOP/s at {share:.0%}, {bandwidth / 1e9:.0f} GB/s to each device, rows of {length:,}",
        f"  {found['computing']:8.2f}  s computing a micro-batch", f"  {found['communicating']:8.2f}  s communicating",
        f"  {found['hidden']:8,.0f}  tokens/s over all, if communication hides behind computing",
        f"  {found['not hidden']:8,.0f}  tokens/s over all, if it does not",
        f"  {found['tokens that hide it']:8,.0f}  tokens a micro-batch from which it can hide",
    ]  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    from limbeck.words import arguments, call

    print(call(table, arguments(sys.argv[1:])[1]))
