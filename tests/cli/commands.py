"""Running commands: what they print, and that they refuse in one line."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dynlm.adapt.rules.registry import RULES
from dynlm.cli.main import COMMANDS, main
from tests.tiny import as_yaml, tiny_config

ROOT = Path(__file__).resolve().parents[2]


Capture = pytest.CaptureFixture[str]


def answer(capsys: Capture, *arguments: object) -> str:
    """What ``dynlm`` prints on standard output, having ended well."""
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert code == 0, err
    return out


def answer_json(capsys: Capture, *arguments: object) -> Any:
    """The same with --json, parsed: nothing else may be on standard output."""
    return json.loads(answer(capsys, *arguments, "--json"))


def refused(capsys: Capture, *arguments: object) -> str:
    """The one line that ``dynlm`` says of what the user can mend, having ended with 2."""
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert code == 2, f"ended with {code}: {out}{err}"
    assert out == ""
    assert err.startswith("dynlm: error: ")
    assert err.endswith("\n") and err.count("\n") == 1, err
    assert not (others := undeclared(err, *map(str, arguments))), f"the command has no {others}: {err}"
    return err


def undeclared(message: str, *words: str) -> set[str]:
    """Options that ``message``, to who ran the command of ``words``, names and that the command does not have.

    A command line in backquotes is held against its own command. An option that ``words`` give may be wrong.
    """
    named = [(words, re.sub("`[^`]*`", "", message))]
    named += [(tuple(line.split()[1:]), line) for line in re.findall("`(dynlm [^`]*)`", message)]
    return {
        option
        for command, text in named
        for option in re.findall(r"(?<![\w-])--[a-z][\w.]*\w", text)
        if option not in declared(command) and not any(word.startswith(option) for word in words)
    }


def declared(words: Sequence[str]) -> set[str]:
    """Options of the command that ``words`` begin with, with those of every rule and kind of model."""
    name = next((name for count in (2, 1) if (name := " ".join(words[:count])) in COMMANDS), None)
    return {"--version", "--help"} if name is None else _declared(name)


@functools.cache
def _declared(name: str) -> set[str]:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main([*name.split(), "--help", "all"])
    options = {"--help", *re.findall(r"(?m)^  (?:-h, )?(--[\w.]+)", out.getvalue())}
    options |= {"--memory"} if COMMANDS[name].takes_memory else set()
    if "--memory.rule" in options:
        rules = [RULES[rule].options for rule in RULES.names()]
        options |= {f"--memory.{item.name}" for rule in rules for item in dataclasses.fields(rule)}
    return options


def help_of(capsys: Capture, *words: str) -> list[str]:
    """The lines of the help that these words print."""
    with pytest.raises(SystemExit) as stop:
        main([*words])
    assert not stop.value.code
    return capsys.readouterr().out.rstrip().splitlines()


def tiny_options(corpus: Path, runs: Path, tmp_path: Path, **options: Any) -> list[str]:
    """Options that train a tiny run on ``corpus`` into ``runs``, by way of a YAML file."""
    path = tmp_path / "tiny.yaml"
    path.write_text(as_yaml(tiny_config(corpus, runs, pretrain={"epochs": 0.2}, **options)))
    return ["--config", str(path)]


def process(*arguments: object, folder: Path, timeout: int = 120) -> subprocess.CompletedProcess[str]:
    """Run a command with the checkout's dynlm, from ``folder``."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [str(argument) for argument in arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout)
