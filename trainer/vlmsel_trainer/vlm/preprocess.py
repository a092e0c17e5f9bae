"""One row of the index made ready for the model: tokens first, pictures later and in other threads.

`tokenise_sample` is cheap and says how long a row will be, so that batches can be planned; `Preprocessor.prepare` reads and
decodes the images. Whatever is wrong with a row becomes its status, never an exception.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from vlmsel.images import ByteReader, ImageError, locate

from vlmsel_trainer.vlm.chat_template import ChatTemplate, TemplateError, Tokens
from vlmsel_trainer.vlm.conversations import (
    ConversationError,
    Turn,
    caption_turns,
    parse_conversation,
    without_images,
)
from vlmsel_trainer.vlm.expand import ImageTokens, PreparedRow
from vlmsel_trainer.vlm.images import ImageLimits, decode, shrunk_size
from vlmsel_trainer.vlm.load import LoadedModel
from vlmsel_trainer.vlm.memory import ByteBudget
from vlmsel_trainer.vlm.records import RowError, Sample


@dataclass(frozen=True)
class TokenisedRow:
    """A row's tokens, with and (where asked) without its images, before any image is read."""

    tokens: Tokens
    tokens_no_image: Tokens | None


@dataclass(frozen=True)
class ImageCost:
    """What an image takes once it is prepared: positions of the sequence, and bytes of features on the host."""

    n_tokens: int
    n_bytes: int


def tokenise_sample(
    sample: Sample, template: ChatTemplate, prompt: str, max_text_tokens: int | None, *, with_no_image: bool = False
) -> TokenisedRow:
    """The tokens of a sample; raises `RowError` ``no_text``, ``unsupported``, ``bad_conversation`` or ``too_long``."""
    if sample.sample_class == "unsupported":
        raise RowError("unsupported", "its picture or other medium is of a kind that is not read")
    turns = _turns(sample, prompt)
    try:
        tokens = template.tokenise(turns, max_text_tokens=max_text_tokens)
        no_image = None
        if with_no_image:
            no_image = template.tokenise(without_images(turns), max_text_tokens=max_text_tokens)
    except TemplateError as error:
        raise RowError("bad_conversation", str(error)) from error
    if not any(tokens.labels) or (no_image is not None and sum(no_image.labels) != sum(tokens.labels)):
        raise RowError("too_long" if tokens.truncated else "no_text", "no token is left to score")
    return TokenisedRow(tokens, no_image)


def _turns(sample: Sample, prompt: str) -> tuple[Turn, ...]:
    if sample.conversations is not None:
        try:
            return parse_conversation(sample.conversations, len(sample.images))
        except ConversationError as error:
            raise RowError("bad_conversation", str(error)) from error
    if sample.text is None:
        raise RowError("no_text")
    return caption_turns(prompt, sample.text, len(sample.images))


@dataclass
class Preprocessor:
    """Reads images and puts them into token sequences; every thread works on a processor of its own."""

    loaded: LoadedModel
    template: ChatTemplate
    roots: Mapping[str, Mapping[str, str | None]]
    limits: ImageLimits
    reading: ByteBudget = field(default_factory=ByteBudget)
    decoding: ByteBudget = field(default_factory=ByteBudget)
    reader: ByteReader = field(default_factory=ByteReader)
    _own: threading.local = field(default_factory=threading.local)
    _copying: threading.Lock = field(default_factory=threading.Lock)

    def prepare(self, sample: Sample, tokens: Tokens) -> PreparedRow:
        """Reads the images of ``sample`` and expands their placeholders; raises `RowError`."""
        if len(tokens.image_positions) != len(sample.images) and tokens.image_positions:
            raise RowError("bad_conversation", "placeholders and images differ in number")
        images: list[ImageTokens] = []
        if tokens.image_positions:
            for entry in sample.images:
                try:
                    location = locate(self.roots.get(sample.source), sample.shard, entry)
                    # Always in this order, so that whoever holds pixels can finish.
                    with self.reading.hold(int(entry["size"])):
                        data = self.reader.read(location)
                        picture = decode(data, self.limits, self.decoding)
                except ImageError as error:
                    raise RowError(error.status, str(error)) from error
                images.append(self._expand(picture))
        row = self.loaded.family.insert_images(tokens, images, self.template.image_token_id)
        most = self.loaded.max_positions
        if most is not None and len(row) > most:
            raise RowError("too_long", f"{len(row)} tokens, the model was made for {most}")
        return row

    def measure(self, width: int, height: int) -> ImageCost:
        """What an image of this size becomes, found by giving the processor a blank one; raises `RowError`."""
        size = shrunk_size(max(1, width), max(1, height), self.limits.max_pixels or self.limits.max_decode_pixels)
        image = self._expand(Image.new("RGB", size, (127, 127, 127)))
        return ImageCost(len(image.ids), sum(value.nbytes for value in image.features.values()))

    def _expand(self, picture: Image.Image) -> ImageTokens:
        return self.loaded.family.expand_image(self._processor(), self.template.image_token, picture, self.loaded.dtype)

    def _processor(self) -> Any:
        # A fast tokenizer is changed by every call (padding, truncation), so two threads must not share one.
        mine = getattr(self._own, "processor", None)
        if mine is None:
            with self._copying:
                mine = self._own.processor = copy.deepcopy(self.loaded.processor)
        return mine
