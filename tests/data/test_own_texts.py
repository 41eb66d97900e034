"""Texts of a user's own: what becomes an article."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pytest

from dynlm.data.options import CorpusOptions
from dynlm.data.own_texts import load_own_texts
from dynlm.data.sources.mixed import open_mixed
from dynlm.errors import UserError


def write(folder: Path, **files: str | bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name.replace("_", ".")
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def test_each_text_is_an_article(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, a_txt="one\r\n", b_jsonl='{"text": "two"}\n{"text": "three"}\n', c_md=" = Four = \n\n five\n")
    write(tmp_path, d_txt_gz=gzip.compress(b"six"))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"seven")))
    names = [str(tmp_path / name) for name in ("b.jsonl", "a.txt", "c.md", "d.txt.gz")]
    articles, skipped = load_own_texts([*names, "-"])
    assert [article.text for article in articles] == [
        "two",
        "three",
        "one\r\n",
        " = Four = \n\n five\n",
        "six",
        "seven",
    ]
    assert [article.title for article in articles][2:] == [names[1], names[2], "d", "standard input"] and not skipped


def test_a_folder_may_hold_several_formats(tmp_path: Path) -> None:
    write(tmp_path / "b", z_txt="last", a_json='{"text": "first"}\n')
    write(
        tmp_path, a_md="read me", c_bin=b"\0\1", d_txt=" \n", e_jsonl='{"body": "no text"}', f_html="<p>", g_txt="last"
    )
    write(tmp_path / ".git", a_txt="hidden")
    articles, skipped = load_own_texts([str(tmp_path)])
    assert [article.text for article in articles] == ["read me", "first", "last"]
    assert [article.title for article in articles] == [
        f"{tmp_path}/{name}" for name in ("a.md", "b/a.json:1", "b/z.txt")
    ]
    reasons = {Path(path).name: reason for path, reason in skipped.items()}
    assert [*reasons] == ["c.bin", "d.txt", "e.jsonl", "f.html", "g.txt"]
    assert "NUL" in reasons["c.bin"] and "no text" in reasons["d.txt"] and "'text'" in reasons["e.jsonl"]
    assert "convert it" in reasons["f.html"] and reasons["g.txt"] == f"the same text as {tmp_path}/b/z.txt"


def test_a_folder_is_read_as_a_corpus_of_its_files_is(tmp_path: Path) -> None:
    write(tmp_path, a_md="read me", b_txt=" \n = Two = \n \n two \n \n = Three = \n \n three \n", c_png=b"\0")
    articles, skipped = load_own_texts([str(tmp_path)])
    source = open_mixed(CorpusOptions(path=str(tmp_path), format="mixed"))
    assert [article.text for article in articles] == [article.text for article in source.splits["train"]()]
    assert [article.title for article in articles][1:] == ["Two", "Three"] and skipped == source.skipped


def test_what_is_named_has_to_be_readable(tmp_path: Path) -> None:
    write(tmp_path / "none", a_bin=b"\xff")
    with pytest.raises(UserError, match=r"no text in this folder \(.*not UTF-8"):
        load_own_texts([str(tmp_path / "none")])
    for name in ("a.bin", "nowhere.txt", "nowhere.jsonl"):
        with pytest.raises((UserError, OSError)):
            load_own_texts([str(tmp_path / "none" / name)])
