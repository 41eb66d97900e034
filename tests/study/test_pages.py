"""The pages of a study: tables, words and pictures."""

# ruff: noqa: F811 - fixtures of another file

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from dynlm.evaluation.export import to_csv, to_markdown
from dynlm.models.hf.options import HFOptions
from dynlm.runtime.text import markdown
from dynlm.study import pages
from dynlm.study.options import StudyConfig, StudyOptions
from dynlm.study.pages import verdict, write_pages
from dynlm.study.results import Results, results_of
from dynlm.study.tables import as_dict, figures
from tests.study.test_results import BELOW, done, options, results  # noqa: F401 - a fixture

CARD = {"fingerprint": "base", "parameters": 2_000_000}


def test_pages_hold_the_table_the_verdict_and_their_pictures(tmp_path: Path, results: Results):
    asked = options(pairs=["level 1:rms"])
    written = write_pages(tmp_path, results, asked, CARD)
    assert all(path.stat().st_size for path in written)
    assert {path.name for path in written} >= {
        "README.md",
        "table.md",
        "table.csv",
        "table.json",
        "words.md",
        "words.json",
        "difference.png",
        "position.png",
    }
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert to_markdown(figures(results)) in page and markdown(verdict(results)) in page and "` base `" in page
    for path in written:
        if path.suffix == ".png":
            assert f"]({path.name})" in page
    (words,) = json.loads((tmp_path / "words.json").read_text(encoding="utf-8"))
    assert (words["lower"], words["higher"]) == ("level 1", "rms, article")
    assert "level 1 → rms, article" in (tmp_path / "words.md").read_text(encoding="utf-8")


def test_a_study_without_pairs_or_baselines_has_neither_words_nor_gains(tmp_path: Path):
    asked = options(baselines=[], pairs=[])
    results = results_of(done(asked, BELOW, tmp_path), asked.study)
    written = write_pages(tmp_path, results, asked, CARD)
    assert not [path for path in written if path.name.startswith("words")]
    assert "gain over" not in to_markdown(figures(results)) and "context" not in to_markdown(figures(results))


@pytest.mark.parametrize("name", ["=cmd()", "a|b", "*x* <script>", "@sum", "-1+2", "`a", "[x](http://y)"])
def test_a_variants_name_is_neither_markup_nor_a_formula(name: str, tmp_path: Path):
    asked = options({"level 1": "none", name: "rms"}, baselines=["level 1"], pairs=[])
    below = {"level 1": 0.0} | {
        f"{name}, {policy}": 0.1 for policy in ("stream, in order", "stream, shuffled", "article")
    }
    results = results_of(done(asked, below, tmp_path), asked.study)
    for record in csv.DictReader(io.StringIO(to_csv(figures(results)))):
        assert not record["variant"].startswith(("=", "+", "-", "@"))
    table = to_markdown(figures(results))
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    assert not re.search(r"(?<!\\)(<script|\]\(|\*x)", table)


