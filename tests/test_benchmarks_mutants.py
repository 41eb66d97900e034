"""The mutation check: what it changes, in which order, and that it distinguishes killed mutants from survivors."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from benchmarks.mutants import (
    DEFAULT_MODULES,
    ROOT,
    Outcome,
    Tree,
    covering_tests,
    key_of,
    logged,
    modules_of,
    summary,
)
from benchmarks.mutations import mutants, sample_mutants
from dynlm.errors import UserError

SOURCE = '''\
"""A text."""

LIMIT: int = 3


def clamp(value: int, low: "int" = 0) -> int:
    """Cut: é."""
    if not value > low and True:
        raise ValueError(f"{value + 1} is low")
    value = value * 2
    return value if value <= LIMIT else LIMIT
'''
CHANGES = {
    (3, "3", "4"),
    (3, "3", "2"),
    (6, "0", "1"),
    (6, "0", "-1"),
    (8, "not value > low and True", "not (not value > low and True)"),
    (8, "not value > low and True", "not value > low or True"),
    (8, "not value > low", "value > low"),
    (8, "value > low", "value >= low"),
    (8, "True", "False"),
    (9, 'raise ValueError(f"{value + 1} is low")', "pass"),
    (10, "value = value * 2", "pass"),
    (10, "value * 2", "value / 2"),
    (10, "2", "3"),
    (10, "2", "1"),
    (11, "return value if value <= LIMIT else LIMIT", "return None"),
    (11, "value <= LIMIT", "not value <= LIMIT"),
    (11, "value <= LIMIT", "value < LIMIT"),
}


def test_every_kind_of_mutant_differs_in_one_position_and_parses() -> None:
    made = mutants("m.py", SOURCE)
    assert {(each.line, each.before, each.after) for each in made} == CHANGES
    assert len(made) == len(CHANGES)
    for each in made:
        assert ast.dump(ast.parse(each.source)) != ast.dump(ast.parse(SOURCE))
        lines = zip(SOURCE.splitlines(), each.source.splitlines(), strict=True)
        assert [number for number, (old, new) in enumerate(lines, 1) if old != new] == [each.line]


def test_default_modules_have_mutants_and_tests() -> None:
    for pattern in DEFAULT_MODULES:
        found = modules_of([pattern])
        assert found, f"{pattern} matches no module with tests"
        assert any(mutants(name, (ROOT / "dynlm" / name).read_text(encoding="utf-8")) for name in found)
    assert "tests/data/test_stream.py" in covering_tests("data/stream.py")


def test_a_larger_count_continues_where_a_smaller_one_ended() -> None:
    sources = {"a.py": SOURCE, "b.py": SOURCE}
    five, all_of = sample_mutants(sources, 1, 5), sample_mutants(sources, 1, 1000)
    assert all_of[:5] == five and len(all_of) == 2 * len(CHANGES) and len(set(all_of)) == len(all_of)
    assert [each.module for each in five] == ["a.py", "b.py", "a.py", "b.py", "a.py"]
    assert sample_mutants(sources, 2, 5) != five


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A repository of one module with one test, which checks one of its two results."""
    root = tmp_path / "root"
    for path, text in {
        "pyproject.toml": '[tool.pytest.ini_options]\npythonpath = ["."]\n',
        "dynlm/__init__.py": "",
        "dynlm/small.py": "def one():\n    return 1\n\n\ndef two():\n    return 2\n",
        "tests/test_small.py": "from dynlm.small import one\n\n\ndef test_one():\n    assert one() == 1\n",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    return root


def test_what_the_tests_check_is_killed_and_the_rest_survives(tmp_path: Path, small: Path) -> None:
    tree = Tree(tmp_path / "copy", small)
    source = (small / "dynlm" / "small.py").read_text(encoding="utf-8")
    made = {each.line: each for each in mutants("small.py", source) if each.after == "return None"}
    outcomes = [tree.outcome(made[line], key_of(made[line], small)) for line in (2, 6)]
    assert [each.killed for each in outcomes] == [True, False]
    assert "test_one" in outcomes[0].why
    assert (tree.folder / "dynlm" / "small.py").read_text(encoding="utf-8") == source
    told = summary(outcomes)
    assert "1 of    2 killed" in told and told.endswith("survived: dynlm/small.py:6  return 2 -> return None")


def test_tests_that_fail_without_a_mutant_are_reported(tmp_path: Path, small: Path) -> None:
    (small / "tests" / "test_small.py").write_text("def test_one():\n    assert False\n", encoding="utf-8")
    with pytest.raises(UserError, match="fail without any mutant"):
        Tree(tmp_path / "copy", small).baseline("small.py")


def test_a_truncated_log_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    whole = '{"name": "n", "module": "m", "killed": true, "why": "w", "seconds": 1.0, "key": "k"}\n'
    (tmp_path / "log").write_text(whole + whole[:20], encoding="utf-8")
    assert logged(tmp_path / "log") == {"k": Outcome("n", "m", True, "w", 1.0, "k")}
    assert logged(tmp_path / "none") == {}
