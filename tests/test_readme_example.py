"""The figures of README.md's first reading are those that its commands print."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from dynlm.cli.main import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_first_reading(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = [line for line in README.splitlines() if "vale.safetensors" in line]
    commands = [shlex.split(line.partition("#")[0])[1:] for line in lines]
    said = [re.findall(r"\d\.\d\d", line.partition("#")[2]) for line in lines]
    assert len(said[0]) == 2 and len(said[1]) == 1 and len(commands) == 3
    commands = [[str(ROOT / word) if word.startswith("docs/") else word for word in words] for words in commands]
    monkeypatch.chdir(tmp_path)
    printed = []
    for words in commands:
        assert main(words) == 0
        printed.append(capsys.readouterr().out)
    for figures, text in zip(said, printed, strict=False):
        found = [f"{float(figure):.2f}" for figure in re.findall(r"\d\.\d{4}", text.splitlines()[0])]
        assert found[: len(figures)] == figures
    assert "*Maud*" in README and printed[2].strip() == "The Lantern of Maud ,"
