"""Fonts: characters that no font has are reported, and installed fonts that have them are found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from dynlm.report.drawing import monospace
from dynlm.report.heatmap import heatmap_run
from tests.report.samples import write_files
from tests.synthetic_scores import synthetic_scores

HAN = "\u5f41"  # Not in matplotlib's fonts, and rarely installed.


def font_with(letter: str, path: Path) -> Path:
    """A font with one character, a filled square."""
    pen = TTGlyphPen(None)
    for move, corner in ((pen.moveTo, (50, 0)), *((pen.lineTo, at) for at in ((50, 900), (950, 900), (950, 0)))):
        move(corner)
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "one"])
    builder.setupCharacterMap({ord(letter): "one"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "one": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "one": (1000, 50)})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "Made Up Han", "styleName": "Regular", "psName": "MadeUpHan"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


@pytest.fixture
def han(tmp_path: Path) -> list[Path]:
    """Score files of a text whose first token is in Chinese."""
    variants = synthetic_scores(articles=2, tokens=60)
    surface = [HAN.encode() * 3, *list(variants[0].surface)[1:]]
    return write_files(tmp_path, [replace(scores, surface=surface) for scores in variants])


def only_matplotlib_fonts(monkeypatch: pytest.MonkeyPatch, *more: Path) -> None:
    """Hide all installed fonts but matplotlib's own and ``more``."""
    own = str(Path(matplotlib.get_data_path()))
    entries = [entry for entry in font_manager.fontManager.ttflist if entry.fname.startswith(own)]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", entries)
    for path in more:
        font_manager.fontManager.addfont(path)
    font_manager.fontManager._findfont_cached.cache_clear()


def test_characters_without_a_font_are_reported_with_the_page_that_shows_them(tmp_path, han, monkeypatch, capsys):
    only_matplotlib_fonts(monkeypatch)
    heatmap_run(*han, tmp_path, (1, 0, 5))
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1
    assert HAN in warning and str(tmp_path / "heatmap.html") in warning
    assert HAN in (tmp_path / "heatmap.html").read_text(encoding="utf-8")


def test_an_installed_font_with_the_character_is_used(tmp_path, han, monkeypatch, capsys, caplog):
    only_matplotlib_fonts(monkeypatch)
    (boxes,) = [path for path in heatmap_run(*han, tmp_path / "boxes", (1, 0, 5)) if path.suffix == ".svg"]
    capsys.readouterr()
    only_matplotlib_fonts(monkeypatch, font_with(HAN, tmp_path / "han.ttf"))
    assert "Made Up Han" in monospace([HAN]) and "Made Up Han" not in monospace(["a"])
    (found,) = [path for path in heatmap_run(*han, tmp_path / "found", (1, 0, 5)) if path.suffix == ".svg"]
    assert not capsys.readouterr().err and not caplog.records
    text = found.read_text(encoding="utf-8")
    assert "MadeUpHan" in text and "MadeUpHan" not in boxes.read_text(encoding="utf-8")
