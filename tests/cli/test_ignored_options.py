"""A command reads the value of every option of a section that it takes: it accepts none that it ignores.

Reading an option to copy, check or fingerprint it is no use of it. Commands that make a run keep all options as its
defaults, and are left out; so are the options that tasks and learners own, some of which are for training alone.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynlm.cli.main import COMMANDS, main
from dynlm.runtime.validation import Section
from tests.cli.commands import Capture, help_of, refused
from tests.tiny import Run

MAKE_RUNS = {"demo", "study", "learn", "pretrain", "adopt", "pack", "fewshot train"}
COPYING = {"dataclasses.py", "validation.py", "parser.py", "config_files.py"}
CACHED = ["--memory.rule", "meta", "--memory.cache", "learned", "--memory.no_regret", "true"]
FIXED = "--memory.cache_window 9 --memory.cache_inverse_temperature [1] --memory.cache_share 0.1".split()
FIXED = ["--memory.cache", "fixed", *FIXED]
READINGS = [[], CACHED, ["--memory.rule", "none", *FIXED]]
SETTINGS: dict[str, list[list[str]]] = {
    "corpus": [[]],
    "tune": [["--memory.rule", "rms+slow"], [*CACHED, *FIXED]],
    "metatrain": [["--metatrain.tokens", "400"], CACHED],
    "finetune": [
        "--memory.rule meta --finetune.phi true --finetune.tokens 400 --finetune.name a".split(),
        "--memory.rule rms --finetune.tune true --finetune.tokens 400 --finetune.name b".split(),
    ],
    "score": [["--articles", "1", *words] for words in READINGS],
    "check": [["--places", "1", *words] for words in READINGS],
    "stress": [["--tokens", "100"], ["--tokens", "100", *CACHED[:4]]],
    "read": READINGS,
    "generate": [["--tokens", "2", *words] for words in READINGS],
    "fewshot tasks": [[]],
    "fewshot evaluate": [["--evaluate.episodes", "2", "--evaluate.shown_tasks", "1"]],
}
"""Words of each command, in settings that use all options."""
ELSEWHERE = {
    **dict.fromkeys(("run.name", "run.folder"), "the copy of a read-only run"),
    **dict.fromkeys(("corpus.subset", "corpus.max_overlap"), "hub data sets, and installed packages"),
    "metatrain.turn": "several texts",
    "tune.statistics_tokens": "a run without statistics",
    "g.hidden": "g.kind lstm",
}
"""Options that matter in settings that are too slow to try here."""


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """The options whose values were read, as ``section.option``."""
    found: set[str] = set()

    def read_and_record(section: Section, name: str) -> object:
        if not name.startswith("_") and name in type(section).__dataclass_fields__:
            caller = sys._getframe(1).f_code
            if Path(caller.co_filename).name not in COPYING and caller.co_name not in ("__post_init__", "<genexpr>"):
                found.add(f"{section.SECTION}.{name}")
        return object.__getattribute__(section, name)

    monkeypatch.setattr(Section, "__getattribute__", read_and_record, raising=False)
    yield found


def options_of(capsys: Capture, *words: str) -> set[str]:
    """The options of sections that the help of a command lists."""
    text = "\n".join(help_of(capsys, *words, "--help", "all"))
    found = set(re.findall(r"(?m)^  --(\w+\.\w+)", text))
    return {option for option in found if option.partition(".")[0] not in ("task", "learner")}


def arguments_of(name: str, run: Run, folder: Path) -> list[str]:
    """What stands before the options of a command."""
    text = folder / "notes.jsonl"
    text.write_text('{"text": "the town was near . and it was good .\\n", "title": "One"}\n')
    if name == "corpus":
        return ["--corpus.path", str(text)]
    if name == "fewshot tasks":
        return []
    if name == "fewshot evaluate":
        words = ["--run.folder", str(folder), "--run.name", "few", "--task.source", "cubic", "--train.steps", "1"]
        assert main(["fewshot", "train", *words, "--train.tasks", "2"]) == 0
        return [str(folder / "few")]
    return [str(run.folder), *([str(text)] if name == "read" else [])]


def test_every_command_that_takes_options_of_sections_is_tried() -> None:
    assert {name for name, command in COMMANDS.items() if command.takes_config} == {*SETTINGS, *MAKE_RUNS}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_command_ignores_no_option_that_it_takes(
    name: str, read: set[str], tuned_copy: Run, tmp_path: Path, capsys: Capture
) -> None:
    if name not in ("corpus", "tune", "metatrain", "finetune") and not name.startswith("fewshot"):
        assert main(["metatrain", str(tuned_copy.folder), *CACHED[:4]]) == 0
    if name == "metatrain":  # which tunes a rule that is not tuned
        (tuned_copy.folder / "memory" / "tuned.json").unlink()
    start = arguments_of(name, tuned_copy, tmp_path)
    declared = options_of(capsys, *name.split(), *start)
    read.clear()
    for words in SETTINGS[name]:
        code = main([*name.split(), *start, *words])
        assert code in (0, 1), capsys.readouterr().err
    assert declared - read - {*ELSEWHERE} == set()


@pytest.mark.parametrize("name", ["read", "generate", "check", "stress", "tune", "metatrain", "finetune"])
def test_what_a_score_file_records_is_an_option_of_scoring_alone(name: str, tuned_copy: Run, capsys: Capture) -> None:
    line = refused(capsys, name, tuned_copy.folder, *(["text"] if name == "read" else []), "--memory.track", "true")
    assert "--memory.track is not used by this command" in line
