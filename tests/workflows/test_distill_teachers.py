"""Whole runs, one for each kind of teacher and student: what the table says of the teacher is what it scores by itself."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from torch import nn

import limbeck as lb
from limbeck.describe import store_teacher
from limbeck.errors import ArgumentError, ModelError
from limbeck.students.build import cnn, mlp, resnet
from toys import weights

QUICK = {"measure": False, "progress": False, "learning_rate": 0.02, "steps": 20, "batch_size": 32}
WORDS = {"bad": ["awful", "dull", "poor", "weak"], "good": ["fine", "great", "bright", "strong"]}


@pytest.fixture(scope="module")
def wine():
    return lb.load_data("wine")


@pytest.fixture(scope="module")
def forest(wine):
    part = wine.train.batch(range(len(wine.train)))
    return RandomForestClassifier(30, random_state=0).fit(part.inputs.numpy(), part.labels.numpy())


@pytest.fixture(scope="module")
def network(wine):
    """A trained network for wine, and the untrained one that it was."""
    return lb.distill("alone", student="mlp:16", data=wine, **QUICK).student


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    """80 texts whose words say their class, as a CSV file."""
    draw = np.random.default_rng(0)
    lines = ["review,stars"]
    for number in range(80):
        kind = ("bad", "good")[number % 2]
        lines.append(f"the film number {number} was {' and '.join(draw.choice(WORDS[kind], 3))},{kind}")
    path = tmp_path_factory.mktemp("texts") / "reviews.csv"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def bert(reviews, tmp_path_factory):
    """A folder with a small BERT, trained on the texts, and its tokenizer."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    inner = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    inner.train_from_iterator([reviews.read_text()], trainers.WordLevelTrainer(special_tokens=special))
    inner.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]",
                                                     cls_token="[CLS]", sep_token="[SEP]")  # fmt: skip
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(transformers.BertConfig(
        vocab_size=inner.get_vocab_size(), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32, num_labels=2, id2label={0: "bad", 1: "good"},
    ))  # fmt: skip
    model.tokenizer = tokenizer
    run = lb.distill("alone", student=model, data=reviews, label="stars", **{**QUICK, "steps": 30})
    folder = tmp_path_factory.mktemp("bert")
    run.student.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def rows(run):
    return {row["role"]: row for row in run.table}


def logits_of(module, part):
    with torch.no_grad():
        return module.eval()(part.batch(range(len(part))).inputs)


def accuracy(logits, part):
    return (torch.as_tensor(logits).argmax(1) == part.labels).double().mean().item()


def test_a_module_teaches_a_smaller_one(network, wine):
    before = weights(network).clone()
    run = lb.distill("kd", teacher=network, student="mlp:4", data=wine, **QUICK)
    found, test = rows(run), wine.parts["test"]
    assert found["teacher"]["accuracy"] == pytest.approx(accuracy(logits_of(network, test), test))
    ours, theirs = logits_of(run.student, test).argmax(1), logits_of(network, test).argmax(1)
    assert found["student"]["label_agreement"] == pytest.approx((ours == theirs).double().mean().item())
    assert found["student"]["label_agreement"] > 0.8 < found["teacher"]["accuracy"]
    assert torch.equal(weights(network), before)  # the teacher learns nothing


def test_a_saved_folder_and_a_run_s_folder_teach_as_the_module_does(network, wine, tmp_path):
    lb.save_model(network, tmp_path / "saved")
    run = lb.distill("alone", student="mlp:16", data="wine", out=tmp_path / "run", **QUICK)
    assert torch.equal(weights(run.student), weights(network))  # the same data, by name
    students = [
        weights(lb.distill("kd", teacher=teacher, student="mlp:4", data="wine", **QUICK).student)
        for teacher in (network, tmp_path / "saved", str(tmp_path / "run"))
    ]
    assert torch.equal(students[0], students[1])
    assert torch.equal(students[0], students[2])


def test_a_random_forest_becomes_a_small_network(forest, wine):
    run = lb.distill("ssld", teacher=forest, student="mlp:8", data=wine, **QUICK)
    found, test = rows(run), wine.parts["test"]
    chances = torch.as_tensor(forest.predict_proba(test.batch(range(len(test))).inputs.numpy()))
    assert found["teacher"]["accuracy"] == pytest.approx(accuracy(chances, test))
    assert found["student"]["label_agreement"] > 0.8 < found["teacher"]["accuracy"]
    assert run.record["models"][0]["cost"] == {}  # a forest has no parameters to count


