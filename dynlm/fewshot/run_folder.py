"""A few-shot run's folder and its one owner.

runs/fewshot/NAME/config.yaml          every option
                  learner.safetensors  meta-parameters (meta.NAME) and buffers (buffer.NAME)
                  learner.json         what they are and how they were trained
                  checkpoints/         training under way
                  log.jsonl            one JSON object a line
                  scores/*.json        what each evaluation's episodes scored (fewshot.results)
                  examples/*.json      a few tasks with all that was predicted, to be drawn
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dynlm.errors import UserError
from dynlm.fewshot.learners.learner import Learned, Learner
from dynlm.fewshot.options import FewShotConfig
from dynlm.fewshot.tasks.episodes import seeded
from dynlm.models.lstm.model import Params
from dynlm.run.folder import load_options, load_tensors, params_fingerprint, save_tensors
from dynlm.runtime.parsing import read_json, write_json

_META, _BUFFER = "meta.", "buffer."


def run_path(config: FewShotConfig) -> Path:
    """The folder of a config's run."""
    return Path(config.run.folder) / config.run.name


def load_run_config(folder: Path) -> FewShotConfig:
    """The options that a run was made with. Raises UserError where they are missing or not understood."""
    return load_options(folder, FewShotConfig, "dynlm fewshot train")


def save_learned(folder: Path, learned: Learned, about: dict[str, Any]) -> dict[str, Any]:
    """Write what was learned, and its card, which is returned."""
    tensors = as_tensors(learned)
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
    """(what was learned, its card). Raises UserError where training did not end, or does not fit the learner."""
    if not (folder / "learner.json").exists():
        raise UserError("no trained learner in this run folder", folder, "run `dynlm fewshot train` to its end first")
    card, place = read_json(folder / "learner.json"), folder / "learner.safetensors"
    tensors, _ = load_tensors(place)
    if params_fingerprint(tensors) != card.get("fingerprint"):
        raise UserError("the tensors are not those that learner.json describes", place, "restore both or train again")
    wanted = as_tensors(learner.initial(seeded(0)))
    for name, tensor in wanted.items():
        if name not in tensors or tensors[name].shape != tensor.shape:
            found = tuple(tensors[name].shape) if name in tensors else "missing"
            raise UserError(
                f"{name} is {found}, these options need {tuple(tensor.shape)}",
                place,
                "leave task and learner as trained",
            )
    return from_tensors({name: tensors[name] for name in wanted}), card


def as_tensors(learned: Learned) -> Params:
    """Both kinds of tensors under one roof, each with its prefix."""
    meta = {_META + name: tensor for name, tensor in learned.meta.items()}
    return meta | {_BUFFER + name: tensor for name, tensor in learned.buffers.items()}


def from_tensors(tensors: Params) -> Learned:
    """What ``as_tensors`` gave."""

    def part(prefix: str) -> Params:
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    return Learned(part(_META), part(_BUFFER))
