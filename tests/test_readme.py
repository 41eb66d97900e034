"""What the README tells a reader to type works, on a tiny run in place of the one it names."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from dynlm.cli import main
from tests.tiny import Run

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = (line.partition("#")[0].strip() for block in blocks("sh") for line in block.splitlines())
    return [line for line in lines if line.startswith("dynlm ")]


def test_make_stands_first() -> None:
    assert [line.split("#")[0].strip() for line in blocks("sh")[0].splitlines()] == ["make demo", "make test"]


def test_every_command_runs(
    tuned_copy: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parent.parent)
    ran = commands()
    assert len(ran) >= 10
    for command in ran:
        words = shlex.split(command)[1:]
        if "native" in words and shutil.which("g++") is None:
            continue
        words = [{"DIR": str(tuned_copy.corpus), "31-60": "1-2"}.get(word, word) for word in words]
        words = [word.replace("runs/wikitext-2-small", str(tuned_copy.folder)) for word in words]
        if words[0] in (
            "pretrain",
            "study",
        ):  # Their config is for an hour: only their options are tried.
            words.append("--print_config")
            with pytest.raises(SystemExit) as stop:
                main(words)
            assert stop.value.code == 0
        else:
            assert main(words) == 0, command
    assert capsys.readouterr().err == ""


def test_the_python_example_runs(tuned_copy: Run, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks("python")
    assert "runs/demo" in example
    exec(compile(example.replace("runs/demo", str(tuned_copy.folder)), "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("tensor(")


def test_every_link_into_the_repository_leads_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert len(links) > 5
    for link in links:
        assert (Path(__file__).parent.parent / link).exists(), link
