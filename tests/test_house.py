"""The repository itself: its commands, scripts, configurations and order."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from dynlm.cli.app import COMMANDS, load_config, load_options, main
from dynlm.fewshot.options import FewShotConfig
from dynlm.study.options import StudyOptions
from dynlm.study.steps import check_slots, steps_of
from dynlm.study.variants import readings_of, variants_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
STUDY_CONFIGS = sorted((ROOT / "configs").glob("study-*.yaml"))
CONFIGS = sorted(set((ROOT / "configs").glob("*.yaml")) - set(STUDY_CONFIGS))
FEWSHOT_CONFIGS = sorted((ROOT / "configs" / "fewshot").glob("*.yaml"))
ALLOWED = {
    "LICENSE",
    "Makefile",
    "README.md",
    "benchmarks",
    "configs",
    "constraints.txt",
    "data",
    "docs",
    "dynlm",
    "pyproject.toml",
    "scripts",
    "tests",
}


def exit_code(arguments: list[str]) -> int:
    """What ``dynlm`` with these arguments would end with."""
    try:
        return main(arguments)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)


def python(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run this Python with the checkout's dynlm, from ``folder``."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "COLUMNS": "200"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def verb_of(script: Path) -> str:
    """The verb that a script hands to ``main``: the strings at the start of the list in its call."""
    calls = [node for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    given = [call.args[0] for call in calls if isinstance(call.func, ast.Name) and call.func.id == "main"]
    assert len(given) == 1, f"{script.name} calls main {len(given)} times"
    assert isinstance(given[0], ast.List)
    return " ".join(word.value for word in given[0].elts if isinstance(word, ast.Constant))


def names_at_top() -> set[str]:
    """Names at the top of the checkout that git has or would take."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip(f"git cannot list the files: {listed.stderr.strip()}")
    files = [name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]
    return {name.partition("/")[0] for name in files}


def assert_read_as_written(written: Any, read: Any, option: str) -> None:
    """Every value of a YAML file arrives in the dataclass, as the same value of the same type."""
    if isinstance(written, dict):
        for name, value in written.items():
            assert_read_as_written(value, getattr(read, name), f"{option}.{name}")
    else:
        assert read == written, option
        # YAML 1.1 takes 3e-3 for a string; a whole number may stand for a float.
        assert isinstance(read, str) == isinstance(written, str), option


def test_installed_command_is_main() -> None:
    module, _, function = pyproject()["project"]["scripts"]["dynlm"].partition(":")
    assert getattr(importlib.import_module(module), function) is main


def test_every_dependency_has_a_lower_bound_only_and_a_tested_version() -> None:
    project = pyproject()["project"]
    tested = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tested_names = {re.split(r"[<>=]", line)[0].strip().lower() for line in tested if line and not line.startswith("#")}
    for dependency in project["dependencies"]:
        match = re.fullmatch(r"([A-Za-z0-9_-]+)(\[[a-z]+\])?>=[0-9.]+", dependency)
        assert match, f"{dependency} is not a lower bound"
        assert match[1].lower() in tested_names, f"constraints.txt has no version of {match[1]}"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script_calls_the_verb_it_is_named_after(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verb = verb_of(script)
    assert verb.replace(" ", "_") == script.stem
    assert exit_code([*verb.split(), "--help"]) == 0
    assert verb in capsys.readouterr().out
    assert f"python scripts/{script.name}" in (ast.get_docstring(ast.parse(script.read_text())) or "")


def test_every_verb_has_its_script() -> None:
    assert {path.stem for path in SCRIPTS} == {verb.replace(" ", "_") for verb in COMMANDS}


def test_unknown_verb_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["no-such-verb"]) == 2
    assert "no-such-verb" in capsys.readouterr().err


def test_script_runs_from_another_folder(tmp_path: Path) -> None:
    answer = python(str(ROOT / "scripts" / "pretrain.py"), "--help", folder=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "--pretrain.epochs" in answer.stdout
    assert not list(tmp_path.iterdir())


def test_help_does_not_import_torch() -> None:
    """Importing torch takes longer than all of the help may."""
    code = """
import sys
from dynlm.cli.app import main
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


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_loads_as_written(path: Path) -> None:
    config = load_config(path)
    assert_read_as_written(yaml.safe_load(path.read_text(encoding="utf-8")), config, path.name)
    assert config.run.name == path.stem


@pytest.mark.parametrize("path", FEWSHOT_CONFIGS, ids=lambda path: path.stem)
def test_fewshot_config_loads_as_written(path: Path) -> None:
    config = load_options(path, FewShotConfig)
    assert_read_as_written(yaml.safe_load(path.read_text(encoding="utf-8")), config, path.name)
    assert config.run.name == path.stem


@pytest.mark.parametrize("path", STUDY_CONFIGS, ids=lambda path: path.stem)
def test_study_config_loads_as_written_on_its_base(path: Path, tmp_path: Path) -> None:
    written, options = yaml.safe_load(path.read_text(encoding="utf-8")), load_options(path, StudyOptions)
    base = load_config(path.parent / written.pop("base"))
    assert_read_as_written(written, options, path.name)
    for section in set(vars(base)) - set(written):
        assert getattr(options, section) == getattr(base, section)
    readings = [reading for arm in variants_of(options) for reading in readings_of(arm, options.study)]
    assert len(readings) > 1
    # Before anything is read or found: two arms that share a slot of the run have to agree on what is in it.
    trained: Any = SimpleNamespace(fingerprint="model")
    run = options.run_options()
    check_slots({r.label: steps_of(tmp_path, run, r.variant, r.config.memory.reset, trained) for r in readings})


def test_the_promised_configs_are_there() -> None:
    assert {"demo", "wikitext-2-small", "wikitext-2-awd", "wikitext-103"} <= {path.stem for path in CONFIGS}
    assert "study-wikitext-2" in {path.stem for path in STUDY_CONFIGS}


def test_top_of_the_tree_holds_only_what_belongs_there() -> None:
    strangers = {name for name in names_at_top() if not name.startswith(".")} - ALLOWED
    assert not strangers


def test_ci_is_sound_shell() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    checked = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
