"""Finding a run or a packed model by its name, and a copy to write to: some models are read-only.

A name is looked up as a folder of that path, then in the folder of runs, then among the packed models of the checkout
(``data/models``), then among those of the installed package. ORG/NAME that is no path is looked up on the hub
(run/hub). Packed models (run/packing), which have checksums of their files, and the snapshots in the hub's cache are
read-only: what is tuned, learned or scored with one goes to its copy in the folder of runs, in which a name is found
before it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from dynlm.errors import UserError
from dynlm.run.hub import fetch_run, is_hub_id
from dynlm.runtime.checksums import FILE, listed_files, names_below
from dynlm.runtime.files import StrPath, check_inside, commit_dir, exclusive, is_hub_cache, link_root, staging_dir
from dynlm.runtime.parsing import read_json
from dynlm.runtime.text import did_you_mean, printable
from dynlm.runtime.validation import plain_name

_PACKAGE = Path(__file__).resolve().parents[1]
MODELS = (_PACKAGE.parent / "data" / "models", _PACKAGE / "pretrained")
"""Folders of packed models: that of a checkout, and that of a wheel."""
_CARDS = ("model.json", "learner.json")
_ONLY_PACKED = (FILE, "figures.json", "README.md", "config.json")
"""Files that describe a packed model and are not those of a run."""


def packed_models() -> dict[str, Path]:
    """Return the folder of each packed model that comes with dynlm, by its name."""
    folders = (path for parent in reversed(MODELS) if parent.is_dir() for path in sorted(parent.iterdir()))
    return {path.name: path for path in folders if is_packed(path)}


def is_packed(folder: Path) -> bool:
    """Return whether ``folder`` is a packed model, which is not written to."""
    return (folder / FILE).is_file()


def is_read_only(folder: Path) -> bool:
    """Return whether ``folder`` is not written to: a packed model, or in the cache of the hub."""
    return is_packed(folder) or is_hub_cache(folder)


def find_run(name: StrPath, runs: StrPath = "runs", missing_ok: bool = False) -> Path:
    """Return the folder of a run or packed model; ``runs`` is the folder of runs of its kind.

    ORG/NAME is looked up on the hub where there is no folder ORG. Another path with a separator, and what is there, is
    returned as it is. Raises UserError, saying where it looked, for a plain name that is none, which is returned as it
    is with ``missing_ok``, and as ``fetch_run`` does.
    """
    path = Path(name)
    if (path / "config.yaml").exists() or path.name == "..":
        return path
    if len(path.parts) != 1:
        on_hub = is_hub_id(os.fspath(name)) and not path.parent.exists() and path.parts[0] != Path(runs).parts[0]
        return fetch_run(os.fspath(name)) if on_hub else path
    found = [folder / path for folder in (Path(runs), *MODELS) if (folder / path / "config.yaml").exists()]
    if found or path.exists() or missing_ok:
        return found[0] if found else path
    known = packed_models()
    where = ", ".join(str(folder) for folder in (Path.cwd(), Path(runs), *MODELS) if folder.is_dir())
    models = f" or one of the models {', '.join(known)}" if known else ""
    what = f"no such run{did_you_mean(str(path), known)}; looked in {where}"
    raise UserError(what, path, f"name the folder of a run{models}")


def writable_copy(folder: Path, target: Path) -> Path:
    """Return ``folder``, or for a read-only model its copy ``target``, which is made where there is none.

    Raises UserError if ``target`` is there and is of another model, or cannot be written.
    """
    if not is_read_only(folder):
        return folder
    with exclusive(target, "this run"):
        if not target.exists():
            with staging_dir(target.parent, target) as staged:
                for name in listed_files(folder) if is_packed(folder) else names_below(folder):
                    if name not in _ONLY_PACKED:
                        check_inside(staged / name, staged)
                        check_inside(folder / name, link_root(folder))
                        (staged / name).parent.mkdir(parents=True, exist_ok=True)
                        shutil.copyfile(folder / name, staged / name)
                commit_dir(staged, target)
            print(f"dynlm: {printable(str(folder))} is read-only: results go to {target}, its copy", file=sys.stderr)
        elif _fingerprint(folder) != _fingerprint(target):
            what = f"{folder} is read-only, and this run, which its results would go to, is of another model"
            raise UserError(what, target, "move that run away")
    return target


@contextlib.contextmanager
def packed_folder(folder: Path, target: Path, replace: bool) -> Iterator[Path]:
    """Yield an empty folder to pack the run ``folder`` into, which becomes ``target`` if the block succeeds.

    With ``replace`` it takes the place of a packed model. Raises UserError where ``target`` holds something else, where
    its name is not plain, and for a ``folder`` that is packed.
    """
    target = Path(os.path.abspath(target))
    plain_name("the model's name", target.name)
    if is_packed(folder):
        raise UserError("a packed model", folder, "name the run that it was packed from")
    if target.exists() and not (replace and is_packed(target)):
        do = "give --replace" if is_packed(target) else "choose another folder"
        raise UserError("there is something already", target, do)
    with staging_dir(target.parent, target) as staged:
        yield staged
        with staging_dir(target.parent, target) as former:
            if target.exists():
                os.replace(target, former / target.name)
            commit_dir(staged, target)


def _fingerprint(folder: Path) -> object:
    """Return the fingerprint of the model in ``folder``; None where there is none."""
    for path in (folder / name for name in _CARDS):
        if path.is_file():
            card = read_json(path)
            return card.get("fingerprint") if isinstance(card, dict) else None
    return None
