"""`vlmsel score` where something lies that is no plain file, or not the file that was indexed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import vlmsel
from blake3 import blake3
from click.testing import CliRunner
from small_index import Pair, draw_png, write_index
from vlmsel.errors import StrictError, UnreadableError, UsageError
from vlmsel.images import ImageError, locate, read_image
from vlmsel_trainer.scoring import run
from vlmsel_trainer.scoring.options import ScoreOptions
from vlmsel_trainer.vlm.load import check_folder

Special = Callable[[Path, str], Path]
# A hang is what these tests are about.
pytestmark = pytest.mark.timeout(120)
OPTIONS = ScoreOptions(samples_per_unit=4, batch_tokens=256, workers=2)
PAIRS = [Pair([draw_png(i)], f"a bird number {i}") for i in range(10)]


@pytest.fixture
def model(family_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(family_folder("llava_qwen2"), tmp_path / "model"))


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return write_index(tmp_path / "index", tmp_path / "data", {"a.tar": PAIRS})


def hash_folder(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
    }


# --- model folders and the index -------------------------------------------------------------------------------------

MODEL_FILES = ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "socket", "device", "folder"])
@pytest.mark.parametrize("name", MODEL_FILES)
def test_a_model_file_that_is_none_is_named(name: str, kind: str, model: Path, special: Special) -> None:
    (model / name).unlink()
    place = special(model / name, kind)
    with pytest.raises(UsageError, match=r"is a (named pipe|socket|device|folder), not a plain file") as error:
        check_folder(model)
    assert str(place) in str(error.value)


@pytest.mark.parametrize(
    "name", ["model.safetensors.index.json", "chat_template.jinja", "additional_chat_templates/rag.jinja"]
)
def test_so_is_one_that_the_model_would_do_without(name: str, model: Path, index: Path, special: Special) -> None:
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).unlink(missing_ok=True)
    special(model / name, "pipe")
    with pytest.raises(UsageError, match=f"{Path(name).name} is a named pipe"):
        run.score(model, index=index, output=model.parent / "scores", options=OPTIONS)


def test_a_model_file_that_is_a_link_to_nothing_is_named(model: Path, special: Special) -> None:
    """As a cache of Hugging Face has them whose blobs were deleted; transformers would go on without the file."""
    (model / "tokenizer_config.json").unlink()
    special(model / "tokenizer_config.json", "link to nothing")
    with pytest.raises(FileNotFoundError, match=r"tokenizer_config\.json: a link to what is not there"):
        check_folder(model)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
@pytest.mark.parametrize("name", ["manifest.json", "a.parquet"])
def test_a_file_of_the_index_that_is_none_is_named(
    name: str, kind: str, model: Path, index: Path, special: Special
) -> None:
    (index / name).unlink()
    place = special(index / name, kind)
    with pytest.raises(UsageError, match="not a plain file") as error:
        run.score(model, index=index, output=model.parent / "scores", options=OPTIONS)
    assert str(place) in str(error.value)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_a_shard_that_is_no_file_costs_its_rows(kind: str, model: Path, index: Path, special: Special) -> None:
    (model.parent / "data" / "a.tar").unlink()
    special(model.parent / "data" / "a.tar", kind)
    summary = run.score(model, index=index, output=model.parent / "scores", options=OPTIONS, max_bad_fraction=1)
    assert summary.counts["image_unreadable"] == len(PAIRS)


# --- pictures that are not those that were indexed --------------------------------------------------------------------


def replace_in_tar(tar: Path, number: int, picture: bytes) -> None:
    """Puts another picture of the same size over one in a tar; PNG readers do not mind what follows the end."""
    old, content = PAIRS[number].images[0], tar.read_bytes()
    assert content.count(old) == 1
    assert len(picture) <= len(old)
    tar.write_bytes(content.replace(old, picture.ljust(len(old), b"\0")))


def test_a_replaced_picture_is_a_status_of_its_row_and_excused_by_nothing(
    model: Path, index: Path, tmp_path: Path
) -> None:
    small = min((draw_png(seed) for seed in range(100, 140)), key=len)
    number = max(range(len(PAIRS)), key=lambda i: len(PAIRS[i].images[0]))
    replace_in_tar(tmp_path / "data" / "a.tar", number, small)
    summary = run.score(model, index=index, output=tmp_path / "scores", options=OPTIONS, max_bad_fraction=0.1)
    assert summary.counts == {"input": 10, "ok": 9, "image_changed": 1}
    statuses = [
        status
        for part in sorted((tmp_path / "scores").glob("*.parquet"))
        for status in pq.read_table(part)["status"].to_pylist()
    ]
    assert statuses[number] == "image_changed"
    for allowed in (0, 1):
        with pytest.raises(UnreadableError, match="1 image_changed"):
            run.score(model, index=index, output=tmp_path / "none", options=OPTIONS, allow_bad_files=allowed)
    with pytest.raises(StrictError, match=r"row \d of .*: image_changed"):
        run.score(model, index=index, output=tmp_path / "strict", options=OPTIONS, strict=True, max_bad_fraction=1)


def test_a_shard_that_was_written_again_changes_all_its_pictures(model: Path, index: Path, tmp_path: Path) -> None:
    """Every byte range still holds something, from which nothing may be scored."""
    content = (tmp_path / "data" / "a.tar").read_bytes()
    (tmp_path / "data" / "a.tar").write_bytes(content[512:] + content[:512])
    summary = run.score(model, index=index, output=tmp_path / "scores", options=OPTIONS, max_bad_fraction=1)
    assert summary.counts == {"input": 10, "ok": 0, "image_changed": 10}


def as_loose_files(index: Path, folder: Path) -> None:
    """Makes the pictures of an index files of their own."""
    folder.mkdir()
    table = pq.read_table(index / "a.parquet")
    entries = table["images"].to_pylist()
    for number, ([entry], pair) in enumerate(zip(entries, PAIRS, strict=True)):
        entry |= {"file": f"{number}.png", "offset": 0}
        (folder / entry["file"]).write_bytes(pair.images[0])
    place = table.schema.get_field_index("images")
    table = table.set_column(place, table.schema.field(place), pa.array(entries, table.schema.field(place).type))
    pq.write_table(table, index / "a.parquet")
    content = (index / "a.parquet").read_bytes()
    manifest = json.loads((index / "manifest.json").read_text())
    [record] = [file for part in manifest["parts"] for file in part["files"] if file["file"] == "a.parquet"]
    record |= {"bytes": len(content), "blake3": blake3(content).hexdigest()}
    (index / "manifest.json").write_text(json.dumps(manifest))


def test_loose_files_that_were_replaced(
    model: Path, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, special: Special
) -> None:
    as_loose_files(index, tmp_path / "data" / "loose")
    manifest = (index / "manifest.json").read_text()
    (index / "manifest.json").write_text(
        manifest.replace('"image_root": null', f'"image_root": "{tmp_path}/data/loose"')
    )
    loose = tmp_path / "data" / "loose"
    (loose / "0.png").write_bytes(draw_png(99, 50, 50))  # of another size in bytes
    assert (loose / "0.png").stat().st_size != len(PAIRS[0].images[0])
    (loose / "1.png").write_bytes(b"")
    (loose / "2.png").unlink()
    (loose / "3.png").unlink()
    special(loose / "3.png", "pipe")
    (loose / "4.png").unlink()
    special(loose / "4.png", "device")
    (loose / "5.png").unlink()
    (loose / "5.png").symlink_to(tmp_path / "elsewhere.png")
    (tmp_path / "elsewhere.png").write_bytes(PAIRS[5].images[0])
    summary = run.score(model, index=index, output=tmp_path / "scores", options=OPTIONS, max_bad_fraction=1)
    assert summary.counts == {"input": 10, "ok": 5, "image_changed": 2, "image_missing": 1, "image_unreadable": 2}


def test_the_hash_is_that_of_the_index(tmp_path: Path) -> None:
    """Of an index that vlmsel made itself."""
    picture = draw_png(1)
    (tmp_path / "a.png").write_bytes(picture)
    (tmp_path / "a.jsonl").write_text('{"image": "a.png", "text": "a bird"}\n')
    vlmsel.index(tmp_path / "a.jsonl", output=tmp_path / "index")
    [part] = (tmp_path / "index").glob("*.parquet")
    [[image]] = pq.read_table(part)["images"].to_pylist()
    place = locate({"path": str(tmp_path)}, "a.jsonl", image)
    assert read_image(place) == picture
    (tmp_path / "a.png").write_bytes(picture[:-1] + b"\0")
    with pytest.raises(ImageError, match="image_changed"):
        read_image(place)


def test_an_index_that_lost_more_than_is_tolerated_is_refused(model: Path, index: Path, tmp_path: Path) -> None:
    place = index / "manifest.json"
    tolerated = {"max_bad_fraction": 0.5, "allow_bad_files": 0}
    losses = {"input": 14, "quarantined": 4, "bad_files": [], "tolerated": tolerated}
    place.write_text(json.dumps(json.loads(place.read_text()) | {"losses": losses}))
    places = {"model": model, "index": index, "output": tmp_path / "scores"}
    with pytest.raises(UnreadableError, match=r"index was made without 4 of 14 records.*--max-bad-fraction 0\.2858"):
        run.score(**places, options=OPTIONS)
    with pytest.raises(StrictError):
        run.score(**places, options=OPTIONS, strict=True)
    assert not (tmp_path / "scores").exists()
    assert run.score(**places, options=OPTIONS, max_bad_fraction=0.2858).counts["ok"] == 10


# --- a finished folder that a more tolerant run made -------------------------------------------------------------------


@pytest.fixture
def half_lost(model: Path, tmp_path: Path) -> dict[str, Path]:
    """Scores of an index one of whose two shards is gone: made with --max-bad-fraction 1."""
    index = write_index(tmp_path / "index", tmp_path / "data", {"a.tar": PAIRS, "b.tar": PAIRS[:5]})
    (tmp_path / "data" / "b.tar").unlink()
    places = {"model": model, "index": index, "output": tmp_path / "scores"}
    run.score(**places, options=OPTIONS, max_bad_fraction=1)
    return places


def test_a_finished_folder_is_judged_as_a_run_would_be(half_lost: dict[str, Path]) -> None:
    before = hash_folder(half_lost["output"])
    for less in ({}, {"max_bad_fraction": 0.3}, {"allow_bad_files": 0}):
        with pytest.raises(UnreadableError, match=r"5 of 15 rows could not be scored \(5 image_missing\)"):
            run.score(**half_lost, options=OPTIONS, **less)
    with pytest.raises(StrictError, match="5 image_missing"):
        run.score(**half_lost, options=OPTIONS, strict=True, max_bad_fraction=1)
    for enough in ({"max_bad_fraction": 0.34}, {"allow_bad_files": 1}, {"allow_bad_files": 1, "strict": True}):
        assert run.score(**half_lost, options=OPTIONS, **enough).scored_rows == 0
    assert hash_folder(half_lost["output"]) == before
    assert sorted(path.name for path in half_lost["output"].parent.glob("scores*")) == ["scores"]


def test_the_command_ends_with_the_codes_of_a_run(half_lost: dict[str, Path]) -> None:
    from vlmsel.cli.main import run as vlmsel_command

    words = ["score", "-q", "--samples-per-unit", "4", "--batch-tokens", "256"]
    words += [word for name in ("model", "index", "output") for word in (f"--{name}", str(half_lost[name]))]
    assert vlmsel_command(words) == 3
    assert vlmsel_command([*words, "--strict", "--max-bad-fraction", "1"]) == 5
    assert vlmsel_command([*words, "--allow-bad-files", "1"]) == 0


def test_a_resumed_run_is_strict_about_rows_of_the_run_before(model: Path, tmp_path: Path) -> None:
    bad = [Pair([b"no image"], "x"), *PAIRS[:7]]
    index = write_index(tmp_path / "index", tmp_path / "data", {"a.tar": bad})
    places = {"model": model, "index": index, "output": tmp_path / "scores"}

    class Stopped(Exception):
        pass

    def stop(progress: run.Progress) -> None:
        if progress.rows > 4:  # the first unit is committed
            raise Stopped

    with pytest.raises(Stopped):
        run.score(**places, options=OPTIONS, max_bad_fraction=1, on_progress=stop)
    with pytest.raises(StrictError, match="1 image_undecodable"):
        run.score(**places, options=OPTIONS, max_bad_fraction=1, strict=True)
    assert run.score(**places, options=OPTIONS, max_bad_fraction=1).counts["image_undecodable"] == 1


# --- outputs in inputs --------------------------------------------------------------------------------------------------


def test_scores_are_not_written_into_inputs(model: Path, tmp_path: Path) -> None:
    from vlmsel_trainer.cli.score import command

    (tmp_path / "pool").mkdir()
    write_index(tmp_path / "made-up", tmp_path / "pool", {"a.tar": PAIRS[:2]})
    vlmsel.index(tmp_path / "pool", output=tmp_path / "index", max_bad_fraction=1)
    (tmp_path / "link").symlink_to("pool")
    for output in ("index/scores", "model/scores", "model", "pool/a.tar", "link/a.tar", "pool/a.tar/x"):
        with pytest.raises(UsageError):
            run.score(model, index=tmp_path / "index", output=tmp_path / output, options=OPTIONS)
    assert (tmp_path / "pool" / "a.tar").is_file()
    done = CliRunner().invoke(command, ["--model", str(model), "-w", str(tmp_path), "--dry-run"])
    assert done.exit_code == 0
