"""The command line: a run's options are the defaults, help is short, and config files are checked."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from dynlm.adapt.options import StepOptions
from dynlm.cli.main import COMMANDS, main
from tests.cli.commands import Capture, help_of, refused
from tests.tiny import Run


def test_a_runs_own_options_are_the_defaults(tuned_run: Run, capsys: Capture) -> None:
    printed = yaml.safe_load(printed_config(capsys, "score", tuned_run.folder, "--memory.rule", "sgd"))
    assert printed["corpus"]["path"] == str(tuned_run.corpus)
    assert printed["memory"]["segment"] == 20
    assert printed["memory"]["rule"] == "sgd"


def printed_config(capsys: Capture, *arguments: object) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([*map(str, arguments), "--print_config"])
    assert not stop.value.code
    return capsys.readouterr().out


def test_a_printed_config_is_one_to_start_from(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(printed_config(capsys, "pretrain", "--pretrain.lanes", "3", "--run.name", "mine"))
    printed = yaml.safe_load(printed_config(capsys, "pretrain", "--config", path))
    assert printed == yaml.safe_load(path.read_text())
    assert (printed["pretrain"]["lanes"], printed["run"]["name"]) == (3, "mine")


def test_help_is_short_and_ends_with_two_examples(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for name in COMMANDS:
        lines = help_of(capsys, *name.split(), "--help")
        assert lines[-3] == "examples:"
        assert all(line.startswith(f"  dynlm {name}") for line in lines[-2:])
        assert len(lines) <= 80


def test_help_all_lists_every_option_of_the_sections_used(capsys: Capture) -> None:
    short, full = ("\n".join(help_of(capsys, "score", *words)) for words in (["--help"], ["--help", "all"]))
    assert "`dynlm score --help all` lists" in short and "--memory.rule" in short and "--memory.epsilon" not in short
    assert all(f"--memory.{name}" in full for name in vars(StepOptions())) and "more options" not in full
    assert "--pretrain.epochs" not in full


def test_help_shows_the_runs_values_as_defaults(trained_run: Run, capsys: Capture) -> None:
    shown = "".join("".join(help_of(capsys, "score", str(trained_run.folder), "--help")).split())  # paths are wrapped
    assert f"(default:{trained_run.corpus})" in shown


def test_an_option_of_a_section_that_a_command_does_not_use_is_refused(trained_run: Run, capsys: Capture) -> None:
    line = refused(capsys, "score", trained_run.folder, "--pretrain.epochs", "3")
    assert "--pretrain.epochs is not used by this command" in line


def test_a_config_file_may_hold_sections_that_a_command_does_not_use(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("pretrain: {epochs: 3}\ncorpus: {limit: 2}\n")
    assert yaml.safe_load(printed_config(capsys, "corpus", "--config", path))["corpus"]["limit"] == 2
    path.write_text("pretrain: {epochs: -3}\n")
    assert f"{path}: pretrain.epochs is -3" in refused(capsys, "corpus", "--config", path)
