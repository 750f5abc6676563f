"""Language data: what is recognised, which tokens are predicted, what is cut or left out, and what is said about it."""

from __future__ import annotations

import pytest
import torch

from language_toys import CHAT, CHATML, MARKED, VOCABULARY, load, make_tokenizer, rows, shown, words
from limbeck.data.language_parts import PairPart
from limbeck.errors import ArgumentError, DataError

PLAIN, MASK = 0, 1


# texts
def test_texts_are_predicted_whole_and_end():
    assert rows(["ab", "c"]) == [("<unk>|</s>", "_|</s>"), ("c|</s>", "_|</s>")]
    assert rows(["a b"], make_tokenizer(bos=True)) == [("<s>|a| |b|</s>", "_|a| |b|</s>")]
    assert rows(["a b</s>"]) == [("a| |b|</s>", "_| |b|</s>")]  # it ends once
    assert rows(["a b"], eos=False) == [("a| |b", "_| |b")]


def test_what_a_tokenizer_puts_behind_texts_does_not_end_prompts():
    import tokenizers

    both = make_tokenizer()
    both.backend_tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    assert rows([{"prompt": "a", "response": "b"}], both) == [("<s>|a|\n|b|</s>", "_|_|_|b|</s>")]
    assert rows(["a"], both) == [("<s>|a|</s>", "_|a|</s>")]


def test_long_texts_are_split_so_that_every_token_is_predicted_once():
    found = rows(["abcdefg".replace("", " ").strip()], length=5)  # 13 tokens and the end
    assert [text for text, _ in found] == ["a| |b| |c", "c| |d| |e", "e| |f| |g", "g|</s>"]
    assert "".join(predicted.replace("|", "").replace("_", "") for _, predicted in found) == " b c d e f g</s>"


def test_text_files(tmp_path):
    (tmp_path / "one.txt").write_text("a\nb\n\n\n \nc\r\n\r\nd\n")
    assert [text for text, _ in rows(tmp_path / "one.txt")] == ["a|\n|b|</s>", "c|</s>", "d|</s>"]
    assert len(rows(tmp_path / "one.txt", documents="line")) == 4
    (tmp_path / "two.txt").write_text("e")
    assert [text.replace("|", "") for text, _ in rows(tmp_path)] == ["a\nb\n\n\n \nc\n\nd</s>", "e</s>"]
    assert len(rows(tmp_path, documents="blank")) == 4
    with pytest.raises(ArgumentError, match=r"documents='lines'.* Did you mean 'line'"):
        rows(tmp_path, documents="lines")


# prompts and responses
def test_only_responses_are_predicted():
    for names in (("prompt", "response"), ("question", "answer"), ("instruction", "output"), ("input", "completion")):
        record = dict(zip(names, ("Q a", "b c")))
        assert rows([record]) == [("Q| |a|\n|b| |c|</s>", "_|_|_|_|b| |c|</s>")]
    record = {"instruction": "a", "input": "b", "output": 1}
    assert rows([record])[0] == ("a|\n|\n|b|\n|1|</s>", "_|_|_|_|_|1|</s>")
    assert rows([{**record, "input": ""}])[0] == ("a|\n|1|</s>", "_|_|1|</s>")
    assert rows([{"prompt": "a: ", "response": "b"}])[0][PLAIN] == "a|:| |b|</s>"  # it ends in white space
    assert rows([{"prompt": "a", "response": "b"}], join=" : ")[0] == ("a| |:| |b|</s>", "_|_|_|_|b|</s>")
    assert rows([{"x": "a", "y": "b", "text": "c"}], prompt="x", response="y")[0][PLAIN] == "a|\n|b|</s>"
    assert load([{"prompt": "a", "response": "b", "text": "c"}]).about["columns"] == {  # the more telling
        "prompt": "prompt",
        "response": "response",
    }


