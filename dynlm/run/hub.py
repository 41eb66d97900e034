"""Runs and packed models on the Hugging Face hub, as ORG/NAME: a snapshot in the cache of the hub's client.

Only the files of a run are downloaded. ``huggingface_hub`` and torch are imported when something is looked for.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dynlm.errors import UserError

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*")
_FILES = (".parquet", ".json", ".yaml", ".safetensors")


def is_hub_id(name: str) -> bool:
    """Return whether ``name`` has the form ORG/NAME, and is not that of a file."""
    return _ID.fullmatch(name) is not None and ".." not in name and not name.endswith(_FILES)


def fetch_run(name: str, **download: Any) -> Path:
    """Return the folder of a run on the hub: without network that of the snapshot that was downloaded last.

    ``download`` are options of ``huggingface_hub.snapshot_download``: ``revision``, ``cache_dir``, ``token`` and so on.
    Raises UserError where there is no such model or none of dynlm's, where it cannot be reached and was not downloaded
    before, and without ``huggingface_hub``.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UserError("no such folder, and the hub needs a package", name, "pip install huggingface_hub") from error
    from dynlm.run.sharing import PUBLIC_FILES

    with _hub_errors(name):
        # First that alone: another program's model may be large.
        with _bars(False):
            folder = Path(snapshot_download(name, allow_patterns=["config.yaml"], **download))
        if not (folder / "config.yaml").is_file():
            what = "on the hub, but no run of dynlm"
            raise UserError(what, name, f"`dynlm adopt {name}` makes one of a model of transformers")
        with _bars(sys.stderr.isatty()):
            return Path(snapshot_download(name, allow_patterns=list(PUBLIC_FILES), **download))


@contextlib.contextmanager
def _bars(shown: bool) -> Iterator[None]:
    """Hide the progress bars of the hub's client unless they are to be ``shown``."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if shown or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@contextlib.contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    """Turn what the hub's client raises, which may be anything, into a UserError."""
    from huggingface_hub import errors

    try:
        yield
    except UserError:
        raise
    except errors.GatedRepoError as error:
        do = "ask for access on its page, and log in by `hf auth login`"
        raise UserError("on the hub, with access for some users", name, do) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        what = "no such run: no folder of this path, and no such model or revision on the hub"
        raise UserError(what, name, "check the name; for a private one log in by `hf auth login`") from error
    except (errors.LocalEntryNotFoundError, ConnectionError) as error:
        what = "no such run: no folder of this path, none in the cache of the hub, which cannot be reached"
        raise UserError(what, name, "check the path, or the network (HF_HUB_OFFLINE)") from error
    except Exception as error:
        first_line = (str(error).strip().splitlines() or [""])[0][:200]
        what = f"cannot be read from the hub ({type(error).__name__}: {first_line})"
        raise UserError(what, name) from error
