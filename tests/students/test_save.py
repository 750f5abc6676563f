"""Saving and loading: equal to the last bit, strict, all or nothing, and never through pickle."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from limbeck.errors import ModelError
from limbeck.students.build import build_student, builder, cnn, mlp, resnet, text_bag, wide_resnet
from limbeck.students.cut import apply_cut, find_cut
from limbeck.students.save import load_module, read_config, replacing, save_model


def same(first: nn.Module, second: nn.Module) -> bool:
    one, two = first.state_dict(), second.state_dict()
    return one.keys() == two.keys() and all(
        one[name].dtype == two[name].dtype and torch.equal(one[name], two[name]) for name in one
    )


class Tied(nn.Module):
    """Embedding and output share their weight, and two views share a storage."""

    def __init__(self, tokens: int = 7, width: int = 4):
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.out = nn.Linear(width, tokens, bias=False)
        self.out.weight = self.embedding.weight
        both = torch.arange(6.0)
        self.register_buffer("low", both[:3])
        self.register_buffer("high", both[3:])

    def forward(self, ids):
        return self.out(self.embedding(ids))


@builder
def tied(tokens: int = 7) -> Tied:
    return Tied(tokens)


@pytest.mark.parametrize(
    "module",
    [
        mlp(4, 2, (3,)),
        cnn(1, 2, width=4),
        resnet(1, 2, 8, 4),
        wide_resnet(1, 2, 10, 1),
        text_bag(2, 20, 4),
        mlp(4, 2, (3,)).bfloat16(),
    ],
    ids=["mlp", "cnn", "resnet", "wide_resnet", "text_bag", "mlp in bfloat16"],
)
def test_built_modules_come_back_bit_equal(module, tmp_path):
    save_model(module, tmp_path / "model", task="classification", extra={"note": [1, 2]})
    assert sorted(file.name for file in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]
    loaded = load_module(tmp_path / "model")
    assert same(module, loaded)
    assert not loaded.training
    assert loaded.limbeck_spec == module.limbeck_spec
    config = read_config(tmp_path / "model")
    assert config["format"] == "limbeck-module"
    assert config["builder"].startswith("limbeck.students.build:")
    assert (config["task"], config["extra"]) == ({"name": "classification"}, {"note": [1, 2]})
    assert "cut" not in config


def test_plain_sequentials_need_no_builder(tmp_path):
    module = nn.Sequential(
        nn.Conv2d(1, 4, (3, 1), padding=(1, 0), bias=False), nn.BatchNorm2d(4, momentum=0.2), nn.GELU("tanh"),
        nn.Sequential(nn.MaxPool2d(2), nn.Dropout(0.3)), nn.Flatten(), nn.LayerNorm(16), nn.Linear(16, 3),
    )  # fmt: skip
    module(torch.randn(2, 1, 4, 4))
    module.eval()
    save_model(module, tmp_path / "model")
    loaded = load_module(tmp_path / "model")
    assert same(module, loaded)
    assert repr(loaded) == repr(module)
    x = torch.randn(2, 1, 4, 4)
    assert torch.equal(loaded(x), module(x))


def test_tied_weights_stay_tied(tmp_path):
    module = Tied()
    save_model(module, tmp_path / "model")
    config = read_config(tmp_path / "model")
    assert config["tied"] == {"out.weight": "embedding.weight"}
    loaded = load_module(tmp_path / "model", builder=Tied)
    assert same(module, loaded)
    assert loaded.out.weight is loaded.embedding.weight
    half = module.to(torch.float16)
    save_model(half, tmp_path / "model")
    loaded = load_module(tmp_path / "model", builder=Tied)
    assert same(half, loaded)
    assert loaded.out.weight is loaded.embedding.weight


def test_modules_without_a_builder_ask_for_one(tmp_path):
    save_model(Tied(), tmp_path / "model")
    assert read_config(tmp_path / "model")["class"].endswith(":Tied")
    with pytest.raises(ModelError, match=r"not how to build the module.*builder=lambda"):
        load_module(tmp_path / "model")
    with pytest.raises(ModelError, match="returned a list"):
        load_module(tmp_path / "model", builder=list)


def test_builders_of_others_are_not_imported_unasked(tmp_path):
    module = tied(5)
    save_model(module, tmp_path / "model")
    name = read_config(tmp_path / "model")["builder"]
    assert name == f"{__name__}:tied"
    with pytest.raises(ModelError, match="If you trust it"):
        load_module(tmp_path / "model")
    for trusted in (tied, name):
        assert same(module, load_module(tmp_path / "model", builder=trusted))


@pytest.mark.parametrize("name", ["limbeck.students.save:save_model", "limbeck.nowhere:mlp", "os:system", "nonsense"])
def test_a_config_cannot_name_other_functions(name, tmp_path):
    save_model(mlp(2, 2), tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "builder": name}))
    with pytest.raises(ModelError):
        load_module(tmp_path / "model")


def test_weights_of_another_architecture_are_told_apart(tmp_path):
    save_model(mlp(4, 2, (3, 3)), tmp_path / "model")
    save_file({f"{name}_old": value for name, value in mlp(4, 2).state_dict().items()} | {"fc.weight": torch.zeros(5, 5)},
              tmp_path / "other.safetensors")  # fmt: skip
    with pytest.raises(ModelError) as told:
        load_module(tmp_path / "other.safetensors", builder=lambda: mlp(4, 2, (3, 3)))
    message = str(told.value)
    assert "5 missing: fc.bias, hidden1.linear.bias, hidden1.linear.weight, ..." in message
    assert "4 unexpected: fc.bias_old" in message
    assert "1 of another shape: fc.weight [5, 5] in the file, [2, 3] in the model" in message


def test_a_bare_weights_file_is_read_with_a_builder(tmp_path):
    module = Tied()
    state = module.state_dict()
    del state["out.weight"]  # as safetensors' own save_model leaves tied weights out
    save_file({name: value.clone() for name, value in state.items()}, tmp_path / "weights.safetensors")
    assert same(module, load_module(tmp_path / "weights.safetensors", builder=Tied))
    with pytest.raises(ModelError, match="not how to build"):
        load_module(tmp_path / "weights.safetensors")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".pkl"])
def test_pickles_are_refused_with_the_way_to_convert(suffix, tmp_path):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(b"\x80")
    for given in (path, tmp_path):
        with pytest.raises(ModelError, match=r"save_file\(torch.load\('weights"):
            load_module(given)


def test_folders_that_are_no_model_are_named(tmp_path):
    save_model(mlp(2, 2), tmp_path / "student")
    with pytest.raises(ModelError, match="Did you mean 'student'"):
        load_module(tmp_path / "studnet")
    with pytest.raises(ModelError, match="not a model saved by Limbeck"):
        load_module(tmp_path)
    (tmp_path / "student" / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ModelError, match="cannot be read"):
        load_module(tmp_path / "student")
    (tmp_path / "student" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="has no weights to read"):
        load_module(tmp_path / "student")


def test_saving_never_replaces_other_files(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text("{}")
    with pytest.raises(ModelError, match="something else than a saved model"):
        save_model(mlp(2, 2), tmp_path / "run")
    assert (tmp_path / "run" / "metrics.jsonl").exists()


def test_an_interrupted_save_leaves_the_old_model(tmp_path):
    old = mlp(2, 2)
    save_model(old, tmp_path / "model")

    def interrupted() -> None:
        with replacing(tmp_path / "model") as aside:
            (aside / "model.safetensors").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert same(old, load_module(tmp_path / "model"))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    new = mlp(2, 2, (3,))
    save_model(new, tmp_path / "model")
    assert same(new, load_module(tmp_path / "model"))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_state_that_is_no_tensor_is_refused(tmp_path):
    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"steps": 3}

        def set_extra_state(self, state):
            pass

    with pytest.raises(ModelError, match="only tensors can be saved"):
        save_model(Extra(2, 2), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_cut_says_how_a_pruned_module_differs(tmp_path):
    module = resnet(1, 2, 8, 4)
    block = module.layer1[0]
    block.conv1.weight = nn.Parameter(block.conv1.weight[:3].clone())
    block.conv1.out_channels = 3
    for name in ("weight", "bias"):
        setattr(block.bn1, name, nn.Parameter(getattr(block.bn1, name)[:3].clone()))
    block.bn1.running_mean, block.bn1.running_var = torch.randn(3), torch.rand(3)
    block.bn1.num_features = 3
    block.conv2.weight = nn.Parameter(block.conv2.weight[:, :3].clone())
    block.conv2.in_channels = 3
    cut = find_cut(resnet(1, 2, 8, 4), module)
    assert set(cut) == {"layer1.0.conv1", "layer1.0.bn1", "layer1.0.conv2"}
    assert cut["layer1.0.conv1"] == {"shapes": {"weight": [3, 4, 3, 3]}, "numbers": {"out_channels": 3}}
    save_model(module, tmp_path / "model")
    loaded = load_module(tmp_path / "model")
    assert same(module, loaded)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(loaded(x), module.eval()(x))
    assert repr(loaded) == repr(module)


def test_modules_changed_beyond_a_cut_are_saved_for_a_builder(tmp_path):
    module = resnet(1, 2, 8, 4)
    module.layer3 = nn.Identity()
    assert find_cut(resnet(1, 2, 8, 4), module) is None
    save_model(module, tmp_path / "model")
    with pytest.raises(ModelError, match="builder="):
        load_module(tmp_path / "model")

    def changed():
        net = resnet(1, 2, 8, 4)
        net.layer3 = nn.Identity()
        return net

    assert same(module, load_module(tmp_path / "model", builder=changed))


def test_a_cut_of_another_module_is_refused():
    with pytest.raises(ModelError, match="'layer9'"):
        apply_cut(mlp(2, 2), {"layer9": {"shapes": {}, "numbers": {}}})
    with pytest.raises(ModelError, match=r"fc\.scale"):
        apply_cut(mlp(2, 2), {"fc": {"shapes": {"scale": [2]}, "numbers": {}}})
    with pytest.raises(ModelError, match=r"fc\.forward"):
        apply_cut(mlp(2, 2), {"fc": {"shapes": {}, "numbers": {"forward": 2}}})


def test_a_saved_folder_is_a_student(tmp_path):
    module = mlp(2, 2)
    save_model(module, tmp_path / "model")
    for spec in (tmp_path / "model", str(tmp_path / "model")):
        assert same(module, build_student(spec))
