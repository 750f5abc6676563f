"""Layers by pattern, which layer learns from which, and where a layer's attention is."""

import pytest
import torch
from torch import nn

from goldens import load
from limbeck.errors import ArgumentError, SignalError
from limbeck.objectives import feature_mse
from limbeck.recipes.toy import toy_job
from limbeck.signals.layers import Attention, attention_of, layer_map, layers
from limbeck.signals.taps import Taps, match

transformers = pytest.importorskip("transformers")
SMALL = {"vocab_size": 20, "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 3, "intermediate_size": 16}
PLACES = ("query", "key", "value")


def bert(**changes):
    config = transformers.BertConfig(**{**SMALL, **changes})
    return transformers.BertForSequenceClassification(config).eval()


def test_a_pattern_names_the_layers_of_a_transformer():
    model = bert()
    assert match(model, "bert.encoder.layer.*") == [f"bert.encoder.layer.{i}" for i in range(3)]
    assert match(model, "bert.encoder.layer.*.output#input") == [
        f"bert.encoder.layer.{i}.output#input" for i in range(3)
    ]
    ids = torch.randint(20, (2, 5))
    with Taps(model, ["bert.encoder.layer.*.output"]) as taps, torch.no_grad():
        taps.run(lambda: model(input_ids=ids))
    hidden = model(input_ids=ids, output_hidden_states=True).hidden_states
    for number in range(3):
        torch.testing.assert_close(taps.signals[f"bert.encoder.layer.{number}.output"], hidden[number + 1])


@pytest.mark.parametrize(("pattern", "near"), [
    ("encoder.layer.*", "'bert.encoder.layer.*'"),
    ("bert.encoder.layers.*", "'bert.encoder.layer.*'"),
    ("layer.*.output", "'bert.encoder.layer.*.output'"),
    ("bert.encoder.*.output", "'bert.encoder.layer.*.output'"),
    ("encoder.layer.1", "'bert.encoder.layer.1'"),
])  # fmt: skip
def test_a_pattern_without_a_match_names_what_is_near(pattern, near):
    with pytest.raises(SignalError) as found:
        match(bert(), pattern)
    assert pattern in str(found.value)
    assert near in str(found.value)


def test_a_term_compares_one_tap_with_one():
    with pytest.raises(ArgumentError, match=r"several taps.*job\.layer_pairs\('uniform', 'layer\.\*'\)"):
        feature_mse().on("layer.*")
    with pytest.raises(ArgumentError, match="several taps"):
        feature_mse().on("layer.0", "layer.*")


def test_layer_maps():
    assert layer_map(4, 12) == [2, 5, 8, 11]
    assert layer_map(6, 12, "last") == [6, 7, 8, 9, 10, 11]
    assert layer_map(2, 12, "first") == [0, 1]
    assert layer_map(3, 3) == layer_map(3, 3, "last") == [0, 1, 2]
    assert layer_map(2, 4, [0, 0]) == [0, 0]
    for student in range(1, 9):
        for teacher in range(student, 14):
            found = layer_map(student, teacher)
            assert found == sorted(set(found))
            assert found[-1] == teacher - 1
            assert all(abs(found[i] + 1 - (i + 1) * teacher / student) <= 0.5 for i in range(student))


@pytest.mark.parametrize(("arguments", "said"), [
    ((4, 2), "student has 4 layers and the teacher 2"), ((2, 4, "uniforn"), "uniforn"), ((2, 4, [1]), "student's 2"),
    ((2, 4, [1, 4]), "0 to 3"),
])  # fmt: skip
def test_layer_maps_that_cannot_be(arguments, said):
    with pytest.raises(ArgumentError, match=said):
        layer_map(*arguments)


@pytest.mark.shared_data
def test_the_layer_map_of_tinybert():
    case = load("classifiers", "tinybert_layer_map")
    found = layer_map(int(case["in_student_layers"]), int(case["in_teacher_layers"]))
    assert found == case["out_attention_from_teacher"].tolist()
    assert [0, *(number + 1 for number in found)] == case["out_hidden_from_teacher"].tolist()  # hidden 0: embeddings


@pytest.mark.parametrize(("name", "model"), [
    ("bert.encoder.layer.1", bert), ("roberta.encoder.layer.1", lambda: transformers.RobertaForSequenceClassification(
        transformers.RobertaConfig(**SMALL)).eval()),
    ("distilbert.transformer.layer.1", lambda: transformers.DistilBertForSequenceClassification(
        transformers.DistilBertConfig(vocab_size=20, dim=8, n_heads=2, n_layers=3, hidden_dim=16)).eval()),
    ("electra.encoder.layer.1", lambda: transformers.ElectraForSequenceClassification(
        transformers.ElectraConfig(**SMALL, embedding_size=8)).eval()),
])  # fmt: skip
def test_attention_from_queries_and_keys_is_that_of_the_model(name, model):
    from limbeck.functional import attention_scores

    model = model()
    place = attention_of(model, name)
    model.set_attn_implementation("eager")
    ids = torch.randint(3, 20, (2, 5))
    with Taps(model, place[:3]) as taps, torch.no_grad():
        attentions = taps.run(lambda: model(input_ids=ids, output_attentions=True)).attentions
    found = attention_scores(taps.signals[place.query], taps.signals[place.key], place.heads).softmax(-1)
    torch.testing.assert_close(found, attentions[1])


def test_attention_where_it_is_and_what_has_none():
    name = "bert.encoder.layer.0"
    assert attention_of(bert(), name) == Attention(*(f"{name}.attention.self.{each}" for each in PLACES), 2)
    llama = transformers.LlamaForSequenceClassification(transformers.LlamaConfig(
        **SMALL, num_key_value_heads=2, pad_token_id=0))  # fmt: skip
    with pytest.raises(SignalError, match="minilm_v2"):
        attention_of(llama, "model.layers.0")
    assert attention_of(llama, "model.layers.0", scores=False).query == "model.layers.0.self_attn.q_proj"
    with pytest.raises(SignalError, match=r"No queries, keys and values.*eager"):
        attention_of(nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), 2), "layers.0")
    deberta = transformers.DebertaV2ForSequenceClassification(
        transformers.DebertaV2Config(**SMALL, relative_attention=True)
    )
    with pytest.raises(SignalError, match="more than the softmax"):
        attention_of(deberta, "deberta.encoder.layer.0")


