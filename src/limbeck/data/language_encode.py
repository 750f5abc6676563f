"""Records to documents: texts, prompts with responses, chats and preferences, each by its own rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from limbeck.data.language_chat import ChatTemplate, Messages, as_messages, has_template
from limbeck.data.language_parts import TokenRows
from limbeck.data.language_read import Fields, Record
from limbeck.data.language_tokens import (
    Document,
    Encoded,
    Marks,
    answer_document,
    check_long,
    fit,
    text_document,
)
from limbeck.errors import ArgumentError, DataError, nearest

TEMPLATES = ("chat", "plain")


class Encoder:
    """Documents of records, at most `length` tokens long.

    `long`: see `fit`; None splits texts and cuts the end of all else. `template`: "chat" writes prompts and responses as a
    chat, "plain" one behind the other with `join` between (unless the prompt ends in white space); None is "chat" where the
    tokenizer has a chat template. `eos`: whether a text or response is followed by the end-of-text token.

    A sample without text, response or anything to predict is left out, with the reason. Raises DataError, with the name
    of the sample, for one that is not what its kind expects.
    """

    tokenizations = 1

    def __init__(self, tokenizer: Any, fields: Fields, *, length: int, long: str | None = None,
                 template: str | None = None, join: str = "\n", eos: bool = True):  # fmt: skip
        self.fields, self.length, self.join = fields, length, join
        self.long = long or ("split" if fields.kind == "text" else "end")
        check_long(self.long, length)
        if self.long == "split" and fields.kind != "text":
            raise ArgumentError(
                f"long='split' is for texts; a {fields.kind} would lose its prompt. Say 'end', 'start' or 'drop'."
            )
        if template not in (None, *TEMPLATES):
            raise ArgumentError(f"template={template!r}.{nearest(str(template), TEMPLATES)}")
        self.marks = Marks(tokenizer, eos)
        self.template = template or ("chat" if has_template(tokenizer) else "plain")
        self.chats = fields.kind == "chat" or (fields.kind != "text" and self.template == "chat")
        self._tokenizer = tokenizer
        self._writer = ChatTemplate(tokenizer, self.marks.eos) if self.chats else None

    def __call__(self, records: Sequence[Record], names: Sequence[str]) -> list[Encoded]:
        """One `Encoded` for every record; `names` say in messages which sample it is ("The sample 3")."""
        return [
            one if isinstance(one, Encoded) else fit(one, self.length, self.long, self.keep, name)
            for one, name in zip(self.documents(records, names), names)
        ]

    @property
    def keep(self) -> int:
        """How many tokens at the start stay where a document loses its start."""
        return 0 if self.chats else len(self.marks.prefix)

    def documents(self, records: Sequence[Record], names: Sequence[str]) -> list[list[Document] | Encoded]:
        """For every record its documents, uncut, or an `Encoded` that says why it is left out."""
        return getattr(self, f"_{self.fields.kind}")(records, names)

    def part(self, name: str, documents: Sequence[Document], samples: Sequence[int], **options: Any) -> TokenRows:
        """Rows of documents that this encoder made; `options` as of `TokenRows`."""
        return TokenRows(name, documents, samples, padding=self.marks.padding, **options)

    def restored(self, plain: Sequence[Any]) -> Document:
        """The document of which `plain` says what it holds."""
        return Document.of(*plain)

    @property
    def stop(self) -> int | None:
        """The token that ends an answer."""
        return self.marks.eos if self._writer is None or self._writer.stop is None else self._writer.stop

    def _text(self, records: Sequence[Record], names: Sequence[str]) -> list[list[Document] | Encoded]:
        texts = [self._words(record, "text", name) for record, name in zip(records, names)]
        ids = self.marks.ids(texts)
        return [
            [text_document(self.marks, row)] if text.strip() else Encoded(left_out="the text is empty")
            for text, row in zip(texts, ids)
        ]

    def _pair(self, records: Sequence[Record], names: Sequence[str]) -> list[list[Document] | Encoded]:
        if self.chats or any(isinstance(self._value(record, "prompt"), list | tuple) for record in records):
            return [self._answers(record, name, ["response"]) for record, name in zip(records, names)]
        responses = [self._words(record, "response", name) for record, name in zip(records, names)]
        questions = [self._question(record, name) for record, name in zip(records, names)]
        ids = self.marks.ids([*questions, *responses])
        return [
            [answer_document(self.marks, prompt, answer)] if text.strip() else Encoded(left_out="the response is empty")
            for text, prompt, answer in zip(responses, ids, ids[len(records) :])
        ]

    def _preference(self, records: Sequence[Record], names: Sequence[str]) -> list[list[Document] | Encoded]:
        answers = ["chosen", "rejected"]
        if self.chats or any(isinstance(self._value(record, "chosen"), list | tuple) for record in records):
            return [self._answers(record, name, answers) for record, name in zip(records, names)]
        if "prompt" not in self.fields.columns:
            raise DataError("Preferences as texts need a column of prompts: say prompt=.")
        count = len(records)
        questions = [self._question(record, name) for record, name in zip(records, names)]
        chosen, rejected = (
            [self._words(record, role, name) for record, name in zip(records, names)] for role in answers
        )
        ids = self.marks.ids([*questions, *chosen, *rejected])
        found: list[list[Document] | Encoded] = []
        for number, texts in enumerate(zip(chosen, rejected)):
            reason, prompt = _no_preference(texts), ids[number]
            both = [answer_document(self.marks, prompt, ids[number + place * count]) for place in (1, 2)]
            found.append(Encoded(left_out=reason) if reason else both)
        return found

    def _chat(self, records: Sequence[Record], names: Sequence[str]) -> list[list[Document] | Encoded]:
        found: list[list[Document] | Encoded] = []
        for record, name in zip(records, names):
            messages = as_messages(self._value(record, "messages") or [], name)
            document = self._written(messages, name) if messages else None
            found.append(Encoded(left_out="nobody answers in the chat") if document is None else [document])
        return found

    def _written(self, messages: Messages, name: str, last: bool = False) -> Document | None:
        if self._writer is None:  # messages where there is no template: the error says what to do
            self._writer = ChatTemplate(self._tokenizer, self.marks.eos)
        return self._writer.document(messages, name, last)

    def _answers(self, record: Record, name: str, roles: list[str]) -> list[Document] | Encoded:
        """The documents of answers to one prompt, through the chat template."""
        given = [self._value(record, role) for role in roles]
        answers = [
            as_messages(
                value if isinstance(value, list | tuple) else self._words(record, role, name), name, "assistant"
            )
            for value, role in zip(given, roles)
        ]
        texts = [str(answer[-1].get("content") or "") if answer else "" for answer in answers]
        reason = _no_preference(texts) if len(roles) == 2 else "" if texts[0].strip() else "the response is empty"
        if reason:
            return Encoded(left_out=reason)
        prompt, before = self._value(record, "prompt"), []
        if isinstance(prompt, list | tuple):
            before = as_messages(prompt, name)
        elif "prompt" in self.fields.columns:
            before = as_messages(self._question(record, name, ""), name)
        found = []
        for role, answer in zip(roles, answers):
            # chosen and rejected are often whole chats, with the prompt in both
            chat = answer if answer[: len(before)] == before else [*before, *answer]
            if chat[-1]["role"] != "assistant" or len(chat) < 2:
                raise DataError(
                    f"{name}: its {role} ends with a message of {chat[-1]['role']!r}; expected an answer to a prompt."
                )
            document = self._written(chat, name, last=True)
            if document is None:
                return Encoded(left_out="nobody answers in the chat")
            found.append(document)
        return found

    def _question(self, record: Record, name: str, join: str | None = None) -> str:
        """The prompt and what belongs to it, with what stands between it and the response."""
        prompt, context = self._words(record, "prompt", name), self._words(record, "context", name)
        prompt = f"{prompt}\n\n{context}" if context.strip() else prompt
        return prompt if not prompt or prompt[-1].isspace() else prompt + (self.join if join is None else join)

    def _value(self, record: Record, role: str) -> Any:
        value: Any = record.get(self.fields.columns.get(role, ""))
        value = value.tolist() if hasattr(value, "tolist") else value
        return None if isinstance(value, float) and value != value else value

    def _words(self, record: Record, role: str, name: str) -> str:
        value = self._value(record, role)
        if value is None:
            return ""
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise DataError(f"{name}: its {role} is of type {type(value).__name__}. Expected a text.")
        return str(value)


def _no_preference(answers: Sequence[Any]) -> str:
    if not all(str(answer or "").strip() for answer in answers):
        return "the response is empty"
    return "chosen and rejected are the same" if answers[0] == answers[1] else ""
