"""A folder of several formats: what is read of it, and why the rest is not."""

from __future__ import annotations

import bz2
import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dynlm.data.articles import load_articles, open_source
from dynlm.data.options import CorpusOptions
from dynlm.errors import UserError


def mixed(path: Path, **options: str) -> CorpusOptions:
    return CorpusOptions(path=str(path), format="mixed", **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A file of each format, nested and compressed, beside what is no text."""
    root = tmp_path / "own"
    (root / "deep" / "er").mkdir(parents=True)
    (root / ".git").mkdir()
    (root / ".git" / "config.txt").write_text("hidden")
    (root / "a.txt").write_text("alpha")
    (root / "deep" / "b.md").write_text("# Beta\n")
    (root / "deep" / "er" / "c.rst.gz").write_bytes(gzip.compress(b"gamma"))
    (root / "d.jsonl").write_text('{"text": "delta", "title": "D"}\n{"text": "epsilon"}\n')
    pq.write_table(pa.table({"text": ["zeta"], "title": ["Z"]}), root / "e.parquet")
    (root / "f.txt").write_text(" \n = Eta = \n \n eta \n \n = Theta = \n \n theta \n")
    (root / "Makefile").write_text("iota:")
    return root


def test_each_file_is_read_by_its_own_format(folder: Path) -> None:
    source = open_source(mixed(folder))
    articles = [*source.splits["train+meta"](), *source.splits["valid"](), *source.splits["test"]()]
    titles = ["Makefile", "a", "D", f"{folder}/d.jsonl:2", "deep/b", "deep/er/c", "Z", "Eta", "Theta"]
    assert sorted(each.title for each in articles) == sorted(titles)
    assert not source.skipped
    assert {each.text for each in articles} >= {"alpha", "# Beta\n", "gamma", "delta", "epsilon", "zeta", "iota:"}


def test_what_cannot_be_read_is_skipped_whole_with_a_reason(folder: Path, tmp_path: Path) -> None:
    before = [each.text for each in load_articles(mixed(folder), "train+meta")]
    (folder / "z1.png").write_bytes(b"\x89PNG\0")
    (folder / "z2.PDF").write_bytes(b"%PDF-1.4")
    (folder / "z3.txt").write_bytes(b"good line\n" * 9 + b"\xff\n")
    (folder / "z4.txt.bz2").write_bytes(bz2.compress(b"text " * 999)[:40])
    (folder / "z5.jsonl").write_text('{"text": "good"}\n{"body": "not"}\n')
    (folder / "z6.txt").write_text(" \n\n")
    (folder / "z7.parquet").write_bytes(b"PAR1")
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "z8.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "z9").symlink_to(folder)
    source = open_source(mixed(folder))
    for _ in range(2):  # Later passes skip the same.
        assert [each.text for each in source.splits["train+meta"]()] == before
        reasons = {Path(path).name: why for path, why in source.skipped.items()}
        assert sorted(reasons) == [
            *("z1.png", "z2.PDF", "z3.txt", "z4.txt.bz2", "z5.jsonl", "z6.txt", "z7.parquet", "z8.txt", "z9")
        ]
    assert reasons["z3.txt"].startswith("line 10: not UTF-8 at byte 90")
    assert reasons["z5.jsonl"].startswith("line 2: no field 'text' among body")
    assert "convert it" in reasons["z2.PDF"] and reasons["z6.txt"] == "it holds no text"
    assert "leads out of" in reasons["z8.txt"] and reasons["z9"] == "a linked folder"
    assert not any(str(folder) in why for name, why in reasons.items() if name != "z8.txt")


def test_a_text_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.md").write_text("one")
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in ("one", "two", "two")))
    source = open_source(mixed(tmp_path))
    assert [each.text for each in source.splits["train+meta"]()] == ["one", "two"]
    assert {Path(path).name: why for path, why in source.skipped.items()} == {
        "b.md": f"the same text as {tmp_path}/a.txt",
        "c.jsonl": "2 of its texts were read before",
    }


def test_fields_of_records_are_options(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "one", "name": "N"}\n')
    (article,) = load_articles(mixed(tmp_path, text_field="body", title_field="name"), "train+meta")
    assert (article.title, article.text) == ("N", "one")


def test_a_single_file_has_to_be_readable(folder: Path) -> None:
    (article,) = load_articles(mixed(folder / "a.txt"), "train+meta")
    assert (article.title, article.text) == ("a", "alpha")
    (folder / "z.bin").write_bytes(b"\0")
    for path, what in ((folder / "z.bin", "NUL"), (folder / "nowhere", "no such file")):
        with pytest.raises(UserError, match=what):
            load_articles(mixed(path), "train+meta")
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe")
        source = open_source(mixed(folder))
        assert len([*source.splits["train+meta"]()]) > 5
        assert "not a regular file" in source.skipped[str(folder / "pipe")]
