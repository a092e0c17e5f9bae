"""Where families of vision-language models differ: one object that loads, renders, expands and lays side by side.

`Family` is the general way, by transformers' Auto classes and whatever the folder's own processor does; every family that is
tested is scored with it. One that needs another way in some step subclasses it, overrides that step, and has a line in
`vlmsel_trainer.vlm.families`. Nothing else asks what kind of model it has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor
from vlmsel.errors import ResourceError, UsageError, is_memory_shortage

from vlmsel_trainer.vlm import collate as batches
from vlmsel_trainer.vlm import expand as expansion
from vlmsel_trainer.vlm.chat_template import ChatTemplate, Tokens
from vlmsel_trainer.vlm.collate import Batch, PaddingSide
from vlmsel_trainer.vlm.expand import ImageTokens, PreparedRow

ImageBackend = Literal["pil", "torchvision"]


@dataclass(frozen=True)
class LoadedProcessor:
    """A processor, and who makes its pixels: the backend, and the name of the image processor."""

    processor: Any
    image_backend: ImageBackend
    image_processor: str


class Family:
    """The steps of one family of models. Objects keep no state: several threads use one."""

    def load_model(self, path: Path, dtype: torch.dtype, *, trust_remote_code: bool) -> Any:
        """The model in ``path``, on the host, its floats as ``dtype``.

        Raises `UsageError` for a folder that holds no such model or lacks some of its tensors, `ResourceError` for no memory.
        """
        factory: Any = AutoModelForImageTextToText
        try:
            model, loading = factory.from_pretrained(
                path,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
            )
        except (ValueError, OSError, KeyError, RuntimeError, SafetensorError) as error:
            if is_memory_shortage(error):
                raise ResourceError(f"{path}: no memory to load the model ({error})") from error
            raise UsageError(f"{path} cannot be loaded as an image-text-to-text model: {error}") from error
        # transformers fills what a folder lacks with random numbers and goes on.
        if missing := sorted(str(name) for name in loading["missing_keys"]):
            raise UsageError(
                f"{path} lacks {len(missing)} of the model's tensors ({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}); "
                "its scores would be noise. Is a *.safetensors file missing, or is it an adapter that must be merged first?"
            )
        return model

    def load_processor(self, path: Path, image_backend: str, *, trust_remote_code: bool) -> LoadedProcessor:
        """The processor with the asked image backend; raises `UsageError` where it cannot be had, rather than give another."""
        wanted: tuple[ImageBackend, ...] = ("pil", "torchvision")
        if image_backend != "auto":
            if image_backend not in wanted:
                raise UsageError(f"unknown image backend {image_backend!r}; one of auto, pil, torchvision")
            wanted = ("pil",) if image_backend == "pil" else ("torchvision",)
        problem: Exception | None = None
        factory: Any = AutoProcessor
        for backend in wanted:
            try:
                processor = factory.from_pretrained(
                    path, backend=backend, local_files_only=True, trust_remote_code=trust_remote_code
                )
            except (ImportError, ValueError, OSError) as error:
                if is_memory_shortage(error):
                    raise
                problem = problem or error
                continue
            if not hasattr(processor, "image_processor") or not hasattr(processor, "image_token"):
                raise UsageError(
                    f"{path}: its processor ({type(processor).__name__}) takes no images by a placeholder token"
                )
            name = type(processor.image_processor).__name__
            if (backend == "pil") == name.endswith("Pil"):
                return LoadedProcessor(processor, backend, name)
            problem = problem or UsageError(f"transformers gave {name} for {backend}")
        raise UsageError(f"{path}: no processor with image backend {' or '.join(wanted)}: {problem}") from problem

    def pad_token_id(self, processor: Any) -> int:
        """The id that fills rows up; nothing ever attends to it."""
        tokenizer = processor.tokenizer
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        return int(pad or 0)

    def chat_template(
        self, processor: Any, *, count_end_token: bool = True, separate_answers: bool = False
    ) -> ChatTemplate:
        """What renders and tokenises conversations; raises `TemplateError` or `TokenizerError` where they cannot be scored."""
        return ChatTemplate(processor, count_end_token=count_end_token, separate_answers=separate_answers)

    def expand_image(self, processor: Any, image_token: str, picture: Image.Image, dtype: torch.dtype) -> ImageTokens:
        """What stands for one image of a sequence; ``processor`` is the calling thread's own. Raises `RowError`."""
        return expansion.expand_image(processor, image_token, picture, dtype)

    def insert_images(self, tokens: Tokens, images: Sequence[ImageTokens], image_token_id: int) -> PreparedRow:
        """The row that ``tokens`` and its images make, in order; a text without images has none."""
        return expansion.insert_images(tokens, images, image_token_id)

    def collate(self, rows: Sequence[PreparedRow], pad_token_id: int, padding_side: PaddingSide = "right") -> Batch:
        """Rows side by side, as keyword arguments of the model's ``forward``."""
        batch = batches.collate(rows, pad_token_id, padding_side)
        batch.inputs.update(self.positions(batch.inputs, padding_side))
        return batch

    def positions(self, inputs: Mapping[str, Tensor], padding_side: PaddingSide) -> dict[str, Tensor]:
        """What of ``inputs`` (B, S) tells the model its positions, where it does not count them itself."""
        return batches.count_positions(inputs, padding_side)