def test_prompts_go_through_the_chat_template_where_there_is_one():
    record = {"question": "a", "answer": "b"}
    expected = ("<start>|user|\n|a|<end>|\n|<start>|assistant|\n|b|<end>|\n", "_|_|_|_|_|_|_|_|_|b|<end>|_")
    for template in (CHATML, MARKED):
        data = load([record], make_tokenizer(template, eos_token="<end>"))
        assert shown(data.train) == expected
        assert (data.about["template"], data.train.prompts.tolist()) == ("chat", [9])
    assert rows([record], make_tokenizer(CHATML), template="plain")[0][PLAIN] == "a|\n|b|</s>"
    with pytest.raises(DataError, match="has no chat template"):
        rows([record], template="chat")
    talk = {"prompt": [{"role": "system", "content": "z"}, *CHAT[:1]], "response": [CHAT[1]]}
    assert rows([talk], make_tokenizer(CHATML))[0][PLAIN].startswith("<start>|system|\n|z|<end>")


# chats
@pytest.mark.parametrize("template", [CHATML, MARKED], ids=["prefixes", "generation tags"])
def test_only_what_the_assistant_says_is_predicted(template):
    data = load([{"messages": CHAT}], make_tokenizer(template, eos_token="<end>"))
    text, predicted = shown(data.train)
    turn = "<start>|user|\n|{}|<end>|\n|<start>|assistant|\n|{}|<end>|\n"
    assert text == turn.format("a", "b| |c") + "|" + turn.format("d", "e")
    assert predicted == "|".join(["_"] * 9 + ["b", " ", "c", "<end>"] + ["_"] * 10 + ["e", "<end>", "_"])
    assert data.train.prompts.tolist() == [23]
    assert data.about["kind"] == "chat"


def test_chats_in_other_clothes():
    expected = rows([CHAT], make_tokenizer(CHATML))
    given = {"human": 0, "gpt": 1}
    spoken = [
        {"from": ["human", "gpt"][number % 2], "value": message["content"]} for number, message in enumerate(CHAT)
    ]
    assert rows([{"conversations": spoken}], make_tokenizer(CHATML)) == expected, given
    assert rows([{"talk": CHAT}], make_tokenizer(CHATML), messages="talk") == expected


def test_the_end_of_an_answer_is_predicted_whatever_the_template_does():
    # the tags leave the stop token out
    outside = MARKED.replace(
        "m['content'] + '<end>' }}{% endgeneration %}", "m['content'] }}{% endgeneration %}{{ '<end>' }}"
    )
    assert outside != MARKED
    expected = rows([CHAT], make_tokenizer(MARKED))
    assert rows([CHAT], make_tokenizer(outside)) == expected
    # the token that ends a turn is not the tokenizer's end-of-text token
    assert rows([CHAT], make_tokenizer(CHATML, eos_token="</s>")) == expected
    # there is no token that ends a turn
    bare = "{% for m in messages %}{{ ('Q:' if m['role'] == 'user' else 'A:') + m['content'] + '\n' }}{% endfor %}"
    bare += "{% if add_generation_prompt %}{{ 'A:' }}{% endif %}"
    assert rows([CHAT[:2]], make_tokenizer(bare)) == [("Q|:|a|\n|A|:|b| |c|\n|</s>", "_|_|_|_|_|_|b| |c|\n|</s>")]


def test_chats_that_cannot_be_masked_are_named():
    with pytest.raises(DataError, match=r"has no chat template.*tokenizer\.chat_template.*text=.*prompt="):
        rows([CHAT])
    unstable = "{{ messages | length }}" + CHATML
    with pytest.raises(DataError, match=r"writes the messages before message 1 otherwise.*generation"):
        rows([CHAT], make_tokenizer(unstable))
    strict = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('user first') }}{% endif %}" + CHATML
    with pytest.raises(DataError, match=r"The sample 1: the chat template refuses it .*user first"):
        rows([CHAT, CHAT[1:]], make_tokenizer(strict))
    with pytest.raises(DataError, match=r"The sample 0: its message 1 is \['speaker', 'text'\]"):
        rows([[CHAT[0], {"speaker": "x", "text": "y"}]], make_tokenizer(CHATML))
    with pytest.raises(DataError, match="The sample 0 has messages of type int"):
        rows([{"messages": 3}], make_tokenizer(CHATML))


