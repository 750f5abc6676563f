"""Token rows: splits and ids, statistics, hashes, batches, packing, prompts, and models on them."""

from __future__ import annotations

import pytest
import torch

from language_toys import CHATML, make_tokenizer, shown, tiny, words
from limbeck.data.base import SubsetPart, TensorPart
from limbeck.data.identity import fingerprint_part
from limbeck.data.language import load_language_data
from limbeck.data.language_pack import check_packed, check_packing, pack
from limbeck.data.language_parts import prompts
from limbeck.errors import ArgumentError, DataError, ModelError
from limbeck.signals.store import store_signals
from limbeck.tasks.causal_lm import CausalLM
from limbeck.teachers.base import as_teacher
from limbeck.teachers.stored import StoredTeacher
from limbeck.training.job import Job
from limbeck.training.settings import Settings
from limbeck.training.sources import PartSource
from limbeck.training.token_sources import LengthSource
from toys import kl, losses, train, weights

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TEXTS = [" ".join(LETTERS[n : n + 1 + n % 5]) for n in range(20)]


def load(spec=TEXTS, tokenizer=None, **options):
    return load_language_data(spec, tokenizer or make_tokenizer(), **{"valid": 0, "length": 24, **options})


# splits, ids, statistics, hashes
def test_the_parts_that_are_missing_are_cut_from_training():
    data = load(valid=0.25, test=2, pack=False, seed=3)
    texts = {name: [shown(part, n)[0] for n in range(len(part))] for name, part in data.parts.items()}
    assert {name: len(found) for name, found in texts.items()} == {"train": 13, "valid": 5, "test": 2}
    assert sorted(text for found in texts.values() for text in found) == sorted(
        shown(load(pack=False).train, n)[0] for n in range(20)
    )
    assert data.about["split"] == {
        "seed": 3,
        "made": {"test": 2, "valid": 5},
        "sizes": {"train": 13, "valid": 5, "test": 2},
    }
    again, other = (load(valid=0.25, test=2, pack=False, seed=seed) for seed in (3, 4))
    assert data.fingerprint() == again.fingerprint() != other.fingerprint()
    with pytest.raises(DataError, match="too few to cut 10"):
        load(valid=10, test=15)


def test_ids_are_those_of_the_samples_and_stay_when_others_are_left_out():
    records = [{"prompt": "a", "response": response} for response in ("b", "", "c")]
    assert load(records, pack=False).train.ids.tolist() == [0, 2]
    data = load(["a", "b c d e", "f"], pack=False, length=5)
    assert data.train.ids.tolist() == [0, 1 << 20, (1 << 20) + 1, 2 << 20]
    assert data.train.samples.tolist() == [0, 1, 1, 2]
    data = load(valid=0.3)
    assert sorted([*data.train.ids.tolist(), *data.parts["valid"].ids.tolist()]) == list(
        range(len(data.train) + len(data.parts["valid"]))
    )


def test_statistics_and_warnings_are_counted():
    texts = ["a", "b", "c d", "e f g h", " "]  # 2, 2, 4, 8 tokens with the end
    about = load({"train": texts, "valid": ["a", "z"]}, pack=False, length=6).about
    assert about["statistics"]["train"] == {
        "samples": 4, "rows": 5, "documents": 5, "tokens": 17, "predicted": 12,
        "length": {"p50": 3, "p95": 7, "max": 8}, "cut": 0.0, "padding": pytest.approx(1 - 17 / 30),
    }  # fmt: skip
    assert about["warnings"] == [
        "1 of 5 samples of 'train' were left out: the text is empty (1).",
        "1 of 2 samples of 'valid' stand in training too.",
    ]
    assert load(texts, length=8).about["statistics"]["train"]["padding"] == 0.0


# batches
def test_rows_are_padded_to_the_longest_of_the_batch_or_of_the_part():
    data = load(["a", "b c", "d e f"], pack=False)
    batch = data.train.batch([1, 0])
    assert batch.inputs["input_ids"].shape == batch.labels.shape == batch.extra["mask"].shape == (2, 4)
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch.labels[1].tolist() == [2, -100, -100, -100]
    assert "position_ids" not in batch.inputs
    even = load(["a", "b c", "d e f"], pack=False, even=True).train.batch([0])
    assert even.inputs["input_ids"].shape == even.labels.shape == (1, 6)


def test_padding_with_the_end_token_is_not_predicted():
    part = load(["a", "b c"], make_tokenizer(pad_token=None), pack=False).train
    batch = part.batch([0, 1])
    assert words(batch.inputs["input_ids"][0]) == ["a", "</s>", "</s>", "</s>"]
    assert batch.labels[0].tolist() == [2, -100, -100, -100]
    assert batch.inputs["attention_mask"][0].tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("packed", [True, False])
