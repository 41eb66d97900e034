"""Old names of options, values and commands are read everywhere, with one warning each; fingerprints keep them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from dynlm.adapt.options import LearnedRuleOptions, MemoryOptions, StepOptions
from dynlm.cli.main import COMMANDS, main
from dynlm.errors import UserError
from dynlm.runtime import renamed
from dynlm.runtime.validation import fingerprint_options, section_of, sections_of
from dynlm.study.options import StudyOptions
from dynlm.train.options import PretrainOptions
from tests.tiny import Run

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def unwarned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renamed, "_warned", set())


def printed(capsys: Capture, *words: str) -> tuple[dict[str, dict[str, object]], str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([*words, "--print_config"])
    out, err = capsys.readouterr()
    assert not stop.value.code
    return yaml.safe_load(out), err


def test_every_new_name_is_an_option_and_no_old_one_is() -> None:
    for section, names in renamed.OPTIONS.items():
        options = {item.name for item in dataclasses.fields(sections_of(StudyOptions)[section].select({}))}
        assert set(names.values()) <= options and not set(names) & options
    LearnedRuleOptions(features=list(renamed.FEATURES.values()))  # type: ignore[arg-type]
    assert set(renamed.COMMANDS.values()) <= set(COMMANDS) and not set(renamed.COMMANDS) & set(COMMANDS)


@pytest.mark.parametrize(
    "section, old, new", [(s, o, n) for s, names in renamed.OPTIONS.items() for o, n in names.items()]
)
def test_an_old_name_in_a_file_is_read_with_a_warning(section: str, old: str, new: str, capsys: Capture) -> None:
    kind = sections_of(StudyOptions)[section].select({})
    values = {"cache_flatness": [0.5], "guard": False, "flush": True, "arms": [{"name": "x"}], "dynamic": ["x"]}
    value = values.get(old, 0.25)
    made = [section_of(kind, {old: value}) for _ in range(2)]
    assert made[0] == made[1] == kind(**{new: value})
    assert capsys.readouterr().err == f"dynlm: warning: {section}.{old} is now {section}.{new}\n"


def test_old_names_on_the_command_line(capsys: Capture) -> None:
    words = [
        "--pretrain.rate=0.5",
        "--memory.pull",
        "0.25",
        "--g.features",
        "[fresh,loss_delta]",
        "--g.features+=heading",
    ]
    options, error = printed(capsys, "pretrain", *words)
    assert (options["pretrain"]["lr"], options["memory"]["decay"]) == (0.5, 0.25)
    assert options["g"]["features"] == ["doc_age_20", "loss_delta", "section_age"]
    assert error.splitlines() == [
        "dynlm: warning: pretrain.rate is now pretrain.lr",
        "dynlm: warning: memory.pull is now memory.decay",
        "dynlm: warning: g.features fresh is now doc_age_20",
        "dynlm: warning: g.features heading is now section_age",
    ]


def test_the_old_switch_for_markdown_is_a_format(capsys: Capture) -> None:
    assert renamed.rename_words(["RUN", "--markdown", "--seed", "1"]) == ["RUN", "--format", "markdown", "--seed", "1"]
    assert "--markdown is now --format markdown" in capsys.readouterr().err


def test_a_config_file_warns_once_for_all_old_names(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "old.yaml"
    path.write_text("memory: {rate: 0.5, guard: false}\ng: {features: [distance]}\n")
    options, error = printed(capsys, "pretrain", "--config", str(path))
    assert options["memory"]["lr"] == 0.5 and options["memory"]["update_filter"] is False
    assert options["g"]["features"] == ["weight_distance"]
    names = "memory.rate is now memory.lr, memory.guard is now memory.update_filter, g.features distance is now"
    assert error == f"dynlm: warning: {names} weight_distance\n"


def test_an_old_command_runs_as_the_new_one(tuned_run: Run, capsys: Capture) -> None:
    assert main(["audit", str(tuned_run.folder), "--places", "1", "--json"]) == 0
    assert "dynlm: warning: dynlm audit is now dynlm check" in capsys.readouterr().err


def test_fingerprints_keep_the_old_names() -> None:
    options = fingerprint_options(PretrainOptions(lr=0.5), LearnedRuleOptions(features=["loss_delta"]))
    assert options["pretrain.rate"] == 0.5 and options["g.features"] == ["surprise"]
    assert "pretrain.lr" not in options and "pretrain.checkpoint_every" not in options
    assert renamed.original_options("memory", vars(StepOptions()))["pull"] is None


def test_an_old_name_with_a_bad_value_is_refused_by_the_new_one() -> None:
    with pytest.raises(UserError, match="memory.lr is 'fast'"):
        section_of(MemoryOptions, {"rate": "fast"})
