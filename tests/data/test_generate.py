"""Answers that models write: drawn from the distribution that is trained, repeatable, and in rows that can be trained on."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.data.base import Batch
from limbeck.data.generate import Answers, Sampling, answered, bare, choose, repeated
from limbeck.data.generate_models import LoopSampler, TransformersSampler, find_ends, sampler_of
from limbeck.data.generate_served import TextSampler, VLLMSampler
from limbeck.data.language_parts import prompts
from limbeck.errors import ArgumentError, DataError, LimbeckError, ModelError
from limbeck.recipes.toy_language import END, SYMBOLS, TinyLM, counting, language_toy
from limbeck.tasks.causal_lm import CausalLM
from limbeck.teachers.base import as_teacher
from limbeck.teachers.stored import StoredTeacher

transformers = pytest.importorskip("transformers")
from language_toys import load, make_tokenizer, tiny  # noqa: E402

TASK = CausalLM()


def ask(rows, padding=0):
    """Prompts as `language_parts.prompts` gives them, of rows of ids."""
    width = max(map(len, rows))
    ids = torch.tensor([[padding] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    return Batch(inputs, torch.arange(len(rows)), extra={"prompt": mask.sum(1)})


ASKED = [[5, 9, 11, 7], [8], [20, 21]]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def same(one, other):
    return [row.tolist() for row in one.tokens] == [row.tolist() for row in other.tokens]


# what is drawn
def nucleus(p, sampling):
    """Which tokens may be drawn, by hand."""
    order = sorted(range(len(p)), key=lambda token: -p[token])[: sampling.top_k or len(p)]
    total = sum(p[token] for token in order)
    kept, mass = [], 0.0
    for token in order:
        if mass >= sampling.top_p:
            break
        kept.append(token)
        mass += p[token] / total
    return kept


@given(seed=st.integers(0, 10**6), temperature=st.sampled_from([0.5, 1.0, 2.0]), top_k=st.sampled_from([0, 1, 3]),
       top_p=st.sampled_from([0.3, 0.9, 1.0]))  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_even_numbers_draw_each_token_as_often_as_it_is_likely(seed, temperature, top_k, top_p):
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    logits = np.random.default_rng(seed).normal(size=7)
    p = np.exp(logits / temperature)
    p /= p.sum()
    kept = nucleus(p, sampling)
    expected = np.zeros(7)
    expected[kept] = p[kept] / p[kept].sum()
    count = 4000
    numbers = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    drawn = choose(torch.tensor(logits).expand(count, -1), sampling, numbers)
    assert drawn.bincount(minlength=7).numpy() / count == pytest.approx(expected, abs=2 / count)


def test_a_number_next_to_one_draws_a_token_that_has_mass():
    logits = torch.tensor([[0.0, 1.0, -torch.inf]])
    assert int(choose(logits, Sampling(), torch.tensor([1 - 2**-53], dtype=torch.float64))) == 1


def test_logits_that_are_nan_are_named():
    with pytest.raises(ModelError, match="NaN"):
        choose(torch.tensor([[0.0, torch.nan]]), Sampling(greedy=True))


def test_greedy_takes_the_likeliest_and_draws_nothing():
    sampling = Sampling(greedy=True)
    assert sampling.numbers(3, None) is None
    assert choose(torch.tensor([[0.0, 2.0, 1.0]]), sampling).tolist() == [1]


@pytest.mark.parametrize(
    "wrong", [{"max_new_tokens": 0}, {"top_k": -1}, {"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.5}]
)
def test_settings_out_of_range_are_named(wrong):
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        Sampling(**wrong)


def test_sampling_without_a_generator_is_refused():
    with pytest.raises(ArgumentError, match="greedy=True"):
        LoopSampler(TinyLM(), TASK, [END]).generate(ask([[3]]), Sampling())


# models
@pytest.mark.parametrize("family", ["GPT2", "Llama", "OPT", "Bloom"])
@pytest.mark.parametrize("greedy", [True, False])
def test_generate_and_the_plain_loop_write_the_same(family, greedy):
    """Left padding and the cache change nothing: GPT-2 read without its positions would say something else."""
    model, sampling = tiny(family), Sampling(max_new_tokens=9, greedy=greedy)
    model = model if family == "Bloom" else model.double()  # its mask gives NaN in double precision
    cached = TransformersSampler(model, [2]).generate(ask(ASKED), sampling, rng())
    assert same(cached, LoopSampler(model, TASK, [2]).generate(ask(ASKED), sampling, rng()))
    numbers = sampling.numbers(3, rng())
    for number, row in enumerate(ASKED):  # and each is what it is alone
        alone = TransformersSampler(model, [2]).generate(
            ask([row]), sampling, numbers=None if numbers is None else numbers[number : number + 1]
        )
        assert same(alone, cached.select([number]))


def test_no_token_is_filtered_unasked():
    """`generate(do_sample=True)` keeps the 50 likeliest; nearly even logits over 64 tokens show it."""
    model = tiny("Llama", initializer_range=1e-3)
    found = TransformersSampler(model, [2]).generate(ask([[5]] * 40), Sampling(max_new_tokens=30), rng())
    assert len(torch.cat(found.tokens).unique()) > 60
    few = TransformersSampler(model, [2]).generate(ask([[5]] * 40), Sampling(max_new_tokens=1, top_k=3), rng())
    assert len(torch.cat(few.tokens).unique()) <= 3


def test_what_the_models_own_config_asks_for_is_left_out_and_left_there():
    plain, strange = tiny("Llama"), tiny("Llama")
    strange.generation_config.repetition_penalty = 5.0
    strange.generation_config.suppress_tokens = list(range(3, 60))
    strange.generation_config.min_new_tokens = 8
    config, sampling = strange.generation_config, Sampling(max_new_tokens=12)
    found = [TransformersSampler(model, [2]).generate(ask(ASKED), sampling, rng(3)) for model in (plain, strange)]
    assert same(*found)
    assert strange.generation_config is config


@pytest.mark.parametrize("kind", ["transformers", "loop"])
def test_sampling_leaves_no_trace_and_can_be_repeated(kind):
    model = tiny("Llama", attention_dropout=0.5) if kind == "transformers" else TinyLM()
    model.train()
    frozen = next(child for child in model.modules() if isinstance(child, torch.nn.Embedding))
    frozen.eval()
    sampler, sampling = sampler_of(model, TASK, [2]), Sampling(max_new_tokens=6)
    before = torch.get_rng_state()
    one, two, other = (sampler.generate(ask([[3, 4], [5]]), sampling, rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert same(one, two)
    assert not same(one, other)
    assert model.training
    assert not frozen.training
    assert not any(row.requires_grad for row in one.tokens)


def test_rows_that_pad_the_vocabulary_are_never_chosen():
    model = tiny("Llama", initializer_range=1e-3)
    found = sampler_of(model, CausalLM(vocabulary=10), [2]).generate(ask([[5]] * 20), Sampling(max_new_tokens=9), rng())
    assert int(torch.cat(found.tokens).max()) < 10


@pytest.mark.parametrize("same_class", [True, False])
def test_a_teachers_share_is_mixed_in(same_class):
    """Cached and plain agree; alpha 0 is the model alone; nearly all of the teacher is the teacher."""
    student, teacher = tiny("GPT2").double(), tiny("Llama").double()
    sampling, asked = Sampling(max_new_tokens=8), ask(ASKED)
    cached = sampler_of(student, TASK, [2], mix=(teacher, 0.5))
    assert isinstance(cached, TransformersSampler)
    plain = LoopSampler(student, TASK, [2], mix=(teacher, 0.5))
    assert same(cached.generate(asked, sampling, rng()), plain.generate(asked, sampling, rng()))
    none, most = (sampler_of(student, TASK, [2], mix=(teacher, alpha)) for alpha in (0.0, 1 - 1e-12))
    alone = [sampler_of(model, TASK, [2]).generate(asked, sampling, rng()) for model in (student, teacher)]
    assert same(none.generate(asked, sampling, rng()), alone[0])
    assert same(most.generate(asked, sampling, rng()), alone[1])
    assert not same(*alone)


def test_the_mixture_is_that_of_the_probabilities():
    models = [TinyLM(width=8), TinyLM(width=4)]
    with torch.no_grad():
        p = [model(torch.tensor([[3, 4]])).logits[0, -1].double().softmax(-1) for model in models]
    count = 3000
    numbers = ((torch.arange(count, dtype=torch.float64) + 0.5) / count)[:, None]
    sampler = LoopSampler(models[0], TASK, [END], mix=(models[1], 0.3))
    drawn = sampler.generate(ask([[3, 4]] * count), Sampling(max_new_tokens=1), numbers=numbers)
    frequencies = torch.cat(drawn.tokens).bincount(minlength=SYMBOLS) / count
    assert frequencies.tolist() == pytest.approx((0.7 * p[0] + 0.3 * p[1]).tolist(), abs=1e-3)


def test_an_ensemble_writes_too():
    _, one, two = language_toy()
    found = sampler_of(as_teacher([one, two]), CausalLM(lazy=False), [END]).generate(
        ask([[3, 4]]), Sampling(max_new_tokens=5), rng()
    )
    assert len(found) == 1
    assert 1 <= len(found.tokens[0]) <= 5


def test_what_cannot_write_is_refused():
    with pytest.raises(ModelError, match="cannot write answers"):
        sampler_of(3, TASK, [1])
    stored = StoredTeacher.__new__(StoredTeacher)
    with pytest.raises(ModelError, match="stored teacher"):
        sampler_of(stored, TASK, [1])
    with pytest.raises(ModelError, match="mixed into"):
        sampler_of(TextSampler(list, make_tokenizer()), TASK, [1], mix=(TinyLM(), 0.5))


def test_a_prompt_that_fills_the_model_is_refused_and_a_long_one_cut_short():
    model = tiny("GPT2", n_positions=8)
    found = TransformersSampler(model, [63]).generate(ask([[5] * 6]), Sampling(max_new_tokens=9, greedy=True))
    assert found.sizes.tolist() == [2]
    assert not found.finished.any()
    with pytest.raises(ArgumentError, match="takes 8 in all"):
        TransformersSampler(model, [63]).generate(ask([[5] * 8]), Sampling(), rng())


# answers
def test_answers_end_with_the_end_they_chose():
    found = Answers.cut([[4, 2, 0, 0], [2, 0], [4, 5]], [2, 9])
    assert [row.tolist() for row in found.tokens] == [[4, 2], [2], [4, 5]]
    assert found.finished.tolist() == [True, True, False]
    assert found.empty.tolist() == [False, True, False]
    assert found.counts() == {"samples": 3, "tokens": 5, "empty": 1, "unfinished": 1}
    assert found.texts() == ["4", "", "4 5"]
    assert same(found.select([2, 0]), Answers.cut([[4, 5], [4, 2]], [2]))


@pytest.mark.parametrize("padding", [0, 2])
def test_rows_of_answers_are_scored_where_they_were_drawn(padding):
    """One forward pass over prompt and answer gives each token back that greedy sampling chose, its end too."""
    model = tiny("GPT2").double()
    asked = ask(ASKED, padding)
    answers = TransformersSampler(model, [2, 17, 30, 33]).generate(asked, Sampling(max_new_tokens=12, greedy=True))
    rows = answered(asked, answers, padding=padding)
    batch = rows.batch(torch.arange(3))
    with torch.no_grad():
        named = model(**batch.inputs).logits.argmax(-1)
    kept = batch.labels != -100
    assert torch.equal(named[kept], batch.labels[kept])
    assert torch.equal(kept, batch.extra["mask"])
    assert kept.sum(1).tolist() == answers.sizes.tolist()
    for number, row in enumerate(answers.tokens):
        assert batch.labels[number][kept[number]].tolist() == row.tolist()
    assert bare(prompts(rows, [0, 1, 2])) == ASKED


def test_an_answer_without_any_token_makes_no_row():
    with pytest.raises(DataError, match="1 of 2 answers have no token"):
        answered(ask([[3], [4]]), Answers.cut([[], [5]], [2]), padding=0)


def test_prompts_are_repeated_for_groups():
    found = repeated(ask([[3], [4, 5]]), 2)
    assert bare(found) == [[3], [3], [4, 5], [4, 5]]
    assert found.extra["group"].tolist() == [0, 0, 1, 1]
    assert found.ids.tolist() == [0, 0, 1, 1]


def test_ends_are_those_of_the_data_the_models_and_the_tokenizer():
    assert find_ends(counting("train", 10, 0)) == (END,)
    chats = load([{"prompt": "a", "response": "b"}] * 3, make_tokenizer(None))
    assert find_ends(chats.train, tiny("Llama", eos_token_id=[7, 9])) == (2, 7, 9)
    assert find_ends(None, tokenizer=make_tokenizer()) == (2,)
    without = load([{"prompt": "a", "response": "b"}, {"prompt": "a", "response": "c"}], eos=False)
    with pytest.raises(ModelError, match="No token ends an answer"):
        find_ends(without.train)


def test_texts_come_without_special_tokens():
    tokenizer = make_tokenizer()
    ids = tokenizer("b", add_special_tokens=False)["input_ids"]
    assert Answers.cut([[*ids, 2]], [2]).texts(tokenizer) == ["b"]


# what lies elsewhere
class FakeVLLM:
    """vLLM's interface as far as it is used."""

    @staticmethod
    def SamplingParams(**options):
        return SimpleNamespace(**options)

    class LLM:
        def __init__(self, model, **options):
            self.model = model

        def generate(self, prompts, params, use_tqdm):
            made = []
            for prompt, wanted in zip(prompts, params, strict=True):
                ids = prompt["prompt_token_ids"]
                token = SimpleNamespace(token_ids=[*ids, 2], finish_reason="stop", stop_reason=None)
                if len(ids) == 1:
                    token = SimpleNamespace(token_ids=[9] * wanted.max_tokens, finish_reason="length", stop_reason=None)
                if len(ids) == 2:  # an engine that leaves the token out that it stopped at
                    token = SimpleNamespace(token_ids=ids, finish_reason="stop", stop_reason=7)
                made.append(SimpleNamespace(outputs=[token], asked=wanted))
            self.asked = params
            return made


