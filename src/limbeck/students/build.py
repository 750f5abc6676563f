"""Small students, built from a few numbers: every builder writes on its module how to build it again.

    mlp(64, 10, hidden=(32,)).limbeck_spec
    # {"builder": "limbeck.students.build:mlp", "arguments": {"inputs": 64, "outputs": 10, "hidden": [32], ...}}

To make a function of your own loadable by name, decorate it with `@builder`; its arguments must be plain values.
"""

from __future__ import annotations

import ast
import inspect
import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from limbeck._optional import need
from limbeck.errors import ArgumentError, ModelError, nearest
from limbeck.students.bert import bert_config
from limbeck.students.declare import builder, seeded, share, whole
from limbeck.students.encoders import grams, static
from limbeck.students.fill import begin_at_values, complete, example_of
from limbeck.students.language import text_decoder
from limbeck.students.masked import vit
from limbeck.students.nets import ResNet, TextBag, WideResNet, conv3x3, initialise
from limbeck.students.rankers import ranker

if TYPE_CHECKING:
    from limbeck.data.base import Data
    from limbeck.tasks.base import Task
    from limbeck.teachers.base import Teacher


@builder
def mlp(inputs: int, outputs: int, hidden: int | Sequence[int] = (64,), dropout: float = 0.0) -> nn.Sequential:
    """Rows or flattened images [batch, ...] to [batch, outputs]. Taps: hidden1, hidden2, ..., fc."""
    widths = hidden if isinstance(hidden, list | tuple) else [hidden]
    sizes = [whole("inputs", inputs), *(whole("hidden", size) for size in widths)]
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for number, (before, after) in enumerate(itertools.pairwise(sizes), start=1):
        block = OrderedDict[str, nn.Module](linear=nn.Linear(before, after), relu=nn.ReLU())
        if share("dropout", dropout):
            block["dropout"] = nn.Dropout(dropout)
        layers[f"hidden{number}"] = nn.Sequential(block)
    layers["fc"] = nn.Linear(sizes[-1], whole("outputs", outputs))
    return nn.Sequential(layers)


