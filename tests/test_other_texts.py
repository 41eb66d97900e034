"""scripts/other_texts.py makes articles of the files of Debian's packages."""

from __future__ import annotations

import gzip
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "other_texts.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("other_texts", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder with the unpacked packages, which are then not downloaded."""
    dictionary = "00-database\nlicence\nAcknowledgements\n\n   Thanks.\n\n"
    dictionary += "abacus\n\n   Beads.\n\nAB\n\n   x\n\nbit\n\n   0 or 1.\n"
    files = {
        "dict-foldoc/usr/share/dictd/foldoc.dict.dz": gzip.compress(dictionary.encode()),
        "fortunes/usr/share/games/fortunes/art": b"One.\n%\nTwo.\n  % of all\n%\n",
        "fortunes/usr/share/games/fortunes/art.dat": b"\x00\x01",
        "fortunes-de/usr/share/games/fortunes/de/murphy": "Größe.\n%\n".encode(),
        "anarchism/usr/share/doc/anarchism/html/secA1.html": b"<head><title>T</title></head><body><p>One\n  <b>two</b>."
        b"<p>Three &amp;<br>four<script>no()</script></body>",
        "anarchism/usr/share/doc/anarchism/html/index.html": b"<p>left out",
        "debian-faq/usr/share/doc/debian/FAQ/debian-faq.en.txt.gz": gzip.compress(b"What?\n\nThat.\n"),
    }
    for name, content in files.items():
        path = tmp_path / "packages" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path


def test_each_kind_of_text_is_made_of_its_package(packages: Path) -> None:
    done = subprocess.run([sys.executable, SCRIPT, packages], capture_output=True, text=True, check=True)
    assert [line.partition(", ")[0].partition("/test.jsonl: ")[2] for line in done.stdout.splitlines()] == [
        "2 articles",
        "1 articles",
        "1 articles",
        "1 articles",
        "1 articles",
    ]
    made = {
        path.parent.name: [tuple(json.loads(line).values()) for line in path.read_text("utf-8").splitlines()]
        for path in packages.glob("*/test.jsonl")
    }
    assert made == {
        "dictionary": [("ab", "abacus\nBeads.\nAB\nx\n"), ("bi", "bit\n0 or 1.\n")],
        "quotations": [("art", "One.\nTwo. % of all\n")],
        "german-quotations": [("murphy", "Größe.\n")],
        "essays": [("secA1", "One two.\nThree &\nfour\n")],
        "questions": [("questions", "What?\nThat.\n")],
    }


def test_of_many_articles_some_at_equal_distances_are_taken(script: ModuleType) -> None:
    articles = [(str(number), "x" * 1000) for number in range(1000)]
    assert script.chosen(articles) == articles[::6]
    assert script.chosen(articles[:3]) == articles[:3]


def test_without_a_folder_it_prints_its_usage() -> None:
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True)
    assert done.returncode == 1 and "other_texts.py FOLDER" in done.stderr


def test_a_package_that_cannot_be_had_is_told_in_one_line(tmp_path: Path) -> None:
    """Neither apt-get nor dpkg-deb is on an empty PATH; a package that cannot be unpacked is not taken for unpacked."""
    (tmp_path / "packages").mkdir()
    for _ in range(2):
        done = subprocess.run([sys.executable, SCRIPT, tmp_path], capture_output=True, text=True, env={"PATH": ""})
        assert done.returncode == 1 and done.stderr.count("\n") == 1
        assert done.stderr.startswith("dict-foldoc cannot be downloaded or unpacked (")
        (tmp_path / "packages" / "dict-foldoc_1_all.deb").write_bytes(b"damaged")
    assert [path.name for path in tmp_path.rglob("*")] == ["packages", "dict-foldoc_1_all.deb"]