def test_vllm_gets_prompts_as_tokens_and_a_seed_each(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", FakeVLLM)
    sampler = sampler_of("vllm:folder", TASK, [2, 7])
    assert isinstance(sampler, VLLMSampler)
    found = sampler.generate(ask([[3, 4, 5], [3], [3, 4]]), Sampling(max_new_tokens=3), rng())
    assert [row.tolist() for row in found.tokens] == [[3, 4, 5, 2], [9, 9, 9], [3, 4, 7]]
    assert found.finished.tolist() == [True, False, True]
    asked = sampler.engine.asked
    assert len({each.seed for each in asked}) == 3
    assert {(each.top_k, each.top_p, each.temperature) for each in asked} == {(-1, 1.0, 1.0)}
    sampler.generate(ask([[3]]), Sampling(greedy=True))
    assert sampler.engine.asked[0].temperature == 0
    assert sampler.engine.asked[0].seed is None


def test_vllm_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(LimbeckError, match=r"limbeck\[vllm\]"):
        sampler_of("vllm:folder", TASK, [2])


def test_a_black_box_is_asked_in_texts():
    tokenizer = make_tokenizer()
    asked = []

    def box(texts):
        asked.extend(texts)
        return ["bc", None, "d e f"]

    rows = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("a", "b", "c")]
    found = TextSampler(box, tokenizer).generate(ask(rows), Sampling(max_new_tokens=3))
    assert asked == ["a", "b", "c"]
    written = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("bc", "d e")]
    assert [row.tolist() for row in found.tokens] == [[*written[0], 2], [2], written[1]]
    assert found.empty.tolist() == [False, True, False]
    assert found.finished.tolist() == [True, True, False]
    with pytest.raises(DataError, match="1 answers to 3 prompts"):
        TextSampler(lambda texts: ["one"], tokenizer).generate(ask(rows), Sampling())
