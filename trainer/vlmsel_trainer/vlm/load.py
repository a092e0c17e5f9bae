"""A vision-language model and its processor from a local folder, ready to score.

Nothing is downloaded, no code from the folder is run unless asked, and weights are read from safetensors only.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging as transformers_logging
from vlmsel.errors import NotFoundError, ResourceError, UsageError, is_memory_shortage
from vlmsel.files import read_plain

from vlmsel_trainer.vlm.provenance import check_model_files

ImageBackend = Literal["pil", "torchvision"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode with its processor, and what was decided on the way.

    ``attention`` is the attention kernel's name; ``image_backend`` and ``image_processor`` say who makes the pixels: the two
    backends differ by up to 0.015 after a resize, so they belong to a score's provenance.
    """

    model: Any
    processor: Any
    device: torch.device
    dtype: torch.dtype
    attention: str
    image_backend: ImageBackend
    image_processor: str

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
    check_folder(path, trust_remote_code=trust_remote_code)
    where = _resolve_device(device)
    if dtype == "auto":
        dtype = "bfloat16" if where.type == "cuda" else "float32"
    if dtype not in DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}; one of auto, {', '.join(DTYPES)}")
    silence: Any = transformers_logging.disable_progress_bar
    silence()  # its bars would break into the run's own
    processor, backend = load_processor(path, image_backend, trust_remote_code=trust_remote_code)
    factory: Any = AutoModelForImageTextToText
    try:
        model, loading = factory.from_pretrained(
            path,
            dtype=DTYPES[dtype],
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
    model = model.to(where).eval().requires_grad_(False)
    # The top-level switch alone leaves the language model's own in place, and then packed or cached keys can leak.
    model.config.use_cache = False
    model.config.get_text_config().use_cache = False
    return LoadedModel(
        model=model,
        processor=processor,
        device=where,
        dtype=DTYPES[dtype],
        attention=str(getattr(model.config.get_text_config(), "_attn_implementation", "unknown")),
        image_backend=backend,
        image_processor=type(processor.image_processor).__name__,
    )


def load_processor(path: Path, image_backend: str, *, trust_remote_code: bool) -> tuple[Any, ImageBackend]:
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
        if (backend == "pil") == type(processor.image_processor).__name__.endswith("Pil"):
            return processor, backend
        problem = problem or UsageError(f"transformers gave {type(processor.image_processor).__name__} for {backend}")
    raise UsageError(f"{path}: no processor with image backend {' or '.join(wanted)}: {problem}") from problem


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
