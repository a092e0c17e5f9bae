"""From a conversation to token ids in which every answer token is known.

The chat template is rendered once per *shape* of a conversation (which roles, which parts), with slots where the texts
go. Texts are then put in as they are and the whole is tokenised **once**, with character offsets: a token is an answer
token when it covers at least one character of an answer. So merges across the border of prompt and answer are those that
the model has seen, and no count of template tokens is assumed anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vlmsel_trainer.vlm.conversations import Role, Turn
from vlmsel_trainer.vlm.tokenize import Encoding, TextEncoder

# White space that no template writes beside a text; what is left of it shows what the template trims.
_PADDING = " \t\n"
_SLOT = re.compile("(?P<left> \t\n)?\ue0f0(?P<index>[0-9]+)\ue0f1(?P<right> \t\n)?")
# A longer text is cut before it is tokenised (and counted as truncated): a caption of gigabytes must not stop a run.
MAX_TEXT_CHARACTERS = 1 << 20
_MAX_SHAPES = 4096

_Shape = tuple[tuple[Role, tuple[bool, ...]], ...]


class TemplateError(ValueError):
    """The chat template cannot be used for scoring: it drops, repeats or reorders what it is given."""


@dataclass(frozen=True)
class _Piece:
    text: str
    slot: int | None = None
    strip_left: bool = False
    strip_right: bool = False


@dataclass(frozen=True)
class _Skeleton:
    pieces: tuple[_Piece, ...]
    answers: frozenset[int]


@dataclass(frozen=True)
class Tokens:
    """One tokenised sample before its images are put in: one id and one label per token.

    ``labels[i]`` says that token i is scored; ``image_positions`` are the image placeholders' positions, in the order of the
    images; ``truncated`` says that a part of an answer was cut off. A sample that cannot be cut without losing an image
    or every label has no labels left.
    """

    ids: tuple[int, ...]
    labels: tuple[bool, ...]
    image_positions: tuple[int, ...]
    truncated: bool = False


class ChatTemplate:
    """Renders and tokenises conversations for one processor.

    ``count_end_token``: the control token that closes an answer is scored too, as POINTS's released filter does
    (arXiv 2409.04828, section 3.2, and its code), so that an empty caption has one token. ``separate_answers`` tokenises
    answers apart from the prompt, as that release does. Where the template closes the last answer with no control token,
    the end-of-sequence token is appended.
    """

    def __init__(self, processor: Any, *, count_end_token: bool = True, separate_answers: bool = False) -> None:
        template = processor.chat_template or processor.tokenizer.chat_template
        if template is None:
            raise TemplateError("the model folder has no chat template (chat_template.jinja)")
        self._processor = processor
        self._eos_token: str | None = processor.tokenizer.eos_token
        self._encoder = TextEncoder(processor.tokenizer, str(template))
        self._count_end_token = count_end_token
        self._separate_answers = separate_answers
        self._skeletons: dict[_Shape, _Skeleton] = {}
        self.image_token: str = processor.image_token
        self.image_token_id = int(processor.tokenizer.convert_tokens_to_ids(self.image_token))
        self.end_token = self._find_end_token()

    def tokenise(self, turns: Sequence[Turn], *, max_text_tokens: int | None = None) -> Tokens:
        """Tokenises ``turns``; text tokens beyond ``max_text_tokens`` are cut off the end, image tokens never."""
        skeleton = self._skeleton(turns)
        texts = [part for turn in turns for part in turn.parts if part is not None]
        truncated = False
        written: list[str] = []
        spans: list[tuple[int, int]] = []
        answers: list[tuple[int, int]] = []
        position = 0
        for piece in skeleton.pieces:
            text = piece.text
            if piece.slot is not None:
                text = texts[piece.slot]
                if len(text) > MAX_TEXT_CHARACTERS:
                    text, truncated = text[:MAX_TEXT_CHARACTERS], True
                text = text.lstrip() if piece.strip_left else text
                text = text.rstrip() if piece.strip_right else text
                spans.append((position, position + len(text)))
                if piece.slot in skeleton.answers:
                    answers.append(spans[-1])
            written.append(text)
            position += len(text)
        borders = [border for span in answers for border in span] if self._separate_answers else []
        encoding = self._encoder.encode("".join(written), spans, borders)
        return self._cut(encoding.ids, self._label(encoding, answers), truncated, max_text_tokens)

    def show(self, turns: Sequence[Turn]) -> str:
        """The conversation as the template writes it, texts put in: what decides the prompt."""
        texts = [part for turn in turns for part in turn.parts if part is not None]
        return "".join(
            piece.text if piece.slot is None else texts[piece.slot] for piece in self._skeleton(turns).pieces
        )

    def _label(self, encoding: Encoding, answers: Sequence[tuple[int, int]]) -> list[bool]:
        ids, starts, ends = encoding.ids, encoding.starts, encoding.ends
        labels = [False] * len(ids)
        i = 0
        for first, last in answers:
            while i < len(ids) and ends[i] <= first:
                i += 1
            while i < len(ids) and starts[i] < last:
                labels[i] = True
                i += 1
            if not self._count_end_token:
                continue
            # White space between an answer and its end token is the template's.
            closing = i
            while closing < len(ids) and self._encoder.is_space(ids[closing]):
                closing += 1
            if closing < len(ids) and ids[closing] in self._encoder.control_ids:
                labels[closing] = True
        return labels

    def _cut(self, ids: tuple[int, ...], labels: list[bool], truncated: bool, max_text_tokens: int | None) -> Tokens:
        images = [i for i, token in enumerate(ids) if token == self.image_token_id]
        end = len(ids)
        if max_text_tokens is not None and end - len(images) > max_text_tokens:
            text_positions = [i for i, token in enumerate(ids) if token != self.image_token_id]
            end = text_positions[max_text_tokens]
            truncated = truncated or any(labels[end:])
            if images and images[-1] >= end:
                labels = [False] * len(ids)
        return Tokens(ids[:end], tuple(labels[:end]), tuple(i for i in images if i < end), truncated)

    def _skeleton(self, turns: Sequence[Turn]) -> _Skeleton:
        shape = tuple((turn.role, tuple(part is None for part in turn.parts)) for turn in turns)
        found = self._skeletons.get(shape)
        if found is None:
            if len(self._skeletons) >= _MAX_SHAPES:
                self._skeletons.clear()
            found = self._skeletons[shape] = self._render(shape)
        return found

    def _render(self, shape: _Shape) -> _Skeleton:
        answers: set[int] = set()
        numbered: list[tuple[Role, list[int | None]]] = []
        n_slots = n_images = 0
        for role, parts in shape:
            slots: list[int | None] = []
            for is_image in parts:
                slots.append(None if is_image else n_slots)
                if role == "assistant" and not is_image:
                    answers.add(n_slots)
                n_slots += not is_image
                n_images += is_image
            numbered.append((role, slots))
        problem = ""
        form: Callable[[list[int | None]], object]
        for form in (_as_parts, self._as_string):
            messages = [{"role": role, "content": form(slots)} for role, slots in numbered]
            try:
                text = self._processor.apply_chat_template(messages, tokenize=False)
            except Exception as error:  # a template raises whatever its author chose
                problem = problem or f"{type(error).__name__}: {error}"
                continue
            pieces = _split_slots(text)
            written = [piece.slot for piece in pieces if piece.slot is not None]
            n_placeholders = sum(piece.text.count(self.image_token) for piece in pieces)
            if written != list(range(n_slots)):
                problem = problem or f"of {n_slots} texts it wrote {written}"
            elif n_placeholders != n_images:
                problem = problem or f"it wrote {n_placeholders} image placeholders for {n_images} images"
            else:
                return _Skeleton(tuple(self._close(pieces, answers)), frozenset(answers))
        roles = ", ".join(role for role, _ in shape)
        raise TemplateError(f"the chat template cannot render turns of {roles} with {n_images} images: {problem}")

    def _close(self, pieces: list[_Piece], answers: set[int]) -> list[_Piece]:
        last = max((i for i, piece in enumerate(pieces) if piece.slot in answers), default=None)
        if last is None or self._eos_token is None:
            return pieces
        if self._encoder.find_control("".join(piece.text for piece in pieces[last + 1 :])) is not None:
            return pieces
        return [*pieces[: last + 1], _Piece(self._eos_token)]

    def _as_string(self, slots: list[int | None]) -> str:
        return "".join(self.image_token if slot is None else _write_slot(slot) for slot in slots)

    def _find_end_token(self) -> str | None:
        pieces = self._skeleton((Turn("user", ("",)), Turn("assistant", ("",)))).pieces
        last = max(i for i, piece in enumerate(pieces) if piece.slot is not None)
        return self._encoder.find_control("".join(piece.text for piece in pieces[last + 1 :]))


def _write_slot(slot: int) -> str:
    return f"{_PADDING}\ue0f0{slot}\ue0f1{_PADDING}"


def _as_parts(slots: list[int | None]) -> list[dict[str, str]]:
    return [{"type": "image"} if slot is None else {"type": "text", "text": _write_slot(slot)} for slot in slots]


def _split_slots(text: str) -> list[_Piece]:
    pieces, position = [], 0
    for match in _SLOT.finditer(text):
        if match.start() > position:
            pieces.append(_Piece(text[position : match.start()]))
        pieces.append(_Piece("", int(match["index"]), match["left"] is None, match["right"] is None))
        position = match.end()
    if position < len(text):
        pieces.append(_Piece(text[position:]))
    return pieces