def test_a_part_of_the_part_and_other_labels(packed):
    part = load(pack=packed).train
    whole = part.batch(range(len(part)))
    assert torch.equal(part.labels, whole.labels)
    assert part.is_labelled().all()
    few = SubsetPart(part, torch.tensor([2, 0])).batch([0, 1])
    assert torch.equal(few.labels, whole.labels[[2, 0]])
    assert all(torch.equal(few.inputs[key], whole.inputs[key][[2, 0]]) for key in whole.inputs)
    assert torch.equal(few.extra["mask"], whole.extra["mask"][[2, 0]])
    hidden = part.with_labels(part.labels.index_fill(0, torch.tensor([1]), -100))
    assert (hidden.batch([1]).labels == -100).all() and hidden.batch([1]).extra["mask"].any()
    assert hidden.is_labelled().tolist() == [number != 1 for number in range(len(part))]
    assert part.with_labels(None).batch([0]).labels is None
    assert fingerprint_part(part) == fingerprint_part(load(pack=packed).train)


def test_like_lengths_come_together():
    part = load(["a"] * 30 + ["b c d"] * 30, pack=False).train
    sources = [kind(part, 10, seed=1) for kind in (PartSource, LengthSource)]
    padded = [
        sum(int((batch.inputs["attention_mask"] == 0).sum()) for n in range(6) for batch in source.micro_batches(n))
        for source in sources
    ]
    assert padded[0] > 0 and padded[1] == 0
    source = sources[1]
    seen = torch.cat([source.positions(number) for number in range(6)])
    assert seen.sort().values.tolist() == list(range(60))
    later = torch.cat([source.positions(number) for number in range(6, 12)])
    assert seen.tolist() != later.tolist()
    assert torch.equal(torch.cat([source.positions(number) for number in range(6)]), seen)
    ragged = LengthSource(part, 25, seed=1)
    assert [len(ragged.positions(number)) for number in range(3)] == [25, 25, 10]
    with pytest.raises(ArgumentError, match="no rows of different lengths"):
        LengthSource(TensorPart("train", torch.zeros(3, 1)), 2)