def test_a_forest_learns_the_data_s_names_of_the_classes(wine):
    part = wine.train.batch(range(len(wine.train)))
    names = np.array(wine.classes)[part.labels.numpy()]
    order = np.argsort(names)[::-1]  # fitted on names, in an order of its own
    named = RandomForestClassifier(30, random_state=0).fit(part.inputs.numpy()[order], names[order])
    run = lb.distill("kd", teacher=named, student="mlp:8", data=wine, **QUICK)
    assert rows(run)["teacher"]["accuracy"] > 0.8
    with pytest.raises(ModelError, match="features"):
        lb.distill("kd", teacher=named, data="breast_cancer", **QUICK)


def test_teachers_of_different_kinds_teach_together(forest, network, wine, tmp_path):
    test = wine.parts["test"]
    inputs = test.batch(range(len(test))).inputs
    trees, net = torch.as_tensor(forest.predict_proba(inputs.numpy())), logits_of(network, test).double().softmax(1)
    lb.save_model(network, tmp_path / "net")
    store_teacher(
        teacher=tmp_path / "net", data="wine", out=tmp_path / "store", dtype="float32", parts=["train", "test"]
    )
    for teacher, chances in (
        ([forest, network], (trees + net) / 2),
        ({forest: 3, network: 1}, 0.75 * trees + 0.25 * net),
        ({str(tmp_path / "store"): 1, tmp_path / "net": 2}, net),
        ([forest, tmp_path / "net", tmp_path / "store"], (trees + 2 * net) / 3),
    ):
        run = lb.distill("kd", teacher=teacher, student="mlp:8", data=wine, **QUICK)
        found = rows(run)
        nll = -chances.clamp(min=1e-7).log().gather(1, test.labels[:, None]).mean().item()
        assert found["teacher"]["nll"] == pytest.approx(nll, abs=1e-4)
        assert found["student"]["label_agreement"] > 0.8


def test_a_store_teaches_to_the_same_bits_as_the_teacher(network, tmp_path):
    lb.save_model(network, tmp_path / "teacher")
    stored = store_teacher(teacher=tmp_path / "teacher", data="wine", out=tmp_path / "store", dtype="float32",
                           parts=["train", "test"])  # fmt: skip
    data = lb.load_data("wine")
    assert stored["rows"] == len(data.train) + len(data.parts["test"])
    live, replayed = (
        lb.distill("kd", teacher=teacher, student="mlp:4", data="wine", **QUICK)
        for teacher in (tmp_path / "teacher", tmp_path / "store")
    )
    assert torch.allclose(weights(live.student), weights(replayed.student), atol=1e-6)
    assert rows(replayed)["teacher"]["accuracy"] == rows(live)["teacher"]["accuracy"]
    with pytest.raises(lb.LimbeckError, match="other data"):
        lb.distill("kd", teacher=tmp_path / "store", student="mlp:4", data="wine", seed=1, **QUICK)


def test_a_function_teaches(network, wine):
    run = lb.distill("kd", teacher=lambda inputs: network(inputs), student="mlp:4", data=wine, **QUICK)
    again = lb.distill("kd", teacher=network, student="mlp:4", data=wine, **QUICK)
    assert torch.equal(weights(run.student), weights(again.student))


@pytest.mark.parametrize("student", ["shrink(depth=1,width=0.5)", "bag", None])
def test_a_bert_on_a_file_of_texts(bert, reviews, student, tmp_path):
    run = lb.distill("kd", teacher=bert, student=student, data=reviews, label="stars", out=tmp_path / "run", **QUICK)
    found = rows(run)
    assert found["teacher"]["accuracy"] == 1.0
    assert found["student"]["label_agreement"] > 0.8
    if student is None:
        assert run.student.limbeck_shrink["layers"] == [0]  # half of the teacher's two layers
    if student and student.startswith("shrink"):
        assert len(run.student.bert.encoder.layer) == 1
        assert run.student.bert.encoder.layer[0].intermediate.dense.out_features == 16
    loaded = lb.load_model(tmp_path / "run", data=run.data)
    from limbeck.evaluation.run import predict

    test = run.data.parts["test"]
    assert torch.equal(predict(loaded, test, run.task), predict(run.student, test, run.task))


def test_a_bert_that_knows_the_classes_in_another_order_is_refused(bert, reviews, tmp_path):
    data = tmp_path / "renamed.csv"
    data.write_text(reviews.read_text().replace(",bad", ",poor"))  # now "good" is the first class
    folder = shutil.copytree(bert, tmp_path / "renamed")
    config = json.loads((folder / "config.json").read_text())
    names = {"id2label": {"0": "poor", "1": "good"}, "label2id": {"poor": 0, "good": 1}}
    (folder / "config.json").write_text(json.dumps(config | names))
    with pytest.raises(ModelError, match="order"):
        lb.distill("kd", teacher=folder, student="bag", data=data, label="stars", **QUICK)


