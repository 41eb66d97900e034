"""The repository itself: packaging, entry points, continuous integration, community files, layout."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dynlm.cli.main import COMMANDS, main
from dynlm.runtime import renamed

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
TOP = set(
    """CHANGELOG.md CITATION.cff CONTRIBUTING.md LICENSE Makefile README.md benchmarks configs constraints.txt data docs
    dynlm mkdocs.yml pyproject.toml scripts tests""".split()
)
SUPPORTED_PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]


def exit_code(arguments: list[str]) -> int:
    """Return the exit code of ``dynlm`` with these arguments."""
    try:
        return main(arguments)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run this Python with the checkout's dynlm."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "COLUMNS": "200"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def names_at_top() -> set[str]:
    """Return the names at the top of the checkout that git tracks or would add."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip(f"git cannot list the files: {listed.stderr.strip()}")
    files = [name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]
    return {name.partition("/")[0] for name in files}


def test_installed_command_is_main() -> None:
    module, _, function = pyproject()["project"]["scripts"]["dynlm"].partition(":")
    assert getattr(importlib.import_module(module), function) is main


def test_module_runs_as_the_command_does() -> None:
    answer = python("-m", "dynlm", "--version")
    assert answer.returncode == 0 and answer.stdout.startswith("dynlm "), answer.stderr


def test_every_dependency_has_a_lower_bound_only_and_a_tested_version() -> None:
    project = pyproject()["project"]
    tested = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tested_names = {re.split(r"[<>=]", line)[0].strip().lower() for line in tested if line and not line.startswith("#")}
    for dependency in [*project["dependencies"], *project["optional-dependencies"]["docs"]]:
        match = re.fullmatch(r"([A-Za-z0-9_-]+)(\[[a-z]+\])?>=[0-9.]+", dependency)
        assert match, f"{dependency} is not a lower bound"
        assert match[1].lower() in tested_names, f"constraints.txt has no version of {match[1]}"


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        assert exit_code([*command.split(), "--help"]) == 0
        assert command in capsys.readouterr().out


def test_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["no-such-command"]) == 2
    assert "no-such-command" in capsys.readouterr().err


def test_help_does_not_import_torch() -> None:
    """Importing torch takes longer than printing the help."""
    code = """
import sys
from dynlm.cli.main import main
try:
    main(["--help"])
except SystemExit as stop:
    assert not stop.code, stop.code
slow = sorted({"torch", "datasets", "accelerate", "matplotlib", "pyarrow"} & set(sys.modules))
sys.exit(f"--help imports {slow}" if slow else 0)
"""
    answer = python("-c", code)
    assert answer.returncode == 0, answer.stderr
    assert "pretrain" in answer.stdout


def test_top_of_the_tree_holds_only_what_belongs_there() -> None:
    assert not {name for name in names_at_top() if not name.startswith(".")} - TOP


def test_ci_script_is_valid_shell() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    checked = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_workflow_runs_make_targets_that_exist_on_every_supported_python() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == SUPPORTED_PYTHONS
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    steps = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    lines = [line for step in steps for line in re.findall(r"make (.+)", step)]
    used = {word for line in lines for word in line.split() if re.fullmatch("[a-z-]+", word)}
    assert {"test", "docs", "wheel"} <= used <= targets
    named = [line for line in pyproject()["project"]["classifiers"] if "Python :: 3." in line]
    assert named == [f"Programming Language :: Python :: {version}" for version in SUPPORTED_PYTHONS]


def test_community_files_are_valid_yaml() -> None:
    files = [ROOT / ".pre-commit-config.yaml", ROOT / "CITATION.cff"]
    files += sorted((ROOT / ".github").rglob("*.yml"))
    assert len(files) >= 5
    for path in files:
        assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict), path


def test_version_is_the_same_everywhere() -> None:
    import dynlm

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == dynlm.__version__
    assert f"## [{dynlm.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_changelog_lists_every_rename() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    pairs = [
        (f"{name}.{old}", f"{name}.{new}") for name, names in renamed.OPTIONS.items() for old, new in names.items()
    ]
    for old, new in [*pairs, *renamed.FEATURES.items(), *renamed.COMMANDS.items()]:
        assert f"`{old}`" in text and f"`{new}`" in text, old


def test_package_declares_its_types() -> None:
    assert (ROOT / "dynlm" / "py.typed").exists()
