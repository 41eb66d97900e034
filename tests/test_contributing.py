"""Every example of CONTRIBUTING.md runs: its file, its entry point, its commands."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from dynlm.cli.main import main
from tests.tiny import Run

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PLUGINS = r"\]\((tests/plugins/(\w+)\.py)\)"


class Example(NamedTuple):
    """A section: a module (written in the section, or a file that it links to), its entry points and its commands."""

    title: str
    files: dict[str, str]
    entry_points: str
    commands: list[str]


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def examples() -> list[Example]:
    found = []
    for section in re.split(r"^### ", TEXT.partition("\n## Extend it\n")[2], flags=re.MULTILINE)[1:]:
        files = {f"{name}.py": (ROOT / path).read_text(encoding="utf-8") for path, name in re.findall(PLUGINS, section)}
        for code in blocks("python", section):
            name = re.match(r'"""(\w+\.py): ', code)
            assert name, "an example begins with the name of its file"
            files[name[1]] = code
        commands = [line.partition("  #")[0] for block in blocks("sh", section) for line in block.splitlines()]
        found.append(Example(section.partition("\n")[0], files, "".join(blocks("toml", section)), commands))
    return found


EXAMPLES = examples()
RUN_ALL = """
import json, runpy, sys
from dynlm.cli.main import main
for words in json.loads(sys.argv[1]):
    sys.argv = words[1:]
    if words[0] == "dynlm":
        assert main(words[1:]) == 0, words
    else:
        runpy.run_path(words[1], run_name="__main__")
"""


def install(example: Example, folder: Path) -> None:
    """Write the files, and the metadata that installing them as a package would leave."""
    for name, code in example.files.items():
        (folder / name).write_text(code, encoding="utf-8")
    metadata = folder / "example-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: example\nVersion: 1.0\n")
    points = re.sub(r'\[project\.entry-points\."(.*)"\]', r"[\1]", example.entry_points).replace('"', "")
    (metadata / "entry_points.txt").write_text(points)


def test_every_kind_of_extension_has_an_example() -> None:
    kinds = " ".join(example.title for example in EXAMPLES)
    for kind in ("rule", "model", "source", "learner", "picture"):
        assert kind in kinds
    assert all(example.files and example.commands for example in EXAMPLES)


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.title)
def test_example_runs(
    example: Example,
    tuned_copy: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    install(example, work)
    monkeypatch.chdir(work)
    for rule in ("none", "rms"):
        assert main(["score", str(tuned_copy.folder), "--memory.rule", rule, "--articles", "1-2"]) == 0
    # In a process of its own: plug-ins stay registered for as long as the process that loaded them.
    lines = [
        shlex.split(command.replace("RUN", str(tuned_copy.folder)).replace("DIR", str(tuned_copy.corpus)))
        for command in example.commands
    ]
    assert all(words[0] in ("dynlm", "python") for words in lines)
    lines = [[*words, "--tune.fewest_tokens", "100"] if words[1] == "tune" else words for words in lines]
    environment = {**os.environ, "PYTHONPATH": f"{work}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", RUN_ALL, json.dumps(lines)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
