"""What models write between stages: kept, and the same however it is batched; what DASD and Skip-Thinking make of it."""

import json

import pytest
import torch

from limbeck.data.answers_kept import AnswerFilter
from limbeck.data.generate import Answers, Sampling
from limbeck.errors import ArgumentError, DataError, RunError
from limbeck.recipes import find
from limbeck.recipes.toy import toy_job
from limbeck.recipes.toy_language import END
from limbeck.training import answer_writer
from limbeck.training.answer_writer import AnswerWriter
from limbeck.training.chunk_source import ChunkedRows, ChunkSource
from limbeck.training.chunk_stages import SkipThinking
from limbeck.training.folder import RunFolder
from limbeck.training.sequence_choice import completed, first_highest, teacher_shares
from limbeck.training.sequence_stages import Dasd
from limbeck.training.shelf import Shelf

EIGHT = Sampling(8)


def job(**options):
    made = toy_job(find("dasd"))
    for name, value in options.items():
        setattr(made, name, value)
    return made


def same(one, other):
    assert torch.equal(one.finished, other.finished)
    assert [row.tolist() for row in one.tokens] == [row.tolist() for row in other.tokens]


def always(student, token):
    """Make a student that writes one token."""
    with torch.no_grad():
        student.base_model.mix.weight.zero_()
        state = student.base_model(torch.zeros(1, 1).long()).last_hidden_state[0, 0]
        student.lm_head.weight.zero_()
        student.lm_head.weight[token] = 100 * state


def shelf(path):
    folder = RunFolder(path)
    folder.open({}, {"fingerprint": ""})
    return Shelf(folder)


# writing
def test_answers_do_not_depend_on_batches(monkeypatch):
    places = torch.arange(20)
    found = AnswerWriter(job()).answers("low", job().teacher, places, EIGHT)
    monkeypatch.setattr(answer_writer, "BATCH", 7)
    same(AnswerWriter(job()).answers("low", job().teacher, places, EIGHT), found)
    other = AnswerWriter(job()).answers("high", job().teacher, places, EIGHT)
    assert [row.tolist() for row in other.tokens] != [row.tolist() for row in found.tokens]


def test_what_was_written_is_read_and_what_was_cut_short_written_again(tmp_path, monkeypatch):
    monkeypatch.setattr(answer_writer, "BATCH", 4)
    made, places = job(shelf=shelf(tmp_path / "run")), torch.arange(10)
    writer = AnswerWriter(made)
    found = writer.answers("low", made.teacher, places, EIGHT)
    file = tmp_path / "run" / "generated" / "low.jsonl"
    whole = file.read_text()
    line = json.loads(whole.splitlines()[3])
    assert line["document"] == 3
    assert line["tokens"] == found.tokens[3].tolist()
    assert line["sampling"]["max_new_tokens"] == 8
    assert line["prompt"] == " ".join(map(str, writer.rows.document(3)[:2].tolist()))
    asked = []
    monkeypatch.setattr(
        answer_writer, "prompts", lambda rows, some: asked.append(some.tolist()) or original(rows, some)
    )
    same(writer.answers("low", made.teacher, places, EIGHT), found)
    assert asked == []
    file.write_text(whole[: whole.index('"document": 6')])
    same(writer.answers("low", made.teacher, places, EIGHT), found)
    assert asked == [[6, 7, 8, 9]]
    assert file.read_text() == whole
    with pytest.raises(RunError, match=r"generated/low\.jsonl .* other answers"):
        writer.answers("low", made.teacher, places, Sampling(9))


original = answer_writer.prompts


def test_a_folder_is_not_touched_before_something_is_written(tmp_path):
    made = shelf(tmp_path / "run")
    assert made.read("low") == []
    assert not (tmp_path / "run").exists()


