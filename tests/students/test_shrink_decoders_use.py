"""Decoders that were cut write, reload as plain models, can be cut again; what cannot be cut is named."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from decoders import GPT2, KINDS, SIZE, SIZES, TIED, TIGHT, X, attention, decoder, layers_of, logits, skip
from limbeck.errors import ArgumentError, ModelError
from limbeck.students.build import build_student
from limbeck.students.decoder_families import FAMILIES
from limbeck.students.save import load_module, read_config, save_model
from limbeck.students.shrink import shrink

transformers = pytest.importorskip("transformers")

EVERYTHING = {"depth": 3, "width": 0.5, "heads": 4, "hidden": 16}


@pytest.mark.parametrize("kind", KINDS)
def test_students_write_and_reload_as_plain_transformers_models(kind, tmp_path):
    teacher = decoder(kind)
    before = copy.deepcopy(teacher.state_dict())
    random = torch.get_rng_state()
    student = shrink(teacher, **EVERYTHING)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert type(student) is type(teacher)
    assert student.limbeck_shrink == {"layers": [0, 2, 4], "of": 5, "ffn": 64 if kind == "gpt2" else 12, "heads": 4,
                                      "kv_heads": 4, "hidden": 16}  # fmt: skip
    config = student.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (3, 16, 4)
    assert attention(layers_of(student)[0]).head_dim == SIZE.get(kind, 6)
    assert getattr(config, "query_pre_attn_scalar", 9) == 9
    assert student.get_output_embeddings().weight.shape[0] == config.vocab_size == 40
    tied = student.get_output_embeddings().weight is student.get_input_embeddings().weight
    assert tied == (kind in TIED)

    save_model(student, tmp_path / "student")
    assert "cut" not in read_config(tmp_path / "student")
    for again in (load_module(tmp_path / "student"), type(teacher).from_pretrained(tmp_path / "student").eval()):
        assert torch.equal(logits(again), logits(student))
        assert (again.get_output_embeddings().weight is again.get_input_embeddings().weight) == tied
    ask = {"max_new_tokens": 8, "do_sample": False, "attention_mask": torch.ones_like(X)}
    written = student.generate(X, use_cache=True, **ask)
    assert written.shape == (2, 17)
    assert torch.equal(written, student.generate(X, use_cache=False, **ask))
    assert torch.equal(written, again.generate(X, **ask))


@pytest.mark.parametrize("kind", sorted(TIGHT))
def test_heads_that_a_config_cannot_say_stand_beside_the_weights(kind, tmp_path):
    student = shrink(decoder(kind), heads=3)
    save_model(student, tmp_path / "student")
    assert read_config(tmp_path / "student")["cut"]
    loaded = load_module(tmp_path / "student")
    assert torch.equal(logits(loaded), logits(student))
    ask = {"max_new_tokens": 8, "do_sample": False, "attention_mask": torch.ones_like(X)}
    assert torch.equal(loaded.generate(X, **ask), student.generate(X, use_cache=False, **ask))
    with pytest.raises(RuntimeError):  # Transformers alone does not misread it
        type(student).from_pretrained(tmp_path / "student")
    again = shrink(loaded.double(), depth=2)
    torch.testing.assert_close(logits(again), logits(skip(loaded, [0, 4])), rtol=0, atol=1e-5)
    smaller = shrink(student, heads=2, hidden=8)  # hidden = heads x head size: the config says it again
    assert (smaller.config.num_attention_heads, smaller.config.hidden_size) == (2, 8)


def test_ties_are_as_the_teacher_has_them(tmp_path):
    for kind in ("gemma2", "llama"):
        teacher = decoder(kind, tie_word_embeddings=False)
        teacher.config.tie_word_embeddings = True  # says what is not so
        student = shrink(teacher, hidden=16, depth=2)
        assert student.get_output_embeddings().weight is not student.get_input_embeddings().weight
        save_model(student, tmp_path / kind)
        assert torch.equal(logits(load_module(tmp_path / kind)), logits(student))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("llama", "LlamaForSequenceClassification"),
        ("gpt2", "GPT2ForSequenceClassification"),
        ("opt-350m", "OPTForSequenceClassification"),
        ("qwen2", "Qwen2Model"),
    ],
)
def test_heads_of_other_tasks_are_cut_along(kind, name, tmp_path):
    torch.manual_seed(0)
    config = getattr(transformers, KINDS[kind][1])(**{**KINDS[kind][2], "num_labels": 3})
    teacher = getattr(transformers, name)(config).eval()
    student = shrink(teacher, depth=2, width=0.5, hidden=16)
    save_model(student, tmp_path / "student")
    assert torch.equal(load_module(tmp_path / "student")(X)[0], student(X)[0])
    assert student(X)[0].shape == ((2, 9, 16) if name == "Qwen2Model" else (2, 3))


def test_precision_mode_tokenizer_and_generation_go_along():
    teacher = decoder("qwen2").to(torch.bfloat16).train()
    teacher.tokenizer = object()
    teacher.generation_config.max_new_tokens = 7
    student = shrink(teacher, **EVERYTHING)
    assert {parameter.dtype for parameter in student.parameters()} == {torch.bfloat16}
    assert student.training
    assert student.tokenizer is teacher.tokenizer
    assert student.generation_config.max_new_tokens == 7
    assert student.generation_config is not teacher.generation_config


def test_fractions_take_the_nearest_that_can_be_and_say_so():
    student = shrink(decoder("llama"), heads=0.7)  # 6 of 8 do not divide a hidden size of 32
    assert student.limbeck_shrink["heads"] == 4
    assert (
        "Llama with a hidden size of 32, 4 key-value heads for 8 heads of 6 cannot have 6; it has 4"
        in (student.limbeck_shrink["notes"][0])
    )
    assert shrink(decoder("qwen3"), heads=0.7).limbeck_shrink["heads"] == 6  # where they need not
    assert shrink(decoder("llama"), heads=3, hidden=0.5).limbeck_shrink["hidden"] == 15
    student = shrink(decoder("gpt2"), hidden=0.4)
    assert (student.config.hidden_size, student.config.num_attention_heads) == (12, 3)


@pytest.mark.parametrize(
    ("kind", "arguments", "said"),
    [
        ("llama", {"heads": 6}, "cannot have 6. The nearest that it can have is 4"),
        ("qwen3", {"heads": 5}, "4 key-value heads for 8 heads of 6 cannot have 5. The nearest that it can have is 6"),
        ("gemma2", {"hidden": 17}, "Gemma 2 .* cannot have 17. The nearest that it can have is 16"),
        ("gpt2", {"hidden": 18}, "head.* cannot have 18. The nearest that it can have is 20"),
        ("opt", {"hidden": 16, "heads": 2}, "hidden=16: OPT .* The nearest that it can have is 8"),
        ("llama", {"heads": 9}, "only 8"),
        ("llama", {"width": 0}, "width=0"),
        ("llama", {"hidden": 33}, "hidden=33: the teacher has only 32"),
        ("llama", {"depth": 6}, "only 5"),
        ("llama", {}, "nothing to cut"),
    ],
)
def test_sizes_that_cannot_be_are_named(kind, arguments, said):
    with pytest.raises(ArgumentError, match=said):
        shrink(decoder(kind), **arguments)


def test_long_rotary_factors_that_tie_hidden_size_and_heads_are_heeded():
    scaling = {"rope_type": "longrope", "short_factor": [1.0, 2.0], "long_factor": [1.0, 2.0], "rope_theta": 10000.0}
    teacher = decoder("phi3", rope_parameters=scaling, original_max_position_embeddings=32)
    with pytest.raises(ArgumentError, match="nor any other number below 32, by its config"):
        shrink(teacher, hidden=0.5)
    student = shrink(teacher, hidden=0.5, heads=0.5)
    assert (student.config.hidden_size, student.config.num_attention_heads) == (16, 4)


# other families ------------------------------------------------------------------------------------------------------


def other(name: str, **sizes: Any) -> Any:
    torch.manual_seed(0)
    module = getattr(transformers, f"{name}ForCausalLM")
    return module(getattr(transformers, f"{name}Config")(**{**SIZES, **sizes})).eval()


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("GPTNeoX", {}), ("Granite", {}), ("SmolLM3", {"no_rope_layers": [1, 0, 0, 1, 0]}), ("Cohere2", {"sliding_window": 3}),
     ("GPTNeo", {"window_size": 2, "attention_types": [[["global"], 2], [["local"], 3]]})],
)  # fmt: skip
def test_other_decoders_are_cut_in_depth(name, sizes, tmp_path):
    teacher = other(name, **sizes)
    student = shrink(teacher, depth=3)
    save_model(student, tmp_path / "student")
    assert torch.equal(logits(load_module(tmp_path / "student")), logits(student))
    student = shrink(teacher.double(), depth=3)
    torch.testing.assert_close(logits(student), logits(skip(teacher, [0, 2, 4])), rtol=0, atol=1e-5)


def test_what_cannot_be_cut_is_refused_by_family():
    with pytest.raises(
        ModelError, match=r"width and heads of GPTNeoXForCausalLM \(gpt_neox\) cannot be cut.*GPT-2, Llama"
    ):
        shrink(other("GPTNeoX"), width=0.5, heads=2)
    with pytest.raises(ModelError, match="hidden of GPTNeoForCausalLM"):
        shrink(other("GPTNeo", attention_types=[[["global"], 5]]), hidden=16)
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "mlp_only_layers": [1]}
    with pytest.raises(ModelError, match="its config does not say all that its layers are"):
        shrink(other("Qwen3Moe", **experts), depth=2)
    with pytest.raises(ModelError, match="only Transformers decoders"):
        shrink(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), hidden=2)
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    config = transformers.Gemma3Config(text_config=KINDS["gemma3"][2], vision_config=vision, mm_tokens_per_image=4)
    with pytest.raises(ModelError, match="among other parts"):
        shrink(transformers.Gemma3ForConditionalGeneration(config), depth=2)
    double = transformers.GPT2DoubleHeadsModel(transformers.GPT2Config(**GPT2, num_labels=2))
    double.gate = nn.Bilinear(2, 2, 2)
    with pytest.raises(ModelError, match="gate is a Bilinear"):
        shrink(double, hidden=16)


def test_a_layer_that_would_become_another_is_refused(monkeypatch):
    from transformers.models.gpt_neox import modeling_gpt_neox as code

    class Scaled(code.GPTNeoXLayer):
        def __init__(self, config: Any, layer_idx: int) -> None:
            super().__init__(config, layer_idx)
            self.attention.scaling /= layer_idx + 1

    monkeypatch.setattr(code, "GPTNeoXLayer", Scaled)
    with pytest.raises(ModelError, match=r"layer 2 would be another one as layer 1 .*attention.scaling"):
        shrink(other("GPTNeoX"), depth=3)


def test_bert_like_decoders_are_cut_as_encoders_are():
    config = transformers.BertConfig(vocab_size=40, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
                                     intermediate_size=24, is_decoder=True)  # fmt: skip
    student = shrink(transformers.BertLMHeadModel(config).eval(), depth=2, width=0.5, heads=2)
    assert student.limbeck_shrink == {"layers": [0, 2], "of": 3, "ffn": 12, "heads": 2}
    assert student(X).logits.shape == (2, 9, 40)


# by the words of the command line -------------------------------------------------------------------------------------


def test_the_word_shrink_cuts_a_causal_teacher():
    teacher = decoder("llama")
    student = build_student("shrink(depth=2,width=0.5)", teacher=teacher)
    assert student.limbeck_shrink == {"layers": [0, 4], "of": 5, "ffn": 12}
    student = build_student("shrink:3,0.5,4,16", teacher=teacher)
    assert student.limbeck_shrink == shrink(teacher, **EVERYTHING).limbeck_shrink
    with pytest.raises(ArgumentError, match=r"no argument 'hiden'\. Did you mean 'hidden'"):
        build_student("shrink(hiden=16)", teacher=teacher)


def test_every_family_is_tested():
    known = {getattr(transformers, config)().model_type for _, config, _ in KINDS.values()}
    assert known == set(FAMILIES)
