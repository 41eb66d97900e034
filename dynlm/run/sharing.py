"""Sharing a run: copying the model, its tokenizer and what it keeps of its memory to a folder that is a run.

Only files of a list are copied, checked by name and content: no checkpoints, logs, scores or figures. Memory files, in
which a reader's text is legible, are never copied, and links are refused. In the copies, the paths of the corpus and of
the model that was adopted are replaced by their last component.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dynlm.adapt.memory_file import is_memory
from dynlm.adapt.options import POLICIES
from dynlm.adapt.rules.registry import StatisticsKind
from dynlm.data.options import CorpusOptions
from dynlm.errors import UserError
from dynlm.run.folder import TOKENIZER_FILES, read_options, refuse_leaving_run, save_config
from dynlm.run.options import RunOptions
from dynlm.runtime.files import atomic_write, check_regular, is_hub_cache
from dynlm.runtime.parsing import read_json, write_json
from dynlm.runtime.tensors import load_metadata, load_tensors, save_tensors
from dynlm.runtime.validation import section_of

_MEMORY = ("memory", "memory/lora*-*")
"""Folders of what was found for tensors of the model, and for low-rank factors."""
_LEARNED = tuple(
    f"{folder}/*-{policy}.{suffix}" for folder in _MEMORY for policy in POLICIES for suffix in ("safetensors", "json")
)
_FOUND = tuple(
    f"{folder}/{name}"
    for folder in _MEMORY
    for name in ("statistics.safetensors", "statistics-*x*.safetensors", "tuned.json")
)
_COPIED = ("model.json", "model.safetensors", *TOKENIZER_FILES, *_FOUND, *_LEARNED)
"""Patterns of the files that are copied."""
_LEARNER = ("learner.json", "learner.safetensors", "scores/*.json")
_PACKED = ("checksums.json", "figures.json", "provenance.json")
PUBLIC_FILES = ("config.yaml", "config.json", "README.md", *_COPIED, *_LEARNER, *_PACKED)
"""Patterns of the files of a shared run, a packed model and a packed learner, which are downloaded from the hub."""


def share_run(folder: Path, target: Path) -> None:
    """Copy the shared files of the run ``folder`` to ``target``. Raises UserError if one of them is a link."""
    if target.resolve() == folder.resolve():
        raise UserError("this is the run itself", target, "name another folder to share it from")
    content = read_options(folder, "dynlm pretrain")
    corpus = section_of(CorpusOptions, content.get("corpus", {}))
    sources = shared_files(folder)
    card = read_json(folder / "model.json")
    names: dict[str, str] = {}
    for path in (corpus.path, _local_source(card)):
        if path is not None:
            own = os.path.expanduser(path)
            names |= dict.fromkeys((path, str(Path(own))), Path(os.path.abspath(own)).name)

    def public(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: public(item) for name, item in value.items()}
        if isinstance(value, list):
            return [public(item) for item in value]
        return names.get(value, value) if isinstance(value, str) else value

    run = section_of(RunOptions, content.get("run", {}))
    content["corpus"] = dataclasses.asdict(dataclasses.replace(corpus, path=public(corpus.path)))
    content["run"] = dataclasses.asdict(dataclasses.replace(run, folder="runs", tracker=None))
    save_config(target, content)
    for source in sources:
        _copy(source, target / source.relative_to(folder), public)
    described = {"model_type": "dynlm", "model": card["model"], "vocabulary": card["vocabulary"]}
    write_json(target / "config.json", described)


def _local_source(card: Any) -> str | None:
    """Return the folder or file that the model of a card was adopted from; None for a name on the hub."""
    source = card.get("adopted_from") if isinstance(card, dict) and card.get("revision") is None else None
    return source if isinstance(source, str) else None


def shared_files(folder: Path) -> list[Path]:
    """Return the files of the run ``folder`` that are copied. Raises UserError if one of them is a link."""
    found = []
    for path in sorted({path for pattern in _COPIED for path in folder.glob(pattern)}):
        if path.name.startswith("."):
            continue
        if is_hub_cache(folder):
            refuse_leaving_run(path, folder)
        elif any(one.is_symlink() for one in (path, *path.parents) if one != folder and one.is_relative_to(folder)):
            raise UserError("a link, which is not shared", path, "put the file itself there, or remove the link")
        if path.is_file() and _is_run_file(path, folder):
            found.append(path)
    return found


def _is_run_file(path: Path, folder: Path) -> bool:
    """Return whether the content of ``path`` is what the run ``folder`` has under such a name."""
    is_tensors = path.suffix == ".safetensors"
    if path.relative_to(folder).parts[0] != "memory":
        return not is_tensors or not is_memory(load_metadata(path))
    about = load_metadata(path) if is_tensors else read_json(path)
    if not isinstance(about, dict) or is_memory(about):
        return False
    if is_tensors:
        if (kind := StatisticsKind.named(path.stem)) is None:
            return any(path.match(pattern) for pattern in _LEARNED) and {"model", "segment"} <= about.keys()
        return {"model", "tokens"} <= about.keys() and (about.get("lanes", 1), about.get("segment")) == kind
    # A fixed cache and what was tuned are JSON alone.
    alone, learned = path.stem == "tuned" or path.name.startswith("cache-"), path.with_suffix(".safetensors")
    return isinstance(about.get("model"), str) and (alone or (learned.is_file() and _is_run_file(learned, folder)))


def _copy(source: Path, target: Path, public: Callable[[Any], Any]) -> None:
    if source.suffix == ".json" and source.parent.name != "tokenizer":
        write_json(target, public(read_json(source)))
    elif source.suffix == ".safetensors" and (about := load_metadata(source)) != public(about):
        save_tensors(target, load_tensors(source)[0], public(about))
    else:
        check_regular(source)
        with atomic_write(target) as aside:
            shutil.copyfile(source, aside)
