"""Two tokenizers through the task of language models: who sees which tokens, scores of both, what is refused."""

import math
import socket

import pytest
import torch

from limbeck.data.language import load_language_data
from limbeck.data.language_twin_rows import TwinRows
from limbeck.data.tokenizer import train_tokenizer
from limbeck.errors import ModelError, SignalError
from limbeck.students.language import text_decoder
from limbeck.tasks.causal_lm import CausalLM
from limbeck.teachers.base import as_teacher
from tokenizer_toys import BPE, BYTES, TEXTS

TOKENIZERS = {"student": BYTES, "teacher": BPE}


def decoder(tokenizer, seed=0, width=16):
    torch.manual_seed(seed)
    return text_decoder(tokenizer, layers=1, width=width, heads=2, max_length=64).eval()


def loaded(**options):
    student, teacher = decoder(BYTES), decoder(BPE, 1)
    task = CausalLM()
    data = task.load(TEXTS, [student, teacher], valid=0, **options)
    task.check(data, {"student": student, "teacher": teacher})
    return task, data, student, teacher


def test_each_sees_the_texts_in_its_own_tokens():
    task, data, student, teacher = loaded()
    assert isinstance(data.train, TwinRows)
    assert not data.train.packed
    batch = data.train.batch([0, 1])
    for role, module in (("student", student), ("teacher", teacher)):
        ids = task.view(batch, module, role)["input_ids"][0]
        assert TOKENIZERS[role].decode(ids).startswith(TEXTS[0])
    # who a module is, not what it is called at the moment, decides
    assert torch.equal(
        task.view(batch, teacher, "student")["input_ids"], task.view(batch, teacher, "teacher")["input_ids"]
    )
    assert torch.equal(
        task.view(batch, student, "teacher")["input_ids"], task.view(batch, student, "student")["input_ids"]
    )
    logits = [task.forward(module, task.view(batch, module, "")) for module in (student, teacher)]
    assert [each.shape[-1] for each in logits] == [len(BYTES), len(BPE)]


@pytest.mark.parametrize("lazy", [True, False])
def test_padded_matrices_are_cut_to_each_vocabulary(lazy):
    task, data, student, teacher = loaded()
    task.lazy = lazy
    student.resize_token_embeddings(320)
    teacher.resize_token_embeddings(384)
    batch = data.train.batch([0])
    for module, tokenizer in ((student, BYTES), (teacher, BPE)):
        found = task.signals(task.forward(module, task.view(batch, module, "")))["logits"]
        assert found.shape[-1] == len(tokenizer)


def test_bits_per_byte_and_the_gap_of_chunks_by_hand():
    task, data, student, teacher = loaded()
    found = {
        "student": task.measure(student, data.train, as_teacher(teacher)),
        "teacher": task.measure(teacher, data.train),
    }
    batch = data.train.batch(range(len(data.train)))
    sums = {}
    for side, module in (("student", student), ("teacher", teacher)):
        inputs, labels = task.view(batch, module, side), batch.labels
        labels = labels if side == "student" else batch.extra["twin"]["labels"]
        with torch.no_grad():
            scores = module(**inputs).logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
        bits = -scores[labels != -100].sum().item() / math.log(2)
        # all but the first token of each text
        size = sum(len(t.encode()) - len(TOKENIZERS[side].decode(TOKENIZERS[side](t)["input_ids"][:1])) for t in TEXTS)
        assert found[side]["scores"]["bits_per_byte"] == pytest.approx(bits / size, rel=1e-5)
        for row, (chunks, values) in enumerate(zip(batch.extra["chunks"][side].tolist(), scores.tolist())):
            for chunk, value in zip(chunks, values):
                if chunk >= 0 and batch.extra["populations"]["chunk"][row, chunk]:
                    sums.setdefault((row, chunk), {}).setdefault(side, []).append(value)
    gaps = [abs(sum(one["student"]) - sum(one["teacher"])) for one in sums.values()]
    assert found["student"]["agreement"] == {"chunk_gap": pytest.approx(sum(gaps) / len(gaps), rel=1e-5)}
    assert found["teacher"]["agreement"] == {}


def test_one_tokenizer_is_found_to_be_one():
    task = CausalLM()
    chatty = train_tokenizer(TEXTS, 300)
    chatty.chat_template = "{{ messages }}"
    data = task.load(TEXTS, [decoder(BPE), decoder(chatty, 1)], valid=0)
    assert not isinstance(data.train, TwinRows)
    data = task.load(TEXTS, ["decoder:1,16", decoder(BPE)], valid=0)  # a student without one takes the teacher's
    assert not isinstance(data.train, TwinRows)
    data = task.load(TEXTS, ["decoder:1,16", decoder(BPE)], tokenizer="bytes", valid=0)
    assert isinstance(data.train, TwinRows)


def test_tokens_of_the_wrong_tokenizer_are_refused():
    task, data = CausalLM(), load_language_data(TEXTS, BYTES, valid=0, pack=False)
    task.load(data)
    task.check(data, {"student": decoder(BYTES)})
    for role, other in (("teacher", {"student": decoder(BYTES)}), ("student", {})):
        with pytest.raises(ModelError, match=f"The {role} has another tokenizer than the one that the data"):
            task.check(data, {**other, role: decoder(BPE, 1)})
    task, data, _, teacher = loaded()
    batch = data.train.batch([0])
    batch.extra.pop("twin")  # such as one that the student wrote
    with pytest.raises(SignalError, match="holds the student's tokens only"):
        task.view(batch, teacher, "teacher")


def test_data_that_were_loaded_before_say_their_tokenizers():
    student, teacher = decoder(BYTES), decoder(BPE, 1)
    data = load_language_data(TEXTS, BYTES, teacher=BPE, valid=0, pack=False)
    task = CausalLM()
    assert task.load(data, [student, teacher]) is data
    task.check(data, {"student": student, "teacher": teacher})
    assert task.vocabulary == len(BYTES)
    batch = data.train.batch([0])
    assert task.signals(task.forward(teacher, task.view(batch, teacher, "teacher")))["logits"].shape[-1] == len(BPE)


def test_the_teacher_s_rows_are_no_longer_than_it_can_read():
    student, teacher = decoder(BYTES), decoder(BPE, 1)
    teacher.config.max_position_embeddings = 9
    data = CausalLM().load(TEXTS, [student, teacher], valid=0, length=60)
    assert data.train.theirs.width <= 9
    assert data.train.width <= 60


def test_a_student_by_its_name_on_the_hub_reads_its_own_tokens(tmp_path, monkeypatch):
    """As the hub's cache holds it, without a connection; a name that nothing is known of leaves it to the teacher's."""

    def fails(*_args, **_options):
        raise OSError("no such name")

    folder, commit = tmp_path / "models--someone--bytes", 40 * "a"
    BYTES.save_pretrained(folder / "snapshots" / commit)
    (folder / "snapshots" / commit / "config.json").write_text('{"model_type": "llama"}')
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", fails)
    teacher = decoder(BPE, 1)
    data = CausalLM().load(TEXTS, ["someone/bytes", teacher], valid=0)
    assert isinstance(data.train, TwinRows)
    assert data.tokenizer.get_vocab() == BYTES.get_vocab()
    assert not isinstance(CausalLM().load(TEXTS, ["someone/unknown", teacher], valid=0).train, TwinRows)
