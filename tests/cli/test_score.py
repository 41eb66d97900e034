"""Commands that score, compare and check, on a tiny run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dynlm.cli.main import main
from dynlm.evaluation.score_file import read_scores
from tests.cli.commands import Capture, answer, answer_json, refused
from tests.tiny import Run, readable_name


def test_score_compare_and_pictures(tuned_copy: Run, tmp_path: Path, capsys: Capture) -> None:
    folder = tuned_copy.folder
    for rule in ("none", "rms"):
        scored = answer_json(capsys, "score", folder, "--memory.rule", rule, "--articles", "4-6")
        assert Path(scored["file"]).parent == folder / "scores"
        scores = read_scores(Path(scored["file"]))
        assert scores.articles.tolist() == [3, 4, 5]
    compared = json.dumps(answer_json(capsys, "compare", folder, "--resamples", "50"))
    assert '"rms"' in compared and '"level 1"' in compared
    said = answer(capsys, "compare", folder, "--resamples", "50")
    assert said.index("level 1") < said.index("rms")
    assert "|" in answer(capsys, "compare", folder, "--resamples", "50", "--format", "markdown")
    command = ("compare", folder, "--resamples", "50")
    assert answer(capsys, *command, "--format", "json") == answer(capsys, *command, "--json")
    assert answer(capsys, "compare", *(folder / "scores").iterdir(), "--resamples", "50") == said
    plotted = answer_json(capsys, "plot", folder, "--window", "100", "--out", tmp_path / "out")["files"]
    mapped = answer_json(capsys, "heatmap", folder, "--article", "5", "--length", "40", "--out", tmp_path / "out")
    files = [Path(name) for name in (*plotted, *mapped["files"])]
    assert {path.suffix for path in files} == {".png", ".svg", ".pdf", ".html"}
    assert all(path.parent == tmp_path / "out" and path.stat().st_size > 500 for path in files)
    assert sorted(files) == sorted((tmp_path / "out").iterdir())
    assert "Tokens 3 to 12 of" in answer(
        capsys, "heatmap", folder, "--terminal", "--article", "5", "--start", "3", "--length", "10"
    )


def test_used_rows_are_not_tracked(tuned_run: Run, capsys: Capture) -> None:
    """What is tracked is the size of all weights, and those of unused rows are not there."""
    command = ("score", tuned_run.folder, "--memory.rule", "rms", "--memory.used_rows", "100")
    assert "memory.used_rows does not go with memory.track" in refused(capsys, *command, "--memory.track", "true")


def test_score_reads_articles_in_a_shuffled_order(tuned_copy: Run, capsys: Capture) -> None:
    order = ("--order", "shuffled", "--order_seed", "3")
    path = Path(answer_json(capsys, "score", tuned_copy.folder, "--memory.rule", "rms", *order)["file"])
    assert readable_name(path) == "valid-rms-stream-shuffled-3"
    assert read_scores(path).protocol["order"] == "shuffled, seed 3"
    assert "order is 'backwards'" in refused(capsys, "score", tuned_copy.folder, "--order", "backwards")


def test_audit_says_what_is_kept(tuned_run: Run, capsys: Capture) -> None:
    checks = answer_json(capsys, "check", tuned_run.folder, "--places", "2")
    assert checks["kept"] and len(checks["checks"]) == 4
    said = answer(capsys, "check", tuned_run.folder, "--memory.rule", "none", "--places", "2")
    assert all(line.startswith("kept") for line in said.splitlines())


def test_audit_of_a_broken_promise_ends_with_1(
    tuned_run: Run, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    from dynlm.evaluation.checks import protocol as audit

    monkeypatch.setattr(audit, "check_dynamic_model", lambda *_: [audit.Check("a promise", False, "once")])
    assert main(["check", str(tuned_run.folder)]) == 1
    assert "BROKEN  a promise (once)" in capsys.readouterr().out


def test_no_regret_is_scored_beside_its_rule(tuned_copy: Run, capsys: Capture) -> None:
    folder, options = tuned_copy.folder, ["--articles", "4-5", "--memory.rule"]
    files = {}
    for arm in (["none", "--memory.no_regret", "true"], ["rms", "--memory.no_regret", "true"], ["rms"]):
        path = Path(answer_json(capsys, "score", folder, *options, *arm)["file"])
        files[readable_name(path)] = read_scores(path)
    names = ["valid-4-5-none", "valid-4-5-rms-stream", "valid-4-5-rms-stream-no-regret"]
    level_1, rms, mixture = (files[name] for name in names)
    assert (level_1.variant, rms.variant, mixture.variant) == ("level 1", "rms", "no-regret (rms)")
    assert mixture.protocol["no_regret"] == {"share": 1e-3}
    assert "fixed share" in mixture.protocol["statement"]
    assert not any("no_regret" in scores.protocol for scores in (level_1, rms))
    best = min(float(scores.nats.sum()) for scores in (level_1, rms))
    assert float(mixture.nats.sum()) <= best + np.log(2) + len(mixture) * 5.1e-4
    labels = [variant["label"] for variant in answer_json(capsys, "compare", folder, "--resamples", "0")["variants"]]
    assert labels == ["level 1", "rms", "no-regret (rms)"]


def test_no_regret_reads_a_prompt_and_keeps_every_promise(tuned_run: Run, capsys: Capture) -> None:
    options = [tuned_run.folder, "--memory.no_regret", "true"]
    assert answer_json(capsys, "check", *options, "--places", "3")["kept"]
    said = [
        answer_json(capsys, "generate", *options, "--prompt", " the town", "--tokens", "8", "--memory.switch_share", s)
        for s in ("0.001", "0.5")
    ]
    assert all(each["samples"][0]["text"] for each in said)
    assert "memory.switch_share is 2" in refused(capsys, "score", *options, "--memory.switch_share", "2")


def test_hostile_texts_are_read_three_ways(tuned_run: Run, capsys: Capture) -> None:
    told = answer_json(capsys, "stress", tuned_run.folder, "--tokens", "90", "--memory.switch_share", "0.002")
    assert told["kept"] and told["share"] == 0.002 and told["variant"] == "rms"
    assert len(told["texts"]) == 5 and all(text["tokens"] <= 90 for text in told["texts"])
    said = answer(capsys, "stress", tuned_run.folder, "--tokens", "90", "--memory.rule", "meta")
    assert "meta - level 1" in said and said.count("  kept\n") == 5
    assert "level 1 itself" in refused(capsys, "stress", tuned_run.folder, "--memory.rule", "none")


def test_hostile_texts_that_hurt_end_with_1(tuned_run: Run, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    from dynlm.evaluation.checks import stress as hostile

    monkeypatch.setattr(hostile, "ALLOWED", -10.0)
    assert main(["stress", str(tuned_run.folder), "--tokens", "40"]) == 1
    assert "BROKEN" in capsys.readouterr().out
