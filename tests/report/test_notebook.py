"""The pieces in a notebook: what each shows of itself, and what it saves."""

from __future__ import annotations

import html
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from dynlm.errors import UserError
from dynlm.evaluation.compare import compare
from dynlm.evaluation.score_file import write_scores
from dynlm.evaluation.tables import figures_of
from dynlm.report.curves import plot_run
from dynlm.report.notebook import (
    DifferenceCurve,
    HeatMap,
    Levels,
    MemoryCurves,
    MemoryRates,
    PositionCurves,
    Report,
    WordChanges,
)
from tests.readings import reading


@pytest.fixture(scope="module")
def arms():
    return reading(3, ("level 1", "rms"), tokens=200)


def test_the_table_holds_every_figure(arms):
    shown = Levels(arms)._repr_html_()
    for arm in compare(arms).variants:
        for figure in figures_of(arm):
            assert f"<td>{html.escape(figure).replace('+', '+')}</td>" in shown
    assert str(Levels(arms)) == compare(arms).to_text()


@pytest.mark.parametrize("piece", [DifferenceCurve, PositionCurves])
def test_curves_show_and_save_the_same_picture(arms, piece, tmp_path):
    shown = piece(arms)._repr_html_()
    assert re.fullmatch(r'<img src="data:image/svg\+xml;base64,[\w+/=]+" alt="[^"]+" style="[^"]+">', shown)
    assert [path.name for path in piece(arms).save(tmp_path / "a")] == ["a.png", "a.svg"]


def test_the_heat_map_shows_itself_in_a_frame_that_runs_nothing(arms, tmp_path):
    piece = HeatMap(*arms)
    shown = piece._repr_html_()
    assert 'sandbox=""' in shown and "<script" not in shown
    assert [path.name for path in piece.save(tmp_path / "heat")] == ["heat.png", "heat.svg", "heat.html"]
    page = html.unescape(re.search(r'srcdoc="([^"]*)"', shown)[1])
    assert page == (tmp_path / "heat.html").read_text(encoding="utf-8")
    console = Console(file=io.StringIO())
    console.print(piece)
    assert "Article" in console.file.getvalue()
    with pytest.raises(UserError, match="cannot be compared"):
        HeatMap(arms[0], reading(1, tokens=60)[1])


def test_words_and_rates_are_tables_of_text(arms):
    evil = replace(arms[1], surface=[b" <script>", *list(arms[1].surface)[1:]])
    lower = replace(arms[0], surface=evil.surface, nats=arms[0].nats + 0)
    lower.nats[0] += 1000
    shown = WordChanges(lower, evil)._repr_html_()
    assert "&lt;script&gt;" in shown and "<script" not in shown and shown.count("<table") == 2
    assert "no rates" in MemoryRates(arms)._repr_html_()
    arms[1].protocol["rule"]["rates"] = {"lstm.bias": {"lr": 0.0024, "decay": 0.001}}
    assert "<td>0.0024</td><td>0.001</td>" in MemoryRates(arms)._repr_html_()


def test_the_report_is_a_page_in_a_frame_and_saves_it(arms, tmp_path):
    report = Report(arms)
    assert 'sandbox="allow-scripts"' in report._repr_html_()
    saved = report.save(tmp_path / "r.html").read_text(encoding="utf-8")
    assert saved == html.unescape(re.search(r'srcdoc="([^"]*)"', report._repr_html_())[1])


def test_recorded_memories_are_drawn_and_others_refused(arms, tmp_path):
    flush = np.zeros(len(arms[1]))
    flush[arms[1].segment % 5 == 0] = 1
    distance = np.linspace(0, 1, len(flush))
    for columns in ({"flush": flush}, {"distance": distance}, {"flush": flush, "distance": distance}):
        piece = MemoryCurves([arms[0], replace(arms[1], **columns)])
        assert piece._repr_html_().startswith('<img src="data:image/svg+xml;base64,')
        assert [path.name for path in piece.save(tmp_path / "m")] == ["m.png", "m.svg"]
    with pytest.raises(UserError, match="no score file records"):
        MemoryCurves(arms).save(tmp_path / "none")
    paths = []
    for index, arm in enumerate((arms[0], replace(arms[1], flush=flush))):
        paths.append(tmp_path / f"{index}.parquet")
        write_scores(paths[-1], arm)
    assert "memory.svg" in [path.name for path in plot_run(paths, tmp_path)]
