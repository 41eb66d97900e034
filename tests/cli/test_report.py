"""The report page by the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.commands import Capture, answer, answer_json, refused
from tests.tiny import Run


def test_report_writes_one_page_from_score_files(tuned_copy: Run, tmp_path: Path, capsys: Capture) -> None:
    folder = tuned_copy.folder
    for rule in ("none", "rms"):
        answer(capsys, "score", folder, "--memory.rule", rule, "--articles", "4-6")
    (made,) = answer_json(capsys, "report", folder, "--resamples", "50")["files"]
    assert Path(made) == folder / "figures" / "report.html"
    page = Path(made).read_text(encoding="utf-8")
    assert "learning rate, and decay toward the static weights" in page.lower() and "lstm" in page
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "fewshot.json").write_text('{"title": "Omniglot"}')
    out = tmp_path / "made" / "page.html"
    answer(capsys, "report", folder, tmp_path / "few", "--out", out, "--window", "30", "--resamples", "50")
    assert '<h2 id="fewshot-1">Omniglot</h2>' in out.read_text(encoding="utf-8")
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]


def test_report_opens_the_page_where_there_is_a_browser(
    tuned_copy: Run, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    import webbrowser

    for rule in ("none", "rms"):
        answer(capsys, "score", tuned_copy.folder, "--memory.rule", rule, "--articles", "4")
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or True)
    (made,) = answer_json(capsys, "report", tuned_copy.folder, "--open")["files"]
    assert opened == [Path(made).resolve().as_uri()]


def test_reports_that_cannot_be_made_are_refused(tuned_copy: Run, tmp_path: Path, capsys: Capture) -> None:
    folder = tuned_copy.folder
    assert "dynlm score" in refused(capsys, "report", folder)
    answer(capsys, "score", folder, "--memory.rule", "none", "--articles", "4")
    assert "at least two" in refused(capsys, "report", folder)
    answer(capsys, "score", folder, "--memory.rule", "rms", "--articles", "4")
    assert "a folder" in refused(capsys, "report", folder, "--out", tmp_path)
    assert "--window is 0" in refused(capsys, "report", folder, "--window", "0")
    (tmp_path / "fewshot.json").write_text('{"tables": []}')
    assert "no 'title'" in refused(capsys, "report", folder, tmp_path)
    assert "name a run" in refused(capsys, "report", tmp_path)
    assert "writes no files" in refused(capsys, "heatmap", folder, "--terminal", "--json")
    assert not (folder / "figures").exists()
