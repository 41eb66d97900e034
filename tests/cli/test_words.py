"""Words of the command line that YAML would read otherwise than they are meant."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import yaml

from dynlm.cli.main import COMMANDS
from dynlm.cli.parser import parse
from dynlm.cli.words import check_list
from dynlm.errors import UserError
from dynlm.runtime.parsing import read_yaml
from dynlm.runtime.validation import sections_of
from dynlm.study.options import StudyOptions
from tests.cli.commands import Capture, refused
from tests.tiny import Run

MARKS = ("*", "&", "!", "%", "@", "`")
LISTS = [
    (f"{section}.{name}", hint)
    for section, kind in sections_of(StudyOptions).items()
    for name, hint in get_type_hints(kind).items()
    if list in [get_origin(each) for each in (hint, *get_args(hint))]
]


def parsed(name: str, *words: object) -> tuple[Any, Any]:
    return parse(name, COMMANDS[name], [*map(str, words)])


def test_lists_are_known() -> None:
    assert {"memory.targets", "metatrain.texts", "study.base_seeds", "g.features"} <= {*dict(LISTS)}


@pytest.mark.parametrize("option, hint", LISTS)
@pytest.mark.parametrize("mark", MARKS)
def test_an_entry_that_begins_with_a_mark_of_yaml_is_named(option: str, hint: Any, mark: str) -> None:
    for word in (f"[a,{mark}.bias]", f"[a, {mark}b]", f"{mark}b"):
        with pytest.raises(UserError, match=re.escape(f"--{option} is {word!r}, w")) as refusal:
            check_list(option, hint, word)
        said = str(refusal.value)
        if "put it in quotes: " in said:  # What it says to write is what was meant.
            written = shlex.split(said.partition("put it in quotes: ")[2])
            assert written[0] == f"--{option}"
            assert yaml.safe_load(written[1]) == [each.strip() for each in word.strip("[]").split(",")]
            check_list(option, list[str], written[1])
        else:
            assert "write numbers in brackets" in said or "write it in a config file" in said


@pytest.mark.parametrize(
    "hint, word",
    [
        (list[str], "[a, lstm.*, '*.bias']"),
        (list[str], "[]"),
        (list[str] | None, "null"),
        (list[int] | None, "[1, 2]"),
        (list[float], "[1, 2.5]"),
        (list[Literal["a", "b"]], "[c]"),  # the choices are named elsewhere
        (str, "*"),
        (float | None, "*"),
    ],
)
def test_lists_and_words_of_other_options_pass(hint: Any, word: str) -> None:
    check_list("memory.targets", hint, word)


def test_what_to_write_is_said_of_a_pattern_without_quotes(trained_run: Run, capsys: Capture) -> None:
    for words in (["--memory.targets", "[embedding,*.bias]"], ["--memory.targets=[embedding,*.bias]"]):
        line = refused(capsys, "score", trained_run.folder, *words)
        assert "put it in quotes: --memory.targets '[embedding, \"*.bias\"]'" in line
    memory = parsed("score", trained_run.folder, "--memory.targets", '[embedding, "*.bias"]')[1].memory
    assert memory.targets == ["embedding", "*.bias"]
    assert "put it in brackets: --memory.targets '[embedding]'" in refused(
        capsys, "score", trained_run.folder, "--memory.targets", "embedding"
    )


@pytest.mark.parametrize("word", [*(f"{mark}a" for mark in MARKS), "# A title", "~", "a: b", "[a", '"a"', "7"])
def test_texts_are_taken_as_they_are(word: str, trained_run: Run) -> None:
    """YAML would read some of them as null."""
    own = parsed("generate", trained_run.folder, "--prompt", word, "--stop", word)[0]
    assert (own.prompt, own.stop) == (word, [word])
    assert parsed("corpus", "--corpus.path", word)[1].corpus.path == word


def test_null_unsets_an_option(trained_run: Run) -> None:
    assert parsed("corpus", "--corpus.path", "null")[1].corpus.path is None
    assert parsed("generate", trained_run.folder, "--prompt", "null")[0].prompt == "null"


@pytest.mark.parametrize(
    "words, said",
    [
        (["--memory.lr", "fast"], "--memory.lr is 'fast'; write a number;"),
        (["--memory.segment", "1.5"], "--memory.segment is '1.5'; write a whole number;"),
        (["--memory.no_regret", "maybe"], "--memory.no_regret is 'maybe'; write true or false;"),
        (["--tokens", "many"], "--tokens is 'many'; write a whole number;"),
        (["--temperature", "[1]"], "--temperature is '[1]'; write a number;"),
    ],
)
def test_a_value_of_the_wrong_type_is_said_in_words(
    words: list[str], said: str, trained_run: Run, capsys: Capture
) -> None:
    assert said in refused(capsys, "generate", trained_run.folder, *words)


@pytest.mark.parametrize("value", [*(f"{mark}.txt" for mark in "*!%@`"), "*undefined"])
@pytest.mark.parametrize("form", ["corpus:\n  path: {}\n", "memory: {{targets: [a, {}]}}\n"])
def test_a_config_file_says_which_value_needs_quotes(value: str, form: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(form.format(value))
    with pytest.raises(UserError, match=re.escape(f'put {value} in quotes: "{value}"')):
        read_yaml(path)
    path.write_text(form.format(f'"{value}"'))
    assert value in str(read_yaml(path))
