"""Chats through a tokenizer's template, and which of their tokens the assistant wrote."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from limbeck.data.language_tokens import Document
from limbeck.errors import DataError

Messages = list[dict[str, Any]]
# the names that another widespread form of chats has for the roles
ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant"}


def has_template(tokenizer: Any) -> bool:
    return bool(getattr(tokenizer, "chat_template", None))


def as_messages(value: Any, what: str, role: str = "user") -> Messages:
    """Messages [{"role", "content"}] from such a list, from {"from", "value"} pairs, or from one text of the given role.

    Raises DataError, which names `what`, for anything else.
    """
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        kind = type(value).__name__
        raise DataError(f"{what} has messages of type {kind}. Expected a list of {{'role': ..., 'content': ...}}.")
    found = []
    for number, message in enumerate(value):
        if isinstance(message, Mapping) and "from" in message and "value" in message:
            message = {"role": ROLES.get(message["from"], message["from"]), "content": message["value"]}
        if not isinstance(message, Mapping) or "role" not in message or not {"content", "tool_calls"} & set(message):
            shown = sorted(message) if isinstance(message, Mapping) else type(message).__name__
            raise DataError(f"{what}: its message {number} is {shown}. Expected {{'role': ..., 'content': ...}}.")
        found.append(dict(message))
    return found


class ChatTemplate:
    """A tokenizer's chat template: token ids of chats, and masks of what is to be predicted.

    Where the template marks what the assistant writes (`{% generation %}`), its marks are taken. Elsewhere it is what each
    assistant message adds to the chat before it with the header of an answer; a template that writes earlier messages
    anew is refused, and an assistant message that opens a chat is context only. The token that ends an answer is predicted,
    what the template puts behind it is not. Where a template has no such token, EOS ends the last answer.
    """

    def __init__(self, tokenizer: Any, eos: int | None = None):
        if not has_template(tokenizer):
            raise DataError(
                f"The data are chats, and the {type(tokenizer).__name__} has no chat template. Take the tokenizer of a chat "
                "model, set tokenizer.chat_template (Jinja), or write the chats as texts (text=) or as pairs (prompt=, "
                "response=)."
            )
        self.tokenizer, self.eos = tokenizer, eos
        chosen = tokenizer.get_chat_template() if hasattr(tokenizer, "get_chat_template") else tokenizer.chat_template
        self.marked = re.search(r"\{%-?\s*generation\s*-?%\}", str(chosen)) is not None
        self.stop = self._find_stop()

    def document(self, messages: Messages, what: str, last: bool = False) -> Document | None:
        """The chat as one document, its last answer generated from the prompt before; None where nobody answers.

        `last`: only the last answer is predicted. Raises DataError, which names `what`, for chats the template refuses.
        """
        tokens, runs = self.runs(messages, what)
        runs = [run for run in runs if run[1] > run[0]]
        if not runs:
            return None
        if self.stop is None and self.eos is not None:
            tokens = [*tokens[: runs[-1][1]], self.eos]
            runs[-1] = runs[-1][0], len(tokens)
        predict = np.zeros(len(tokens), dtype=np.bool_)
        limits = [start for start, _ in runs[1:]] + [len(tokens)]
        for (start, end), limit in list(zip(runs, limits))[-1 if last else 0 :]:
            if self.stop is not None and self.stop in tokens[start:limit]:
                end = tokens.index(self.stop, start) + 1
            predict[start:end] = True
        return Document.of(tokens, predict, runs[-1][0])

    def runs(self, messages: Messages, what: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids of a chat, and (start, end) of what the assistant wrote in it."""
        if self.marked:
            found = self._apply(messages, what, return_dict=True, return_assistant_tokens_mask=True)
            steps = np.diff(np.r_[0, np.asarray(found["assistant_masks"], dtype=np.int8), 0])
            return list(found["input_ids"]), list(
                zip((steps > 0).nonzero()[0].tolist(), (steps < 0).nonzero()[0].tolist())
            )
        whole, runs = self._apply(messages, what), []
        for number, message in enumerate(messages):
            if message["role"] != "assistant" or number == 0:
                continue
            before = self._apply(messages[:number], what, add_generation_prompt=True)
            after = whole if number == len(messages) - 1 else self._apply(messages[: number + 1], what)
            if whole[: len(before)] != before or whole[: len(after)] != after:
                raise DataError(
                    f"{what}: the chat template writes the messages before message {number} otherwise once it is there, so "
                    "that what the assistant wrote cannot be told apart. Use a template with {% generation %} ... "
                    "{% endgeneration %} around its messages, or give prompt and response."
                )
            runs.append((len(before), len(after)))
        return whole, runs

    def _apply(self, messages: Sequence[Mapping[str, Any]], what: str, **options: Any) -> Any:
        options = {"return_dict": False, "tokenizer_kwargs": {"verbose": False}, **options}
        try:
            return self.tokenizer.apply_chat_template(list(messages), **options)
        except Exception as error:  # a template raises what it likes
            raise DataError(f"{what}: the chat template refuses it ({type(error).__name__}: {error}).") from error

    def _find_stop(self) -> int | None:
        """The special token with which the template ends an answer, looked for in a chat of two short messages."""
        chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        tokens, runs = self.runs(chat, "A chat of two messages")
        if not runs:
            return None
        tail = tokens[runs[-1][0] :]
        special = set(self.tokenizer.all_special_ids)
        special |= {key for key, token in getattr(self.tokenizer, "added_tokens_decoder", {}).items() if token.special}
        eos = self.tokenizer.eos_token_id
        return eos if eos in tail else next((token for token in reversed(tail) if token in special), None)
