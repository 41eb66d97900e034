"""The figures of a study: gains over the baselines, tables and pages."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynlm.evaluation.compare import compare
from dynlm.evaluation.export import to_csv, to_markdown
from dynlm.evaluation.score_file import read_scores, write_scores
from dynlm.study.budget import Budget
from dynlm.study.options import StudyConfig, StudyOptions
from dynlm.study.pages import verdict
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
