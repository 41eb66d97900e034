"""Completion as a user meets it: in bash, by the line that the documentation names."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dynlm.cli import completion
from dynlm.cli.main import COMMANDS

pytest.importorskip("argcomplete", reason="the extra dynlm[completion] is not installed")
ROOT = Path(__file__).parents[2]
LINE = 'eval "$(register-python-argcomplete dynlm)"'


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the program ``dynlm`` of this source."""
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "dynlm"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m dynlm "$@"\n')
    program.chmod(0o755)
    return folder


def completed(programs: Path, line: str, folder: Path = ROOT) -> list[str]:
    """Return what bash offers after ``line`` and Tab: the words that its completion function finds."""
    words = line.split(" ")
    script = f"""{LINE}
        name=$(complete -p dynlm | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        COMP_LINE={shlex.quote(line)} COMP_POINT={len(line)} COMP_TYPE=9 COMP_CWORD={len(words) - 1}
        COMP_WORDS=({" ".join(map(shlex.quote, words))})
        "$name" dynlm {shlex.quote(words[-1])} {shlex.quote(words[-2])}
        printf '%s\\n' "${{COMPREPLY[@]}}" """
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    variables = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, cwd=folder, env=variables)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return sorted(word.strip() for word in done.stdout.splitlines() if word.strip())


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
def test_bash_completes_commands_options_values_and_files(programs, tmp_path):
    assert completed(programs, "dynlm com") == ["compare"]
    assert completed(programs, "dynlm fewshot sh") == ["show"]
    assert completed(programs, "dynlm compare --res") == ["--resamples"]
    assert completed(programs, "dynlm compare runs/demo --format la") == ["latex"]
    assert {"--memory.rule", "--memory.reset"} <= {*completed(programs, "dynlm score --memory.r")}
    (tmp_path / "demo-run").mkdir()
    assert completed(programs, "dynlm compare demo", tmp_path) == ["demo-run/"]
    assert completed(programs, "dynlm score damaged --arti", tmp_path) == []


def test_next_words_are_those_of_commands():
    first = completion._next_words([], COMMANDS)
    assert {"compare", "fewshot", "memory", "--version"} <= {*first} and len(first) == len({*first})
    assert completion._next_words(["fewshot"], COMMANDS) == [
        name.split()[1] for name in COMMANDS if name.startswith("fewshot ")
    ]
    assert completion._next_words(["none"], COMMANDS) == []


def test_without_the_package_nothing_is_completed(monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "argcomplete", None)
    monkeypatch.setenv("_ARGCOMPLETE", "1")
    assert completion.is_asked() and completion.complete(COMMANDS) == 1
    assert capfd.readouterr() == ("", "")
