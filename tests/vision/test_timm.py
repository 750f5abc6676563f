"""timm models: built, loaded, saved, pruned. Run in the environment of the extra `vision` (make test-vision)."""

from __future__ import annotations

import pytest
import torch

from limbeck.data.base import Data, TensorPart
from limbeck.errors import ModelError
from limbeck.students.build import build_student, timm_model
from limbeck.students.save import load_module, read_config, save_model
from limbeck.students.shrink import shrink
from limbeck.teachers.load import load_model

pytestmark = pytest.mark.vision
timm = pytest.importorskip("timm")


def images(channels: int = 3) -> Data:
    part = TensorPart("train", torch.randn(4, channels, 32, 32), torch.tensor([0, 1, 2, 0]))
    return Data("images", "image", {"train": part}, classes=["a", "b", "c"])


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050", "vit_tiny_patch16_224"])
def test_students_take_outputs_and_channels_from_the_data(name, tmp_path):
    spec = f"timm:{name}"
    student = build_student(spec, images(channels=1), seed=1).eval()
    side = 224 if "vit" in name else 32
    x = torch.randn(2, 1, side, side)
    assert student(x).shape == (2, 3)
    again = build_student(spec, images(channels=1), seed=1).eval()
    assert torch.equal(again(x), student(x))
    save_model(student, tmp_path / "student")
    assert read_config(tmp_path / "student")["arguments"] == {"name": name, "outputs": 3, "channels": 1}
    assert torch.equal(load_module(tmp_path / "student")(x), student(x))


def test_names_of_timm_are_students_through_load_model():
    student = load_model("resnet18", data=images(), role="student")
    assert student(torch.randn(2, 3, 32, 32)).shape == (2, 3)


def test_unknown_names_get_the_nearest():
    with pytest.raises(ModelError, match="Did you mean 'resnet18'"):
        timm_model("resnet18x", 3)
    with pytest.raises(ModelError, match="timm has no model 'resnett18'"):
        load_model("timm:resnett18")


def test_residual_nets_of_timm_are_pruned_and_reload(tmp_path):
    pytest.importorskip("torch_pruning")
    teacher, x = timm_model("resnet18", 3).eval(), torch.randn(2, 3, 32, 32)
    student = shrink(teacher, width=0.5, example=x[:1])
    assert sum(p.numel() for p in student.parameters()) < 0.35 * sum(p.numel() for p in teacher.parameters())
    save_model(student, tmp_path / "student")
    assert torch.equal(load_module(tmp_path / "student")(x), student(x))


def test_attention_is_not_pruned_as_a_convolution():
    with pytest.raises(ModelError, match="cannot be shrunk"):
        shrink(timm_model("vit_tiny_patch16_224", 3), width=0.5, example=torch.randn(1, 3, 224, 224))
