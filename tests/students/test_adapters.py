"""Adapters: what learns, what the head gives, what is saved, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch

from language_toys import make_tokenizer, tiny
from limbeck.data.base import Data
from limbeck.errors import ArgumentError, ModelError
from limbeck.signals.lazy import Lazy
from limbeck.students.adapters import Lora, add_adapters, as_lora, has_adapters, load_trained, merged, trained_state
from limbeck.students.build import mlp
from limbeck.students.language import text_decoder
from limbeck.students.save import load_module, save_model
from limbeck.tasks.causal_lm import CausalLM, token_part
from limbeck.teachers.load import is_causal
from toys import weights

peft = pytest.importorskip("peft")
X = torch.arange(14).view(2, 7)


def adapted(family="Llama", seed=0, moved=True, source=None, **options):
    """A tiny model with adapters that have learnt something."""
    model = add_adapters(tiny(family, **options.pop("model", {})), Lora(rank=3, **options), "causal_lm", seed, source)
    if moved:
        draw = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.2 * torch.randn(parameter.shape, generator=draw))
    return model.eval()


def check(task, model):
    """What is tried before a training."""
    task.check(Data("three", "tokens", {"train": token_part("train", [[3, 4, 5]])}, "none"), {"student": model})


def logits(model):
    with torch.no_grad():
        return model(X, attention_mask=torch.ones_like(X)).logits


# what is asked for
def test_a_rank_or_options():
    assert as_lora(None) is None
    assert as_lora(8) == Lora(rank=8)
    assert as_lora({"rank": 4, "targets": ["q_proj"], "train": ["lm_head"]}) == Lora(
        4, None, 0.0, ("q_proj",), ("lm_head",)
    )
    for wrong, words in (
        (True, "expected a rank"), ("16", "expected a rank"), (0, "lora rank=0"), ({"ranks": 4}, "Did you mean 'rank'"),
        ({"alpha": 0}, "alpha=0"), ({"dropout": 1.0}, "lora dropout"), ({"train": "lm_head"}, r"\[lm_head\]"),
    ):  # fmt: skip
        with pytest.raises(ArgumentError, match=words):
            as_lora(wrong)


# what learns
@pytest.mark.parametrize("family", ["Llama", "GPT2", "OPT"])
def test_a_new_adapter_changes_nothing_and_is_all_that_learns(family):
    base, state = tiny(family), torch.get_rng_state()
    model = add_adapters(base, Lora(rank=3), "causal_lm", 0).eval()
    assert torch.equal(state, torch.get_rng_state())
    torch.testing.assert_close(logits(model), logits(tiny(family)))
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert learning
    assert all("lora_" in name for name in learning)
    assert not any("lm_head" in name for name in learning)
    same, other = adapted(family, moved=False), adapted(family, seed=1, moved=False)
    assert torch.equal(weights(model), weights(same))
    assert not torch.equal(weights(model), weights(other))


@pytest.mark.parametrize("train", [[], ["lm_head"]], ids=["adapters", "head"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("family", ["Llama", "GPT2"])
def test_the_head_sees_the_adapters(family, tied, train):
    """Lazy logits are the model's own, and so are their gradients at everything that learns."""
    model = adapted(family, train=train, model={"tie_word_embeddings": tied})
    task = CausalLM()
    check(task, model)
    mask = torch.ones_like(X)
    lazy = task.forward(model, {"input_ids": X, "attention_mask": mask})
    assert isinstance(lazy, Lazy)
    own = model(X, attention_mask=mask).logits
    torch.testing.assert_close(lazy.whole(), own, rtol=1e-4, atol=1e-5)
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert any("lm_head" in name for name in learning) == bool(train)
    ours, theirs = (torch.autograd.grad(found.sin().sum(), list(learning.values())) for found in (lazy.whole(), own))
    assert all(float(gradient.abs().max()) > 0 for gradient in ours)
    for gradient, expected in zip(ours, theirs):
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4)


def test_what_would_bypass_the_head_is_refused():
    on_head = adapted(targets=["lm_head", "q_proj"])
    with pytest.raises(ModelError, match=r"The student: .*train without an adapter on the head"):
        check(CausalLM(), on_head)
    check(CausalLM(lazy=False), on_head)  # whole logits are the model's own
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    prompted = peft.get_peft_model(tiny("Llama"), config)
    for lazy in (True, False):
        with pytest.raises(ModelError, match="PROMPT_TUNING adapter puts learnt tokens before the text"):
            check(CausalLM(lazy=lazy), prompted)