def test_chats_without_an_answer_are_left_out():
    data = load([CHAT, CHAT[:1], []], make_tokenizer(CHATML))
    assert data.about["left_out"] == {"train": {"nobody answers in the chat": 2}}
    # what opens a chat has no prompt before it
    found = rows([[CHAT[1], *CHAT[2:]]], make_tokenizer(CHATML))[0]
    assert [word for word in found[MASK].split("|") if word != "_"] == ["e", "<end>"]


# preferences
def test_preferences_are_pairs_of_rows():
    records = [
        {"prompt": "a", "chosen": "b", "rejected": "c d"}, {"prompt": "e", "chosen": "f", "rejected": "f"},
        {"prompt": "g", "chosen": "h", "rejected": "i"},
    ]  # fmt: skip
    data = load(records, pack=True)
    assert isinstance(data.train, PairPart)
    assert data.about["left_out"]["train"] == {"chosen and rejected are the same": 1}
    assert len(data.train) == 2
    assert data.train.ids.tolist() == [0, 2]
    batch = data.train.batch([1, 0])
    assert [words(row[row > 0]) for row in batch.inputs["input_ids"]] == [
        ["g", "\n", "h", "</s>"], ["g", "\n", "i", "</s>"], ["a", "\n", "b", "</s>"], ["a", "\n", "c", " ", "d", "</s>"],
    ]  # fmt: skip
    assert batch.ids.tolist() == [4, 5, 0, 1]
    assert batch.extra["chosen"].tolist() == [True, False, True, False]
    assert batch.extra["pair"].tolist() == [2, 2, 0, 0]
    assert batch.labels[3].tolist() == [-100, *[VOCABULARY.index(word) for word in ("c", " ", "d", "</s>")], -100]
    assert torch.equal(batch.extra["mask"], batch.labels != -100)
    assert data.train.labels.shape == (2, 2, 6)


def test_preferences_as_chats():
    pair = {"prompt": "a", "chosen": CHAT[:2], "rejected": [CHAT[0], CHAT[3]]}
    tokenizer = make_tokenizer(CHATML)
    part = load([pair], tokenizer).train
    expected = [shown(part.rows, number) for number in (0, 1)]
    assert [text.count("user") for text, _ in expected] == [1, 1]
    assert [[word for word in mask.split("|") if word != "_"] for _, mask in expected] == [
        ["b", " ", "c", "<end>"],
        ["e", "<end>"],
    ]
    for other in (
        {"chosen": pair["chosen"], "rejected": pair["rejected"]},
        {**pair, "chosen": "b c", "rejected": "e"},
        {**pair, "prompt": CHAT[:1], "chosen": [CHAT[1]], "rejected": [CHAT[3]]},
    ):
        part = load([other], tokenizer).train
        assert [shown(part.rows, number) for number in (0, 1)] == expected
    with pytest.raises(DataError, match="ends with a message of 'user'"):
        load([{**pair, "rejected": CHAT[:1]}], tokenizer)
    with pytest.raises(DataError, match="say prompt="):
        load([{"chosen": "a", "rejected": "b"}])


# options
def test_options_and_tokenizers_that_do_not_fit_are_named():
    pair = [{"prompt": "a", "response": "b"}]
    for options, message in (
        ({"long": "cut"}, "long='cut'"), ({"length": 1}, "length=1: expected"), ({"length": 2.5}, "length=2.5"),
        ({"long": "split"}, "long='split' is for texts"), ({"template": "chatml"}, "Did you mean 'chat'"),
    ):  # fmt: skip
        with pytest.raises(ArgumentError, match=message):
            load(pair, **options)
    with pytest.raises(ArgumentError, match="tokenizer=3: expected"):
        load(pair, 3)
    with pytest.raises(ArgumentError, match="takes 16 tokens"):
        load(pair, make_tokenizer(model_max_length=16))
    with pytest.raises(DataError, match=r"no end-of-text token.*eos=False"):
        load(pair, make_tokenizer(eos_token=None))
    with pytest.raises(DataError, match="neither a padding nor an end-of-text token"):
        load(pair, make_tokenizer(eos_token=None, pad_token=None), eos=False)
    assert load(pair, make_tokenizer(model_max_length=16), length=None).about["length"] == 16
    assert load(pair, length=None).about["length"] == 1024


