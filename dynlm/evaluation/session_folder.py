"""The memory of a session in a folder, with which reading goes on.

Low-rank factors make it an adapter folder (``adapt.memory_folder``), which PEFT and servers load. Other memories are a
memory file alone; ``dynlm memory export`` approximates weights that moved as a whole.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from dynlm.adapt.memory_folder import DESCRIPTION, MEMORY, memory_file_of, save_memory_folder
from dynlm.errors import UserError
from dynlm.evaluation.memory_export import base_of
from dynlm.evaluation.session import Session
from dynlm.runtime.files import commit_dir, exclusive, staging_dir

_FILES = {MEMORY, DESCRIPTION, "adapter_model.safetensors", "adapter_config.json"}
"""What a folder of ``save_session`` holds."""


def save_session(session: Session, folder: Path) -> None:
    """Write the memory of ``session`` as a folder, whole, in the place of one that was saved before.

    Raises UserError for a folder with other files, where nothing can be written, and for a memory that diverged.
    """
    with exclusive(folder, "this memory"):
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise UserError("there is something already", folder, "choose another folder")
        if folder.exists() and (others := {path.name for path in folder.iterdir()} - _FILES):
            raise UserError(f"the folder has other files, such as {min(others)!r}", folder, "choose another folder")
        with staging_dir(folder.parent, folder) as staged:
            new, before = staged / "new", folder.with_name(f".{folder.name}.before")
            _write(session, new)
            if folder.exists():
                shutil.rmtree(before, ignore_errors=True)
                os.replace(folder, before)
            try:
                commit_dir(new, folder)
            except UserError:
                if before.exists() and not folder.exists():
                    os.replace(before, folder)
                raise
            shutil.rmtree(before, ignore_errors=True)


def memory_file_in(folder: Path) -> Path:
    """Return the memory file in a folder of ``save_session``. Raises UserError as ``memory_file_of`` does."""
    return memory_file_of(folder) if (folder / DESCRIPTION).exists() else folder / MEMORY


def _write(session: Session, folder: Path) -> None:
    if session.options.lora_rank and session.saved.memory.params:
        base = base_of(session.trained)
        save_memory_folder(folder, session.saved, session.dynamic_model, session.options, base)
    else:
        folder.mkdir()
        session.save(folder / MEMORY)
