"""A run made ready to be shared: the model, its tokenizer and what it knows of its memory, in a folder that is a run.

Left out are training under way, logs, scores and pictures; and in what is copied, places on this computer give way to
their last name: where a corpus lies is nobody else's affair. Nothing of what was read with a memory is in a run.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from dynlm.errors import UserError
from dynlm.files import read_json, write_json, written_whole
from dynlm.tensors import load_json_of_tensors, load_tensors, save_tensors
from dynlm.training.run_folder import load_config, save_config

PATTERNS = ("config.yaml", "config.json", "model.json", "*.safetensors", "tokenizer/*", "memory/*")
"""Of the files that a shared run is made of."""
_NOT_SHARED = {"prepared.json"}


def share_run(folder: Path, place: Path) -> None:
    """Copy what is to be shared of the run ``folder`` to ``place``. Raises UserError where that cannot be done."""
    if place.resolve() == folder.resolve():
        raise UserError("this is the run itself", place, "name another folder to share it from")
    config = load_config(folder)
    path = config.corpus.path
    shown = None if path is None else Path(path).expanduser().name

    def public(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: public(item) for name, item in value.items()}
        if isinstance(value, list):
            return [public(item) for item in value]
        return shown if path is not None and value in (path, str(Path(path).expanduser())) else value

    corpus = dataclasses.replace(config.corpus, path=shown)
    run = dataclasses.replace(config.run, folder="runs", tracker=None)
    save_config(place, dataclasses.replace(config, corpus=corpus, run=run))
    for source in sorted(path for pattern in PATTERNS for path in folder.glob(pattern)):
        target = place / source.relative_to(folder)
        if source.name in _NOT_SHARED or source.name.startswith((".", "config.")) or not source.is_file():
            continue
        if source.suffix == ".json" and source.parent != folder / "tokenizer":
            write_json(target, public(read_json(source)))
        elif source.suffix == ".safetensors" and (about := load_json_of_tensors(source)) != public(about):
            save_tensors(target, load_tensors(source)[0], public(about))
        else:
            with written_whole(target) as aside:
                shutil.copyfile(source, aside)
    card = read_json(folder / "model.json")
    write_json(place / "config.json", {"model_type": "dynlm", **{name: card[name] for name in ("model", "vocabulary")}})
