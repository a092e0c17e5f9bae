"""Tars to begin fuzzing from: every format that Python writes, every image kind, long names, links, a second archive.

python seeds.py FOLDER
"""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

from PIL import Image


def picture(kind: str, **options: object) -> bytes:
    """A small image of one kind."""
    out = io.BytesIO()
    Image.effect_noise((24, 17), 60).convert("P" if kind == "GIF" else "RGB").save(out, kind, **options)
    return out.getvalue()


def archive(form: int) -> bytes:
    """A tar with images, texts, a long name and members that are no files."""
    members = [
        ("a.jpg", picture("JPEG")),
        ("a.txt", b"a caption"),
        ("a.json", b'{"uid": "000102030405060708090a0b0c0d0e0f", "x": NaN}'),
        ("b.jpg", picture("JPEG", progressive=True, quality=30)),
        ("c.png", picture("PNG")),
        ("d.gif", picture("GIF")),
        ("e.webp", picture("WEBP")),
        ("f" * 90 + "/" + "g" * 60 + ".txt", b"a long name"),
    ]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if form == tarfile.PAX_FORMAT:
                info.pax_headers = {"comment": "x" * 40}
            tar.addfile(info, io.BytesIO(data))
        for kind, name in ((tarfile.SYMTYPE, "l.jpg"), (tarfile.DIRTYPE, "d"), (tarfile.CHRTYPE, "t.txt")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.jpg"
            tar.addfile(info)
    return out.getvalue()


def main() -> None:
    """Write the seeds into the folder that is named."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    forms = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
    made = {name: archive(form) for name, form in forms.items()}
    made["twice"] = made["gnu"] + made["ustar"]
    made["cut"] = made["pax"][:-3000]
    made["empty"] = bytes(1024)
    for name, data in made.items():
        (folder / f"{name}.tar").write_bytes(data)


if __name__ == "__main__":
    main()
