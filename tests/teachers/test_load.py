"""What load_model takes, and what it says to the rest."""

from __future__ import annotations

import json
import socket
import sys
from types import SimpleNamespace

import pytest
import torch
from sklearn.naive_bayes import GaussianNB
from torch import nn

from limbeck.data.base import Data, TensorPart, TextPart
from limbeck.errors import LimbeckError, ModelError
from limbeck.students.build import build_student, mlp
from limbeck.students.save import load_module, save_model
from limbeck.tasks.text import tokenize
from limbeck.teachers.base import CallableTeacher, ModuleTeacher
from limbeck.teachers.ensemble import Ensemble
from limbeck.teachers.estimator import EstimatorTeacher
from limbeck.teachers.load import load_model

transformers = pytest.importorskip("transformers")

TEXTS = ["a good film", "a bad film", "a great film", "an awful film"]


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    inner = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    inner.train_from_iterator(TEXTS, trainers.WordLevelTrainer(special_tokens=special))
    inner.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]",
                                                cls_token="[CLS]", sep_token="[SEP]")  # fmt: skip


SIZES = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 16}
BERT = {**SIZES, "vocab_size": 30, "max_position_embeddings": 20}


def bert(kind: str = "BertForSequenceClassification", **options) -> nn.Module:
    torch.manual_seed(0)
    return getattr(transformers, kind)(transformers.BertConfig(**BERT, **options)).eval()


def texts(classes: tuple[str, ...] = ("neg", "pos")) -> Data:
    return Data("films", "text", {"train": TextPart("train", TEXTS, torch.tensor([1, 0, 1, 0]))}, classes=list(classes))


def rows() -> Data:
    part = TensorPart("train", torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 0, 1]))
    return Data("rows", "table", {"train": part}, classes=["a", "b"])


def same(first: nn.Module, second: nn.Module) -> bool:
    one, two = first.state_dict(), second.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_objects_are_taken_as_they_are():
    module, teacher = nn.Linear(3, 2), ModuleTeacher(nn.Linear(3, 2))
    assert load_model(module) is module
    assert load_model(teacher) is teacher
    assert isinstance(load_model(lambda x: x), CallableTeacher)


def test_estimators_learn_the_order_of_the_classes():
    data = rows()
    estimator = GaussianNB().fit(data.train.inputs.numpy(), ["b", "a"] * 3)
    teacher = load_model(estimator, data=data)
    assert isinstance(teacher, EstimatorTeacher)
    assert teacher.classes == ["a", "b"]


def test_lists_and_mappings_are_ensembles(tmp_path):
    save_model(mlp(3, 2), tmp_path / "one")
    save_model(mlp(3, 2), tmp_path / "two")
    for spec, names, weights in [
        ([nn.Linear(3, 2), str(tmp_path / "one")], ["0", "1"], [0.5, 0.5]),
        ({str(tmp_path / "one"): 3, str(tmp_path / "two"): 1}, ["0", "1"], [0.75, 0.25]),
        ({"big": nn.Linear(3, 2), "small": tmp_path / "two"}, ["big", "small"], [0.5, 0.5]),
    ]:
        ensemble = load_model(spec, data=rows())
        assert isinstance(ensemble, Ensemble)
        assert (list(ensemble.teachers), ensemble.weights) == (names, weights)
        assert all(isinstance(teacher, ModuleTeacher) for teacher in ensemble.teachers.values())


def test_saved_folders_runs_and_weights_are_read(tmp_path):
    module = mlp(3, 2)
    save_model(module, tmp_path / "run" / "student")
    (tmp_path / "run" / "report.json").write_text("{}")
    for spec in (tmp_path / "run" / "student", str(tmp_path / "run")):
        assert same(load_model(spec), module)
    weights = tmp_path / "run" / "student" / "model.safetensors"
    assert same(load_model(weights, builder=lambda: mlp(3, 2)), module)


