"""Conversations as LLaVA writes them: messages of a human and of gpt in turn, under `conversations`."""

from __future__ import annotations

from collections.abc import Callable

from pipelines.curation.records import RecordError
from pipelines.curation.steps.fields import mapping, sequence, shown, string
from pipelines.curation.steps.texts import multi_line, required_text
from storage.schema import RejectReason, Turn

__all__ = ["conversation_turns"]

_ROLES = ("human", "gpt")
_IMAGE = "<image>"
"""Where the picture stands in a message; a student's picture always stands first."""


def conversation_turns(record: dict[str, object], clean: Callable[[str], str] = str) -> list[Turn]:
    """The turns of a conversation.

    Args:
        record: with `conversations`, a list of `{"from": "human" or "gpt", "value": text}`.
        clean: brings a text without control characters into the family's normal form.

    Raises:
        RecordError: messages don't come in pairs, a role is out of turn, or a text has no words.
    """
    messages = sequence(record, "conversations")
    if not messages or len(messages) % 2:
        raise RecordError(
            RejectReason.FIELD_INVALID, f"conversations: expected pairs of messages, got {len(messages)} messages"
        )
    texts = [_message(message, _ROLES[place % 2], clean) for place, message in enumerate(messages)]
    return [Turn(text=text, answer=answer) for text, answer in zip(texts[::2], texts[1::2], strict=True)]


def _message(value: object, role: str, clean: Callable[[str], str]) -> str:
    message = mapping(value, "message")
    if string(message, "from") != role:
        raise RecordError(RejectReason.FIELD_INVALID, f"from: expected {role!r}, got {shown(message['from'])}")
    text = string(message, "value").replace(_IMAGE, " ")
    return required_text(clean(multi_line(text)), "value", text)
