"""The figures of a study: gains over the baselines, tables and pages."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynlm.evaluation.compare import compare
from dynlm.evaluation.export import to_csv, to_markdown
from dynlm.evaluation.score_file import read_scores, write_scores
from dynlm.models.hf.options import HFOptions
from dynlm.runtime.text import markdown
from dynlm.study import pages
from dynlm.study.budget import Budget
from dynlm.study.options import StudyConfig, StudyOptions
from dynlm.study.pages import verdict, write_pages
from dynlm.study.prepare import Prepared
from dynlm.study.results import SHOWN, Done, Results, results_of, shown
from dynlm.study.tables import as_dict, figures
from dynlm.study.variants import readings_of, variants_of
from tests.synthetic_scores import synthetic_scores

RULES = {"level 1": "none", "rms": "rms", "meta": "meta"}
# Nats per token by which each reading is below level 1.
BELOW = {
    "level 1": 0.0,
    "rms, stream, in order": 0.30,
    "rms, stream, shuffled": 0.35,
    "rms, article": 0.32,
    "meta, stream, in order": 0.40,
    "meta, stream, shuffled": 0.20,
    "meta, article": 0.38,
}
CARD = {"fingerprint": "base", "parameters": 2_000_000}


def options(variants: dict[str, str] = RULES, **study: Any) -> StudyOptions:
    named = [{"name": name, "memory": {"rule": rule}} for name, rule in variants.items()]
    return StudyOptions(study=StudyConfig(variants=named, **{"resamples": 60, "articles": "1-5", **study}))


def done(asked: StudyOptions, below: dict[str, float], folder: Path) -> list[Done]:
    """Made-up readings whose loss is level 1's less ``below``."""
    (base,) = synthetic_scores(articles=5, variants=("level 1",), tokens=200)
    made = []
    for each in (one for variant in variants_of(asked) for one in readings_of(variant, asked.study)):
        nats = (base.nats - below[each.label]).astype(np.float32)
        protocol = {
            **base.protocol,
            "variant": each.variant.name,
            "reset": each.reset,
            "level": 1 + (each.reset is not None),
        }
        path = folder / "scores" / f"{each.stem}.parquet"
        write_scores(path, replace(base, nats=nats, protocol=protocol))
        found = (
            [Prepared("the rates of rms", {}, Budget(7, 400, seconds=2000.0, tokens_read=1300))] if each.reset else []
        )
        if each.variant.name == "meta":
            found.append(Prepared("g", {}, Budget(learned_on=900, parameters=30, seconds=None)))
        made.append(Done(each, read_scores(path), found))
    return made


@pytest.fixture
def results(tmp_path: Path) -> Results:
    asked = options()
    return results_of(done(asked, BELOW, tmp_path), asked.study)


def test_gains_are_over_the_better_policy_in_the_same_order(results: Results):
    over = {row.done.reading.label: row.over for row in results.rows}
    baselines = {label: each[1].baseline.reading.label for label, each in over.items()}
    assert baselines["meta, stream, in order"] == "rms, article"
    assert baselines["meta, stream, shuffled"] == "rms, stream, shuffled"
    assert baselines["meta, article"] == "rms, article"
    for label, each in over.items():
        if label != "level 1":
            gain = each[0].gain
            assert gain is not None and gain.nats == pytest.approx(BELOW[label], abs=1e-5)
    worse = over["meta, stream, shuffled"][1].gain
    assert worse is not None and worse.nats == pytest.approx(-0.15, abs=1e-5)
    assert over["level 1"][0].gain is None
    assert over["rms, article"][1].gain is None


def test_an_interval_is_that_of_compare(results: Results):
    rows = {row.done.reading.label: row for row in results.rows}
    row = rows["meta, article"]
    pair = compare([row.over[1].baseline.scores, row.done.scores], 0, 60, 0)
    assert row.over[1].gain == pair.variants[1].gain


def test_the_verdict_names_the_best_and_what_its_intervals_say(results: Results):
    message = verdict(results)
    assert message.startswith("Lowest loss: meta, stream, in order, ")
    assert "over rms, article (the interval is above zero)" in message


