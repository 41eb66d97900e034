"""Few-shot results for the report: reading, and refusals that name the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dynlm.errors import UserError
from dynlm.report.fewshot_results import load_fewshot

PNG = b"\x89PNG\r\n\x1a\n" + b"\x00" * 20
RESULTS = {
    "title": "Omniglot, 5-way 1-shot",
    "text": "600 test tasks.",
    "tables": [{"title": "Accuracy, %", "columns": ["learner", "1-shot"], "rows": [["MAML", 98.1]], "note": "n"}],
    "pictures": [{"file": "a.png", "title": "Five steps", "alt": "a curve"}],
}


def folder_with(folder: Path, content: object, picture: bytes = PNG) -> Path:
    (folder / "fewshot.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / "a.png").write_bytes(picture)
    return folder


def test_tables_and_pictures_are_read(tmp_path):
    results = load_fewshot(folder_with(tmp_path, RESULTS))
    assert (results.title, results.text) == ("Omniglot, 5-way 1-shot", "600 test tasks.")
    assert results.tables[0].rows == [["MAML", "98.1"]]
    assert results.pictures[0].address.startswith("data:image/png;base64,iVBORw0KGgo")
    assert load_fewshot(folder_with(tmp_path, {"title": "T"})).pictures == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"title": None}, "a text is a NoneType"),
        ({"tables": [{"columns": ["a"], "rows": [["x", "y"]]}]}, "more or fewer cells"),
        ({"tables": 3}, "not few-shot results"),
        ({"tables": [{"rows": []}]}, "no 'columns'"),
        ({"pictures": [{"file": "../a.png"}]}, "not beside it"),
        ({"pictures": [{"file": "b.png"}]}, "b.png: no such picture"),
        ({"pictures": ["a.png"]}, "not few-shot results"),
    ],
)
def test_errors_name_what_is_wrong(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        load_fewshot(folder_with(tmp_path, {**RESULTS, **change}))


def test_only_png_and_gif_files_are_read(tmp_path):
    with pytest.raises(UserError, match=r"a\.png: neither PNG nor GIF"):
        load_fewshot(folder_with(tmp_path, RESULTS, b"<svg onload='alert(1)'>"))
    with pytest.raises(UserError, match="larger than"):
        load_fewshot(folder_with(tmp_path, RESULTS, PNG + bytes(4_000_000)))
    with pytest.raises(UserError, match="JSON"):
        folder_with(tmp_path, RESULTS)
        (tmp_path / "fewshot.json").write_text("[")
        load_fewshot(tmp_path)
