"""Shrinking: what is kept is the teacher's, what is cut is exactly as if it were zero, and it all reloads."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from torch import nn

from limbeck.data.base import Data, TensorPart
from limbeck.errors import ArgumentError, LimbeckError, ModelError
from limbeck.students.build import build_student, cnn, mlp, resnet, wide_resnet
from limbeck.students.cut import evenly, sized
from limbeck.students.encoder import find_layers, layer_parts
from limbeck.students.save import load_module, read_config, save_model
from limbeck.students.shrink import shrink

transformers = pytest.importorskip("transformers")

SIZES = {"num_hidden_layers": 4, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 24, "num_labels": 3}
TEXT = {**SIZES, "vocab_size": 40, "max_position_embeddings": 20}
IMAGE = {**SIZES, "image_size": 8, "patch_size": 4, "num_channels": 1}
DISTIL = {"n_layers": 4, "n_heads": 4, "dim": 32, "hidden_dim": 24, "num_labels": 3, "vocab_size": 40,
          "max_position_embeddings": 20}  # fmt: skip
KINDS = {
    "bert": ("BertForSequenceClassification", "BertConfig", TEXT),
    "roberta": ("RobertaForSequenceClassification", "RobertaConfig", TEXT),
    "distilbert": ("DistilBertForSequenceClassification", "DistilBertConfig", DISTIL),
    "vit": ("ViTForImageClassification", "ViTConfig", IMAGE),
}


def encoder(kind: str) -> nn.Module:
    model, config, sizes = KINDS[kind]
    torch.manual_seed(0)
    module = getattr(transformers, model)(getattr(transformers, config)(**sizes)).eval()
    with torch.no_grad():  # biases and norms start at zero and one, where a wrong slice would not show
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def example(kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    if kind == "vit":
        return torch.randn(3, 1, 8, 8, generator=generator)
    return torch.randint(3, 40, (3, 9), generator=generator)


def logits(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        output = module(x)
    return getattr(output, "logits", output)


def layers_of(module: nn.Module) -> nn.ModuleList:
    return find_layers(module)[1]


def kept_rows(full: torch.Tensor, part: torch.Tensor) -> list[int]:
    return [int((full == row).all(1).nonzero()[0]) for row in part]


@pytest.mark.parametrize("kind", KINDS)
def test_cut_heads_and_neurons_are_exactly_zeroed_ones(kind, tmp_path):
    teacher, x = encoder(kind), example(kind)
    student = shrink(teacher, width=0.5, heads=2)
    masked = copy.deepcopy(teacher)
    for full, small in zip(layers_of(masked), layers_of(student)):
        parts = layer_parts(full)
        query, output = full.get_submodule(parts.query), full.get_submodule(parts.output)
        up, down = full.get_submodule(parts.up), full.get_submodule(parts.down)
        rows = kept_rows(query.weight, small.get_submodule(parts.query).weight)
        neurons = kept_rows(up.weight, small.get_submodule(parts.up).weight)
        assert len(rows) == 16
        assert rows == sorted(rows)
        assert {row // 8 for row in rows} == {rows[0] // 8, rows[8] // 8}
        assert len(neurons) == 12
        with torch.no_grad():
            output.weight[:, [i for i in range(32) if i not in rows]] = 0
            down.weight[:, [i for i in range(24) if i not in neurons]] = 0
    assert torch.allclose(logits(student, x), logits(masked, x), rtol=0, atol=1e-6)
    assert not torch.allclose(logits(student, x), logits(teacher, x), atol=1e-3)
    assert student.limbeck_shrink == {"layers": [0, 1, 2, 3], "of": 4, "ffn": 12, "heads": 2}

    save_model(student, tmp_path / "student")
    loaded = load_module(tmp_path / "student")
    assert type(loaded) is type(teacher)
    assert torch.equal(logits(loaded, x), logits(student, x))
    assert loaded.limbeck_shrink == student.limbeck_shrink


def test_the_most_important_heads_and_neurons_stay():
    teacher = encoder("bert")
    for layer in layers_of(teacher):
        with torch.no_grad():
            layer.attention.output.dense.weight[:, 8:16] *= 100
            layer.output.dense.weight[:, [5, 7]] *= 100
    student = shrink(teacher, width=2, heads=1)
    for full, small in zip(layers_of(teacher), layers_of(student)):
        assert torch.equal(small.attention.self.value.weight, full.attention.self.value.weight[8:16])
        assert torch.equal(small.attention.self.value.bias, full.attention.self.value.bias[8:16])
        assert torch.equal(small.intermediate.dense.weight, full.intermediate.dense.weight[[5, 7]])


@pytest.mark.parametrize("kind", KINDS)
def test_layers_are_copied_evenly(kind, tmp_path):
    teacher, x = encoder(kind), example(kind)
    student = shrink(teacher, depth=2)
    assert student.limbeck_shrink["layers"] == [0, 3]
    masked = copy.deepcopy(teacher)
    layers = layers_of(masked)
    parent = masked.get_submodule(find_layers(masked)[0].rpartition(".")[0])
    setattr(parent, find_layers(masked)[0].rpartition(".")[2], nn.ModuleList([layers[0], layers[3]]))
    assert torch.equal(logits(student, x), logits(masked, x))
    save_model(student, tmp_path / "student")
    plain = type(teacher).from_pretrained(tmp_path / "student").eval()  # a depth cut needs nothing of Limbeck's
    assert torch.equal(logits(plain, x), logits(student, x))


def test_configs_say_the_cut_where_they_can(tmp_path):
    save_model(shrink(encoder("bert"), width=0.5), tmp_path / "bert")
    assert "cut" not in read_config(tmp_path / "bert")
    save_model(shrink(encoder("vit"), heads=2), tmp_path / "vit")
    assert "cut" not in read_config(tmp_path / "vit")
    save_model(shrink(encoder("bert"), heads=2), tmp_path / "bert")
    assert "bert.encoder.layer.0.attention.self" in read_config(tmp_path / "bert")["cut"]
    with pytest.raises(RuntimeError):  # and where they cannot, Transformers alone does not misread it
        transformers.BertForSequenceClassification.from_pretrained(tmp_path / "bert")


def test_a_shrunk_model_can_be_shrunk_again(tmp_path):
    x = example("bert")
    student = shrink(shrink(encoder("bert"), heads=2), depth=2, width=6, heads=1)
    assert student.limbeck_shrink == {"layers": [0, 3], "of": 4, "ffn": 6, "heads": 1}
    save_model(student, tmp_path / "student")
    assert torch.equal(logits(load_module(tmp_path / "student"), x), logits(student, x))


def test_shrinking_leaves_teacher_and_random_numbers_alone():
    teacher = encoder("bert")
    teacher.tokenizer = object()
    before, state = copy.deepcopy(teacher.state_dict()), torch.get_rng_state()
    student = shrink(teacher.double(), depth=1)
    assert all(torch.equal(before[name].double(), value) for name, value in teacher.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert student.tokenizer is teacher.tokenizer
    assert next(student.parameters()).dtype == torch.float64
    assert student.limbeck_shrink["layers"] == [0]


def test_even_positions_and_sizes():
    assert evenly(6, 12) == [0, 2, 4, 7, 9, 11]  # DistilBERT's choice
    assert (evenly(1, 5), evenly(5, 5)) == ([0], [0, 1, 2, 3, 4])
    assert [sized(size, 7, "width") for size in (0.5, 0.01, 1.0, 1, None)] == [4, 1, 7, 1, 7]
    for wrong in (0, -1, 1.5, True, float("nan"), "2"):
        with pytest.raises(ArgumentError, match="depth="):
            sized(wrong, 7, "depth")
    with pytest.raises(ArgumentError, match="only 7"):
        sized(8, 7, "depth")


def test_encoders_of_another_build_are_refused():
    albert = transformers.AlbertForSequenceClassification(transformers.AlbertConfig(**TEXT, embedding_size=8))
    with pytest.raises(ModelError, match="no list of 4 equal layers"):
        shrink(albert, depth=2)
    tokens = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0)
    modern = transformers.ModernBertForSequenceClassification(transformers.ModernBertConfig(**TEXT, **tokens))
    with pytest.raises(ModelError, match="Cut the depth alone"):
        shrink(modern, heads=2)
    assert len(layers_of(shrink(modern, depth=2))) == 2
    mpnet = transformers.MPNetForSequenceClassification(transformers.MPNetConfig(**TEXT))
    with pytest.raises(ModelError, match="does not run once it is cut"):
        shrink(mpnet, heads=2)


# chains ------------------------------------------------------------------------------------------------------------


def test_mlp_units_are_cut_as_if_zero(tmp_path):
    teacher, x = mlp(6, 3, (10, 8)), torch.randn(5, 6)
    student = shrink(teacher, width=0.5)
    first = kept_rows(teacher.hidden1.linear.weight, student.hidden1.linear.weight)
    second = kept_rows(teacher.hidden2.linear.weight[:, first], student.hidden2.linear.weight)
    assert (len(first), len(second)) == (5, 4)
    masked = copy.deepcopy(teacher)
    with torch.no_grad():
        masked.hidden2.linear.weight[:, [i for i in range(10) if i not in first]] = 0
        masked.fc.weight[:, [i for i in range(8) if i not in second]] = 0
    assert torch.allclose(student(x), masked(x), atol=1e-6)
    save_model(student, tmp_path / "student")
    loaded = load_module(tmp_path / "student")
    assert torch.equal(loaded(x), student(x))
    assert student.limbeck_shrink["units"] == {"hidden1.linear": 5, "hidden2.linear": 4}


def test_flattened_channels_keep_their_pixels(tmp_path):
    teacher = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(6 * 4, 5), nn.Tanh(), nn.Linear(5, 2),
    )  # fmt: skip
    teacher(torch.randn(8, 1, 4, 4))
    teacher.eval()
    with torch.no_grad():
        teacher[1].weight[[1, 4]] = 1e-6  # two channels whose normalisation all but switches them off
        teacher[1].bias[[1, 4]] = 0
    student, x = shrink(teacher, width=4), torch.randn(3, 1, 4, 4)
    assert torch.equal(student[0].weight, teacher[0].weight[[0, 2, 3, 5]])
    assert torch.equal(student[1].running_var, teacher[1].running_var[[0, 2, 3, 5]])
    assert (student[5].in_features, student[5].out_features, student[1].num_features) == (16, 4, 4)
    columns = [c * 4 + pixel for c in (0, 2, 3, 5) for pixel in range(4)]
    rows = kept_rows(teacher[5].weight[:, columns], student[5].weight)
    with torch.no_grad():
        teacher[5].weight[:, [i for i in range(24) if i not in columns]] = 0
        teacher[7].weight[:, [i for i in range(5) if i not in rows]] = 0
    assert torch.allclose(student(x), teacher(x), atol=1e-6)
    save_model(student, tmp_path / "student")
    assert torch.equal(load_module(tmp_path / "student")(x), student(x))


def test_depth_drops_blocks_that_keep_the_shape(tmp_path):
    teacher, x = mlp(6, 3, (8, 8, 8, 8)), torch.randn(5, 6)
    student = shrink(teacher, depth=2)
    assert [name for name, _ in student.named_children()] == ["flatten", "hidden1", "hidden3", "fc"]
    expected = teacher.fc(teacher.hidden3(teacher.hidden1(x)))
    assert torch.equal(student(x), expected)
    save_model(student, tmp_path / "student")
    assert torch.equal(load_module(tmp_path / "student")(x), expected)
    with pytest.raises(ModelError, match=r"\(hidden3.linear, hidden4.linear\). Choose depth=2 or more"):
        shrink(mlp(6, 3, (7, 9, 9, 9)), depth=1)
    with pytest.raises(ModelError, match=r"\(none\)"):
        shrink(cnn(1, 2), depth=2)


def test_convolutions_that_keep_the_shape_can_go():
    teacher = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding="same"), nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1, stride=2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2),
    )  # fmt: skip
    student = shrink(teacher, depth=2)
    assert list(student._modules) == ["0", "1", "6", "7", "8", "9"]
    assert student(torch.randn(2, 1, 8, 8)).shape == (2, 2)


def test_cnn_is_cut_in_both_ways_at_once():
    student = shrink(cnn(3, 10, width=8), width=0.25)
    assert [student.get_submodule(f"block{i}.conv").out_channels for i in (1, 2, 3)] == [2, 4, 8]
    assert student(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("module", "arguments", "kind", "said"),
    [
        (mlp(4, 2), {}, ArgumentError, "nothing to cut"),
        (mlp(4, 2), {"heads": 2}, ModelError, "only Transformers models"),
        (mlp(4, 2), {"width": 0}, ArgumentError, "width=0"),
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), {"width": 0.5}, ModelError, "no hidden one"),
        (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2)), {"width": 2}, ModelError, "ties its units"),
        (nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1, groups=4), nn.Flatten(), nn.Linear(4, 2)), {"width": 0.5},
         ModelError, "ties its units"),
        (nn.LSTM(3, 3), {"width": 0.5}, ModelError, "What can"),
        (resnet(3, 10, 8), {"depth": 1}, ModelError, "'resnet:20'"),
        (resnet(3, 10, 8), {"width": 0.5}, ArgumentError, "example=images"),
        (resnet(3, 10, 8), {"width": 8, "example": torch.randn(1, 3, 8, 8)}, ArgumentError, "by a fraction"),
    ],
)  # fmt: skip
def test_what_cannot_be_shrunk_is_named(module, arguments, kind, said):
    with pytest.raises(kind, match=said):
        shrink(module, **arguments)


# residual nets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [lambda: resnet(3, 10, 8, 8), lambda: wide_resnet(3, 10, 10, 1)])
def test_residual_nets_are_pruned_and_reload(build, tmp_path):
    pytest.importorskip("torch_pruning")
    teacher, x = build().eval(), torch.randn(2, 3, 16, 16)
    for parameter in teacher.parameters():
        parameter.requires_grad_(False)
    before = copy.deepcopy(teacher.state_dict())
    student = shrink(teacher, width=0.5, example=x[:1])
    size, full = (sum(p.numel() for p in module.parameters()) for module in (student, teacher))
    assert 0.2 < size / full < 0.35  # both sides of each convolution halved
    assert student(x).shape == (2, 10)
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert not any(parameter.requires_grad for parameter in student.parameters())
    save_model(student, tmp_path / "student")
    loaded = load_module(tmp_path / "student")
    assert torch.equal(loaded(x), student(x))
    assert loaded.limbeck_shrink["channels"] == student.limbeck_shrink["channels"]


def test_pruning_through_the_word_takes_its_example_from_the_data():
    pytest.importorskip("torch_pruning")
    part = TensorPart("train", torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 0, 1]))
    data = Data("images", "image", {"train": part}, classes=["a", "b"])
    student = build_student("shrink(width=0.5)", data, teacher=resnet(3, 2, 8, 8))
    assert student(torch.randn(1, 3, 16, 16)).shape == (1, 2)


def test_pruning_needs_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(LimbeckError, match=r"limbeck\[prune\]"):
        shrink(resnet(3, 2, 8, 4), width=0.5, example=torch.randn(1, 3, 8, 8))
