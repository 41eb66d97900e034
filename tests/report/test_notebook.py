"""Parts of the report in a notebook: what each displays and saves."""

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
from dynlm.evaluation.tables import figures_of, text_table
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
from tests.synthetic_scores import synthetic_scores


@pytest.fixture(scope="module")
def variants():
    return synthetic_scores(3, ("level 1", "rms"), tokens=200)


def test_the_table_holds_every_figure(variants):
    shown = Levels(variants)._repr_html_()
    for each in compare(variants).variants:
        for figure in figures_of(each):
            assert re.search(f"<td[^>]*>{re.escape(html.escape(figure))}</td>", shown)
    assert str(Levels(variants)) == text_table(compare(variants))


@pytest.mark.parametrize("part", [DifferenceCurve, PositionCurves])
def test_curves_are_displayed_and_saved(variants, part, tmp_path):
    shown = part(variants)._repr_html_()
    assert re.fullmatch(r'<img src="data:image/svg\+xml;base64,[\w+/=]+" alt="[^"]+" style="[^"]+">', shown)
    assert [path.name for path in part(variants).save(tmp_path / "a")] == ["a.png", "a.svg", "a.pdf"]


def test_the_heat_map_is_displayed_in_a_frame_that_runs_nothing(variants, tmp_path):
    part = HeatMap(*variants)
    shown = part._repr_html_()
    assert 'sandbox=""' in shown and "<script" not in shown
    assert [path.name for path in part.save(tmp_path / "heat")] == ["heat.png", "heat.svg", "heat.pdf", "heat.html"]
    page = html.unescape(re.search(r'srcdoc="([^"]*)"', shown)[1])
    assert page == (tmp_path / "heat.html").read_text(encoding="utf-8")
    console = Console(file=io.StringIO())
    console.print(part)
    assert "Article" in console.file.getvalue()
    with pytest.raises(UserError, match="cannot be compared"):
        HeatMap(variants[0], synthetic_scores(1, tokens=60)[1])


def test_words_and_rates_are_tables_of_text(variants):
    evil = replace(variants[1], surface=[b" <script>", *list(variants[1].surface)[1:]])
    lower = replace(variants[0], surface=evil.surface, nats=variants[0].nats + 0)
    lower.nats[0] += 1000
    shown = WordChanges(lower, evil)._repr_html_()
    assert "&lt;script&gt;" in shown and "<script" not in shown and shown.count("<table") == 2
    assert "no learning rates" in MemoryRates(variants)._repr_html_()
    variants[1].protocol["rule"]["rates"] = {"lstm.bias": {"lr": 0.0024, "decay": 0.001}}
    cells = re.sub("<td[^>]*>", "<td>", MemoryRates(variants)._repr_html_())
    assert "<td>0.0024</td><td>0.001</td>" in cells


def test_the_report_is_a_page_in_a_frame_and_saves_it(variants, tmp_path):
    report = Report(variants)
    assert 'sandbox="allow-scripts"' in report._repr_html_()
    saved = report.save(tmp_path / "r.html").read_text(encoding="utf-8")
    assert saved == html.unescape(re.search(r'srcdoc="([^"]*)"', report._repr_html_())[1])


def test_memory_curves_are_displayed(variants):
    record = replace(variants[1], distance=np.linspace(0, 1, len(variants[1])))
    assert MemoryCurves([variants[0], record])._repr_html_().startswith('<img src="data:image/svg+xml;base64,')
