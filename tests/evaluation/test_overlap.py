"""What a reading's rates, g and gate were tuned, learned and picked on, and how much of it was read again."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dynlm.cli.main import main
from dynlm.data.article_range import format_ranges
from dynlm.evaluation.compare import compare
from dynlm.evaluation.overlap import overlap_notes, overlaps, tuned_notes, tuned_records
from dynlm.evaluation.score_file import Scores, read_scores
from dynlm.evaluation.tables import text_table
from dynlm.report.page import report_run
from dynlm.train.config import Config
from tests.tiny import Run, scored, with_memory
from tests.trainings import train_gate


def read_by(run: Run, config: Config, split: str = "valid", articles: str | None = None) -> tuple[Path, Scores]:
    return scored(run.folder, config, articles, split=split)


def records_of(scores: Scores) -> list[tuple[str, str, str]]:
    return [(one["what"], one["how"], one["split"]) for one in scores.protocol["tuned_on"]]


def of_other_options(config: Config, **options: object) -> Config:
    """Options as they are now: what was tuned was tuned by others."""
    tune = dataclasses.replace(config.tune, articles="6", split="test")
    return with_memory(dataclasses.replace(config, tune=tune), **options)


def test_records_are_those_of_the_tuning_whatever_the_options_say_now(tuned_copy: Run) -> None:
    tuned = json.loads((tuned_copy.folder / "memory" / "tuned.json").read_text())["rms"]["stream"]["articles"]
    _, scores = read_by(tuned_copy, of_other_options(tuned_copy.config, rule="rms"))
    (record,) = scores.protocol["tuned_on"]
    assert (record["split"], record["articles"]) == ("valid", format_ranges(tuned))
    assert overlaps(scores.protocol) == [{"what": "rates", "how": "tuned", "articles": len(tuned), "of": 6}]


def test_g_and_a_gate_record_what_they_were_learned_and_picked_on(tuned_copy: Run) -> None:
    _, scores = read_by(tuned_copy, of_other_options(tuned_copy.config, rule="meta"))
    rates, learned, picked = ("rates", "tuned", "valid"), ("g", "learned", "meta"), ("g", "picked", "valid")
    assert records_of(scores) == [rates, learned, picked]
    assert [one["how"] for one in overlaps(scores.protocol)] == ["tuned", "picked"]
    # Scored on what it learned from: that is recorded.
    _, on_meta = read_by(tuned_copy, with_memory(tuned_copy.config, rule="meta"), "meta")
    count = len(on_meta.articles)
    assert overlaps(on_meta.protocol) == [{"what": "g", "how": "learned", "articles": count, "of": count}]
    gated = with_memory(tuned_copy.config, rule="rms", cache="learned")
    train_gate(tuned_copy.folder, gated)
    cache, gate, chosen = ("cache", "tuned", "valid"), ("gate", "learned", "meta"), ("gate", "picked", "valid")
    assert records_of(read_by(tuned_copy, gated)[1]) == [rates, cache, gate, chosen]


def test_level_1_has_none_and_rates_by_hand_are_given(tuned_copy: Run) -> None:
    assert read_by(tuned_copy, with_memory(tuned_copy.config, rule="none"))[1].protocol["tuned_on"] is None
    by_hand = read_by(tuned_copy, with_memory(tuned_copy.config, rule="sgd", lr=0.1))[1].protocol
    assert by_hand["tuned_on"] == [{"what": "rates", "how": "given"}] and overlaps(by_hand) == []
    assert tuned_notes(by_hand) == ["rates given"]


def test_rates_tuned_while_other_tensors_moved_are_said_to_be(tuned_copy: Run) -> None:
    memory = of_other_options(tuned_copy.config, rule="rms", targets=["embedding"])
    (note,) = tuned_notes(read_by(tuned_copy, memory)[1].protocol)
    assert note.startswith("rates tuned on valid, articles ") and note.endswith(", where other tensors moved")


def test_other_articles_or_another_text_have_no_overlap_and_a_moved_one_has(tuned_copy: Run, tmp_path: Path) -> None:
    config = with_memory(tuned_copy.config, rule="rms")
    assert overlaps(read_by(tuned_copy, config, "valid", "4-6")[1].protocol) == []
    assert overlaps(read_by(tuned_copy, config, "test")[1].protocol) == []
    corpus = shutil.copytree(tuned_copy.corpus, tmp_path / "moved")

    def moved(path: Path) -> Config:
        return dataclasses.replace(config, corpus=dataclasses.replace(config.corpus, path=str(path)))

    assert overlaps(read_by(tuned_copy, moved(corpus))[1].protocol)
    changed = shutil.copytree(tuned_copy.corpus, tmp_path / "changed")
    (changed / "valid.txt").write_text((changed / "valid.txt").read_text().replace("the", "teh"))
    assert overlaps(read_by(tuned_copy, moved(changed))[1].protocol) == []


def test_score_compare_and_the_page_report_it(
    tuned_copy: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = with_memory(tuned_copy.config, rule="rms")
    path, scores = read_by(tuned_copy, config)
    (note,) = overlap_notes(overlaps(scores.protocol))
    assert note.endswith("of 6 articles are among those its rates were tuned on")
    level_1, _ = read_by(tuned_copy, with_memory(config, rule="none"))
    capsys.readouterr()
    assert main(["score", str(tuned_copy.folder), "--memory.rule", "rms"]) == 0
    assert f"rms: {note}." in " ".join(capsys.readouterr().out.split())
    assert main(["compare", str(tuned_copy.folder)]) == 0
    assert f"rms: {note}." in " ".join(capsys.readouterr().out.split())
    page = report_run([level_1, path], tmp_path / "report.html").read_text()
    assert note in page and "rates tuned on valid, articles" in page
    clean = compare([read_by(tuned_copy, config, "valid", "4-6")[1]])
    assert "among those" not in text_table(clean)


def test_older_files_and_runs_are_understood(tuned_copy: Run) -> None:
    config, place = with_memory(tuned_copy.config, rule="rms"), tuned_copy.folder / "memory" / "tuned.json"
    content = json.loads(place.read_text())
    del content["rms"]["stream"]["tuned_on"]
    place.write_text(json.dumps(content))
    path, scores = read_by(tuned_copy, config)
    assert overlaps(scores.protocol)
    older = {**read_scores(path).protocol, "tuned_on": {"split": "valid", "articles": "2-3"}}
    older["tuned_on"]["corpus"] = older["corpus"]
    assert overlaps(older) == [{"what": "rates", "how": "tuned", "articles": 2, "of": 6}]


@pytest.mark.parametrize(
    "strange",
    [None, 3, "x", [3, None, "x"], [{}], [{"what": 1, "how": []}], {"articles": [1]}, {"what": {}, "how": 2}]
    + [
        [{"what": "g", "how": "learned", "split": "s", "corpus": "c", "articles": a}]
        for a in (3, "9" * 5000, "1--2", "a")
    ],
)
def test_malformed_records_are_no_overlap(strange: Any) -> None:
    protocol = {"tuned_on": strange, "articles": [{"index": 0}], "corpus": "c", "split": "s", "level": 3}
    assert overlaps(protocol) == []
    assert all(isinstance(note, str) and "\n" not in note for note in tuned_notes(protocol))
    assert isinstance(tuned_records(protocol), list)


@pytest.mark.parametrize("verb", ["plot", "heatmap", "report"])
def test_picture_commands_report_it_too(verb: str, tuned_copy: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for rule in ("none", "rms"):
        read_by(tuned_copy, with_memory(tuned_copy.config, rule=rule))
    note = "rms: 2 of 6 articles are among those its rates were tuned on"
    assert main([verb, str(tuned_copy.folder)]) == 0
    assert note in capsys.readouterr().out
    assert main([verb, str(tuned_copy.folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["notes"] == [note]
    if verb == "heatmap":
        assert note in (tuned_copy.folder / "figures" / "heatmap.html").read_text(encoding="utf-8")