# what is cut and what is left out
def test_long_samples_are_cut_where_it_was_said_and_counted():
    pair = {"prompt": "a b c", "response": "d e f"}  # 5 + 1 + 5 + 1 = 12 tokens, 13 with <s>
    tokenizer = make_tokenizer(bos=True)
    data = load([pair, {"prompt": "a", "response": "b"}], tokenizer, length=10)
    assert shown(data.train) == ("<s>|a| |b| |c|\n|d| |e", "_|_|_|_|_|_|_|d| |e")  # learns no stop where there is none
    assert data.about["statistics"]["train"]["cut"] == 0.5
    assert data.about["warnings"] == ["1 of 2 samples of 'train' had more than 10 tokens: their end was cut off."]
    assert rows([pair], tokenizer, length=10, long="start") == [("<s>| |c|\n|d| |e| |f|</s>", "_|_|_|_|d| |e| |f|</s>")]
    assert load([pair], tokenizer, length=10, long="start").train.prompts.tolist() == [4]
    with pytest.raises(DataError, match="The sample 0 has 13 tokens, the length is 10"):
        load([pair], tokenizer, length=10, long="error")
    with pytest.raises(DataError, match=r"None of the 1 samples of 'train' .* longer than 10 tokens \(1\)"):
        load([pair], tokenizer, length=10, long="drop")


def test_a_chat_that_is_cut_keeps_its_earlier_answers():
    for length in (14, 20, 23):  # 13 tokens are the first answer and all before it, 23 the last prompt
        data = load([CHAT], make_tokenizer(CHATML), length=length)
        text, predicted = shown(data.train)
        assert len(text.split("|")) == length
        assert [word for word in predicted.split("|") if word != "_"] == ["b", " ", "c", "<end>"]
        assert data.train.prompts.tolist() == [9]
    assert load([CHAT], make_tokenizer(CHATML), length=24).train.prompts.tolist() == [23]
    late = load([CHAT], make_tokenizer(CHATML), length=14, long="start")
    assert [word for word in shown(late.train)[1].split("|") if word != "_"] == ["e", "<end>"]
    assert late.train.prompts.tolist() == [11]


def test_nothing_is_said_of_long_texts_but_by_us(capfd):
    tokenizer = make_tokenizer(CHATML, model_max_length=16)
    load([{"text": "a b c d e f g h i j k"}], tokenizer, length=8)
    load([CHAT], tokenizer, length=16)
    assert "sequence length" not in capfd.readouterr().err


def test_samples_without_anything_to_predict_are_left_out_counted_and_named():
    records = [
        {"prompt": "a", "response": "b"}, {"prompt": "a", "response": ""}, {"prompt": "a", "response": None},
        {"prompt": "a", "response": float("nan")}, {"prompt": "a b c d e", "response": "b"}, {"prompt": "a"},
    ]  # fmt: skip
    data = load(records, length=8)
    assert data.about["left_out"]["train"] == {"the response is empty": 4, "the prompt alone has 8 tokens or more": 1}
    assert data.about["warnings"] == [
        "5 of 6 samples of 'train' were left out: the response is empty (4); the prompt alone has 8 tokens or more (1)."
    ]
    assert data.about["statistics"]["train"]["samples"] == 1
    assert load([{"prompt": "a", "response": "b c d e f"}, records[0]], length=8, long="start").about["left_out"][
        "train"
    ] == {"the response alone has 8 tokens or more": 1}
    with pytest.raises(
        DataError,
        match=r"None of the 5 samples of 'train' has anything to predict: the response is empty .*Fill the responses",
    ):
        load(records[1:], length=8)
    with pytest.raises(DataError, match=r"the prompt alone has 9 tokens or more \(1\)\. Raise length="):
        load([CHAT[:2]], make_tokenizer(CHATML), length=9)
    with pytest.raises(DataError, match=r"nobody answers in the chat \(1\)\. Expected messages with 'role'"):
        load([[{"role": "human", "content": "a"}, {"role": "gpt", "content": "b"}]], make_tokenizer(CHATML))
    assert load([" ", "a"]).about["left_out"]["train"] == {"the text is empty": 1}