def test_folders_with_a_manifest_are_signal_stores(tmp_path, monkeypatch):
    class Stored(ModuleTeacher):
        def __init__(self, folder):
            super().__init__(nn.Linear(3, 2))
            self.folder, self.checked = folder, None

        def check(self, data):
            self.checked = data

    monkeypatch.setitem(sys.modules, "limbeck.teachers.stored", SimpleNamespace(StoredTeacher=Stored))
    (tmp_path / "manifest.json").write_text("{}")
    data = rows()
    teacher = load_model(tmp_path, data=data)
    assert isinstance(teacher, Stored)
    assert teacher.folder == tmp_path
    assert teacher.checked is data


@pytest.mark.parametrize("texts_too", [True, False])
def test_transformers_text_models_come_with_their_tokenizer(texts_too, tmp_path):
    model = bert(num_labels=2)
    model.save_pretrained(tmp_path / "teacher")
    if texts_too:
        tokenizer().save_pretrained(tmp_path / "teacher")
    teacher = load_model(str(tmp_path / "teacher"), data=texts())
    assert type(teacher) is type(model)
    assert same(teacher, model)
    assert not teacher.training
    if texts_too:
        assert tokenize(teacher, ["a film"])["input_ids"][0, 0] == 2
    else:
        with pytest.raises(ModelError, match="has no tokenizer"):
            tokenize(teacher, ["a film"])


def test_saved_transformers_models_keep_their_tokenizer(tmp_path):
    model = bert(num_labels=2)
    model.tokenizer = tokenizer()
    save_model(model, tmp_path / "student", task="classification")
    loaded = load_model(tmp_path / "student")
    assert same(loaded, model)
    assert tokenize(loaded, TEXTS)["input_ids"].equal(tokenize(model, TEXTS)["input_ids"])


def test_image_models_come_with_their_processor(tmp_path):
    config = transformers.ViTConfig(**SIZES, image_size=8, patch_size=4, num_channels=1, num_labels=2)
    model = transformers.ViTForImageClassification(config).eval()
    model.save_pretrained(tmp_path / "vit")
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(
        {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}, "image_mean": [0.1] * 3}
    ))  # fmt: skip
    try:
        teacher = load_model(tmp_path / "vit")
    except ModelError as missing:  # Transformers before 5.20 reads image processors through torchvision only
        if "Torchvision" not in str(missing):
            raise
        pytest.skip(str(missing).splitlines()[0])
    assert same(teacher, model)
    assert list(teacher.processor.image_mean) == [0.1] * 3
    save_model(teacher, tmp_path / "again")
    assert list(load_module(tmp_path / "again").processor.image_mean) == [0.1] * 3


def test_a_teacher_needs_a_trained_head(tmp_path):
    bert("BertModel").save_pretrained(tmp_path / "body")
    with pytest.raises(ModelError, match="has no head for classes"):
        load_model(str(tmp_path / "body"), data=texts())
    config = json.loads((tmp_path / "body" / "config.json").read_text())
    (tmp_path / "body" / "config.json").write_text(
        json.dumps({**config, "architectures": ["BertForSequenceClassification"]})
    )
    with pytest.raises(ModelError, match=r"2 missing: classifier\.bias, classifier\.weight"):
        load_model(str(tmp_path / "body"), data=texts())


