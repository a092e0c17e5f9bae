"""The demo's scorer: an ordinary model folder that is trained on what scoring measures."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from PIL import Image  # noqa: E402
from transformers import AutoModelForImageTextToText, AutoProcessor  # noqa: E402
from vlmsel_trainer.demo import glyphs  # noqa: E402
from vlmsel_trainer.demo import model as scorer  # noqa: E402
from vlmsel_trainer.demo.corpus import CorpusPlan, Pair, make_pairs  # noqa: E402
from vlmsel_trainer.demo.train import (  # noqa: E402
    PROMPT,
    ThreadTrial,
    TrainingPlan,
    answer_nll,
    captions,
    draw_pictures,
    is_trained,
    tokenise,
    train,
)

PLAN = TrainingPlan(n_steps=150, batch_size=32, views=1, n_names=150, n_warmup_steps=20)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    losses: list[float] = []
    trained = train(PLAN, tmp_path_factory.mktemp("scorer") / "scorer", lambda step, loss: losses.append(loss))
    assert len(losses) == PLAN.n_steps
    assert losses[-1] < losses[0] / 2
    return trained


@pytest.fixture(scope="module")
def loaded(folder: Path) -> tuple[object, object]:
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoProcessor.from_pretrained(folder, backend="pil")


def mean_nlls(loaded: tuple[object, object], pairs: list[Pair]) -> list[float]:
    """Scores of one pair after the other, without padding."""
    import io

    model, processor = loaded
    found = []
    for pair in pairs:
        picture = Image.open(io.BytesIO(pair.image)).convert("RGB")
        pixels = processor.image_processor([picture], return_tensors="pt")["pixel_values"]
        texts = tokenise(processor, [pair.caption.strip()])
        with torch.inference_mode():
            found.append(float(answer_nll(model, pixels, texts.ids, texts.mask, texts.answer).mean()))
    return found


def test_serial_and_empty_captions_are_told_from_good_ones(loaded: tuple[object, object]) -> None:
    names = set(captions(PLAN))
    pool = [pair for pair in make_pairs(CorpusPlan(n_pairs=1500)) if pair.facts["name"] in names]
    by_kind = {
        kind: mean_nlls(loaded, [pair for pair in pool if pair.kind == kind][:40])
        for kind in ("good", "serial-caption", "empty-caption")
    }
    for junk in ("serial-caption", "empty-caption"):
        wins = [bad > good for bad in by_kind[junk] for good in by_kind["good"]]
        assert len(by_kind[junk]) >= 5
        assert sum(wins) / len(wins) > 0.95, junk


def test_the_folder_is_left_alone_when_finished(folder: Path) -> None:
    assert is_trained(PLAN, folder)
    assert not is_trained(TrainingPlan(), folder)
    train(PLAN, folder, lambda step, loss: pytest.fail("the scorer was trained"))
    assert not list(folder.parent.glob("*.partial"))
    assert not list(folder.glob("*.bin"))


def test_training_texts_are_those_of_the_processor(loaded: tuple[object, object]) -> None:
    """Oracle: the whole conversation rendered and tokenised by the processor alone."""
    _, processor = loaded
    names = ["digit six", "latin small letter a with ogonek", ""]
    user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPT}]}
    picture = Image.new("RGB", (32, 32))
    found = tokenise(processor, names)
    for row, name in enumerate(names):
        answer = {"role": "assistant", "content": [{"type": "text", "text": name}]}
        whole, head = processor.apply_chat_template([user, answer]), processor.apply_chat_template([user])
        ids = processor(text=[whole], images=[picture])["input_ids"][0]
        n_head = len(processor(text=[head + "<|assistant|>"], images=[picture])["input_ids"][0])
        kept = found.mask[row].bool()
        assert found.ids[row][kept].tolist() == list(ids)
        assert found.answer[row][kept].tolist() == [i >= n_head for i in range(len(ids))]
        assert not found.answer[row][~kept].any()


def test_captions_that_hold_markers_stay_text(loaded: tuple[object, object]) -> None:
    _, processor = loaded
    texts = tokenise(processor, ["a <image> of <|end|>"])
    assert int((texts.ids == processor.image_token_id).sum()) == scorer.IMAGE_TOKENS


def test_training_pixels_are_those_of_the_image_processor(loaded: tuple[object, object]) -> None:
    _, processor = loaded
    plan = TrainingPlan(views=1, n_names=3)
    pictures = draw_pictures(plan, captions(plan))
    rows = torch.arange(len(pictures.names))
    batch = pictures.batch(rows, torch.Generator().manual_seed(7))
    palettes = torch.randint(len(pictures.inks), (len(rows),), generator=torch.Generator().manual_seed(7))
    for row, palette in enumerate(palettes.tolist()):
        ink, ground = (
            tuple(round(v * 255) for v in part[palette].tolist()) for part in (pictures.inks, pictures.grounds)
        )
        mask = Image.fromarray(pictures.masks[row].numpy())
        drawn = glyphs.paint(mask, glyphs.Colours(ink, ground))
        pixels = processor.image_processor([drawn], return_tensors="pt")["pixel_values"][0]
        assert float((pixels - batch[row]).abs().max()) < 3 * 1.01 / 255


def test_pictures_of_three_pixels_keep_their_axes(loaded: tuple[object, object]) -> None:
    """3 x 3 x 3 is where guessing which axis holds the colours goes wrong."""
    _, processor = loaded
    picture = Image.new("RGB", (3, 3), "red")
    pixels = processor.image_processor([picture], return_tensors="pt")["pixel_values"][0]
    wanted = (torch.tensor([1.0, 0, 0]) - scorer.PIXEL_MEAN) / scorer.PIXEL_STD
    assert torch.allclose(pixels, wanted[:, None, None].expand_as(pixels))


def test_learning_rate_warms_up_stays_and_falls_to_nothing() -> None:
    plan = TrainingPlan()
    rates = [plan.rate_at(step) for step in range(plan.n_steps)]
    assert rates[0] == pytest.approx(plan.learning_rate / 100)
    assert set(rates[99:560]) == {plan.learning_rate}
    assert rates[560:] == sorted(rates[560:], reverse=True)
    assert rates[-1] < plan.learning_rate / 500


def test_the_faster_number_of_threads_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, used = [0.0], []
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    trial = ThreadTrial(2)
    for _ in range(20):
        with trial.step():
            clock[0] += 5.0 if used[-1] == 2 else 1.0
    assert used == [2] * 6 + [1] * 14