def test_a_vit_teaches_convolutions_on_image_files(tmp_path):
    transformers = pytest.importorskip("transformers")
    from PIL import Image

    for kind, shade in (("dark", 40), ("light", 200)):
        (tmp_path / "images" / kind).mkdir(parents=True)
        for number in range(6):
            Image.new("RGB", (8, 8), (shade, shade - 5 * number, shade)).save(
                tmp_path / "images" / kind / f"{number}.png"
            )
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 16}
    torch.manual_seed(0)
    vit = transformers.ViTForImageClassification(transformers.ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=2,
                                                                        id2label={0: "dark", 1: "light"}))  # fmt: skip
    options = {"data": tmp_path / "images", "valid": 2, "test": 4, **QUICK, "batch_size": 6}
    trained = lb.distill("alone", student=vit, **options).student
    trained.save_pretrained(tmp_path / "vit")
    for student in ("cnn:4", "shrink(depth=1,width=0.5)"):
        run = lb.distill("kd", teacher=tmp_path / "vit", student=student, **options)
        assert rows(run)["teacher"]["accuracy"] == 1.0
        assert rows(run)["student"]["label_agreement"] == 1.0


@pytest.mark.parametrize(
    ("student", "kind"),
    [("cnn:4", cnn(1, 10, 4, size=8)), ("resnet:8", resnet(1, 10, 8)), ("mlp:8", mlp(64, 10, (8,))), (None, mlp(64, 10))],
)  # fmt: skip
def test_students_by_their_words(student, kind):
    torch.manual_seed(0)
    teacher = mlp(64, 10)
    run = lb.distill("kd", teacher=teacher, student=student, data="digits", **{**QUICK, "steps": 2})
    assert {k: v.shape for k, v in run.student.state_dict().items()} == {
        k: v.shape for k, v in kind.state_dict().items()
    }


def test_a_module_of_one_s_own_is_the_one_that_is_trained(network, wine):
    own = nn.Sequential(nn.Linear(13, 5), nn.Tanh(), nn.Linear(5, 3))
    before = weights(own).clone()
    run = lb.distill("kd", teacher=network, student=own, data=wine, **QUICK)
    assert run.student is own
    assert not torch.equal(weights(own), before)
    with pytest.raises(ModelError, match="3 classes"):
        lb.distill("kd", teacher=network, student=nn.Linear(13, 2), data=wine, **QUICK)


def test_values_in_the_hundreds_are_learnt_in_a_few_steps():
    run = lb.distill("alone", student="mlp:64", data="diabetes", steps=150, progress=False, measure=False)
    assert run.table[0]["r2"] > 0.2  # without a beginning around the values it is -3


@pytest.mark.parametrize("kind", ["forest", "module", "both"])
def test_numbers_as_targets(kind):
    data = lb.load_data("diabetes")
    part = data.train.batch(range(len(data.train)))
    forest = RandomForestRegressor(30, random_state=0).fit(part.inputs.numpy(), part.labels.numpy())
    module = nn.Linear(10, 1)
    solved = torch.linalg.lstsq(torch.cat([part.inputs, torch.ones(len(part), 1)], 1), part.labels[:, None]).solution
    module.weight.data, module.bias.data = solved[:-1].T.clone(), solved[-1].clone()
    teacher = {"forest": forest, "module": module, "both": [forest, module]}[kind]
    run = lb.distill(teacher=teacher, student="mlp:16", data=data, **{**QUICK, "learning_rate": 0.3, "steps": 150})
    assert (run.record["recipe"]["name"], run.task.name) == ("regression_kd", "regression")
    test = data.parts["test"]
    inputs = test.batch(range(len(test))).inputs
    trees, line = torch.as_tensor(forest.predict(inputs.numpy())), module(inputs)[:, 0].detach().double()
    expected = {"forest": trees, "module": line, "both": (trees + line) / 2}[kind]
    found = rows(run)
    assert found["teacher"]["mse"] == pytest.approx((expected - test.labels).square().mean().item(), rel=1e-4)
    assert found["student"]["r2"] > 0.2  # better than the mean
    with pytest.raises(ArgumentError, match="regression"):
        lb.distill("kd", teacher=teacher, data=data, **QUICK)
