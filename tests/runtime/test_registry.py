"""Registries: built-in objects and those of entry points by name."""

import importlib
import sys
from importlib.metadata import EntryPoint

import pytest

from dynlm.errors import UserError
from dynlm.runtime import registry as module
from dynlm.runtime.registry import Registry

GROUP = "dynlm.testing"


@pytest.fixture
def rules(tmp_path, monkeypatch):
    """A registry with a package that registers ``own``, and entry points of other packages."""
    made = Registry("memory.rule", "own_rules", GROUP, others=", or a path")
    (tmp_path / "own_rules").mkdir()
    (tmp_path / "own_rules" / "__init__.py").touch()
    (tmp_path / "own_rules" / "some.py").write_text(f"import {__name__} as t\nt.MADE.register('own', 'also')(1)\n")
    (tmp_path / "foreign_rules.py").write_text(f"import {__name__} as t\nt.MADE.register('decorated')(3)\nplain = 2\n")
    points = [
        EntryPoint("plain", "foreign_rules:plain", GROUP),
        EntryPoint("decorated", "foreign_rules:plain", GROUP),
        EntryPoint("broken", "foreign_rules:missing", GROUP),
    ]
    monkeypatch.setattr(module, "entry_points", lambda group: points if group == GROUP else [])
    monkeypatch.setattr(sys.modules[__name__], "MADE", made, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield made
    for name in ("own_rules", "own_rules.some", "foreign_rules"):
        sys.modules.pop(name, None)


def test_names_are_those_of_the_package_and_of_entry_points(rules):
    assert rules.names() == ["also", "broken", "decorated", "own", "plain"]
    assert "foreign_rules" not in sys.modules
    assert rules["own"] == rules["also"] == 1


def test_an_entry_point_gives_its_object_or_what_it_registers(rules):
    assert rules["plain"] == 2
    assert rules["decorated"] == 3


def test_an_entry_point_that_cannot_be_loaded_is_named(rules):
    with pytest.raises(
        UserError, match=r"memory\.rule broken.*foreign_rules:missing cannot be loaded.*update or remove"
    ):
        rules["broken"]


def test_an_unknown_name_is_answered_with_the_nearest_and_all(rules):
    with pytest.raises(
        UserError, match=r"memory\.rule is 'plian'; did you mean 'plain'\? choose one of also, .*or a path"
    ):
        rules["plian"]
    with pytest.raises(UserError, match=r"is 'zzz'; choose one of"):
        rules["zzz"]


def test_objects_are_registered_by_a_decorator(rules):
    @rules.register("new")
    def build():
        return 6

    assert rules["new"] is build and "new" in rules.names()


def test_installed_packages_are_scanned_once(rules, monkeypatch):
    """A scan reads a file of every installed package, and options are looked up for every check of a value."""
    scans = []
    points = module.entry_points
    monkeypatch.setattr(module, "entry_points", lambda group: scans.append(group) or points(group=group))
    for _ in range(3):
        assert rules["plain"] == 2 and "broken" in rules.names()
    assert scans == [GROUP]