# packing
def test_rows_are_packed_tightly_in_order():
    assert pack([5, 3, 2, 7, 3], 10) == [[0, 2, 4], [1, 3]]
    assert pack([10, 10], 10) == [[0], [1]]
    assert pack([], 10) == []
    sizes = [1 + n * 7919 % 40 for n in range(500)]
    packed = pack(sizes, 64)
    assert sorted(number for row in packed for number in row) == list(range(500))
    fills = [sum(sizes[number] for number in row) for row in packed]
    assert max(fills) <= 64
    assert len(packed) <= -(-sum(sizes) // 64) + 1


def test_documents_of_a_row_are_apart():
    part = load(["a b", "c d e", "f"], length=12).train
    batch = part.batch([0])
    assert len(part) == 1
    assert words(batch.inputs["input_ids"][0]) == ["a", " ", "b", "</s>", "c", " ", "d", " ", "e", "</s>", "f", "</s>"]
    assert batch.inputs["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 0, 1]]
    assert "attention_mask" not in batch.inputs
    ends = [3, 9, 11]
    assert (batch.labels[0] == -100).nonzero()[:, 0].tolist() == ends
    assert torch.equal(batch.labels[0, :3], batch.inputs["input_ids"][0, 1:4])
    padded = load(["a b c", "d", "e f g h"], length=8).train.batch([0, 1])
    assert padded.inputs["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 0, 1], [0, 1, 2, 3, 4, 5, 6, 7]]
    assert padded.labels[0].tolist()[5:] == [-100, 2, -100]


@pytest.mark.parametrize("family", ["GPT2", "Llama"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_that_keep_documents_apart_pass_the_probe(family, dtype):
    model = tiny(family).to(dtype).train()
    state = torch.get_rng_state()
    assert check_packing(model) < 0.05
    assert model.training and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("family", ["OPT", "Bloom"])
@pytest.mark.parametrize(("scale", "dtype"), [(0.3, torch.float32), (0.02, torch.float32), (0.02, torch.bfloat16)])
def test_models_that_do_not_are_refused(family, scale, dtype):
    with pytest.raises(ModelError, match=rf"{family}ForCausalLM does not keep packed documents apart.*pack=False"):
        check_packing(tiny(family, initializer_range=scale).to(dtype))


def test_a_model_without_positions_is_refused():
    class Plain(torch.nn.Linear):
        def forward(self, input_ids):
            return super().forward(input_ids.float())

    with pytest.raises(ModelError, match=r"Plain takes no position_ids .*pack=False"):
        check_packing(Plain(1, 1))


@pytest.mark.parametrize("family", ["GPT2", "Llama"])
def test_packed_rows_score_as_separate_ones(family):
    model, task = tiny(family), CausalLM()
    packed, apart = load(), load(pack=False)
    assert len(packed.train) < len(apart.train) / 2
    found = [task.forward(model, data.train.batch(range(len(data.train))).inputs) for data in (packed, apart)]
    losses = []
    for data, output in zip((packed, apart), found):
        batch = data.train.batch(range(len(data.train)))
        logits = task.signals(output)["logits"].whole()
        losses.append(torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch.labels, reduction="sum"))
        assert int(batch.extra["mask"].sum()) == data.about["statistics"]["train"]["predicted"]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)


def test_a_refusal_names_the_role_and_only_packed_parts_are_probed():
    models = {"student": tiny("GPT2"), "teacher": tiny("OPT")}
    with pytest.raises(ModelError, match="The teacher: OPTForCausalLM does not keep"):
        check_packed(load(valid=0.2).parts.values(), models)
    check_packed(load(pack=False).parts.values(), models)
    check_packed(load().parts.values(), {"student": tiny("Llama")})


def test_training_on_packed_rows_equals_training_on_separate_ones():
    found = []
    for options, settings in (
        ({}, {}),
        ({"pack": False}, {}),
        ({}, {"accumulate": 2}),
        ({"pack": False, "even": True}, {}),
    ):
        data = load(**options)
        settings = {"steps": 3, "batch_size": "all", "best": "last", "warmup": 0.0, "learning_rate": 1e-2, **settings}
        student, teacher = (
            tiny("GPT2", initializer_range=0.02, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0),
            tiny("Llama"),
        )
        made = Job(CausalLM(), data, student.double(), as_teacher(teacher.double()), Settings(**settings))
        runner = train(made.stage(kl() + made.task.supervised()))
        found.append((losses(runner), weights(student)))
    for ours, after in found[1:]:
        assert ours == pytest.approx(found[0][0], rel=1e-9)
        torch.testing.assert_close(after, found[0][1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"pack": False, "even": True}], ids=["packed", "even"])
def test_a_stored_teacher_gives_what_the_live_one_gives(options, tmp_path):
    data, task, teacher = load(TEXTS[:7], **options), CausalLM(), tiny("Llama")
    store_signals(
        as_teacher(teacher), data, tmp_path / "store", task=task, parts=["train"], dtype="float32", batch_size=2
    )
    stored = StoredTeacher(tmp_path / "store")
    stored.check(data)
    batch = data.train.batch(torch.arange(len(data.train)).flip(0))
    mine = stored.read(batch, ["logits"], task)["logits"]
    live = task.signals(task.forward(teacher, batch.inputs))["logits"].whole()
    torch.testing.assert_close(mine[batch.extra["mask"]], live[batch.extra["mask"]], rtol=1e-5, atol=1e-5)


# prompts
PAIRS = [{"prompt": prompt, "response": response} for prompt, response in (("a b c", "d"), ("e", "f g"), ("h i", "j"))]


@pytest.mark.parametrize("packed", [True, False])
def test_prompts_are_padded_on_the_left(packed):
    batch = prompts(load(PAIRS, pack=packed).train, [1, 0])
    assert [words(row) for row in batch.inputs["input_ids"]] == [
        ["<pad>", "<pad>", "<pad>", "<pad>", "e", "\n"], ["a", " ", "b", " ", "c", "\n"],
    ]  # fmt: skip
    assert batch.inputs["attention_mask"].tolist() == [[0, 0, 0, 0, 1, 1], [1] * 6]
    assert batch.inputs["position_ids"].tolist() == [[0, 0, 0, 0, 0, 1], [0, 1, 2, 3, 4, 5]]
    assert batch.extra["prompt"].tolist() == [2, 6]
    assert batch.ids.tolist() == [1, 0]


def test_prompts_of_chats_texts_and_pairs():
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    batch = prompts(load([chat * 2], make_tokenizer(CHATML), length=64).train, [0])
    tokenizer = make_tokenizer(CHATML)
    asked = tokenizer.apply_chat_template(chat + chat[:1], add_generation_prompt=True, return_dict=False)
    assert batch.inputs["input_ids"][0].tolist() == asked
    pairs = load([{"prompt": "a", "chosen": "b", "rejected": "c"}]).train
    assert [words(row) for row in prompts(pairs, [0, 1]).inputs["input_ids"]] == [["a", "\n"]] * 2
    texts = load(pack=False).train
    with pytest.raises(DataError, match=r"2 of 2 documents of 'train' have no prompt.*start="):
        prompts(texts, [0, 1])
    assert prompts(texts, [0, 4], start=3).extra["prompt"].tolist() == [2, 3]
    with pytest.raises(ArgumentError, match="is a TensorPart"):
        prompts(TensorPart("train", torch.zeros(2, 2)), [0])


@pytest.mark.parametrize("family", ["GPT2", "Llama"])
def test_a_batch_of_prompts_is_continued_as_each_alone(family):
    model, part = tiny(family), load(PAIRS).train
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    batch = prompts(part, [0, 1, 2])
    together = model.generate(**batch.inputs, **options)[:, batch.inputs["input_ids"].shape[1] :]
    for number in range(3):
        one = prompts(part, [number])
        alone = model.generate(input_ids=one.inputs["input_ids"], **options)[0, int(one.extra["prompt"][0]) :]
        assert together[number].tolist() == alone.tolist()
