"""A vision-language model and its processor from a local folder, ready to score.

Nothing is downloaded, no code from the folder is run unless asked, and weights are read from safetensors only.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging
from vlmsel.errors import NotFoundError, UsageError
from vlmsel.files import read_plain

from vlmsel_trainer.vlm.families import family_of
from vlmsel_trainer.vlm.family import Family, ImageBackend
from vlmsel_trainer.vlm.provenance import check_model_files

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode with its processor, and what was decided on the way.

    ``attention`` is the attention kernel's name; ``image_backend`` and ``image_processor`` say who makes the pixels: the two
    backends differ by up to 0.015 after a resize, so they belong to a score's provenance. ``family`` takes the steps in which
    models differ.
    """

    model: Any
    processor: Any
    device: torch.device
    dtype: torch.dtype
    attention: str
    image_backend: ImageBackend
    image_processor: str
    family: Family = field(default_factory=Family)

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def max_positions(self) -> int | None:
        """The longest sequence that the language model was configured for."""
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return int(positions) if positions else None


def check_folder(path: Path, *, trust_remote_code: bool = False) -> dict[str, Any]:
    """The folder's config.json as a dict, when the folder can be scored with; needs no torch work.

    Raises `NotFoundError` for a missing folder or config, `UsageError` for weights that are pickles and for a model that
    needs code of its own without ``trust_remote_code``.
    """
    if not path.is_dir():
        raise NotFoundError(f"{path} is not a model folder; --model wants a local folder, nothing is downloaded")
    check_model_files(path)
    config_file = path / "config.json"
    try:
        text = read_plain(config_file)
    except NotFoundError as error:
        raise NotFoundError(f"{path} has no config.json; is it a model folder as save_pretrained writes it?") from error
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{config_file} is no JSON ({error}); copy the model again") from error
    if not isinstance(config, dict):
        raise UsageError(f"{config_file} holds no object; is it a model's configuration?")
    if not any(path.glob("*.safetensors")):
        pickles = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for file in path.glob(pattern))
        if pickles:
            raise UsageError(
                f"{path} holds its weights as a pickle ({pickles[0]}), which can run code when it is read; "
                "convert it to safetensors first (save_pretrained writes safetensors)"
            )
        raise NotFoundError(f"{path} has no *.safetensors")
    if "auto_map" in config and not trust_remote_code:
        raise UsageError(f"{path} wants to run its own Python code; if you trust it, say --trust-remote-code")
    return config


def load(
    path: Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    image_backend: str = "auto",
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Loads the folder for scoring.

    ``device`` auto: the GPU where there is one. ``dtype`` auto: bfloat16 on a GPU, float32 on a CPU. ``image_backend`` auto:
    Pillow where the model's processor can use it, else torchvision. Raises `UsageError` for what the folder or this
    machine cannot do.
    """
    config = check_folder(path, trust_remote_code=trust_remote_code)
    where = _resolve_device(device)
    if dtype == "auto":
        dtype = "bfloat16" if where.type == "cuda" else "float32"
    if dtype not in DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}; one of auto, {', '.join(DTYPES)}")
    silence: Any = transformers_logging.disable_progress_bar
    silence()  # its bars would break into the run's own
    family = family_of(config)
    made = family.load_processor(path, image_backend, trust_remote_code=trust_remote_code)
    model = family.load_model(path, DTYPES[dtype], trust_remote_code=trust_remote_code)
    model = model.to(where).eval().requires_grad_(False)
    # The top-level switch alone leaves the language model's own in place, and then packed or cached keys can leak.
    model.config.use_cache = False
    model.config.get_text_config().use_cache = False
    return LoadedModel(
        model=model,
        processor=made.processor,
        device=where,
        dtype=DTYPES[dtype],
        attention=str(getattr(model.config.get_text_config(), "_attn_implementation", "unknown")),
        image_backend=made.image_backend,
        image_processor=made.image_processor,
        family=family,
    )


def _resolve_device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        where = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"unknown device {device!r}") from error
    if where.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("device cuda was asked for, but torch sees no GPU; try --device cpu")
    return where
