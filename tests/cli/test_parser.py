"""Sections whose options a plug-in owns: the parser takes those of the rule or model that is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import tests.plugins.adamax
import tests.plugins.gru
from dynlm.adapt.rules.registry import RULES
from dynlm.cli.main import COMMANDS, main
from dynlm.cli.parser import parse
from dynlm.models.registry import MODELS
from tests.cli.commands import Capture, help_of, refused
from tests.plugins.adamax import AdamaxOptions
from tests.tiny import Run

assert "adamax" in RULES.names() and "gru" in MODELS.names(), (tests.plugins.adamax, tests.plugins.gru)


def memory_of(*words: object) -> Any:
    return parse("score", COMMANDS["score"], [*map(str, words)])[1].memory


def test_the_command_line_chooses_a_foreign_rule(trained_run: Run) -> None:
    memory = memory_of(trained_run.folder, "--memory.rule", "adamax", "--memory.beta1=0.8")
    assert isinstance(memory, AdamaxOptions) and (memory.beta1, memory.beta2, memory.segment) == (0.8, 0.99, 20)


def test_a_config_file_chooses_a_foreign_rule(trained_run: Run, tmp_path: Path) -> None:
    rule, constants = tmp_path / "rule.yaml", tmp_path / "constants.yaml"
    rule.write_text("memory: {rule: adamax}\n")
    constants.write_text("memory: {beta1: 0.8}\n")
    memory = memory_of(trained_run.folder, "--config", rule, "--config", constants, "--memory.beta2", "0.5")
    assert isinstance(memory, AdamaxOptions) and (memory.beta1, memory.beta2) == (0.8, 0.5)


def test_the_run_chooses_a_foreign_rule_and_the_command_line_another(run_copy: Run) -> None:
    path = run_copy.folder / "config.yaml"
    content = yaml.safe_load(path.read_text())
    content["memory"] |= {"rule": "adamax", "beta1": 0.7, "segment": 11}
    path.write_text(yaml.safe_dump(content, explicit_start=True, explicit_end=True))
    assert content["memory"]["decay"] is None  # written by another rule, and nothing to Adamax
    assert memory_of(run_copy.folder).beta1 == 0.7
    other = memory_of(run_copy.folder, "--memory.rule", "sgd")
    assert not isinstance(other, AdamaxOptions) and other.segment == 11


def test_a_foreign_rules_options_are_in_its_help(capsys: Capture) -> None:
    assert any("--memory.beta1" in line for line in help_of(capsys, "score", "--memory.rule", "adamax", "--help"))
    assert not any("--memory.beta1" in line for line in help_of(capsys, "score", "--help"))
    everything = "\n".join(help_of(capsys, "score", "--memory.rule", "adamax", "--help", "all"))
    assert "--memory.lr" in everything and "--memory.segment" in everything
    assert "--memory.decay" not in everything and "--memory.epsilon" not in everything


def test_a_foreign_model_has_options_of_its_own(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["pretrain", "--model.kind", "gru", "--model.width", "8", "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["model"] == {"kind": "gru", "width": 8}


def test_a_run_is_read_with_the_models_options_of_reading_alone(trained_run: Run, capsys: Capture) -> None:
    for option in ("context", "embedding"):
        line = refused(capsys, "score", trained_run.folder, f"--model.{option}", "16")
        assert f"--model.{option} is not used by this command, nor is any option of model" in line
    assert not any("--model." in line for line in help_of(capsys, "score", str(trained_run.folder), "--help", "all"))


def test_the_run_of_a_study_may_be_named_or_be_left_out(trained_run: Run) -> None:
    def parsed(*words: object) -> Any:
        return parse("study", COMMANDS["study"], [*map(str, words)])

    options, config = parsed(trained_run.folder, "--memory.lr", "0.5")
    assert options.folder == str(trained_run.folder) and config.memory == trained_run.config.memory.replace(lr=0.5)
    options, config = parsed("--config", "study-wikitext-2", "--model.hidden", "9")
    assert options.folder is None and (config.run.name, config.model.hidden) == ("wikitext-2-small", 9)


@pytest.mark.parametrize(
    "words, said",
    [
        (["--memory.rule", "adm"], "memory.rule is 'adm'; did you mean 'adam'?"),
        (["--memory.rule", "adamax", "--memory.beta1", "2"], "memory.beta1 is 2"),
        (["--memory.beta1", "0.5"], "--memory.beta1"),
        (["--memory.rule", "adamax", "--memory.decay", "0.5"], "--memory.decay"),
    ],
)
def test_wrong_options_of_rules_are_refused(words: list[str], said: str, trained_run: Run, capsys: Capture) -> None:
    assert said in refused(capsys, "score", trained_run.folder, *words)


@pytest.mark.parametrize(
    "option, rules",
    [("decay_step", "meta or rms+online"), ("replay_rate", "meta or rms+replay"), ("beta1", "adam or adamax")],
)
def test_an_option_of_other_rules_names_them(option: str, rules: str, trained_run: Run, capsys: Capture) -> None:
    for rule in ("rms", "none"):
        line = refused(capsys, "score", trained_run.folder, "--memory.rule", rule, f"--memory.{option}", "0.1")
        assert f"--memory.{option} goes with memory.rule {rules} alone" in line