def test_pictures_show_each_variant_once_and_not_too_many(tmp_path: Path, results: Results):
    assert [each.reading.label for each in shown(results, options().study)] == [
        "level 1",
        "rms, article",
        "meta, stream, in order",
    ]
    many = options({"level 1": "none", **{f"variant {k}": "rms" for k in range(8)}}, baselines=["level 1"], pairs=[])
    below = {"level 1": 0.0}
    for k in range(8):
        below |= {f"variant {k}, {policy}": 0.1 * k for policy in ("stream, in order", "stream, shuffled", "article")}
    found = shown(results_of(done(many, below, tmp_path / "many"), many.study), many.study)
    assert [each.reading.variant.name for each in found] == ["level 1", *(f"variant {k}" for k in range(3, 8))]
    assert len(found) == SHOWN
    assert [e.reading.variant.name for e in shown(results, replace(options().study, drawn=["rms"]))] == ["rms"]


def test_tables_hold_the_same_figures(results: Results):
    lines = to_markdown(figures(results)).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert len(lines) == 2 + len(BELOW)
    assert "gain over level 1 [95 %]" in lines[0] and "gain over rms [95 %]" in lines[0]
    records = list(csv.DictReader(io.StringIO(to_csv(figures(results)))))
    reported = json.loads(json.dumps(as_dict(results)))["readings"]
    for record, entry, line in zip(records, reported, lines[2:], strict=True):
        assert float(record["nats_per_token"]) == entry["nats_per_token"]
        assert f"{entry['nats_per_token']:.4f}" in line
        assert float(record["nats"]) / float(record["tokens"]) == pytest.approx(entry["nats_per_token"])
        per_word = math.exp(float(record["nats"]) / float(record["words"]))
        assert float(record["perplexity_per_word"]) == pytest.approx(per_word)
        assert (record["gain_over_rms"] or None) == (entry["gains"][1]["nats"] and str(entry["gains"][1]["nats"]))


def test_budgets_add_up_over_a_variants_steps(results: Results):
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in to_markdown(figures(results)).splitlines()]
    first = lines[0].index("settings tried")
    columns = ["settings tried", "tuning tokens", "tokens read", "tokens learned on"]
    columns += ["parameters learned", "seconds of finding"]
    assert lines[0][first : first + 6] == columns
    budgets = {", ".join(line[:2]): line[first : first + 6] for line in lines[2:]}
    assert budgets == {
        "level 1, -": ["-"] * 6,
        "rms, stream": ["7", "400", "1,300", "-", "-", "2,000"],
        "rms, article": ["7", "400", "1,300", "-", "-", "2,000"],
        # The card of g does not say how long it took.
        "meta, stream": ["7", "400", "1,300", "900", "30", "-"],
        "meta, article": ["7", "400", "1,300", "900", "30", "-"],
    }
    reported = as_dict(results)["readings"][-1]
    took = {"settings": 7, "tokens": 400, "learned_on": 900, "parameters": 30, "seconds": None}
    took["tokens_read"] = 1300
    assert reported["budget"] == took and [each["seconds"] for each in reported["found"]] == [2000.0, None]
    records = list(csv.DictReader(io.StringIO(to_csv(figures(results)))))
    assert (records[-1]["finding_parameters"], records[-1]["finding_seconds"]) == ("30", "")
    assert (records[1]["finding_settings"], records[1]["finding_seconds"]) == ("7", "2000.0")


def test_a_variants_own_baseline_is_in_its_row(tmp_path: Path):
    asked = options()
    asked.study.variants[2]["over"] = "rms"  # type: ignore[index]
    results = results_of(done(asked, BELOW, tmp_path), asked.study.replace(baselines=["level 1"]))
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in to_markdown(figures(results)).splitlines()]
    column = lines[0].index("gain over its own baseline [95 %]")
    assert [line[column] for line in lines[2:6]] == ["-"] * 4
    assert [line[column].partition(" over ")[2] for line in lines[6:]] == [
        "rms, article",
        "rms, stream, shuffled",
        "rms, article",
    ]
    rows = {row.done.reading.label: row for row in results.rows}
    pair = compare([rows["rms, article"].done.scores, rows["meta, article"].done.scores], 0, 60, 0)
    own = rows["meta, article"].own
    assert own is not None and own.gain == pair.variants[1].gain
    entry, record = as_dict(results)["readings"][-1], [*csv.DictReader(io.StringIO(to_csv(figures(results))))][-1]
    assert entry["own_gain"]["over"] == {"variant": "rms", "reset": "article", "order": None}
    assert len(entry["gains"]) == 1 and record["own_baseline"] == "rms, article"
    assert float(record["gain_over_own"]) == entry["own_gain"]["nats"] == pytest.approx(0.06, abs=1e-5)
    assert "over rms, article" in verdict(results)


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
