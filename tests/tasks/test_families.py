"""Families of language models: lazy logits and their gradients are the model's own, with caps, scales, biases, ties, padding.

Weights are large (initializer_range 0.3), so that a cap or a scale that is left out shows.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from limbeck import objectives as o
from limbeck.data.base import Data
from limbeck.errors import ModelError
from limbeck.recipes.toy_language import TinyLM, counting
from limbeck.signals.blocks import Post
from limbeck.signals.lazy import Lazy
from limbeck.signals.step import Step
from limbeck.tasks.causal_lm import CausalLM
from limbeck.tasks.head import check_head
from limbeck.teachers.base import as_teacher
from limbeck.training.job import Job
from limbeck.training.settings import Settings
from toys import train, weights

transformers = pytest.importorskip("transformers")
V = 61
TOKENS = {"vocab_size": V, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.3}
BASE = {**TOKENS, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64}  # fmt: skip
HEAD = {**BASE, "head_dim": 8}
GPT = {**TOKENS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "resid_pdrop": 0.0, "embd_pdrop": 0.0,
       "attn_pdrop": 0.0}  # fmt: skip
OPT = {**TOKENS, "hidden_size": 32, "ffn_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "dropout": 0.0,
       "max_position_embeddings": 64, "init_std": 0.3}  # fmt: skip
MAMBA2 = {**TOKENS, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "num_heads": 8, "head_dim": 8, "n_groups": 2,
          "chunk_size": 8}  # fmt: skip
BLOOM = {**TOKENS, "hidden_size": 32, "n_layer": 2, "n_head": 4, "hidden_dropout": 0.0, "attention_dropout": 0.0}
FALCON_H1 = {
    **BASE,
    "mamba_d_ssm": 32,
    "mamba_n_heads": 4,
    "mamba_d_head": 8,
    "mamba_d_state": 4,
    "mamba_chunk_size": 8,
}
PLAIN = Post()
FAMILIES: dict[str, tuple[str, str, dict, Post]] = {
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT, PLAIN),
    "opt": ("OPTForCausalLM", "OPTConfig", OPT, PLAIN),
    "opt, narrow head": ("OPTForCausalLM", "OPTConfig", {**OPT, "word_embed_proj_dim": 12}, PLAIN),
    "llama": ("LlamaForCausalLM", "LlamaConfig", BASE, PLAIN),
    "llama, tied": ("LlamaForCausalLM", "LlamaConfig", {**BASE, "tie_word_embeddings": True}, PLAIN),
    "mistral": ("MistralForCausalLM", "MistralConfig", {**BASE, "sliding_window": 3}, PLAIN),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", {**BASE, "num_local_experts": 2}, PLAIN),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", BASE, PLAIN),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", HEAD, PLAIN),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", HEAD, PLAIN),
    "gemma2, cap": ("Gemma2ForCausalLM", "Gemma2Config", {**HEAD, "final_logit_softcapping": 4.0}, Post(softcap=4.0)),
    "gemma3, cap": ("Gemma3ForCausalLM", "Gemma3TextConfig", {**HEAD, "final_logit_softcapping": 5.0}, Post(softcap=5.0)),
    "phi, bias": ("PhiForCausalLM", "PhiConfig", BASE, PLAIN),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", BASE, PLAIN),
    "granite, divided": ("GraniteForCausalLM", "GraniteConfig", {**BASE, "logits_scaling": 8.0}, Post(scale=1 / 8)),
    "hyperclova, times": ("HyperCLOVAXForCausalLM", "HyperCLOVAXConfig", {**BASE, "logits_scaling": 3.0}, Post(scale=3.0)),
    "cohere, scale": ("CohereForCausalLM", "CohereConfig", {**BASE, "logit_scale": 0.25}, Post(scale=0.25)),
    "cohere2, scale": ("Cohere2ForCausalLM", "Cohere2Config", {**BASE, "logit_scale": 0.5}, Post(scale=0.5)),
    "falcon-h1, multiplier": ("FalconH1ForCausalLM", "FalconH1Config", {**FALCON_H1, "lm_head_multiplier": 0.5},
                              Post(scale=0.5)),
    "neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", BASE, PLAIN),
    "gptj, bias": ("GPTJForCausalLM", "GPTJConfig", {**GPT, "rotary_dim": 4}, PLAIN),
    "bloom": ("BloomForCausalLM", "BloomConfig", BLOOM, PLAIN),
    "falcon": ("FalconForCausalLM", "FalconConfig", BASE, PLAIN),
    "mamba2": ("Mamba2ForCausalLM", "Mamba2Config", MAMBA2, PLAIN),
}  # fmt: skip
IDS = torch.randint(3, V, (3, 7), generator=torch.Generator().manual_seed(1))
MASK = torch.tensor([[1] * 7, [1] * 5 + [0] * 2, [1] * 3 + [0] * 4])


def make(name: str, seed: int = 0) -> nn.Module:
    kind, config, options, _ = FAMILIES[name]
    if not hasattr(transformers, kind):
        pytest.skip(f"{kind} is not in Transformers {transformers.__version__}")
    torch.manual_seed(seed)
    model = getattr(transformers, kind)(getattr(transformers, config)(**options)).eval()
    bias = model.get_output_embeddings().bias
    if bias is not None:  # zero when it is new
        nn.init.normal_(bias)
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_lazy_logits_and_gradients_are_the_models_own(name):
    model, task = make(name), CausalLM()
    assert check_head(model) == FAMILIES[name][3]
    inputs = {"input_ids": IDS, "attention_mask": MASK}
    lazy = task.signals(task.forward(model, inputs))["logits"]
    assert isinstance(lazy, Lazy)
    own = model(**inputs, use_cache=False).logits
    torch.testing.assert_close(lazy.whole(), own, rtol=1e-5, atol=1e-5 * float(own.detach().abs().max()))
    labels = IDS.where(MASK > 0, -100)
    parameters = [p for p in model.parameters() if p.requires_grad]
    ours = torch.autograd.grad(o.cross_entropy()(lazy, None, labels), parameters, allow_unused=True)
    loss = nn.functional.cross_entropy(own.flatten(0, 1), labels.flatten())
    theirs = torch.autograd.grad(loss, parameters, allow_unused=True)
    norm = max(float(g.abs().max()) for g in theirs if g is not None)
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine is None) == (other is None)
        if mine is not None:
            torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5 * norm)


def test_a_cap_that_the_config_names_and_the_model_leaves_out_is_not_believed():
    """Gemma 3 with images has the cap of its text model in the config, and does not apply it."""
    text = transformers.Gemma3TextConfig(**{**HEAD, "final_logit_softcapping": 5.0})
    vision = transformers.SiglipVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                                             image_size=16, patch_size=8)  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Gemma3ForConditionalGeneration(transformers.Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=60, boi_token_index=58,
        eoi_token_index=59)).eval()  # fmt: skip
    assert check_head(model) == PLAIN
    torch.testing.assert_close(CausalLM().forward(model, IDS.clamp(max=50)).whole(), model(IDS.clamp(max=50)).logits)


def test_a_matrix_behind_more_than_a_norm_is_a_named_error():
    model = transformers.BertLMHeadModel(transformers.BertConfig(**BASE, is_decoder=True)).eval()
    with pytest.raises(ModelError, match=r"does not receive the hidden states.*lazy=False"):
        check_head(model)


# padded vocabularies
def padded(model: nn.Module, multiple: int) -> nn.Module:
    model = copy.deepcopy(model)
    model.resize_token_embeddings(pad_to_multiple_of=multiple, mean_resizing=False)
    return model


def gradient(student: nn.Module, teacher: nn.Module, task: CausalLM) -> tuple[Tensor, dict[str, Tensor]]:
    student.zero_grad()
    inputs = {"input_ids": IDS, "attention_mask": MASK}
    with torch.no_grad():
        theirs = task.read(teacher, inputs, ["logits"])["logits"]
    step = Step(Data("x", "tokens", {"train": counting("x", 1, 0)}).train.batch([0]))
    step.put("self", task.read(student, inputs, ["logits"]))
    step.put("teacher", {"logits": theirs})
    loss = (o.forward_kl(temperature=2.0)).evaluate(step)[0]
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("lazy", [True, False], ids=["lazy", "whole"])
@pytest.mark.parametrize(("one", "other"), [("llama, tied", "gpt2"), ("phi, bias", "gemma2, cap")])
def test_padded_vocabularies_are_compared_on_what_the_tokenizer_knows(one, other, lazy):
    """Student 61 rows padded to 64, teacher 61 padded to 128: as if neither were, and the padding learns nothing."""
    student, teacher = make(one).double(), make(other, seed=1).double()
    task = CausalLM(vocabulary=V, lazy=lazy)
    expected, slopes = gradient(student, teacher, task)
    wide, wider = padded(student, 64), padded(teacher, 128)
    assert wide.get_output_embeddings().weight.shape[0] == 64
    assert wider.get_output_embeddings().weight.shape[0] == 128
    found, mine = gradient(wide, wider, CausalLM(vocabulary=V, lazy=lazy))
    assert float(found) == pytest.approx(float(expected), rel=1e-10)
    assert mine.keys() == slopes.keys()
    for name, slope in slopes.items():
        torch.testing.assert_close(mine[name][: len(slope)], slope, rtol=1e-8, atol=1e-12)
        assert not mine[name][len(slope) :].any()


def test_without_a_tokenizer_the_smaller_vocabulary_decides():
    student, teacher = make("llama").double(), padded(make("gpt2", seed=1), 64).double()
    first = gradient(student, teacher, CausalLM())[0]
    again = gradient(student, teacher, CausalLM(vocabulary=V))[0]
    assert float(first) == pytest.approx(float(again), rel=1e-12)


# a module of one's own
def test_a_plain_module_with_hidden_states_and_a_matrix_is_lazy_too():
    student, teacher = TinyLM(width=8), TinyLM(width=16)
    data = Data("counting", "tokens", {"train": counting("train", 24, 0)}, target="none")
    found = []
    for lazy in (True, False):
        task = CausalLM(lazy=lazy)
        logits = task.read(student, data.train.batch([0, 1]).inputs, ["logits"])["logits"]
        assert isinstance(logits, Lazy) == lazy
        own = copy.deepcopy(student)
        job = Job(task, data, own, as_teacher(teacher), Settings(steps=5, batch_size=8, best="last", warmup=0.0))
        train(job.stage(o.cross_entropy() + o.forward_kl()))
        found.append(weights(own))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-6)
    assert not torch.equal(found[0], weights(student))
