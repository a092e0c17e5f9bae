"""`--memory-limit`: what waits ahead of the model is bounded by bytes, and no limit changes a score."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from small_index import Pair, draw_png, write_index
from vlmsel.errors import ResourceError, UsageError
from vlmsel_trainer.scoring import run
from vlmsel_trainer.scoring.options import ScoreOptions
from vlmsel_trainer.vlm import images, prefetch
from vlmsel_trainer.vlm.load import LoadedModel
from vlmsel_trainer.vlm.memory import MIN_BYTES, ByteBudget, count_weight_bytes, plan_memory

OPTIONS = ScoreOptions(samples_per_unit=40, batch_tokens=64, workers=8)


def noise(side: int) -> bytes:
    content = io.BytesIO()
    Image.effect_noise((side, side), 60).convert("RGB").save(content, "PNG")
    return content.getvalue()


@pytest.fixture
def model(family_folder: Callable[[str], Path]) -> Path:
    return family_folder("llava_qwen2")


def test_weights_are_counted_as_they_will_be_loaded(
    model: Path, family: Callable[[str], LoadedModel], tmp_path: Path
) -> None:
    loaded = sum(tensor.nbytes for tensor in family("llava_qwen2").model.state_dict().values())
    assert count_weight_bytes(model, torch.float32) == loaded
    assert count_weight_bytes(model, torch.bfloat16) == loaded // 2
    (tmp_path / "model.safetensors").write_bytes(next(model.glob("*.safetensors")).read_bytes()[:1000])
    with pytest.raises(UsageError, match="copy the model again"):
        count_weight_bytes(tmp_path, torch.float32)


def test_a_limit_without_room_beside_the_weights_is_refused_before_loading(model: Path, tmp_path: Path) -> None:
    index = write_index(tmp_path / "index", tmp_path / "data", {"a.tar": [Pair([draw_png(1)], "a bird")]})
    weights = count_weight_bytes(model, torch.float32)
    with pytest.raises(ResourceError, match=f"give {weights + MIN_BYTES:,} or more"):
        run.score(model, index=index, output=tmp_path / "scores", options=OPTIONS, memory_limit=weights + MIN_BYTES - 1)
    assert not list(tmp_path.glob("scores*"))
    with pytest.raises(ResourceError):
        run.plan(model, index, OPTIONS, memory_limit=1)
    run.score(model, index=index, output=tmp_path / "scores", options=OPTIONS, memory_limit=weights + MIN_BYTES)


def test_what_waits_and_what_is_decoded_stays_under_the_limit(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty pictures of a megapixel each, eight workers, room for one or two: never more at once, and the same bytes."""
    pairs = [Pair([noise(1000)], f"a bird {i}") for i in range(3)] + [Pair([draw_png(i)], f"b {i}") for i in range(37)]
    index = write_index(tmp_path / "index", tmp_path / "data", {"a.tar": pairs})
    run.score(model, index=index, output=tmp_path / "free", options=OPTIONS)

    limit = count_weight_bytes(model, torch.float32) + MIN_BYTES
    memory = plan_memory(limit, limit - MIN_BYTES)
    under_way, most, lock = [0], [0], threading.Lock()
    original = images._in_rgb

    def watched(picture: Image.Image, max_pixels: int | None) -> Image.Image:
        needed = picture.width * picture.height * 12
        with lock:
            under_way[0] += needed
            most[0] = max(most[0], under_way[0])
        try:
            return original(picture, max_pixels)
        finally:
            with lock:
                under_way[0] -= needed

    monkeypatch.setattr(images, "_in_rgb", watched)
    run.score(model, index=index, output=tmp_path / "tight", options=OPTIONS, memory_limit=limit)
    assert 12_000_000 <= most[0] <= memory.decode_bytes < 24_000_000
    free, tight = (next((tmp_path / name).glob("*.parquet")) for name in ("free", "tight"))
    assert pq.read_table(free).equals(pq.read_table(tight))


def test_rows_ahead_are_bounded_by_their_bytes(
    model: Path, tmp_path: Path, family: Callable[[str], LoadedModel]
) -> None:
    pairs = [Pair([draw_png(i)], f"a bird {i}") for i in range(40)]
    index = run.plan(model, write_index(tmp_path / "index", tmp_path / "data", {"a.tar": pairs}), OPTIONS).index
    loaded = family("llava_qwen2")
    template = run.ChatTemplate(loaded.processor)
    prepared: list[int] = []

    class Counting(run.Preprocessor):
        def prepare(self, sample, tokens):  # type: ignore[no-untyped-def]
            row = super().prepare(sample, tokens)
            prepared.append(sum(value.nbytes for features in row.features for value in features.values()))
            return row

    preprocessor = Counting(loaded, template, index.roots, images.ImageLimits())
    cost = preprocessor.measure(40, 40)
    rules = prefetch.TokenRules(template, "?", None, 64, with_no_image=False)
    taken = 0
    for batch in prefetch.Prefetch(preprocessor, rules, 4, prefetch_bytes=3 * cost.n_bytes).run(
        index.read(index.units(40))
    ):
        # Whatever was prepared and not taken yet is waiting; the estimate is what each row came to.
        taken += len(batch.rows)
        assert sum(prepared) - (taken - len(batch.rows)) * cost.n_bytes <= 3 * cost.n_bytes
    assert taken == 40
    assert set(prepared) == {cost.n_bytes}


def test_one_that_needs_more_than_all_goes_alone() -> None:
    budget, inside, most, lock = ByteBudget(10), [0], [0], threading.Lock()

    def work(size: int) -> None:
        for _ in range(50):
            with budget.hold(size):
                with lock:
                    inside[0] += size
                    most[0] = max(most[0], inside[0])
                with lock:
                    inside[0] -= size

    threads = [threading.Thread(target=work, args=(size,)) for size in (3, 4, 5, 25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
    assert most[0] == 25
    with pytest.raises(ValueError, match="stop"), budget.hold(9):
        raise ValueError("stop")
    with budget.hold(10):
        pass
