"""Results of few-shot runs that the report includes: a folder with ``fewshot.json`` and pictures beside it.

    {"title": "Omniglot, 5-way 1-shot",
     "text": "How it was made, in a sentence or two.",
     "tables": [{"title": "Accuracy, %", "columns": ["learner", "1-shot"], "rows": [["MAML", "98.1"]], "note": "..."}],
     "pictures": [{"file": "sinusoid.png", "title": "Five steps on a sinusoid", "alt": "what it shows, in words"}]}

Only ``title`` is required; cells are shown as text. Pictures are PNG or GIF files in the same folder.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynlm.errors import UserError
from dynlm.runtime.files import check_inside
from dynlm.runtime.parsing import read_json
from dynlm.runtime.text import printable

FILE = "fewshot.json"
_MEDIA_TYPES = {b"\x89PNG\r\n\x1a\n": "image/png", b"GIF89a": "image/gif", b"GIF87a": "image/gif"}
_MAX_BYTES = 4_000_000


@dataclass(frozen=True)
class Table:
    """A table of text; the first cell of each row names it."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture as a ``data:`` URL."""

    title: str
    alt: str
    address: str


@dataclass(frozen=True)
class FewShot:
    """The results of one folder."""

    title: str
    text: str
    tables: list[Table]
    pictures: list[Picture]


def load_fewshot(folder: Path) -> FewShot:
    """Read ``folder/fewshot.json`` and its pictures.

    Raises UserError where it is missing or not in the format above, and for a picture that is outside the folder,
    neither PNG nor GIF, or larger than 4 MB.
    """
    path = Path(folder) / FILE
    content = read_json(path)
    try:
        return FewShot(
            title=_text(content["title"]),
            text=_text(content.get("text", "")),
            tables=[_table(table) for table in content.get("tables", [])],
            pictures=[_picture(path.parent, picture) for picture in content.get("pictures", [])],
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"not few-shot results ({what})", path, "docs/report.md describes the format") from error


def _text(value: Any) -> str:
    if isinstance(value, (dict, list)) or value is None:
        raise TypeError(f"a text is a {type(value).__name__}")
    return printable(str(value))


def _table(table: Any) -> Table:
    columns = [_text(column) for column in table["columns"]]
    rows = [[_text(cell) for cell in row] for row in table["rows"]]
    if any(len(row) != len(columns) for row in rows):
        raise ValueError("a table has a row with more or fewer cells than columns")
    return Table(_text(table.get("title", "")), columns, rows, _text(table.get("note", "")))


def _picture(folder: Path, picture: Any) -> Picture:
    name = str(picture["file"])
    if name != Path(name).name:
        raise ValueError(f"the picture {name!r} is not beside it")
    path = folder / name
    if not path.is_file():
        raise UserError("no such picture", path, f"it is named in {folder / FILE}")
    check_inside(path, folder)
    if path.stat().st_size > _MAX_BYTES:
        raise UserError(f"the picture is larger than {_MAX_BYTES:,} bytes", path, "make it smaller")
    content = path.read_bytes()
    media_type = next((kind for magic, kind in _MEDIA_TYPES.items() if content.startswith(magic)), None)
    if media_type is None:
        raise UserError("neither PNG nor GIF", path, "save the picture as PNG")
    title = _text(picture.get("title", path.stem))
    address = f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
    return Picture(title, _text(picture.get("alt", title)), address)
