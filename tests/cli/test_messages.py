"""Options that messages name, and options that commands declare: none that is not there, none that does nothing."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynlm.cli import main as entry
from dynlm.cli.command import Option
from dynlm.cli.main import COMMANDS
from tests.cli.commands import Capture, answer, answer_json, declared, refused, undeclared
from tests.tiny import Run

PACKAGE = Path(entry.__file__).parents[1]
NAMES = ("options", "arguments")
"""Of a command's own options, in its function."""
OPTION = re.compile(r"(?<![\w-])--[a-z_]+\.[a-z_]\w*")


def texts_of(path: Path) -> Iterator[str]:
    """The strings in a module that are no docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    notes = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in notes:
            yield node.value


def test_every_option_of_a_section_in_a_message_is_one_of_some_command() -> None:
    known = set().union(*(declared(name.split()) for name in COMMANDS))
    named = {word for path in PACKAGE.rglob("*.py") for text in texts_of(path) for word in OPTION.findall(text)}
    assert len(named) > 20 and "--memory.lanes" in named
    # A name that is put together is not all there.
    assert not {word for word in named - known if not any(option.startswith(word) for option in known)}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_uses_every_option_that_it_declares(name: str) -> None:
    module = inspect.getmodule(COMMANDS[name].run)
    assert module is not None
    tree = ast.parse(inspect.getsource(module))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    used, waiting = set(), [COMMANDS[name].run.__name__]
    while waiting:
        for node in ast.walk(functions.pop(waiting.pop())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in NAMES:
                used.add(node.attr)
            if isinstance(node, ast.Name) and node.id in functions and node.id not in waiting:
                waiting.append(node.id)
    ignored = {each.name[2:] for each in COMMANDS[name].own if isinstance(each, Option)} - used
    assert ignored <= {"format"}, ignored  # ``print_tables`` reads it


def test_messages_are_held_against_the_command_that_was_run() -> None:
    assert undeclared("choose --memory.lanes 1, or --text", "read") == {"--text"}
    assert undeclared("run `dynlm tune RUN --memory.rule rms` first", "compare", "RUN") == set()
    assert undeclared("run `dynlm tune RUN --articles 1` first", "score") == {"--articles"}
    assert undeclared("Unrecognized arguments: --tokns", "score", "--tokns") == set()


def test_an_option_that_a_command_lacks_is_named_as_in_config_files(
    tuned_copy: Run, tmp_path: Path, capsys: Capture
) -> None:
    answer_json(capsys, "score", tuned_copy.folder, "--memory.rule", "none", "--articles", "1")
    line = refused(capsys, "verify", tuned_copy.folder, "--path", tmp_path / "none")
    assert "none: no such file or folder; check corpus.path); say where it is now by --path" in line
    assert "check --corpus.path" in refused(capsys, "corpus", "--corpus.path", tmp_path / "none")
    line = refused(capsys, "read", tuned_copy.folder, "text.txt", "--run.tracker", "tensorboard")
    assert "--run.tracker is not used by this command" in line


def test_records_are_read_with_the_fields_that_are_named(tuned_copy: Run, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_text('{"body": " the town of bafidela was near .\\n", "name": "One"}\n')
    assert "no field 'text' among body, name; choose --corpus.text_field" in refused(
        capsys, "read", tuned_copy.folder, path
    )
    fields = ["--corpus.text_field", "body", "--corpus.title_field", "name"]
    assert [each["title"] for each in answer_json(capsys, "read", tuned_copy.folder, path, *fields)["texts"]] == ["One"]
    model = ["--learn.model", tuned_copy.folder, "--run.cpu", "true"]
    assert "nats per token before each" in answer(capsys, "learn", path, *model, *fields)
