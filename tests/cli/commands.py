"""Running commands: what they print, and that they refuse in one line."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dynlm.cli.main import main
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
    return err


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