def test_layers_by_structure():
    assert layers(bert()) == [f"bert.encoder.layer.{i}" for i in range(3)]
    assert layers(bert(num_hidden_layers=1)) == ["bert.encoder.layer.0"]
    config = transformers.DistilBertConfig(vocab_size=20, dim=8, n_heads=2, n_layers=1, hidden_dim=16)
    assert layers(transformers.DistilBertModel(config)) == ["transformer.layer.0"]


def test_a_layer_that_is_run_several_times_is_refused():
    albert = transformers.AlbertForSequenceClassification(transformers.AlbertConfig(**SMALL, embedding_size=8))
    with pytest.raises(SignalError, match="says that it has 3 layers"):
        layers(albert)


def test_attention_within_a_window_is_refused():
    config = transformers.LongformerConfig(**SMALL, attention_window=4, pad_token_id=0)
    with pytest.raises(SignalError, match="a window"):
        attention_of(transformers.LongformerModel(config), "encoder.layer.0")


def test_layers_of_a_job():
    job = toy_job()
    assert job.layers("student") == ["block1", "block2"]
    assert job.layers("teacher", "block*") == ["block1", "block2"]
    assert job.layer_pairs() == [("block1", "block1"), ("block2", "block2")]
    assert job.layer_pairs("last", "block2", "block*") == [("block2", "block2")]
    with pytest.raises(SignalError, match=r"'blocks\.\*'"):
        job.layers("student", "blocks.*")
    job.teacher = None
    with pytest.raises(ArgumentError, match="looks inside the teacher"):
        job.layer_pairs()
