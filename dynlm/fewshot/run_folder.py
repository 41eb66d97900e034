"""Files of a few-shot run.

runs/fewshot/NAME/config.yaml          all options
                  learner.safetensors  meta-parameters (meta.NAME) and buffers (buffer.NAME)
                  learner.json         card: tensors, tasks, and how the learner was trained
                  checkpoints/         of an unfinished training
                  log.jsonl            one JSON object a line
                  scores/*.json        scores of each evaluation's episodes (fewshot.results)
                  examples/*.json      a few tasks with all predictions, for figures
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dynlm.errors import UserError
from dynlm.fewshot.learners.learner import Learned, Learner, add_prefix, strip_prefix
from dynlm.fewshot.options import FewShotOptions
from dynlm.fewshot.tasks.source import TaskSource, seeded
from dynlm.run.folder import read_options
from dynlm.runtime.parsing import read_json, write_json
from dynlm.runtime.tensors import load_tensors, params_fingerprint, save_tensors
from dynlm.runtime.validation import options_of
from dynlm.types import Params

_META, _BUFFER = "meta.", "buffer."


def load_run_options(folder: Path) -> FewShotOptions:
    """Return the options of a run. Raises UserError where they are missing or invalid."""
    content = read_options(folder, "dynlm fewshot train")
    try:
        for kind in (TaskSource.Options, Learner.Options):
            values = content.get(kind.SECTION)
            if isinstance(values, dict):  # Former versions wrote the options of all kinds.
                unused = kind.select(values).unused(values)
                content[kind.SECTION] = {name: value for name, value in values.items() if name not in unused}
        return options_of(FewShotOptions, content)
    except UserError as error:
        raise UserError(f"not a config that dynlm can read ({error})", folder / "config.yaml") from error


def save_learned(folder: Path, learned: Learned, about: dict[str, Any]) -> dict[str, Any]:
    """Write a learner and its card; return the card."""
    tensors = to_tensors(learned)
    save_tensors(folder / "learner.safetensors", tensors)
    card = {
        "fingerprint": params_fingerprint(tensors),
        "parameters": sum(tensor.numel() for tensor in learned.meta.values()),
        "tensors": {name: list(tensor.shape) for name, tensor in tensors.items()},
        **about,
    }
    write_json(folder / "learner.json", card)
    return card


def load_learned(folder: Path, learner: Learner) -> tuple[Learned, dict[str, Any]]:
    """Return a run's (learned, card). Raises UserError where training is unfinished or does not fit ``learner``."""
    if not (folder / "learner.json").exists():
        raise UserError("no trained learner in this run folder", folder, "run `dynlm fewshot train` to its end first")
    card, path = read_json(folder / "learner.json"), folder / "learner.safetensors"
    tensors, _ = load_tensors(path)
    if params_fingerprint(tensors) != card.get("fingerprint"):
        raise UserError("the tensors are not those that learner.json describes", path, "restore both or train again")
    expected = to_tensors(learner.initial(seeded(0)))
    for name, tensor in expected.items():
        if name not in tensors or tensors[name].shape != tensor.shape:
            found = tuple(tensors[name].shape) if name in tensors else "missing"
            what = f"{name} is {found}, these options need {tuple(tensor.shape)}"
            raise UserError(what, path, "leave task and learner as trained")
    return from_tensors({name: tensors[name] for name in expected}), card


def to_tensors(learned: Learned) -> Params:
    """Return meta-parameters and buffers in one mapping, each name with a prefix."""
    return add_prefix(_META, learned.meta) | add_prefix(_BUFFER, learned.buffers)


def from_tensors(tensors: Params) -> Learned:
    """Return the inverse of ``to_tensors``."""
    return Learned(strip_prefix(_META, tensors), strip_prefix(_BUFFER, tensors))