def test_a_pretrained_student_gets_a_head_that_fits(tmp_path):
    body = bert("BertModel")
    body.save_pretrained(tmp_path / "body")
    data = texts(("bad", "so so", "good"))
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, again, other = (build_student(str(tmp_path / "body"), data, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert same(first.bert, body)
    assert first.classifier.weight.shape == (3, 16)
    assert first.config.id2label == {0: "bad", 1: "so so", 2: "good"}
    assert same(first, again)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    # a head for other classes is replaced, too
    bert(num_labels=5).save_pretrained(tmp_path / "five")
    assert build_student(str(tmp_path / "five"), data).classifier.weight.shape == (3, 16)


def test_a_student_that_lacks_more_than_its_head_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    bert("BertModel").save_pretrained(tmp_path / "body")
    file = tmp_path / "body" / "model.safetensors"
    state = load_file(file)
    del state["encoder.layer.1.output.dense.weight"]
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 missing: bert\.encoder\.layer\.1\.output\.dense\.weight"):
        load_model(str(tmp_path / "body"), data=texts(), role="student")


def test_saved_transformers_weights_of_another_shape_are_refused(tmp_path):
    save_model(bert(num_labels=2), tmp_path / "student")
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    (tmp_path / "student" / "config.json").write_text(json.dumps({**config, "intermediate_size": 12}))
    with pytest.raises(ModelError, match=r"6 of another shape: .*\[16\] in the file, \[12\] in the model"):
        load_module(tmp_path / "student")


def test_classes_in_another_order_are_refused(tmp_path):
    labels = {0: "POS", 1: "NEG"}
    bert(num_labels=2, id2label=labels, label2id={"POS": 0, "NEG": 1}).save_pretrained(tmp_path / "teacher")
    load_model(str(tmp_path / "teacher"), data=texts(("pos", "neg")))
    load_model(str(tmp_path / "teacher"), data=texts(("bad", "good")))  # other names: nothing can be said
    with pytest.raises(ModelError, match=r"in the order \['pos', 'neg'\].*\['neg', 'pos'\]"):
        load_model(str(tmp_path / "teacher"), data=texts(("neg", "pos")))


def test_pickled_weights_and_estimators_are_refused(tmp_path):
    bert(num_labels=2).save_pretrained(tmp_path / "teacher")
    (tmp_path / "teacher" / "model.safetensors").rename(tmp_path / "teacher" / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin is a pickle"):
        load_model(tmp_path / "teacher")
    for name in ("forest.joblib", "forest.pkl"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(ModelError, match=r"pass the object: load_model\(joblib\.load"):
            load_model(str(tmp_path / name))


def test_code_from_a_folder_is_not_run(tmp_path):
    bert(num_labels=2).save_pretrained(tmp_path / "teacher")
    config = json.loads((tmp_path / "teacher" / "config.json").read_text())
    remote = {"AutoConfig": "code.C", "AutoModelForSequenceClassification": "code.M"}
    (tmp_path / "teacher" / "config.json").write_text(json.dumps({**config, "model_type": "mine", "auto_map": remote}))
    (tmp_path / "teacher" / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError):
        load_model(tmp_path / "teacher")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("mlp:64", "builds an untrained student"),
        ("shrink(depth=2)", "builds an untrained student"),
        ("mpl:64", "Did you mean 'mlp'"),
        ("./nothing", "There is no teacher"),
        ("two words", "What can be loaded"),
        (3, "A int cannot be a teacher"),
    ],
)
def test_everything_else_is_told_what_can_be_loaded(spec, said):
    with pytest.raises(ModelError, match=said) as told:
        load_model(spec)
    assert "a fitted scikit-learn estimator" in str(told.value)


def test_an_estimator_that_cannot_teach_says_why():
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.svm import LinearSVC

    with pytest.raises(ModelError, match="RandomForestClassifier is not fitted"):
        load_model(RandomForestClassifier())
    with pytest.raises(ModelError, match=r"no predict_proba.*CalibratedClassifierCV"):
        load_model(LinearSVC().fit([[0.0], [1.0]], [0, 1]))


def test_folders_without_a_model_are_named(tmp_path):
    with pytest.raises(ModelError, match="holds no model"):
        load_model(tmp_path)
    (tmp_path / "teacher").mkdir()
    with pytest.raises(ModelError, match=r"Did you mean '.*/teacher'"):
        load_model(tmp_path / "teachr")


def test_an_unreachable_hub_is_said_at_once(monkeypatch):
    def fails(*_args, **_options):
        raise OSError("no such name")

    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", fails)
    with pytest.raises(ModelError, match=r"'someone/some-model' is neither a file or folder here nor.*connection"):
        load_model("someone/some-model", data=texts())


def test_timm_needs_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(LimbeckError, match=r"limbeck\[vision\]"):
        load_model("timm:resnet18")
