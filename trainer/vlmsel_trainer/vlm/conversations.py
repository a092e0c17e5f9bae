"""A sample as turns of a conversation: a caption under a fixed prompt, or a LLaVA or messages conversation as it is."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]
_ROLES: dict[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "assistant": "assistant",
}
_PLACEHOLDER = re.compile(r"[ \t]*\n?<image>\n?[ \t]*")


class ConversationError(ValueError):
    """The conversation of a sample cannot be read or has nothing to score."""


@dataclass(frozen=True)
class Turn:
    """One message: its role and its parts in order, a text or None for an image."""

    role: Role
    parts: tuple[str | None, ...]


def caption_turns(prompt: str, caption: str, n_images: int) -> tuple[Turn, ...]:
    """The user shows ``n_images`` images and ``prompt``, the assistant answers ``caption``."""
    return Turn("user", (*[None] * n_images, prompt)), Turn("assistant", (caption,))


def parse_conversation(document: str, n_images: int) -> tuple[Turn, ...]:
    """Turns of a conversation in JSON: ``[{from, value}]`` (LLaVA) or ``[{role, content}]`` (messages).

    ``<image>`` in a user's value of the LLaVA form stands for the next image; where a conversation names none, all
    images open the first user turn. Raises `ConversationError` for another form, for a number of placeholders that is
    not the number of images, and where there is no assistant turn.
    """
    try:
        messages = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise ConversationError(f"not JSON: {error}") from None
    if isinstance(messages, dict):
        messages = messages.get("conversations") or messages.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ConversationError("not a list of messages")
    turns = [_parse_message(message) for message in messages]
    n_placeholders = sum(part is None for turn in turns for part in turn.parts)
    if n_placeholders == 0 and n_images:
        first = next((i for i, turn in enumerate(turns) if turn.role == "user"), None)
        if first is None:
            raise ConversationError("no user turn to hold the images")
        turns[first] = Turn("user", (*[None] * n_images, *turns[first].parts))
    elif n_placeholders != n_images:
        raise ConversationError(f"{n_placeholders} image placeholders for {n_images} images")
    if not any(turn.role == "assistant" for turn in turns):
        raise ConversationError("no assistant turn")
    return tuple(turns)


def without_images(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """The same conversation with its images left out."""
    return tuple(Turn(turn.role, tuple(part for part in turn.parts if part is not None) or ("",)) for turn in turns)


def _parse_message(message: Any) -> Turn:
    if not isinstance(message, dict):
        raise ConversationError("a message is not an object")
    name = message.get("from", message.get("role"))
    role = _ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise ConversationError(f"unknown role {name!r:.40}")
    content = message.get("value", message.get("content"))
    if isinstance(content, str):
        return Turn(role, _split_placeholders(content) if role == "user" else (content,))
    if not isinstance(content, list):
        raise ConversationError("a message has no text")
    parts: list[str | None] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "image" and role == "user":
            parts.append(None)
        elif kind == "text" and isinstance(part.get("text"), str):
            parts.append(part["text"])
        else:
            raise ConversationError(f"unknown part {kind!r:.40} in a message of the {role}")
    if role == "assistant":
        return Turn(role, ("".join(part for part in parts if part is not None),))
    return Turn(role, tuple(parts) or ("",))


def _split_placeholders(text: str) -> tuple[str | None, ...]:
    parts: list[str | None] = []
    for i, piece in enumerate(_PLACEHOLDER.split(text)):
        if i:
            parts.append(None)
        if piece:
            parts.append(piece)
    return tuple(parts) or ("",)
