"""Runs on the hub are found by ORG/NAME and are read-only, and what goes wrong is one line. The hub is a folder."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import errors
from huggingface_hub.utils import filter_repo_objects

import dynlm
from dynlm.cli.main import main
from dynlm.errors import UserError
from dynlm.run.hub import is_hub_id
from dynlm.run.locate import find_run, is_read_only, writable_copy
from dynlm.runtime.checksums import FILE, check_checksums
from tests.run.test_locate import packed
from tests.tiny import Run, listing

Capture = pytest.CaptureFixture[str]
ID = "somebody/tiny"


class Hub:
    """A folder in place of the hub, and a cache in which files are links, as the hub's client makes it."""

    def __init__(self, folder: Path):
        self.models, self.cache = folder / "hub", folder / "cache"
        self.fails: type[Exception] | None = None

    def download(self, repo_id: str, *, allow_patterns: list[str], **options: Any) -> str:
        """Do what ``snapshot_download`` does."""
        if self.fails is not None:
            raise self.fails.__new__(self.fails)
        if not (model := self.models / repo_id).is_dir():
            raise errors.RepositoryNotFoundError.__new__(errors.RepositoryNotFoundError)
        home = self.cache / f"models--{repo_id.replace('/', '--')}"
        snapshot = home / "snapshots" / "0123"
        (home / "blobs").mkdir(parents=True, exist_ok=True)
        snapshot.mkdir(parents=True, exist_ok=True)
        for name in filter_repo_objects(listing(model), allow_patterns=allow_patterns):
            blob, link = home / "blobs" / name.replace("/", "-"), snapshot / name
            if not link.is_symlink():
                shutil.copyfile(model / name, blob)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(blob)
        return str(snapshot)

    @property
    def downloaded(self) -> set[str]:
        """The names of the files in the cache."""
        return set() if not self.cache.exists() else {name.partition("0123/")[2] for name in listing(self.cache)} - {""}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", made.download)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return made


@pytest.fixture
def shared(hub: Hub, trained_run: Run) -> Hub:
    """The hub with a run that was shared, and files that a run does not have."""
    model = dynlm.load(trained_run.folder, rule="none")
    model.save_pretrained(hub.models / ID)
    for name in ("run.py", "scores.parquet", "weights.bin"):
        (hub.models / ID / name).write_text("")
    return hub


def said(capsys: Capture, code: int, *words: object) -> str:
    """Run a command, check its exit code, and return what it prints."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == code
    out, err = capsys.readouterr()
    if code == 2:
        assert out == "" and err.startswith("dynlm: error: ") and err.count("\n") == 1, out + err
    return out + err


def test_a_run_on_the_hub_reads_as_the_run_that_was_shared(shared: Hub, trained_run: Run, capsys: Capture) -> None:
    Path("text").write_text("the town of the harbour .\n" * 3)
    read = ["text", "--memory.rule", "none", "--json"]
    own, other = (json.loads(said(capsys, 0, "read", name, *read)) for name in (trained_run.folder, ID))
    assert other["results"] == own["results"] if "results" in own else other == own
    assert {"config.yaml", "model.safetensors", "README.md"} <= shared.downloaded
    assert not {"run.py", "scores.parquet", "weights.bin"} & shared.downloaded
    assert dynlm.load(ID, rule="none").fingerprint == dynlm.load(trained_run.folder, rule="none").fingerprint
    assert not Path("runs").exists()


def test_what_is_scored_with_it_goes_to_a_copy(shared: Hub, trained_run: Run, capsys: Capture) -> None:
    score = ["score", ID, "--memory.rule", "none", "--corpus.path", trained_run.corpus, "--articles", "1"]
    printed = said(capsys, 0, *score)
    assert "is read-only: results go to runs/tiny, its copy" in printed and "wrote runs/tiny/scores/" in printed
    assert not any("scores" in name for name in listing(shared.cache))
    copied = [path for path in Path("runs/tiny").rglob("*") if not path.is_dir()]
    assert not any(path.is_symlink() for path in copied)
    assert "was scored before" in said(capsys, 0, *score)


def test_a_packed_model_on_the_hub_is_checked_and_copied(hub: Hub) -> None:
    packed(hub.models / ID)
    folder = find_run(ID)
    assert is_read_only(folder) and FILE in hub.downloaded and check_checksums(folder) == []
    (hub.cache / "models--somebody--tiny" / "blobs" / "model.json").write_text("{}")
    assert check_checksums(folder) == ["model.json was changed"]
    assert set(listing(writable_copy(folder, Path("runs/copy")))) == {"config.yaml", "model.json"}


def test_a_link_out_of_the_models_cache_is_not_copied(hub: Hub, tmp_path: Path) -> None:
    packed(hub.models / ID)
    (hub.models / ID / FILE).unlink()
    (tmp_path / "key").write_text("a private key")
    folder = find_run(ID)
    (folder / "key").symlink_to(tmp_path / "key")
    with pytest.raises(UserError, match="leads out of"):
        writable_copy(folder, Path("runs/copy"))
    assert not Path("runs/copy").exists()


def test_a_model_of_another_program_is_not_downloaded(hub: Hub, capsys: Capture) -> None:
    (hub.models / ID).mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (hub.models / ID / name).write_text("{}")
    message = said(capsys, 2, "read", ID, "text")
    assert f"{ID}: on the hub, but no run of dynlm; `dynlm adopt {ID}` makes one" in message
    assert hub.downloaded == set()


FAILURES = [
    (errors.RepositoryNotFoundError, "no such run: no folder of this path, and no such model or revision on the hub"),
    (errors.GatedRepoError, "with access for some users; ask for access on its page"),
    (
        errors.LocalEntryNotFoundError,
        "none in the cache of the hub, which cannot be reached; check",
    ),
    (errors.OfflineModeIsEnabled, "which cannot be reached"),
    (ConnectionResetError, "which cannot be reached"),
    (KeyError, "cannot be read from the hub (KeyError: )"),
]


@pytest.mark.parametrize(("error", "message"), FAILURES, ids=[error.__name__ for error, _ in FAILURES])
def test_what_goes_wrong_is_one_line(hub: Hub, error: type[Exception], message: str, capsys: Capture) -> None:
    hub.fails = error
    for words in (["read", ID, "text"], ["generate", ID], ["fewshot", "evaluate", ID], ["verify", ID]):
        assert f"{ID}: " in (printed := said(capsys, 2, *words)) and message in printed
    with pytest.raises(UserError, match="of the hub|on the hub|from the hub"):
        dynlm.load(ID)


def test_without_the_hubs_package_it_is_named(hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert f"{ID}: no such folder, and the hub needs a package; pip install" in said(capsys, 2, "read", ID, "text")


def test_paths_are_not_looked_for_on_the_hub(hub: Hub) -> None:
    hub.fails = AssertionError
    (Path("somebody") / "else").mkdir(parents=True)
    for name in (
        "runs/none",
        "somebody/none",
        "a/b/c",
        "/a/b",
        "./a/b",
        "../a",
        "a/scores.parquet",
        "a/b.json",
        "a/.b",
    ):
        assert find_run(name) == Path(name)
    for name, expected in (("a/b", True), ("org-1/m_2.5", True), ("a/b..c", False), ("a/b c", False), ("é/b", False)):
        assert is_hub_id(name) is expected