def test_context_and_cost_are_in_every_table_and_no_gain_of_a_memory_is_one_of_context(tmp_path: Path):
    memory = {"rule": "sgd", "reset": "article"}
    variants: list[dict[str, Any]] = [
        {"name": "static", "memory": {"rule": "none"}},
        {"name": "disjoint", "memory": {"rule": "none"}, "model": {"stride": 0}},
        {"name": "sgd", "memory": memory},
        {"name": "sgd, 32", "memory": memory, "model": {"context": 32}},
    ]
    chosen = StudyConfig(variants=variants, baselines=["static"], articles="1-5", resamples=60, pairs=[])
    model = HFOptions(kind="hf", context=64, stride=16)
    asked = StudyOptions(model=model, study=chosen)  # type: ignore[arg-type]
    made = done(asked, {"static": 0.0, "disjoint": -0.5, "sgd, article": 0.2, "sgd, 32, article": 0.1}, tmp_path)
    costs = [None, {"seconds": 4.0, "peak_memory": 5 * 10**8}, {"seconds": 1500.0, "peak_memory": None}, {"seconds": 0}]
    for each, cost in zip(made, costs, strict=True):
        each.scores.protocol.update(reading=each.reading.variant.model.reading(), cost=cost)
    results = results_of(made, asked.study)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in to_markdown(figures(results)).splitlines()]
    assert lines[0][3:5] == ["context", "stride"] and lines[0][-3:] == ["seconds", "tokens/s", "peak MB"]
    assert [line[3:5] for line in lines[2:]] == [["64", "16"], ["64", "64"], ["64", "16"], ["32", "16"]]
    tokens = len(made[0].scores)
    assert [line[-3:] for line in lines[2:]] == [
        ["-"] * 3,
        ["4.0", f"{tokens / 4:,.0f}", "500"],
        ["1,500.0", f"{tokens / 1500:,.0f}", "not measured"],
        ["-"] * 3,
    ]
    # No static weights have the last one's context: its gain would be one of context too.
    gains = [entry["gains"][0] for entry in as_dict(results)["readings"]]
    assert [gain["nats"] and round(gain["nats"], 3) for gain in gains] == [None, -0.5, 0.2, None]
    assert gains[3]["over"] is None and gains[2]["over"]["variant"] == "static"
    records = list(csv.DictReader(io.StringIO(to_csv(figures(results)))))
    assert [record["context"] for record in records] == ["64", "64", "64", "32"]
    assert [bool(record["gain_over_static"]) for record in records] == [False, True, True, False]
    assert (records[1]["seconds"], records[1]["peak_memory"], records[2]["peak_memory"]) == ("4.0", "500000000", "")
    write_pages(tmp_path / "study", results, asked, CARD)
    page = (tmp_path / "study" / "README.md").read_text(encoding="utf-8")
    assert "## Context and memory" in page and "those of the sittings of an interrupted reading add up" in page


HOSTILE = "a\x1b[2J\u202e`|<script>\n# x"


def test_pages_of_hostile_names_are_text_and_no_markup(tmp_path: Path):
    asked = options({"level 1": "none", HOSTILE: "rms"}, baselines=["level 1"], pairs=[f"level 1:{HOSTILE}"])
    below = {"level 1": 0.0} | {
        f"{HOSTILE}, {policy}": 0.1 for policy in ("stream, in order", "stream, shuffled", "article")
    }
    made = done(asked, below, tmp_path)
    reported = {"corpus": HOSTILE, "split": HOSTILE, "articles": HOSTILE}
    for each in made:
        each.scores.protocol.update(statement=HOSTILE, tuned_on=reported, corpus=HOSTILE, split=HOSTILE)
    place = tmp_path / "a`run|" / "st`udy"
    write_pages(place, results_of(made, asked.study), asked, CARD)
    for name in ("README.md", "table.md", "words.md", "table.csv"):
        page = (place / name).read_text(encoding="utf-8")
        assert all(letter.isprintable() or letter == "\n" for letter in page), name
        if name.endswith(".md"):
            assert not re.search(r"(?<!\\)<script", page), name
            assert not re.search(r"^# x", page, re.MULTILINE), name
    readme = (place / "README.md").read_text(encoding="utf-8")
    assert readme.splitlines()[0] == "# Study `` a`run|/st`udy ``"
    assert json.loads((place / "table.json").read_text(encoding="utf-8"))["readings"][1]["variant"] == HOSTILE


def test_figures_are_there_where_pictures_cannot_be_drawn(
    tmp_path: Path, results: Results, monkeypatch: pytest.MonkeyPatch
):
    def fails(*_: Any) -> list[Path]:
        raise OSError("no room for pictures")

    monkeypatch.setattr(pages, "plot_run", fails)
    with pytest.raises(OSError, match="no room for pictures"):
        write_pages(tmp_path, results, options(pairs=["level 1:rms"]), CARD)
    assert {"README.md", "table.md", "table.csv", "table.json", "words.md", "words.json"} <= {
        path.name for path in tmp_path.iterdir()
    }
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert to_markdown(figures(results)) in page and ".png" not in page
