"""What the guides say can be done: every command in them is accepted, every module and test that they name exists."""

from __future__ import annotations

import dataclasses
import re
import shlex
import shutil
from pathlib import Path

import pytest

from dynlm.cli.main import COMMANDS, main
from tests.test_scripts import without_launcher
from tests.tiny import Run

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "scripts" / "README.md"]
PACKAGES = sorted(path.name for path in (ROOT / "dynlm").iterdir() if path.is_dir())


def commands_of(page: Path) -> list[list[str]]:
    """Return the arguments of each ``dynlm`` command in a page's shell blocks."""
    found = []
    for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.partition("<")[0], comments=True)
            if words[:1] == ["dynlm"] or words[:2] == ["accelerate", "launch"]:
                found.append(without_launcher(words))
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if commands_of(page)], ids=lambda page: page.stem)
def test_every_command_is_accepted(
    page: Path,
    tuned_copy: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Parsed with the options of a run, and not carried out."""
    runs = tmp_path / "runs"
    for name in ("demo", "gru", "wikitext-103", "wikitext-2-small"):
        shutil.copytree(tuned_copy.folder, runs / name)
    names = {path.stem: path for path in (ROOT / "configs" / "fewshot").glob("*.yaml")}
    for name, config in {**names, "centroids": names["cubic-maml"], "bandit-ucb1": names["bandit"]}.items():
        (runs / "fewshot" / name).mkdir(parents=True)
        shutil.copy(config, runs / "fewshot" / name / "config.yaml")
    monkeypatch.chdir(tmp_path)
    for name, command in COMMANDS.items():
        monkeypatch.setitem(COMMANDS, name, dataclasses.replace(command, run=lambda *_: 0))
    for words in commands_of(page):
        if not {"adamax", "gru", "haiku", "centroids"} & set(words):  # tests/test_contributing.py runs these.
            words = ["runs/demo" if word == "RUN" else word for word in words]
            assert main(words) == 0, f"{words}: {capsys.readouterr().err}"
            assert "warning" not in capsys.readouterr().err, words


def test_the_architecture_names_what_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    names = {name for name in re.findall(r"`([a-z_0-9.]+)", text) if name.partition(".")[0] in PACKAGES and "." in name}
    assert len(names) > 20
    for name in names:
        parts = name.rstrip(".").split(".")
        paths = [ROOT.joinpath("dynlm", *parts[:length]) for length in range(len(parts), 1, -1)]
        module = next((path for path in paths if path.is_dir() or path.with_suffix(".py").exists()), None)
        assert module is not None, name
        rest = parts[len(module.relative_to(ROOT / "dynlm").parts) :]
        assert not rest or rest[0] in module.with_suffix(".py").read_text(encoding="utf-8"), name
    for path in re.findall(r"`((?:tests|dynlm)/[\w/.]+)`", text):
        assert (ROOT / path).exists(), path
    listed = {
        name for line in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", line)
    }
    assert set(PACKAGES) <= listed | {"__pycache__"}, "each package is in the table"
