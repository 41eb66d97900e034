"""A corpus source in one file outside the package, found by its entry point or registered in the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dynlm.data.articles import load_articles
from dynlm.data.options import CorpusOptions
from dynlm.data.sources.source import SOURCES, Article, Source

ROOT = Path(__file__).resolve().parents[3]
MODULE = """
from dynlm.data.sources.source import SOURCES, Article, Source

@SOURCES.register("counting")
def open_counting(corpus):
    articles = [Article(f"to {n}", " ".join(map(str, range(n))) + "\\n", f"counting:{n}") for n in range(1, 7)]
    return Source("counting", {"train": lambda: iter(articles)})
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with an installed package of two sources, one of which cannot be imported."""
    (tmp_path / "counting.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("raise RuntimeError('broken on purpose')")
    about = tmp_path / "counting-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: counting\nVersion: 1.0\n")
    points = ("counting = counting:open_counting", "broken = broken:open_broken")
    (about / "entry_points.txt").write_text("\n".join(["[dynlm.sources]", *points, ""]))
    return tmp_path


def corpus_command(folder: Path, source: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dynlm", "corpus", "--corpus.source", source, "--corpus.hold_out_every", "3"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
    return subprocess.run([*command, "--json"], capture_output=True, text=True, env=environment)


def test_a_foreign_source_is_read_from_the_command_line(installed: Path) -> None:
    done = corpus_command(installed, "counting")
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert {split: counts[split]["articles"] for split in counts} == {"train": 2, "valid": 2, "test": 2}
    assert counts["valid"]["longest"] == {"title": "to 6", "words": 7}


def test_unknown_and_broken_foreign_sources_are_named(installed: Path) -> None:
    for source, message in (("countin", "did you mean 'counting'?"), ("broken", "RuntimeError: broken on purpose")):
        done = corpus_command(installed, source)
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_a_source_is_registered_by_the_decorator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SOURCES, "_items", {})

    @SOURCES.register("counting", "numbers")
    def open_counting(corpus: CorpusOptions) -> Source:
        articles = [Article(str(n), corpus.source, "") for n in range(6)]
        return Source("counting", {"train": lambda: iter(articles)})

    for name in ("counting", "numbers"):
        articles = load_articles(CorpusOptions(name, hold_out_every=3), "valid")
        assert [(article.title, article.text) for article in articles] == [("2", name), ("5", name)]
