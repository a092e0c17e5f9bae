"""``vlmsel.score`` and ``vlmsel.soup``: what the commands of these names do, as functions.

vlmsel looks them up here by name when somebody asks for them. torch is imported in the body of :func:`score` alone.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vlmsel.types import PathLike, ProgressCallback

from vlmsel_trainer.scoring.options import PROMPT, SAMPLES_PER_UNIT, ScoreOptions
from vlmsel_trainer.soup import Reporter, SoupOptions, SoupResult, make_soup
from vlmsel_trainer.soup.options import DEFAULT_MAX_SHARD_BYTES
from vlmsel_trainer.soup.scores import DEFAULT_TIMEOUT_S

if TYPE_CHECKING:
    from vlmsel_trainer.scoring.run import Progress, Summary


def score(
    model: PathLike,
    *,
    index: PathLike = "index",
    output: PathLike = "scores",
    prompt: str = PROMPT,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: str = "auto",
    image_backend: Literal["auto", "pil", "torchvision"] = "auto",
    batch_tokens: int = 16_384,
    max_pixels: int | None = None,
    max_decode_pixels: int = 178_956_970,
    max_text_tokens: int = 2048,
    count_end_token: bool = True,
    no_image_pass: bool = False,
    compat: Literal["wepoints"] | None = None,
    samples_per_unit: int = SAMPLES_PER_UNIT,
    workers: int = 0,
    limit: int | None = None,
    trust_remote_code: bool = False,
    threads: int | None = None,
    memory_limit: int | None = None,
    strict: bool = False,
    max_bad_fraction: float = 0.001,
    allow_bad_files: int = 0,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
) -> Summary:
    """Score every pair of an index by its perplexity under a vision-language model (POINTS, section 3.2).

    A run that was stopped goes on where it was; new shards of the index are added to a finished output.

    Args:
        model: Local folder as ``save_pretrained`` writes it.
        index: The index of the pairs.
        output: The scores folder to write.
        prompt: What the user asks beside the images of a captioned pair; conversations bring their own.
        dtype: Type of the weights; ``"auto"``: bfloat16 on a GPU, else float32.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``; ``"auto"``: a GPU where there is one.
        image_backend: What shrinks and cuts pictures to the model's size.
        batch_tokens: Most tokens in one batch, padding counted. It does not change scores.
        max_pixels: Shrink larger images to so many pixels.
        max_decode_pixels: Give up on images whose header claims more.
        max_text_tokens: Cut the end of longer texts; such rows are marked ``truncated``.
        count_end_token: Score the token that closes an answer.
        no_image_pass: Score every text without its images too (``nll_sum_no_image``).
        compat: ``"wepoints"``: tokenise answers as the filter released with POINTS.
        samples_per_unit: Rows of one part of the output.
        workers: Threads that decode images; 0: one per core, at most 16.
        limit: Score only the first rows of the index.
        trust_remote_code: Run Python code that the model folder brings along.
        threads: Threads that torch computes with while this runs; None: its own choice, one beside a GPU. On a CPU, runs are
            byte for byte equal under the same number.
        memory_limit: Bytes for weights, files, pixels and rows that wait; None: no limit. Never changes the result.
        strict: End at the first row that cannot be scored.
        max_bad_fraction: Part of the rows that may fail, and that the index may have lost.
        allow_bad_files: Shards that may be missing or cut short.
        overwrite: Replace scores of another model, configuration or index.
        progress: Called with the rows done so far and in all; bytes are 0.

    Returns:
        The folder, and every row of the index counted by its status.

    Raises:
        NotFoundError, UsageError: What cannot be asked, before any work.
        UnreadableError: More rows failed, or were lost by the index, than is tolerated; what was scored stays for the next run.
        StrictError: The first of them, under ``strict``.
        MismatchError: The output was begun with another model, configuration or index.
        LockedError: Another process writes the output.
        ResourceError: The memory limit has no room beside the weights; disk or memory ran out.
    """
    options = ScoreOptions(
        prompt=prompt,
        dtype=dtype,
        device=device,
        image_backend=image_backend,
        batch_tokens=batch_tokens,
        max_pixels=max_pixels,
        max_decode_pixels=max_decode_pixels,
        max_text_tokens=max_text_tokens,
        count_end_token=count_end_token,
        no_image_pass=no_image_pass,
        compat=compat,
        samples_per_unit=samples_per_unit,
        workers=workers,
        limit=limit,
        trust_remote_code=trust_remote_code,
    )
    from vlmsel_trainer.scoring import run
    from vlmsel_trainer.scoring.threads import torch_threads

    def tell(now: Progress) -> None:
        if progress is not None:
            progress(now.rows, now.total_rows, 0, 0)

    with torch_threads(threads, on_gpu=run.on_gpu(options)):
        return run.score(
            model,
            index=index,
            output=output,
            options=options,
            overwrite=overwrite,
            strict=strict,
            max_bad_fraction=max_bad_fraction,
            allow_bad_files=allow_bad_files,
            memory_limit=memory_limit,
            on_progress=tell,
        )


def soup(
    models: PathLike | Iterable[PathLike],
    *,
    method: Literal["average", "maximum", "greedy"] = "average",
    output: PathLike = "soup",
    weights: Sequence[float] | None = None,
    top: int = 2,
    accept_margin: float = 0.0,
    scores: PathLike | None = None,
    eval_program: str | None = None,
    report_program: str | None = None,
    eval_timeout_s: float = DEFAULT_TIMEOUT_S,
    keep: Sequence[str] = (),
    keep_from: PathLike | None = None,
    base: PathLike | None = None,
    companions_from: PathLike | None = None,
    max_shard_bytes: int = DEFAULT_MAX_SHARD_BYTES,
    threads: int | None = None,
    memory_limit: int | None = None,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
) -> SoupResult:
    """Average fine-tunes of one model into one (POINTS, section 3.3): all of them, the best, or greedily.

    What the user should know although the run goes on is a :class:`UserWarning`. :func:`vlmsel_trainer.soup.make_soup` with a
    :class:`vlmsel_trainer.soup.Reporter` tells of candidates and trials too.

    Args:
        models: Folders of safetensors or LoRA adapters of one base. Their order changes no byte.
        method: ``"average"``: the mean of all; ``"maximum"``: that of the ``top`` best by score; ``"greedy"``: from the best
            down, those that do not lower the score of the mean.
        output: The model folder to write.
        weights: One weight for each model, in their order; None: equal ones.
        top: How many of the best ``"maximum"`` averages.
        accept_margin: Gain in score that a model must bring to stay in a ``"greedy"`` soup.
        scores: JSON or CSV with the scores of the models; larger is better.
        eval_program: Command line that scores a model folder, ``"python evaluate.py {model}"``. No shell.
        report_program: Command line that scores the soup and the best single model on held-out data at the end.
        eval_timeout_s: Limit of one evaluation, in seconds.
        keep: Patterns of tensors to take from one model, unblended.
        keep_from: The model that ``keep`` takes from.
        base: Base model of LoRA adapters, where their config names none on this machine.
        companions_from: Model whose config, tokenizer and processor go along, although the models differ.
        max_shard_bytes: Largest weight file.
        threads: Threads that read and add; None: one more than there are cores. Never changes the result.
        memory_limit: Bytes of buffers; None: 512 MiB. Never changes the result.
        overwrite: Replace a soup of other models or options.
        progress: Called with the bytes of the step at hand done so far and in all; records are 0.

    Returns:
        The soup's folder and its manifest, with the lineage of every model.

    Raises:
        UsageError, NotFoundError: Models that do not fit together, options that make no sense.
        UnreadableError: Damaged files, NaN.
        MismatchError: The output was begun with other models or options.
        LockedError: Another process writes the output.
        ResourceError: Disk or memory does not suffice.
    """
    folders = [models] if isinstance(models, str | os.PathLike) else models
    options = SoupOptions(
        method=method,
        models=tuple(map(Path, folders)),
        output=Path(output),
        weights=None if weights is None else tuple(weights),
        top=top,
        keep=tuple(keep),
        keep_from=_path(keep_from),
        scores=_path(scores),
        eval_program=eval_program,
        report_program=report_program,
        accept_margin=accept_margin,
        eval_timeout_s=eval_timeout_s,
        max_shard_bytes=max_shard_bytes,
        base=_path(base),
        companions_from=_path(companions_from),
        threads=threads,
        memory_limit=memory_limit,
        overwrite=overwrite,
    )
    return make_soup(options, _Listener(progress))


class _Listener(Reporter):
    """Passes on what a caller of :func:`soup` hears: warnings, and how far the bytes are."""

    def __init__(self, progress: ProgressCallback | None) -> None:
        self._progress = progress

    def warn(self, text: str) -> None:
        warnings.warn(text, stacklevel=2)

    @contextmanager
    def progress(self, title: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
        del title
        done_bytes = 0

        def advance(count: int) -> None:
            nonlocal done_bytes
            done_bytes += count
            if self._progress is not None:
                self._progress(0, 0, done_bytes, total_bytes)

        yield advance


def _path(path: PathLike | None) -> Path | None:
    return None if path is None else Path(path)