@builder
def cnn(channels: int, outputs: int, width: int = 16, depth: int = 3, size: int = 32) -> nn.Sequential:
    """Images [batch, channels, height, width] to [batch, outputs]: `depth` blocks of 3x3 convolution, BN, ReLU.

    The width doubles and the image is halved from block to block, as long as its smaller side (`size` at first) has
    four pixels. Taps: block1, block2, ..., pool, fc.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    before, side, after = whole("channels", channels), whole("size", size), whole("width", width)
    for number in range(1, whole("depth", depth) + 1):
        block = OrderedDict[str, nn.Module](conv=conv3x3(before, after), bn=nn.BatchNorm2d(after), relu=nn.ReLU())
        shrinks = side >= 4 and number < depth
        if shrinks:
            block["pool"] = nn.MaxPool2d(2)
            side //= 2
        layers[f"block{number}"] = nn.Sequential(block)
        before, after = after, 2 * after if shrinks else after
    layers["pool"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    layers["fc"] = nn.Linear(before, whole("outputs", outputs))
    module = nn.Sequential(layers)
    initialise(module)
    return module


@builder
def resnet(channels: int, outputs: int, depth: int = 20, width: int = 16, stem: int | None = None) -> ResNet:
    """A residual net for small images (He et al., 2016): depth 6n + 2, stages of width, 2 width, 4 width channels.

    Shortcuts that change shape are projections. The "x4" nets of the literature (resnet32x4) are width=64, stem=32.
    Taps: stem, layer1, layer2, layer3, pool, fc; `layer3.2.relu2#input` is a block's sum before its ReLU.
    """
    if whole("depth", depth, 8) % 6 != 2:
        lower = depth - (depth - 2) % 6
        raise ArgumentError(
            f"resnet: depth={depth}, expected 6n + 2 (8, 14, 20, ...). The nearest are {lower} and {lower + 6}."
        )
    width = whole("width", width)
    stem = width if stem is None else whole("stem", stem)
    return ResNet(whole("channels", channels), whole("outputs", outputs), (depth - 2) // 6, stem,
                  (width, 2 * width, 4 * width))  # fmt: skip


@builder
def wide_resnet(channels: int, outputs: int, depth: int = 16, width: int = 2) -> WideResNet:
    """A wide residual net (Zagoruyko and Komodakis, 2016): depth 6n + 4, stages of 16, 32 and 64 times `width`.

    Taps: stem, layer1, layer2, layer3, norm, pool, fc.
    """
    if whole("depth", depth, 10) % 6 != 4:
        lower = depth - (depth - 4) % 6
        raise ArgumentError(
            f"wide_resnet: depth={depth}, expected 6n + 4 (10, 16, 22, ...). The nearest are {lower} and {lower + 6}."
        )
    return WideResNet(whole("channels", channels), whole("outputs", outputs), (depth - 4) // 6, whole("width", width))


@builder
def text_bag(outputs: int, buckets: int = 2**15, width: int = 64, hidden: int = 0, dropout: float = 0.0) -> TextBag:
    """Texts to [batch, outputs]: mean of hashed word and word-pair vectors, then a linear layer (or an MLP).

    Carries its own tokenizer, which needs no vocabulary. `hidden` is the width of the MLP, 0 for none.
    """
    return TextBag(whole("outputs", outputs), whole("buckets", buckets, 2), whole("width", width),
                   whole("hidden", hidden, 0), share("dropout", dropout))  # fmt: skip


@builder
def timm_model(name: str, outputs: int, channels: int = 3) -> nn.Module:
    """A model of timm by name, randomly initialised. Needs the extra `vision`."""
    timm = need("timm", "vision")
    if not timm.is_model(name):
        raise ModelError(f"timm has no model {name!r}.{nearest(name, timm.list_models())}")
    return timm.create_model(name, num_classes=whole("outputs", outputs), in_chans=whole("channels", channels))


def text_encoder(outputs: int, tokenizer: Any, layers: int = 2, width: int = 128, heads: int = 2,
                 ffn: int | None = None, max_length: int = 128, dropout: float = 0.1) -> nn.Module:  # fmt: skip
    """A small BERT for sequence classification, randomly initialised, with the given Transformers tokenizer.

    `ffn` is the width of the feed-forward layers, 4 x width by default. The result is a Transformers model (saved and
    loaded as one); the tokenizer, often the teacher's, hangs on it as `module.tokenizer`. Needs the extra `language`.
    """
    config = bert_config(tokenizer, layers, width, heads, ffn, max_length, dropout)
    config.num_labels = whole("outputs", outputs)
    module = need("transformers", "language").BertForSequenceClassification(config)
    module.tokenizer, module.limbeck_fresh = tokenizer, True
    return module


# the words of the command line ---------------------------------------------------------------------------------------

SHORT: dict[str, tuple[Callable[..., nn.Module], tuple[str, ...]]] = {
    # the builder of a name, and which arguments "name:1,2" stands for; a star takes all that is left
    "mlp": (mlp, ("*hidden",)),
    "cnn": (cnn, ("width", "depth")),
    "resnet": (resnet, ("depth", "width")),
    "wide_resnet": (wide_resnet, ("depth", "width")),
    "vit": (vit, ("width", "depth")),
    "bag": (text_bag, ("width", "hidden")),
    "encoder": (text_encoder, ("layers", "width", "heads")),
    "decoder": (text_decoder, ("layers", "width", "heads")),
    "static": (static, ("width", "pairs")),
    "grams": (grams, ("buckets", "width")),
    "ranker": (ranker, ("kind", "encoder", "width", "scale")),
    "timm": (timm_model, ("name",)),
}
CUTS = ("depth", "width", "heads", "hidden")  # the arguments of shrink
FORMS = (
    "'mlp:64,32' or 'mlp(hidden=[64,32])' (rows, images), 'cnn:16', 'resnet:20', 'wide_resnet:16,2', 'vit:64,4', 'timm:NAME' "
    "(images), 'bag', 'encoder:2,128' (texts), 'decoder:2,128' (language models), "
    "'static', 'static:128', 'grams' (vectors of texts), 'ranker:dot,FOLDER' (scores), 'shrink(depth=2,width=0.5,heads=2)' "
    "(cut from the teacher), or a folder or hub name of a model"
)


@dataclass(frozen=True)
class StudentSpec:
    """A parsed student: the name of a builder (or "shrink") and the arguments that were given."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