def test_a_dry_run_takes_the_datas_own_answers():
    writer = AnswerWriter(job(rehearsal=True))
    answers = writer.answers("low", None, torch.tensor([3, 1]), EIGHT)
    part = writer.part("own", torch.tensor([3, 1]), answers)
    rows = writer.rows
    assert [part.document(n).tolist() for n in (0, 1)] == [rows.document(n).tolist() for n in (3, 1)]
    assert torch.equal(part.batch([0]).labels, rows.batch([3]).labels)


def test_nothing_worth_learning_is_an_error_with_reasons():
    writer, places = AnswerWriter(job()), torch.arange(2)
    answers = Answers([torch.tensor([END]), torch.tensor([3, 4])], torch.tensor([True, False]))
    with pytest.raises(DataError, match=r"None of the 2 answers .*1 empty, 1 unfinished"):
        writer.kept("low", places, answers, AnswerFilter())
    assert writer.counts["low_empty"] == 1


# DASD
def test_the_first_highest_of_each_group():
    values, group = torch.tensor([0.1, 0.5, 0.5, 0.2, 0.9, 0.3]), torch.tensor([0, 0, 0, 2, 1, 1])
    assert first_highest(values, group).tolist() == [1, 4, 3]
    assert first_highest(torch.zeros(0), torch.zeros(0)).tolist() == []


def test_the_share_of_teacher_sentences_by_hand():
    made = job()
    writer, places = AnswerWriter(made), torch.arange(6)
    answers = writer.answers("high", writer.teacher, places, EIGHT)
    shares = teacher_shares(writer, places, answers, made.student, ends=".", threshold=0.0)
    for place in range(6):
        batch = writer.part("one", places[place : place + 1], answers.select([place])).batch([0])
        means = []
        for model in (made.teacher.module, made.student):
            values = model(**batch.inputs).logits[0].log_softmax(-1)
            means.append(values[range(len(values)), batch.labels[0].clamp(min=0)][batch.labels[0] >= 0].mean())
        assert shares[place] == float(means[0] > means[1])  # without a tokenizer an answer is one sentence
    assert writer.counts["sentences_teacher"] == shares.sum()


def test_what_the_student_does_not_end_is_ended_by_the_teacher_and_learnt_whole():
    made = job()
    writer, places, lengths = AnswerWriter(made), torch.arange(30), torch.full((30,), 4)
    found = completed(writer, made.student, places, lengths, cap=1.5, sampling=Sampling(200), keep=AnswerFilter())
    assert 0 < len(found) <= writer.counts["student_cut_off"] <= 30
    own = {}
    for number in range(8):
        some = torch.arange(30).split(4)[number]
        for place, row in zip(
            some.tolist(), writer.answers(f"student-{number}", made.student, some, Sampling(6)).tokens
        ):
            own[place] = row
    ids = writer.rows.samples.tolist()
    for document, sample in found:
        head, whole = own[ids.index(sample)], document.tokens[2:].tolist()
        same_until = next((n for n, (a, b) in enumerate(zip(head.tolist(), whole)) if a != b), len(head))
        assert same_until >= 3  # half of 6 tokens at least are the student's own
        assert document.predict.tolist() == [False, False, *[True] * len(whole)]
        assert whole[-1] == END


def test_a_student_that_always_ends_leaves_nothing_to_complete():
    made = job()
    always(made.student, END)
    writer = AnswerWriter(made)
    found = completed(
        writer, made.student, torch.arange(5), torch.full((5,), 4), cap=1.5, sampling=EIGHT, keep=AnswerFilter()
    )
    assert found == []
    assert writer.counts["student_cut_off"] == 0


def test_dasd_takes_prompts_once_and_counts_what_it_left_out():
    made = job()
    plan = Dasd(made, AnswerFilter(), 200, ".", 0.1)
    first, rest = plan.split(0.25)
    assert sorted([*first.tolist(), *rest.tolist()]) == list(range(40))
    part = plan.unlike(rest, 1.0, 3)
    assert len(part) == len(part.samples.unique()) <= 30
    assert plan.writer.counts["high_answers"] == 90
    with pytest.raises(ArgumentError, match="candidates=0"):
        plan.unlike(rest, 1.0, 0)
    with pytest.raises(ArgumentError, match="low_share=2"):
        plan.split(2)


