"""One text to token ids with character ranges, in which the texts of users never become control tokens.

A tokenizer reads ``<image>`` or ``<|im_end|>`` as control tokens wherever they stand. `TextEncoder` is told which
stretches of a text are users' text and reads the markers there as the characters they are. Where no user text holds a marker
(nearly always) the result is the tokenizer's own, from one call.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class TokenizerError(ValueError):
    """The tokenizer cannot tell which characters a token covers."""


@dataclass(frozen=True)
class Encoding:
    """Token ids with the half-open character range that each covers; ranges leave no gap that belongs to a token."""

    ids: tuple[int, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]


class TextEncoder:
    """Encodes rendered conversations with a fast tokenizer; ``template`` is the chat template's source."""

    def __init__(self, tokenizer: Any, template: str) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise TokenizerError(
                "the tokenizer gives no character offsets: a fast tokenizer (tokenizer.json) is needed"
            )
        self._tokenizer = tokenizer
        self._ids = {
            token.content: int(token_id)
            for token_id, token in tokenizer.added_tokens_decoder.items()
            if token.content and not token.content.isspace() and (token.special or token.content in template)
        }
        patterns = [
            (r"\s*" if token.lstrip else "") + re.escape(token.content) + (r"\s*" if token.rstrip else "")
            for token in sorted(tokenizer.added_tokens_decoder.values(), key=lambda token: -len(token.content))
            if token.content in self._ids
        ]
        self._pattern = re.compile("|".join(patterns) or "(?!)")
        self.control_ids = frozenset(self._ids.values())
        self._leads = self._needs_lead()

    def find_control(self, text: str) -> str | None:
        """The first control token written in ``text``, or None."""
        match = self._pattern.search(text)
        return None if match is None else self._content(match.group())

    def id_of(self, control: str) -> int:
        return self._ids[control]

    def is_space(self, token_id: int) -> bool:
        """Whether a token is white space alone."""
        return token_id not in self.control_ids and not self._tokenizer.decode([token_id]).strip()

    def encode(self, text: str, user_spans: Sequence[tuple[int, int]], borders: Sequence[int] = ()) -> Encoding:
        """Encodes ``text``; control tokens count only outside ``user_spans``; no token crosses one of ``borders``."""
        bos = self._tokenizer.bos_token
        add_special_tokens = not (bos is not None and text.startswith(bos))
        controls: list[re.Match[str]] = []
        markers: list[re.Match[str]] = []
        for match in self._pattern.finditer(text):
            is_users = any(first < match.end() and match.start() < last for first, last in user_spans)
            (markers if is_users else controls).append(match)
        if not markers and not borders:
            encoded = self._tokenizer(text, add_special_tokens=add_special_tokens, return_offsets_mapping=True)
            return _tile(encoded["input_ids"], encoded["offset_mapping"])
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        if add_special_tokens:
            ids += self._tokenizer("", add_special_tokens=True)["input_ids"]
            offsets += [(0, 0)] * len(ids)
        # A marker that the tokenizer would read even with special tokens off is cut behind its first character.
        cuts = {match.start() + 1 for match in markers if not self._reads_as_text(match.group())} | set(borders)
        position = 0
        for control in [*controls, None]:
            end = len(text) if control is None else control.start()
            stops = [position, *sorted(cut for cut in cuts if position < cut < end), end]
            for start, stop in itertools.pairwise(stops):
                if start < stop:
                    self._encode_plain(text[start:stop], start, ids, offsets)
            if control is not None:
                ids.append(self._ids[self._content(control.group())])
                offsets.append(control.span())
                position = control.end()
        return _tile(ids, offsets)

    def _encode_plain(self, text: str, start: int, ids: list[int], offsets: list[tuple[int, int]]) -> None:
        lead = "\n" if self._leads and start > 0 and not text[0].isspace() else ""
        encoded = self._tokenizer(
            lead + text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
        )
        for token_id, (first, last) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            if last > len(lead):
                ids.append(token_id)
                offsets.append((start + max(first - len(lead), 0), start + last - len(lead)))

    def _needs_lead(self) -> bool:
        """Whether a text that is encoded alone gets a mark of beginning ('▁') that it would not get behind a control token."""
        control = next(iter(self._ids), None)
        if control is None:
            return False
        probe = "probe text"
        whole = self._tokenizer(control + probe, add_special_tokens=False)["input_ids"]
        alone = self._tokenizer(probe, add_special_tokens=False)["input_ids"]
        return bool(list(whole[1:]) != list(alone))

    def _reads_as_text(self, marker: str) -> bool:
        encoded = self._tokenizer(marker, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return self.control_ids.isdisjoint(encoded)

    def _content(self, matched: str) -> str:
        return matched if matched in self._ids else matched.strip()


def _tile(ids: Sequence[int], offsets: Sequence[tuple[int, int]]) -> Encoding:
    """Offsets as ranges that tile the text: some tokenizers leave white space out of a token's range."""
    starts, ends, reached = [], [], 0
    for first, last in offsets:
        starts.append(min(first, reached))
        ends.append(last)
        reached = max(reached, last)
    return Encoding(tuple(ids), tuple(starts), tuple(ends))