def test_what_cannot_have_adapters_is_refused():
    for base, task, words in (
        (mlp(4, 3), "classification", "this student is a Sequential"),
        (tiny("Llama"), "regression", "for regression"),
        (text_decoder(make_tokenizer(), 1, 32), "causal_lm", "those of a new one are random"),
    ):
        with pytest.raises(ArgumentError, match=words):
            add_adapters(base, Lora(), task, 0)
    with pytest.raises(ArgumentError, match="comes from no folder"):
        add_adapters(tiny("Llama"), Lora(merge=False), "causal_lm", 0)
    with pytest.raises(ModelError, match=r"Linear layers of this student: down_proj, .*q_proj"):
        add_adapters(tiny("Llama"), Lora(targets=("query",)), "causal_lm", 0)
    with pytest.raises(ModelError, match=r"train='lm_heads': .*Did you mean 'lm_head'"):
        add_adapters(tiny("Llama"), Lora(train=("lm_heads",)), "causal_lm", 0)


# what is left
@pytest.mark.parametrize("train", [(), ("lm_head",)], ids=["adapters", "head"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_merged_student_is_a_plain_model_that_loads_again(tmp_path, tied, train):
    model = adapted(train=train, model={"tie_word_embeddings": tied})
    expected = logits(model)
    save_model(model, tmp_path / "as it is")  # merged, from a copy
    assert has_adapters(model)
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=0)
    plain = merged(model)
    assert type(plain) is type(tiny("Llama"))
    assert not has_adapters(plain)
    assert all(parameter.requires_grad for parameter in plain.parameters())
    torch.testing.assert_close(logits(plain), expected, rtol=1e-4, atol=1e-5)
    shared = plain.lm_head.weight is plain.model.embed_tokens.weight
    assert shared == (tied and not train)  # a head of its own is no longer the embedding
    save_model(plain, tmp_path / "merged")
    for folder in ("merged", "as it is"):
        torch.testing.assert_close(logits(load_module(tmp_path / folder)), logits(plain), rtol=0, atol=0)


def test_checkpoints_hold_what_learns():
    model, other = adapted(train=["lm_head"]), adapted(train=["lm_head"], moved=False)
    state = {key: value.clone() for key, value in trained_state(model).items()}
    assert sum(value.numel() for value in state.values()) == sum(
        p.numel() for p in model.parameters() if p.requires_grad
    )
    load_trained(other, state)
    assert torch.equal(logits(model), logits(other))
    plain = tiny("Llama")
    assert trained_state(plain).keys() == plain.state_dict().keys()
    with pytest.raises(RuntimeError, match="Unexpected"):
        load_trained(other, {**state, "more": torch.ones(1)})
    with pytest.raises(RuntimeError, match="Missing"):
        load_trained(other, dict(list(state.items())[1:]))


def test_an_adapter_is_saved_alone_and_loaded_onto_its_base_only(tmp_path):
    base = tiny("Llama")
    save_model(base, tmp_path / "base")
    model = adapted(merge=False, source=tmp_path / "base")
    model.tokenizer = make_tokenizer()
    folder = save_model(model, tmp_path / "adapter", task="causal_lm")
    assert not (folder / "model.safetensors").exists()
    assert (folder / "adapter_model.safetensors").stat().st_size < (tmp_path / "base/model.safetensors").stat().st_size
    again = load_module(folder)
    assert torch.equal(logits(again), logits(model))
    assert has_adapters(again)
    assert again.tokenizer.get_vocab() == make_tokenizer().get_vocab()
    assert is_causal(folder)
    assert torch.equal(logits(load_module(save_model(again, tmp_path / "twice"))), logits(model))
    given = load_module(folder, builder=lambda: copy.deepcopy(base))
    assert torch.equal(logits(given), logits(model))
    with torch.no_grad():
        base.model.norm.weight += 1
    save_model(base, tmp_path / "base")
    with pytest.raises(ModelError, match="whose weights are others now"):
        load_module(folder)
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(ModelError, match="If it has moved"):
        load_module(folder)
