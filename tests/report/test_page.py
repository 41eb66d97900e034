"""The report as a file: same figures as the comparison, nothing loaded, small size."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from dynlm.cli.main import main
from dynlm.errors import UserError
from dynlm.report import page
from dynlm.report.fewshot_results import FewShot, Picture, Table
from dynlm.report.page import rates_table, report_page, report_run
from dynlm.report.score_set import ScoreSet
from tests.report.samples import write_files
from tests.synthetic_scores import synthetic_scores

UPLOT = "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f"
"""SHA-256 of dist/uPlot.iife.min.js in the npm package uplot 1.6.32."""


class Figures(HTMLParser):
    """The cells of the table of levels, row by row, and all elements with what they refer to."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.rows: list[list[str]] = []
        self.referred: list[str] = []
        self.ids: list[str] = []
        self._on = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        names = dict(attrs)
        self.referred += [value for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        self.ids += [names["id"]] if "id" in names else []
        if tag == "table":
            self._on = names.get("id") == "figures"
        if self._on and tag == "tr":
            self.rows.append([])
        if self._on and tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        if tag == "table":
            self._on = False

    def handle_data(self, data):
        if self._on and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()


@pytest.fixture(scope="module")
def variants():
    return synthetic_scores(5, ("level 1", "rms", "meta"), tokens=300)


def test_figures_equal_those_of_compare_to_the_last_digit(variants, tmp_path, capsys):
    paths = list(map(str, write_files(tmp_path, variants)))
    assert main(["compare", *paths, "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)["variants"]
    assert main(["report", *paths, "--out", str(tmp_path / "r.html")]) == 0
    heading, *rows = Figures((tmp_path / "r.html").read_text(encoding="utf-8")).rows
    assert heading[1:] == ["nats/token", "ppl/token", "ppl/word", "bits/byte", "gain, nats/token [95 %]"]
    assert len(rows) == len(expected) == 3
    for row, figures in zip(rows, expected, strict=True):
        assert row[0].replace("(baseline)", "").strip() == figures["label"]
        names = ("nats_per_token", "perplexity_per_token", "perplexity_per_word", "bits_per_byte")
        assert row[1:5] == [f"{figures[name]:.{digits}f}" for name, digits in zip(names, (4, 1, 1, 4), strict=True)]
        gain = figures["gain"]
        assert row[5] == (f"{gain['nats']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]" if gain else "-")


def test_the_page_runs_only_its_own_scripts_and_refers_to_nothing(variants):
    text = report_page(variants)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1].replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy and "http" not in policy
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 3
    for content in (*scripts, *re.findall(r"<style>(.*?)</style>", text, re.DOTALL)):
        assert f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'" in policy
    parsed = Figures(text)
    assert parsed.referred == []
    assert len(parsed.ids) == len(set(parsed.ids))
    assert "@import" not in text and "url(" not in text and 'style="' not in text


def test_the_plotting_library_is_the_release_with_its_licence(variants):
    content = (Path(page.__file__).parent / "assets" / "uPlot.iife.min.js").read_bytes()
    assert b"uPlot (v1.6.32)" in content
    assert hashlib.sha256(content).hexdigest() == UPLOT
    assert content.decode() in report_page(variants) and "The MIT License (MIT)" in report_page(variants)


def test_the_same_scores_give_the_same_page(variants):
    assert report_page(variants) == report_page(variants)


def test_memory_statistics_and_few_shot_results_are_on_the_page(variants):
    assert "hold no learning rates" in report_page(variants)
    rates = {"name": "rms", "rates": {"lstm.0.weight": {"lr": 0.0024, "decay": 0.00125}}}
    reset_share = np.zeros(len(variants[1]), dtype=np.float32)
    reset_share[variants[1].segment == 3] = 1
    learned = replace(
        variants[1],
        protocol={**variants[1].protocol, "rule": rates},
        reset_share=reset_share,
        distance=reset_share + 0.5,
    )
    picture = Picture("Five <steps>", "a curve", "data:image/png;base64,iVBORw0KGgo=")
    fewshot = FewShot("Omniglot", "", [Table("Accuracy", ["learner", "%"], [["MAML", "98.1"]])], [picture])
    text = report_page([variants[0], learned], [fewshot])
    assert 'data-label="rms, decay">0.00125</td>' in text and ">0.0024</td>" in text and "rms 1." in text
    assert 'id="memory-distance"' in text and ">98.1</td>" in text
    assert 'alt="a curve"' in text and "Five &lt;steps&gt;" in text
    assert Figures(text).referred == [picture.address]


def test_user_errors_write_nothing(variants, tmp_path):
    with pytest.raises(UserError, match="there is one"):
        report_page(variants[:1])
    with pytest.raises(UserError, match="there are none"):
        report_page([])
    with pytest.raises(UserError, match="cannot be compared"):
        report_page([variants[0], synthetic_scores(2, tokens=60)[1]])
    for window in (0, 10**7):
        with pytest.raises(UserError, match=f"window is {window}"):
            report_page(variants, window=window)
    with pytest.raises(UserError, match="there is one"):
        report_run(write_files(tmp_path, variants[:1]), tmp_path / "out" / "r.html")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("corpus", "shown"),
    [("/home/me/text/wikitext-2/", "wikitext-2"), ("Salesforce/wikitext", "Salesforce/wikitext"), ("C:\\my\\b", "b")],
)
def test_the_title_has_the_corpus_without_its_folder(variants, corpus, shown):
    protocols = [replace(each, protocol={**each.protocol, "corpus": corpus}) for each in variants[:2]]
    assert f"<title>Gains from dynamic weights: {shown} valid</title>" in report_page(protocols, resamples=10)


def test_one_short_article_has_a_page(variants):
    assert "so there is no band" in report_page(synthetic_scores(1, tokens=60))


def test_the_page_stays_small_at_the_size_of_wikitext_2():
    variants = synthetic_scores(60, ("level 1", "sgd", "rms", "meta"), seed=1, tokens=5200)
    # As random as real losses, so that they compress no better.
    rng = np.random.default_rng(0)
    variants = [replace(each, nats=rng.gamma(1.0, 3.5, len(each)).astype(np.float32)) for each in variants]
    assert len(variants) * len(variants[0]) > 1_380_000
    assert len(report_page(variants, resamples=100).encode()) < 12_000_000


def test_constants_of_all_variants_are_in_one_table():
    plain, rms, meta = synthetic_scores(1, ("level 1", "rms", "meta"), tokens=50)
    rms.protocol["rule"] = {"name": "rms", "rates": {"a": {"lr": 0.1, "decay": 0.2}, "b": {"lr": 1, "decay": 0}}}
    meta.protocol["rule"] = {"name": "meta", "rates": {"b": {"lr": 0.5, "decay": 0.25}, "odd": "no constants"}}
    table = rates_table(ScoreSet([plain, rms, meta]))
    assert table.columns == ["tensor", "rms, lr", "rms, decay", "meta, lr", "meta, decay"]
    assert table.rows == [["a", "0.1", "0.2", "-", "-"], ["b", "1", "0", "0.5", "0.25"]]
    assert rates_table(ScoreSet([plain])) is None


@pytest.mark.parametrize("rule", [None, "rms", {"name": "rms"}, {"name": "rms", "rates": [1]}])
def test_protocols_without_constants_are_skipped(rule):
    (scores,) = synthetic_scores(1, ("level 1",), tokens=50)
    scores.protocol["rule"] = rule
    assert rates_table(ScoreSet([scores])) is None
