"""The task of causal language models: heads, views, labels, scores, and a training through the unchanged engine."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from limbeck.data.base import Data, SubsetPart, TextPart
from limbeck.errors import DataError, ModelError
from limbeck.evaluation.calibration import ece
from limbeck.signals.blocks import Post
from limbeck.signals.lazy import Lazy
from limbeck.tasks import resolve
from limbeck.tasks.causal_lm import CausalLM, token_part, token_scores
from limbeck.tasks.head import check_head, head_of
from limbeck.teachers.base import as_teacher
from limbeck.training.job import Job
from limbeck.training.settings import Settings
from toys import kl, losses, train, weights

transformers = pytest.importorskip("transformers")
VOCABULARY = 61
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def gpt2(vocabulary: int = VOCABULARY, seed: int = 0, width: int = 16) -> nn.Module:
    torch.manual_seed(seed)
    config = transformers.GPT2Config(vocab_size=vocabulary, n_embd=width, n_layer=2, n_head=2, n_positions=64, **SPECIAL,
                                     resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)  # fmt: skip
    return transformers.GPT2LMHeadModel(config).eval()


def llama_like(
    name: str = "Llama", seed: int = 0, width: int = 16, vocabulary: int = VOCABULARY, **options
) -> nn.Module:
    torch.manual_seed(seed)
    config = getattr(transformers, f"{name}Config")(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=width // 4, **SPECIAL, **options,
    )  # fmt: skip
    return getattr(transformers, f"{name}ForCausalLM")(config).eval()


def ids(rows: int = 3, tokens: int = 7, seed: int = 0) -> Tensor:
    return torch.randint(3, VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(seed))


# the head
@pytest.mark.parametrize(
    ("make", "post"),
    [
        (gpt2, Post()),
        (llama_like, Post()),
        (lambda: llama_like("Gemma2", final_logit_softcapping=5.0), Post(softcap=5.0)),
        (lambda: llama_like("Granite", logits_scaling=8.0), Post(scale=1 / 8)),
        (lambda: llama_like("Cohere", logit_scale=0.25), Post(scale=0.25)),
    ],
    ids=["gpt2", "llama", "gemma2", "granite", "cohere"],
)
def test_lazy_logits_are_the_models_own(make, post):
    model, task = make(), CausalLM()
    inputs = task.forward(model, ids())
    assert isinstance(inputs, Lazy)
    assert check_head(model) == post
    own = model(ids()).logits
    logits = task.signals(inputs)["logits"]
    assert logits.shape == own.shape
    torch.testing.assert_close(logits.whole(), own, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_probe_passes_in_other_precisions(dtype):
    assert check_head(llama_like("Gemma2").to(dtype)) == Post(softcap=30.0)


def test_a_missing_cap_is_found_though_logits_are_small():
    model = llama_like("Gemma2")
    assert model(ids()).logits.abs().max() < 1  # 30 * tanh(x / 30) is x to within 4e-4 here
    model.config.final_logit_softcapping = None
    model.config.get_text_config().final_logit_softcapping = None
    assert check_head(model) == Post()
    capped = llama_like("Gemma2")
    forward = capped.forward

    def without_telling(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits = 7 * torch.tanh(output.logits / 7)
        return output

    capped.forward = without_telling
    with pytest.raises(ModelError, match=r"largest difference is \d"):
        check_head(capped)
    with pytest.raises(ModelError, match="lazy=False"):
        CausalLM().forward(capped, ids())
    assert CausalLM(lazy=False).forward(capped, ids()).logits.shape == (3, 7, VOCABULARY)


def test_something_before_the_output_layer_is_found():
    model = gpt2()
    model.lm_head.register_forward_pre_hook(lambda module, args: (args[0].tanh(),))
    with pytest.raises(ModelError, match="does not receive the hidden states"):
        check_head(model)


def test_an_adapter_on_the_head_is_refused():
    model = gpt2()
    model.lm_head.lora = nn.Linear(16, 2)
    with pytest.raises(ModelError, match=r"lora\.weight"):
        head_of(model)


def test_the_probe_changes_nothing():
    model = gpt2().train()
    model.transformer.h[0].eval()
    before, state = weights(model), torch.get_rng_state()
    check_head(model)
    assert torch.equal(weights(model), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert (model.training, model.transformer.h[0].training, model.transformer.h[1].training) == (True, False, True)
    assert not model.lm_head._forward_pre_hooks


def test_a_model_without_a_head_to_find_gives_whole_logits():
    model = nn.Sequential(nn.Embedding(VOCABULARY, 4), nn.Linear(4, VOCABULARY))
    task = CausalLM(vocabulary=50)

    class Named(nn.Module):
        def forward(self, input_ids: Tensor) -> Tensor:
            return model(input_ids)

    logits = task.signals(task.forward(Named(), ids()))["logits"]
    assert logits.shape == (3, 7, 50)
    with pytest.raises(ModelError, match="Expected logits"):
        task.signals(torch.zeros(3, 7))


def test_the_padded_vocabulary_is_left_out():
    task, model = CausalLM(vocabulary=50), gpt2()
    assert task.signals(task.forward(model, ids()))["logits"].shape == (3, 7, 50)
    whole = CausalLM(vocabulary=50, lazy=False)
    assert whole.signals(whole.forward(model, ids()))["logits"].shape == (3, 7, 50)


# views
class Words:
    """A tokenizer of numbers written as words, padded on the side that is asked for."""

    pad_token_id, model_max_length = 0, 10**30

    def __init__(self, side: str):
        self.padding_side = side

    def __call__(self, texts: list[str], **_) -> dict[str, list[list[int]]]:
        return {"input_ids": [[int(word) for word in text.split()] for text in texts]}


@pytest.mark.parametrize("make", [gpt2, llama_like], ids=["gpt2", "llama"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_texts_have_the_logits_of_unpadded_ones(make, side):
    model, task = make(), CausalLM()
    model.tokenizer = Words(side)
    rows = [[5, 6, 7, 8, 9], [10, 11]]
    part = TextPart("train", [" ".join(map(str, row)) for row in rows])
    logits = task.signals(task.forward(model, task.view(part.batch([0, 1]), model, "student")))["logits"].whole()
    for number, row in enumerate(rows):
        mine = logits[number, -len(row) :] if side == "left" else logits[number, : len(row)]
        torch.testing.assert_close(mine, model(torch.tensor([row])).logits[0], rtol=1e-4, atol=1e-5)


# labels
def test_labels_are_the_next_tokens():
    part = token_part("train", [[3, 4, 5, 6], [7, 8]], padding=9)
    batch = part.batch([1, 0])
    assert batch.inputs["input_ids"].tolist() == [[7, 8, 9, 9], [3, 4, 5, 6]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch.labels.tolist() == [[8, -100, -100, -100], [4, 5, 6, -100]]
    assert batch.extra["mask"].tolist() == [[True, False, False, False], [True, True, True, False]]
    hidden = SubsetPart(part.with_labels(torch.full_like(part.labels, -100)), torch.tensor([1])).batch([0])
    assert hidden.extra["mask"].tolist() == [[True, False, False, False]]  # a teacher may still be followed there


def test_prompts_are_not_predicted_and_rows_are_cut():
    part = token_part("train", [[3, 4, 5, 6, 7]], predict=[[False, False, True, False, True]], length=4)
    assert part.labels.tolist() == [[-100, 5, -100, -100]]
    with pytest.raises(DataError, match="1 of 2 rows have no token to predict"):
        token_part("train", [[3, 4], [5]])
    with pytest.raises(DataError, match="one value for every token"):
        token_part("train", [[3, 4]], predict=[[True]])
    with pytest.raises(DataError, match="0 of 0 rows"):
        token_part("train", [])


# scores
def test_scores_by_hand():
    logits = torch.zeros(2, 2, 4)
    logits[0, 0, 2] = math.log(5)  # p(2) = 5 / 8
    labels = torch.tensor([[2, 3], [-100, -100]])
    mean = (math.log(8 / 5) + math.log(4)) / 2
    found = CausalLM().scores(logits, labels)
    assert found["nll"] == pytest.approx(mean)
    assert found["perplexity"] == pytest.approx(math.exp(mean))
    assert found["token_accuracy"] == 0.5
    with pytest.raises(DataError, match="No token is labelled"):
        CausalLM().scores(logits, torch.full((2, 2), -100))
    with pytest.raises(DataError, match="shape"):
        CausalLM().scores(logits, labels[:1])


def test_measure_equals_the_scores_of_whole_logits():
    model, task = gpt2().train(), CausalLM()
    part = token_part("test", [row.tolist()[: 3 + number % 4] for number, row in enumerate(ids(11))])
    found = task.measure(model, part, batch_size=4)["scores"]
    assert model.training
    model.eval()
    whole = model(**part.gather(torch.arange(11))).logits
    expected = nn.functional.cross_entropy(whole.transpose(1, 2), part.labels, ignore_index=-100)
    assert found["nll"] == pytest.approx(float(expected.detach()), rel=1e-5)
    assert found == pytest.approx(token_scores([(whole, part.labels)]), rel=1e-5)


def test_agreement_with_a_teacher_by_hand():
    model, teacher, task = gpt2().eval(), gpt2(seed=1).eval(), CausalLM()
    part = token_part("test", [row.tolist()[: 3 + number % 4] for number, row in enumerate(ids(11))])
    found = task.measure(model, part, as_teacher(teacher), batch_size=4)
    known = part.labels != -100
    q, p = (
        each(**part.gather(torch.arange(11))).logits[known].detach().double().log_softmax(-1)
        for each in (model, teacher)
    )
    labels = part.labels[known]
    assert found["agreement"]["kl_to_teacher"] == pytest.approx(float((p.exp() * (p - q)).sum(1).mean()), rel=1e-5)
    same, right = q.argmax(1) == p.argmax(1), p.argmax(1) == labels
    assert found["agreement"]["top1_agreement"] == pytest.approx(float(same.double().mean()))
    assert found["agreement"]["top1_agreement_teacher_wrong"] == pytest.approx(float(same[~right].double().mean()))
    assert found["scores"]["ece"] == pytest.approx(ece(q.exp(), labels), abs=1e-6)
    assert sum(row["count"] for row in found["reliability"]) == int(known.sum())
    itself = task.measure(model, part, model)["agreement"]
    assert itself["kl_to_teacher"] == 0
    assert itself["top1_agreement"] == 1


# checks
def test_misfits_are_named():
    good = token_part("train", [[3, 4, 5]])
    task = CausalLM()
    task.check(Data("fine", "text", {"train": good}, target="none"), {"student": gpt2(), "teacher": llama_like()})
    far = Data("far", "text", {"train": token_part("train", [[3, VOCABULARY]])}, target="none")
    with pytest.raises(DataError, match=f"the token {VOCABULARY}, and the student knows {VOCABULARY}"):
        task.check(far, {"student": gpt2()})
    with pytest.raises(DataError, match="holds texts"):
        task.check(Data("raw", "text", {"train": TextPart("train", ["a"])}, target="none"), {})
    broken = gpt2()
    broken.lm_head.register_forward_hook(lambda module, args, output: output + 1)
    with pytest.raises(ModelError, match="The teacher: "):
        task.check(Data("fine", "text", {"train": good}, target="none"), {"teacher": broken})


# through the engine, which knows nothing of tokens
def job(task: CausalLM, **settings) -> Job:
    rows = [row.tolist()[: 4 + number % 4] for number, row in enumerate(ids(24, seed=1) % 7 + 3)]
    parts = {name: token_part(name, rows) for name in ("train", "valid")}
    data = Data("counts", "text", parts, target="none")
    # the teacher's matrix is padded, as pad_to_multiple_of does
    student, teacher = gpt2(), llama_like(seed=1, vocabulary=64)
    task.check(data, {"student": student, "teacher": teacher})
    made = Job(task, data, student, as_teacher(teacher), Settings(**{"steps": 8, "batch_size": 12, "best": "last",
               "warmup": 0.0, "schedule": "constant", "learning_rate": 1e-2, **settings}))  # fmt: skip
    made.evaluation = lambda module: task.measure(module, parts["valid"])["scores"]
    return made


def test_it_is_resolved_by_its_name():
    assert isinstance(resolve("causal_lm"), CausalLM)


def test_lazy_logits_train_as_whole_ones_do_also_in_micro_batches():
    found = []
    for lazy, accumulate in ((False, 1), (True, 1), (True, 3)):
        mine = job(CausalLM(vocabulary=VOCABULARY, lazy=lazy), accumulate=accumulate)
        mine.student.double()
        mine.teacher.module.double()
        runner = train(mine.stage(kl(temperature=2.0)))
        found.append((losses(runner), runner.results[-1].scores["perplexity"], weights(mine.student)))
    for ours, perplexity, after in found[1:]:
        assert ours == pytest.approx(found[0][0], rel=1e-9)
        assert perplexity == pytest.approx(found[0][1], rel=1e-9)
        torch.testing.assert_close(after, found[0][2], rtol=0, atol=1e-6)


def test_supervised_training_learns():
    mine = job(CausalLM(vocabulary=VOCABULARY), steps=20)
    before = mine.task.measure(mine.student, mine.data.parts["valid"])["scores"]["perplexity"]
    runner = train(mine.stage(mine.task.supervised()))
    assert runner.results[-1].scores["perplexity"] < 0.5 * before


def test_the_probe_of_a_head_is_not_what_is_tapped():
    model, task = llama_like(), CausalLM()  # not checked before
    found = task.read(model, ids(), ["model.layers.0.mlp", "logits"])
    assert found["model.layers.0.mlp"].shape == (3, 7, 16)


def test_packed_documents_stay_apart_with_whole_logits_too():
    model = llama_like("Llama", initializer_range=0.5).train()
    row = ids(1, 8)
    packed = {"input_ids": row, "position_ids": torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]])}
    whole = CausalLM(lazy=False).forward(model, packed).logits
    alone = model(row[:, 4:], use_cache=False).logits
    torch.testing.assert_close(whole[:, 4:], alone, rtol=1e-4, atol=1e-5)