def parse_student(spec: str) -> StudentSpec:
    """`name`, `name:value,value` or `name(key=value, ...)`. Raises ArgumentError with the nearest name or argument."""
    text = spec.strip()
    name = text.split("(")[0].split(":")[0].strip()
    if name != "shrink" and name not in SHORT:
        raise ArgumentError(f"There is no student {name!r}.{nearest(name, [*SHORT, 'shrink'])} A student is {FORMS}.")
    function, short = SHORT.get(name, (None, CUTS))
    if text == name:
        given: dict[str, Any] = {}
    elif text[len(name)] == "(":
        given = _keywords(text)
    else:
        given = _positional(spec, text[len(name) + 1 :], short)
    known = set(CUTS) if function is None else set(inspect.signature(function).parameters)
    for key in given:
        if key not in known:
            raise ArgumentError(f"The student {spec!r}: {name} has no argument {key!r}.{nearest(key, known)}")
    return StudentSpec(name, given)


def _keywords(text: str) -> dict[str, Any]:
    try:
        call = ast.parse(text, mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError("arguments need names")
        return {keyword.arg or "": ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise ArgumentError(
            f"The student {text!r} cannot be read ({error}). Write it as in 'cnn(width=16, depth=3)'."
        ) from error


def _positional(spec: str, text: str, short: tuple[str, ...]) -> dict[str, Any]:
    values = [_value(part.strip()) for part in text.split(",")]
    if "" in values:
        raise ArgumentError(f"The student {spec!r} has an empty value. A student is {FORMS}.")
    if short[0].startswith("*"):
        return {short[0][1:]: values}
    if len(values) > len(short):
        raise ArgumentError(f"The student {spec!r} has {len(values)} values; expected at most {', '.join(short)}.")
    return dict(zip(short, values))


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text  # a bare word, such as the name of a timm model


def names_model(spec: Any) -> bool:
    """Whether a spec is the folder or hub name of a model. Hub names have a slash or a hyphen, which no builder's has."""
    if isinstance(spec, Path):
        return True
    name = spec.strip().split("(")[0].split(":")[0] if isinstance(spec, str) else "shrink"
    return name not in SHORT and name != "shrink" and ("/" in spec or "-" in name or Path(spec).exists())


Spec = str | Path | nn.Module | Callable[[], nn.Module]


def build_student(spec: Spec, data: Data | None = None, task: Task | None = None,
                  teacher: nn.Module | Teacher | None = None, seed: int = 0) -> nn.Module:  # fmt: skip
    """A student from a spec (see `parse_student`), a folder or hub name, a function without arguments, or a module.

    Sizes of inputs and outputs that the spec leaves out come from the data. Initialisation depends on `seed` alone and
    leaves the global generators as they were; a module is returned as it is. Raises ArgumentError or ModelError.
    """
    if isinstance(spec, nn.Module):
        return spec
    if isinstance(spec, Path):
        spec = str(spec)
    if callable(spec):
        try:
            with seeded(seed):
                made = spec()
        except TypeError as error:
            raise ModelError(
                f"The student {getattr(spec, '__name__', type(spec).__name__)!r} could not be made: {error}. Give a module, "
                "or a function without arguments that makes one."
            ) from error
        if not isinstance(made, nn.Module):
            raise ModelError(f"The function of the student gave a {type(made).__name__}; expected a torch module.")
        return made
    if not isinstance(spec, str):
        raise ArgumentError(f"A {type(spec).__name__} cannot be a student. A student is {FORMS}.")
    if names_model(spec):
        from limbeck.teachers.load import load_model

        loaded = load_model(spec, data=data, task=task, role="student", seed=seed)
        if not isinstance(loaded, nn.Module):
            raise ModelError(f"{spec!r} is a {type(loaded).__name__}, which cannot be trained. A student is {FORMS}.")
        return loaded
    parsed = parse_student(spec)
    model = teacher if isinstance(teacher, nn.Module) or teacher is None else next(iter(teacher.modules()), None)
    if parsed.name == "shrink":
        from limbeck.students.shrink import shrink

        if model is None:
            raise ModelError(f"The student {spec!r} is cut from the teacher, and there is no teacher module to cut.")
        return shrink(model, **parsed.arguments, example=example_of(data))
    function = getattr(task, "builders", {}).get(parsed.name, SHORT[parsed.name][0])
    arguments = complete(parsed.name, function, parsed.arguments, data, task, model)
    with seeded(seed):
        made = function(**arguments)
    if data is not None:
        begin_at_values(made, data)
    return made
