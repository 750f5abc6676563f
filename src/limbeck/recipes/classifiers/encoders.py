"""Recipes for transformers that read texts: hidden states, attention and relations of tokens, layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from limbeck import objectives as o
from limbeck.errors import ArgumentError
from limbeck.recipes.classifiers.pretraining import stage_before
from limbeck.recipes.registry import recipe

if TYPE_CHECKING:
    from collections.abc import Generator

    from limbeck.signals.layers import Attention
    from limbeck.training.job import Job
    from limbeck.training.stage import Result, Stage


def attentions(job: Job, role: str, layers: list[str], scores: bool = True) -> list[Attention]:
    """Where the attention of these layers of a model is."""
    from limbeck.signals.layers import attention_of
    from limbeck.training.inside import module_of

    return [attention_of(module_of(job, role), layer, scores=scores) for layer in layers]


def last(job: Job, scores: bool = True) -> tuple[list[Attention], list[Attention]]:
    """The attention of the last layer of the student, and of the teacher."""
    ours, theirs = job.layers("student"), job.layers("teacher")
    return attentions(job, "student", ours[-1:], scores), attentions(job, "teacher", theirs[-1:], scores)


@recipe(paper="TinyBERT: Distilling BERT for Natural Language Understanding", year=2020, field="classifiers",
        needs=("features", "logits"))  # fmt: skip
def tinybert(job: Job, layers: Literal["uniform", "first", "last"] | list[int] = "uniform", before: float = 20 / 23,
             general: Any = None, general_teacher: Any = None, temperature: float = 1.0, student_layers: str = "auto",
             teacher_layers: str = "auto") -> Generator[Stage, Result, None]:  # fmt: skip
    """Follow the teacher's embeddings, hidden states and attention layer by layer first, and its predictions after that.

    limbeck distill tinybert teacher=... student=encoder:2,128,2 data=... general=sentences.txt

    Stage 1: sum over layers, by the map `layers`, of the MSE of attention scores before the softmax and of W times the hidden
    states, the embeddings among them, one W for all; first on the texts of `general`, where there are any, by
    `general_teacher` (the pretrained model), then on the task's. Stage 2: soft cross-entropy, the mean over batch and classes,
    without T^2 (Jiao et al., 2020; 20 epochs before 3). Ours: padding does not count in any mean, and `general` takes half of
    `before`. The paper also augments the task's texts, and holds the rate of stage 1 constant (schedule=constant).
    """
    from limbeck.training.general import general_part
    from limbeck.training.general import general_teacher as teacher_of
    from limbeck.training.inside import one_tokenizer

    one_tokenizer(job)
    ours, theirs = map(list, zip(*job.layer_pairs(layers, student_layers, teacher_layers), strict=True))
    begin = [
        f"{job.layers(role, names)[0]}#input"
        for role, names in (("student", student_layers), ("teacher", teacher_layers))
    ]
    looks = o.attention_mse(student=attentions(job, "student", ours), teacher=attentions(job, "teacher", theirs))
    inside = looks + o.hidden_mse(student=[begin[0], *ours], teacher=[begin[1], *theirs])
    texts = general_part(job, general)
    first = teacher_of(job, general_teacher, "general_teacher", texts, theirs[-1]) or job.teacher
    if texts is not None:
        yield stage_before(job, inside, before / 2, "general", teacher=first, part=texts)
    yield stage_before(job, inside, before if texts is None else before / 2, "task")
    outputs = 1 / len(job.data.classes or [0]) * o.soft_cross_entropy(temperature=temperature)
    yield job.stage(outputs, name="prediction", **job.settings.portion(1 - before, epochs=True))


@recipe(paper="MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers", year=2020,
        field="classifiers", needs=("features", "labels"))  # fmt: skip
def minilm(job: Job, general: Any = None, before: float = 0.5) -> Generator[Stage, Result, None]:
    """Look at texts as the teacher's last layer does, at any depth and width, and learn the labels after that.

    limbeck distill minilm teacher=... student=encoder:2,128,12 data=... general=sentences.txt

    Stage 1, on the texts of `general` or of the task: KL of the last layers' attention + KL of their value relations, softmax(V
    V^T / sqrt(width of a head)), of as many heads. Stage 2: CE (Wang et al., 2020, after the paper's equations; its mean is
    over all tokens, ours over those of a text first; the share `before` is ours).
    """
    from limbeck.training.general import general_part
    from limbeck.training.inside import one_tokenizer

    one_tokenizer(job)
    ours, theirs = last(job)
    heads = ours[0].heads, theirs[0].heads
    values = o.relation_kl(student=[ours[0].value], teacher=[theirs[0].value], heads=heads)
    inside = o.attention_kl(student=ours, teacher=theirs) + values
    yield stage_before(job, inside, before, "attention", part=general_part(job, general))
    yield job.stage(o.cross_entropy(), part=job.labelled(), **job.settings.portion(1 - before, epochs=True))


@recipe(paper="MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained Transformers", year=2021,
        field="classifiers", needs=("features", "labels"))  # fmt: skip
def minilm_v2(job: Job, relation_heads: int = 0, teacher_layer: str = "auto", general: Any = None,
              before: float = 0.5) -> Generator[Stage, Result, None]:  # fmt: skip
    """Relate queries with queries, keys with keys and values with values as a layer of the teacher does, whatever its heads.

    limbeck distill minilm_v2 teacher=... student=encoder:2,128 data=... relation_heads=32

    Stage 1, on the texts of `general` or of the task: KL of softmax(X X^T / sqrt(d)), X the queries, the keys, the values of
    the student's last layer, split anew into `relation_heads`, the three added. Stage 2: CE (Wang et al., 2021, after the
    paper's equations; the share `before` is ours). "auto": the teacher's last layer, of more than 12 the one at 7/8. 0 heads:
    as many as can be up to the paper's 48 (64 for a teacher of 1024), of 4 numbers or more (ours).
    """
    from limbeck.training.general import general_part
    from limbeck.training.inside import one_tokenizer

    one_tokenizer(job)
    layers = job.layers("teacher")
    chosen = (
        teacher_layer
        if teacher_layer != "auto"
        else layers[-1 if len(layers) <= 12 else round(len(layers) * 7 / 8) - 1]
    )
    ours = attentions(job, "student", job.layers("student")[-1:], scores=False)[0]
    theirs = attentions(job, "teacher", [chosen], scores=False)[0]
    relation_heads = relation_heads or _relation_heads(job, ours.query, theirs.query)
    inside = o.relation_kl(student=ours[:3], teacher=theirs[:3], heads=relation_heads)
    yield stage_before(job, inside, before, "relations", part=general_part(job, general))
    yield job.stage(o.cross_entropy(), part=job.labelled(), **job.settings.portion(1 - before, epochs=True))


def _relation_heads(job: Job, ours: str, theirs: str) -> int:
    """The most that divide both widths, see `minilm_v2`."""
    from limbeck.training.inside import module_of

    student: Any = module_of(job, "student").get_submodule(ours)
    teacher: Any = module_of(job, "teacher").get_submodule(theirs)
    widths = len(student.weight), len(teacher.weight)
    most = min(64 if widths[1] >= 1024 else 48, max(1, min(widths) // 4))
    return max(heads for heads in range(1, most + 1) if not any(width % heads for width in widths))


@recipe(paper="Patient Knowledge Distillation for BERT Model Compression", year=2019, field="classifiers",
        needs=("features", "logits", "labels"))  # fmt: skip
def pkd_bert(job: Job, patience: Literal["skip", "last"] = "skip", alpha: float = 0.5, beta: float = 100.0,
             temperature: float = 10.0) -> Stage:  # fmt: skip
    """Beside labels and predictions, give the first token of each layer the direction that it has in the teacher.

    limbeck distill pkd_bert teacher=... student="shrink(depth=2)" data=... patience=skip

    (1 - alpha) CE + alpha KD + beta * MSE of first-token states of length 1, the mean over batch, layers and width; the
    student's last layer is left to the logits. "skip" spreads its other layers evenly over the teacher's (2, 4, ..., 10 for 6
    of 12), "last" takes those before the teacher's last (7 to 11) (Sun et al., 2019; they search alpha in 0.2 to 0.7, beta in
    10 to 1000, the temperature in 5 to 20). Student and teacher are of one width.
    """
    from limbeck.functional import first_direction
    from limbeck.training.inside import one_tokenizer

    one_tokenizer(job, first=True)
    pairs = job.layer_pairs("uniform" if patience == "skip" else "last")[:-1]
    if not pairs:
        raise ArgumentError("The student has one layer, and pkd_bert teaches all but the last: give it two, or use kd.")
    patient = sum(o.feature_mse().on(*pair).through(first_direction) for pair in pairs)
    outputs = (1 - alpha) * o.cross_entropy() + alpha * o.forward_kl(temperature=temperature)
    return job.stage(outputs + beta / len(pairs) * patient)


@recipe(paper="ERNIE-Tiny: A Progressive Distillation Framework for Pretrained Transformer Compression", year=2021,
        field="classifiers", needs=("features", "logits", "labels"))  # fmt: skip
def ernie_tiny(job: Job, general: Any = None, pretrained: Any = None, before: float = 0.75,
               temperature: float = 1.0) -> Generator[Stage, Result, None]:  # fmt: skip
    """Go from the general to the task in four stages, of which each changes one of teacher, texts and loss.

    limbeck distill ernie_tiny teacher=... student=encoder:2,128,12 data=... general=sentences.txt pretrained=FOLDER

    General: the `pretrained` teacher, the texts of `general`, the loss inside. General enhanced: the teacher of the task
    instead. Task adaptive: the task's texts instead. Task specific: + KL of the logits + CE (Su et al., 2021; no code is
    published). Inside: KL of attention + MSE of W times the hidden state, in the last layers; its form, its weights of 1 and
    the shares, `before` in equal parts for the first three, are ours. Without `general` the first two are left out, without
    `pretrained` the first. Each stage begins with the weights, and W, of the one before and a new optimizer.
    """
    from limbeck.training.general import general_part, general_teacher
    from limbeck.training.inside import one_tokenizer

    one_tokenizer(job)
    ours, theirs = job.layers("student")[-1:], job.layers("teacher")[-1:]
    inside = o.hidden_mse(student=ours, teacher=theirs) + o.attention_kl(
        student=attentions(job, "student", ours), teacher=attentions(job, "teacher", theirs)
    )
    texts = general_part(job, general)
    first = general_teacher(job, pretrained, "pretrained", texts, theirs[0])
    stages = [("general", first, texts)] * (first is not None) + [("general enhanced", job.teacher, texts)] * (
        texts is not None
    )
    stages += [("task adaptive", job.teacher, None)]
    if len(stages) < 3:
        job.warn(f"ernie_tiny without {'pretrained' if texts is not None else 'general'}=: {3 - len(stages)} of its four "
                 "stages are left out.")  # fmt: skip
    for name, teacher, part in stages:
        yield stage_before(job, inside, before / len(stages), name, teacher=teacher, part=part)
    outputs = o.forward_kl(temperature=temperature) + o.cross_entropy()
    yield job.stage(inside + outputs, name="task specific", **job.settings.portion(1 - before, epochs=True))
