"""Builders, their words on the command line, and what they take from the data."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from limbeck.data.base import Data, TensorPart, TextPart
from limbeck.errors import ArgumentError, ModelError
from limbeck.students.build import (
    build_student,
    builder,
    cnn,
    mlp,
    parse_student,
    resnet,
    text_bag,
    text_encoder,
    wide_resnet,
)
from limbeck.students.tokens import HashingTokenizer


def images(channels: int = 3, side: int = 8) -> Data:
    part = TensorPart("train", torch.randn(6, channels, side, side), torch.tensor([0, 1, 2, 0, 1, 2]))
    return Data("squares", "image", {"train": part}, classes=["a", "b", "c"])


def rows(target: str = "classes") -> Data:
    labels = torch.tensor([0, 1, 0, 1]) if target == "classes" else torch.randn(4, 2)
    part = TensorPart("train", torch.randn(4, 5), labels)
    return Data("rows", "table", {"train": part}, target=target, classes=["no", "yes"] if target == "classes" else None)


def texts() -> Data:
    part = TextPart("train", ["good film", "bad film", "a film"], torch.tensor([1, 0, 1]))
    return Data("films", "text", {"train": part}, classes=["bad", "good"])


def millions(module: nn.Module) -> float:
    return round(sum(parameter.numel() for parameter in module.parameters()) / 1e6, 2)


# sizes as the CIFAR-100 literature gives them (benchmark of CRD, 2020)
@pytest.mark.parametrize(
    ("depth", "width", "stem", "expected"),
    [(20, 16, None, 0.28), (56, 16, None, 0.86), (8, 64, 32, 1.23), (32, 64, 32, 7.43)],
)
def test_resnet_has_the_published_size(depth, width, stem, expected):
    assert millions(resnet(3, 100, depth, width, stem)) == expected


@pytest.mark.parametrize(("depth", "width", "expected"), [(16, 2, 0.70), (40, 1, 0.57), (40, 2, 2.26)])
def test_wide_resnet_has_the_published_size(depth, width, expected):
    assert millions(wide_resnet(3, 100, depth, width)) == expected


@pytest.mark.parametrize("build", [lambda: cnn(3, 10), lambda: resnet(3, 10, 8), lambda: wide_resnet(3, 10, 10, 1)])
def test_image_nets_give_logits_for_other_sizes_too(build):
    module = build().eval()
    for side in (32, 8, 5):
        assert module(torch.randn(2, 3, side, side)).shape == (2, 10)


def test_mlp_flattens_images_and_names_its_layers():
    module = mlp(48, 3, hidden=(7, 5), dropout=0.1)
    assert module(torch.randn(2, 3, 4, 4)).shape == (2, 3)
    assert {"hidden1", "hidden2", "fc"} <= {name for name, _ in module.named_children()}
    assert module.limbeck_spec == {
        "builder": "limbeck.students.build:mlp",
        "arguments": {"inputs": 48, "outputs": 3, "hidden": [7, 5], "dropout": 0.1},
    }


@pytest.mark.parametrize("side", [4, 7, 8, 28])
def test_cnn_stops_halving_small_images(side):
    module = cnn(1, 10, width=4, depth=5, size=side)
    assert module(torch.randn(2, 1, side, side)).shape == (2, 10)


@pytest.mark.parametrize(
    ("spec", "name", "arguments"),
    [
        ("mlp:64,32", "mlp", {"hidden": [64, 32]}),
        ("mlp(hidden=[64,32])", "mlp", {"hidden": [64, 32]}),
        (" mlp(hidden=64, dropout=0.2) ", "mlp", {"hidden": 64, "dropout": 0.2}),
        ("cnn:16", "cnn", {"width": 16}),
        ("resnet:20", "resnet", {"depth": 20}),
        ("wide_resnet:16,2", "wide_resnet", {"depth": 16, "width": 2}),
        ("bag", "bag", {}),
        ("timm:resnet18", "timm", {"name": "resnet18"}),
        ("shrink(depth=2,width=0.5)", "shrink", {"depth": 2, "width": 0.5}),
        ("shrink:2,0.5", "shrink", {"depth": 2, "width": 0.5}),
    ],
)
def test_specs_are_parsed(spec, name, arguments):
    parsed = parse_student(spec)
    assert (parsed.name, parsed.arguments) == (name, arguments)


@given(st.lists(st.integers(1, 9999), min_size=1, max_size=5))
def test_both_ways_to_write_a_spec_are_one(sizes):
    assert parse_student("mlp:" + ",".join(map(str, sizes))) == parse_student(f"mlp(hidden={sizes})")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("mpl:64", "Did you mean 'mlp'"),
        ("mlp(hiden=3)", "Did you mean 'hidden'"),
        ("mlp(64)", "arguments need names"),
        ("mlp(hidden=[)", "cannot be read"),
        ("mlp(hidden=open('x'))", "cannot be read"),
        ("cnn:1,2,3", "at most width, depth"),
        ("mlp:64,", "empty value"),
        ("shrink(layers=2)", "no argument 'layers'"),
    ],
)
def test_wrong_specs_name_the_way_out(spec, said):
    with pytest.raises(ArgumentError, match=said.replace("(", r"\(")):
        parse_student(spec)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: mlp(0, 3), "inputs=0"),
        (lambda: mlp(3, 3, hidden=(True,)), "hidden=True"),
        (lambda: mlp(3, 3, dropout=1.0), "dropout=1.0"),
        (lambda: resnet(3, 10, depth=21), "The nearest are 20 and 26"),
        (lambda: wide_resnet(3, 10, depth=20), "The nearest are 16 and 22"),
        (lambda: cnn(3, 10, width=-1), "width=-1"),
    ],
)
def test_builders_refuse_wrong_numbers(build, said):
    with pytest.raises(ArgumentError, match=said):
        build()


@pytest.mark.parametrize("spec", ["mlp:8", "cnn:4,2", "resnet:8,4", "wide_resnet:10,1"])
def test_sizes_come_from_images(spec):
    data = images()
    assert build_student(spec, data)(data.train.batch([0, 1]).inputs).shape == (2, 3)


def test_sizes_come_from_rows_and_texts():
    assert build_student("mlp:8", rows())(torch.randn(2, 5)).shape == (2, 2)
    assert build_student("mlp:8", rows("values"))(torch.randn(2, 5)).shape == (2, 2)
    bag = build_student("bag:8", texts())
    assert bag(torch.tensor([[1, 2, 0]])).shape == (1, 2)
    assert bag.embedding.embedding_dim == 8


@pytest.mark.parametrize(
    ("spec", "data", "kind", "said"),
    [
        ("cnn", rows(), ModelError, "takes images"),
        ("mlp", texts(), ModelError, "Use 'bag'"),
        ("bag", images(), ModelError, "does not take what"),
        ("mlp", None, ArgumentError, "needs inputs, outputs"),
        ("encoder", texts(), ModelError, "teacher has none"),
        ("shrink(depth=2)", rows(), ModelError, "no teacher module"),
    ],
)
def test_students_that_do_not_fit_are_refused(spec, data, kind, said):
    with pytest.raises(kind, match=said):
        build_student(spec, data)


def test_initialisation_depends_on_the_seed_alone():
    data = rows()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = build_student("mlp:8", data, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again, other = build_student("mlp:8", data, seed=1), build_student("mlp:8", data, seed=2)
    assert torch.equal(first.fc.weight, again.fc.weight)
    assert not torch.equal(first.fc.weight, other.fc.weight)


@pytest.mark.parametrize("spec", ["mlp:16", "cnn:4", "resnet:8"])
def test_a_student_of_values_begins_around_them(spec):
    generator = torch.Generator().manual_seed(0)
    labels = torch.stack([500 + 50 * torch.randn(64, generator=generator), torch.full((64,), -3.0)], 1)
    labels[:20] = float("nan")  # hidden ones have no say
    part = TensorPart("train", torch.randn(64, 3, 16, 16, generator=generator), labels)
    found = (
        build_student(spec, Data("values", "image", {"train": part}, target="values"), seed=1)
        .eval()(part.inputs)
        .detach()
    )
    known = labels[20:]
    assert float(found[:, 0].mean()) == pytest.approx(float(known[:, 0].mean()), abs=2 * float(known[:, 0].std()))
    assert 1 < float(found[:, 0].std()) < 200
    assert float(found[:, 1].mean()) == pytest.approx(-3, abs=2)  # a constant has no spread to begin with


def test_modules_and_functions_are_students_too():
    module = nn.Linear(2, 2)
    assert build_student(module) is module
    first, again = build_student(lambda: nn.Linear(2, 2), seed=3), build_student(lambda: nn.Linear(2, 2), seed=3)
    assert torch.equal(first.weight, again.weight)


@pytest.mark.parametrize("spec", [3, ["mlp:8"], None])
def test_other_objects_are_no_students(spec):
    with pytest.raises(ArgumentError, match="A student is 'mlp:64,32'"):
        build_student(spec, rows())


@pytest.mark.parametrize(("spec", "said"), [(nn.Linear, "'Linear' could not be made"), (lambda: 3, "gave a int")])
def test_functions_that_make_no_student_are_named(spec, said):
    with pytest.raises(ModelError, match=said):
        build_student(spec, rows())


def test_builder_refuses_what_no_config_can_hold():
    @builder
    def net(layer):
        return nn.Sequential(layer)

    with pytest.raises(ArgumentError, match="'layer' is a Linear"):
        net(nn.Linear(2, 2))


def test_hashing_is_the_same_in_every_process():
    text = "New York, new YORK!"
    code = f"from limbeck.students.tokens import HashingTokenizer as H; print(H(1000)([{text!r}])['input_ids'][0])"
    ids = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    ]
    assert ids[0] == ids[1] == str(HashingTokenizer(1000)([text])["input_ids"][0])


def test_hashing_counts_words_and_pairs():
    tokenizer = HashingTokenizer(1 << 15)
    ids = tokenizer(["new york", "newyork", ""])["input_ids"]
    assert [len(row) for row in ids] == [3, 1, 0]
    assert not set(ids[0]) & set(ids[1])
    assert all(0 < number < 1 << 15 for row in ids for number in row)
    assert len(tokenizer(["word " * 900])["input_ids"][0]) == 1023  # 512 words and their 511 pairs
    assert len(tokenizer(["word " * 900], max_length=11)["input_ids"][0]) == 11


def test_equal_tokenizers_are_one():
    assert HashingTokenizer(50) == HashingTokenizer(50)
    assert hash(HashingTokenizer(50)) == hash(HashingTokenizer(50))
    assert HashingTokenizer(50) != HashingTokenizer(51)


def test_text_bag_ignores_padding():
    module = text_bag(3, buckets=50, width=8, hidden=4).eval()
    short, padded = torch.tensor([[4, 7]]), torch.tensor([[4, 7, 0, 0]])
    assert torch.allclose(module(short), module(padded), atol=1e-7)
    assert torch.equal(module(torch.zeros(1, 3, dtype=torch.int64)).isnan(), torch.zeros(1, 3, dtype=torch.bool))
    assert not module.embedding.weight[0].any()


def test_text_encoder_takes_a_tokenizer():
    pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.train_from_iterator(
        ["a good film", "a bad film"], trainers.WordLevelTrainer(special_tokens=["[PAD]", "[UNK]"])
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]")
    teacher = nn.Linear(1, 1)
    teacher.tokenizer = tokenizer
    student = build_student("encoder:1,16,2", texts(), teacher=teacher).eval()
    assert student.tokenizer is tokenizer
    assert student.config.vocab_size == len(tokenizer)
    assert student(torch.tensor([[2, 3]])).logits.shape == (1, 2)
    with pytest.raises(ModelError, match="no vocabulary"):
        text_encoder(2, HashingTokenizer())
    with pytest.raises(ArgumentError, match="not a multiple"):
        text_encoder(2, tokenizer, width=16, heads=3)
