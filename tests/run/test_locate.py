"""Runs and packed models are found by name, in order; a packed model is copied before it is written to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dynlm.errors import UserError
from dynlm.run import locate
from dynlm.run.locate import find_run, is_packed, packed_folder, packed_models, writable_copy
from dynlm.runtime.checksums import FILE, write_checksums
from tests.tiny import listing


def make(folder: Path, fingerprint: str = "a") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("---\n{}\n...\n")
    (folder / "model.json").write_text(json.dumps({"fingerprint": fingerprint}))
    return folder


def packed(folder: Path, fingerprint: str = "a") -> Path:
    write_checksums(make(folder, fingerprint))
    return folder


@pytest.fixture(autouse=True)
def _places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(locate, "MODELS", (tmp_path / "clone", tmp_path / "wheel"))


def test_a_name_is_found_in_order(tmp_path: Path) -> None:
    packed(tmp_path / "wheel" / "small")
    assert find_run("small") == tmp_path / "wheel" / "small"
    packed(tmp_path / "clone" / "small")
    assert find_run("small") == tmp_path / "clone" / "small"
    make(Path("runs/small"))
    assert find_run("small") == Path("runs/small")
    assert find_run("small", "runs/fewshot") == tmp_path / "clone" / "small"
    Path("small").mkdir()  # no run: a corpus, say
    assert find_run("small") == Path("runs/small")
    (Path("small") / "config.yaml").write_text("")
    assert find_run("small") == Path("small")
    assert packed_models() == {"small": tmp_path / "clone" / "small"}


def test_paths_are_taken_as_they_are() -> None:
    make(Path("runs/one"))
    Path("scores.parquet").write_text("")
    for path in ("runs/one", "runs/none", "/nowhere/none", "scores.parquet"):
        assert find_run(path) == Path(path)
    assert find_run("none", missing_ok=True) == Path("none")


def test_a_missing_name_says_where_it_was_looked_for(tmp_path: Path) -> None:
    packed(tmp_path / "clone" / "wikitext-2-small")
    with pytest.raises(UserError) as error:
        find_run("wikitext2-small")
    for part in ("no such run", "did you mean wikitext-2-small?", str(tmp_path / "clone"), str(tmp_path / "here")):
        assert part in str(error.value)


def test_a_copy_is_made_once_and_is_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, target = packed(tmp_path / "clone" / "small"), Path("runs/small")
    before = listing(folder)
    assert writable_copy(folder, target) == target
    assert not is_packed(target) and listing(target) == {name: before[name] for name in before if name != FILE}
    assert "is read-only" in capsys.readouterr().err
    (target / "scores").mkdir()
    assert writable_copy(folder, target) == target and (target / "scores").is_dir()
    assert listing(folder) == before and not list(target.parent.glob(".*"))
    assert writable_copy(target, Path("runs/other")) == target


def test_a_run_of_another_model_is_not_written_to(tmp_path: Path) -> None:
    folder, target = packed(tmp_path / "clone" / "small"), make(Path("runs/small"), "b")
    with pytest.raises(UserError, match="of another model"):
        writable_copy(folder, target)


def test_only_a_packed_model_is_replaced(tmp_path: Path) -> None:
    run, target = make(tmp_path / "run"), packed(tmp_path / "clone" / "small")
    for place, replace in ((target, False), (run, True)):
        with pytest.raises(UserError, match="there is something already"), packed_folder(run, place, replace):
            pass
    with pytest.raises(UserError, match="a packed model"), packed_folder(target, tmp_path / "new", False):
        pass
    before = listing(target)
    with pytest.raises(KeyboardInterrupt), packed_folder(run, target, True) as staged:
        (staged / "half").write_text("")
        raise KeyboardInterrupt
    assert listing(target) == before
    with packed_folder(run, target, True) as staged:
        (staged / "memory").mkdir()
        (staged / "memory" / "new").write_text("new")
    assert listing(target.parent) == {"small/memory/new": b"new"}