# Skip-Thinking
def chunked(count=3):
    writer = AnswerWriter(job())
    rows = writer.part("own", torch.arange(40), writer.given(torch.arange(40)))
    return ChunkedRows.of(rows, [[1, 3, 5]] * 39 + [[2, 5]]), count


def test_one_chunk_counts_in_each_step_and_every_one_in_turn():
    rows, count = chunked()
    made = ChunkSource(rows, 40, count=count, shuffle=False)
    sizes = {0: 39 * 1 + 2, 1: 39 * 2 + 2, 2: 39 * 2 + 3}  # the row of two chunks gives its first one twice
    for turn in range(4):
        steps = range(3 * turn, 3 * turn + 3)
        assert sorted(made.chunk(number) for number in steps) == [0, 1, 2]
        for number in steps:
            (batch,) = made.micro_batches(number)
            assert int((batch.labels >= 0).sum()) == sizes[made.chunk(number)]
            assert torch.equal(batch.labels >= 0, batch.extra["mask"])
            ends = (batch.labels == END).any(1)
            assert bool(ends.all()) == (made.chunk(number) == 2)
            assert bool(ends.any()) == (made.chunk(number) == 2)


def test_chunks_that_do_not_cover_an_answer_are_refused():
    writer = AnswerWriter(job())
    rows = writer.part("own", torch.arange(2), writer.given(torch.arange(2)))
    with pytest.raises(DataError, match="Row 1 has 5 predicted tokens"):
        ChunkedRows.of(rows, [[2, 5], [2, 4]])


@pytest.mark.parametrize("right", [True, False])
def test_chunks_are_left_out_where_the_answer_is_right_without_them(right):
    seen = []

    def check(prompt, answer, reference):
        seen.append((prompt, answer, reference))
        return float(right)

    plan = SkipThinking(job(), 3, ".", check)
    rows = plan.chunked(search=False)
    assert plan.cuts == [[2, 3, 5]] * 40
    stage = plan.shortened(rows, 1.0)
    part = stage.source.part
    for place in range(40):
        given, learnt = plan.writer.rows.document(place), part.document(place)
        spared = torch.cat([given[:4], given[5:]])  # prompt and first chunk, last chunk
        assert learnt.tolist() in ([spared.tolist()] if right and len(learnt) < len(given) else [given.tolist()])
    assert plan.writer.counts["shortened_rationales"] == (len(seen) if right else 0)
    for prompt, answer, reference in seen:
        row = next(n for n in range(40) if plan.writer.texts(torch.tensor([n]), plan.given.select([n]))[0][0] == prompt)
        assert reference == " ".join(map(str, plan.given.tokens[row][:-1].tolist()))
        assert answer.split()[:2] == reference.split()[:2]


def test_an_answer_that_is_longer_than_the_last_chunk_spares_nothing():
    made = job()
    always(made.student, 2)
    plan = SkipThinking(made, 3, ".", lambda *_: 1.0)
    plan.shortened(plan.chunked(search=False), 1.0)
    assert plan.writer.counts["shortened_rationales"] == 0
    assert plan.writer.counts["rationale_tokens"] == plan.writer.counts["shortened_tokens"] == 200


def test_searched_chunks_lower_the_students_loss():
    made = job()
    even, found = SkipThinking(made, 3, "."), SkipThinking(made, 3, ".")
    even.chunked(search=False)
    rows = found.chunked(search=True)
    losses = found.writer.log_probabilities(made.student, rows)
    from limbeck.data.chunks import chunk_losses

    for row, (one, other) in enumerate(zip(found.cuts, even.cuts)):
        assert sum(chunk_losses(-losses[row], one)) <= sum(chunk_losses(-losses[row], other)) + 1e-6
    assert found.cuts != even.cuts
