"""Every command of the README and every Python example of the documentation runs, on a tiny run."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from dynlm.cli.main import main
from tests.tiny import Run

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
RUNS = (ROOT / "docs" / "runs.md").read_text(encoding="utf-8")
KEPT = (ROOT / "docs" / "kept-memories.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README + KEPT, re.MULTILINE | re.DOTALL)


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    lines = (line.partition("#")[0].strip() for block in blocks("sh", text) for line in block.splitlines())
    return [line for line in lines if line.startswith("dynlm ")]


def test_the_make_commands_come_first() -> None:
    assert [line.split("#")[0].strip() for line in blocks("sh")[0].splitlines()] == ["make demo", "make test"]


@pytest.mark.parametrize("text", [README, RUNS], ids=["README", "runs"])
def test_every_command_runs(
    text: str, tuned_copy: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("webbrowser.open", lambda page: True)
    (tmp_path / "book.txt").write_text("A book.\n", encoding="utf-8")
    (tmp_path / "notes").mkdir()  # Too few to train on: they are read by the model at hand.
    (tmp_path / "notes" / "note.txt").write_text("A note.\n", encoding="utf-8")
    named = {"DIR": str(tuned_copy.corpus), "31-60": "1-2"}
    named |= {
        name: str(tmp_path / name.strip("/")) for name in ("book.txt", "me.safetensors", "vale.safetensors", "notes/")
    }
    ran = commands(text)
    assert len(ran) >= 10
    for command in ran:
        words = shlex.split(command)[1:]
        if "native" in words and shutil.which("g++") is None:
            continue
        words = [named.get(word, word) for word in words]
        words = [word.replace("runs/wikitext-2-small", str(tuned_copy.folder)) for word in words]
        if words[0] in ("pretrain", "study"):  # Their config takes an hour: only their options are checked.
            words.append("--print_config")
            with pytest.raises(SystemExit) as stop:
                main(words)
            assert stop.value.code == 0
        else:
            assert main(words) == 0, command
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_the_python_examples_run(
    number: int,
    tuned_copy: Run,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    assert len(EXAMPLES) == 4 and len(blocks("python")) == 1
    assert "runs/demo" in EXAMPLES[number]
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLES[number].replace("runs/demo", str(tuned_copy.folder)), "an example", "exec"), {})
    assert capsys.readouterr().out


def test_every_relative_link_exists() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    headings = {
        re.sub(r"[^\w -]", "", line).lower().replace(" ", "-") for line in re.findall(r"^#+ (.*)", README, re.M)
    }
    assert len(links) > 5
    for link in links:
        path, _, anchor = link.partition("#")
        assert (ROOT / path).exists() if path else anchor in headings, link
