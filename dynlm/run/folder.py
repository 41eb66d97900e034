"""The layout of a run folder: the only module that knows it.

    runs/NAME/config.yaml            every option
              tokenizer/             the tokenizer and its card
              model.safetensors      the static parameters theta_0
              model.json             their card: shape, tokenizer, how they were trained
              provenance.json        versions, machine, commit and data of the training (run/provenance)
              memory/                what was tuned and learned (run/memory_store), and by a study (prepared.json)
              checkpoints/           training under way, newest last (runtime/checkpoints)
              log.jsonl              one JSON object a line
              scores/*.parquet       the loss of every token, a file for each scoring
              figures/               figures
              study/                 a study: config.yaml, README.md, tables, words, figures, scores/

Tensors are safetensors, everything else JSON or YAML: opening a run executes no code from it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml

from dynlm.data.tokenizers.store import load_tokenizer
from dynlm.data.tokenizers.tokenizer import Tokenizer
from dynlm.errors import UserError
from dynlm.models.options import ModelOptions, Targets
from dynlm.models.protocol import SequenceModel
from dynlm.models.registry import build_model
from dynlm.runtime.files import atomic_write, cannot_write, check_inside, link_root
from dynlm.runtime.parsing import LARGEST_JSON, read_bytes, read_json, read_yaml, write_json
from dynlm.runtime.renamed import rename_sections
from dynlm.runtime.tensors import load_tensors, params_fingerprint, save_tensors
from dynlm.runtime.validation import number_in, options_of, section_of
from dynlm.types import Params

_Options = TypeVar("_Options")
MAKERS = ("dynlm pretrain", "dynlm adopt")
"""The commands that make runs of a language model."""
_STORED = {"float16": torch.float16, "bfloat16": torch.bfloat16}
"""Types in which a model may be stored, beside the default one."""
_CARD_TYPES: dict[str, type] = {
    **{"corpus": str, "parameters": int, "tokens": int},
    **{"valid_nats_per_token": float, "valid_perplexity_per_word": float},
    **{"adopted_from": str, "revision": str, "stored": str},
}
"""Types of the entries of a model's card that describe where it comes from; each may be missing."""
TOKENIZER_FILES = (
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer.model",
    "tokenizer/words.json",
    "tokenizer/pretrained.json",
)


@dataclass(frozen=True)
class TrainedModel:
    """A trained model: its static parameters, its tokenizer and its card."""

    model: SequenceModel
    params: Params
    tokenizer: Tokenizer
    card: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the static parameters."""
        return str(self.card["fingerprint"])

    @property
    def device(self) -> torch.device:
        """The device of the static parameters."""
        return next(iter(self.params.values())).device

    @property
    def reading_entry(self) -> dict[str, Any]:
        """The model's options of reading as an entry of a card of what is found with them; empty without any."""
        reading = self.model.options.reading()
        return {"reading": reading} if reading else {}

    def with_reading(self, reading: Mapping[str, Any]) -> TrainedModel:
        """Return the model with other options of reading (``ModelOptions.reading``); the weights are the same."""
        options = self.model.options
        if reading == options.reading():
            return self
        return dataclasses.replace(self, model=build_model(options.replace(**reading), self.model.vocab_size))

    def with_targets(self, targets: Targets) -> TrainedModel:
        """Return the model with the factors that ``targets`` adds to it, if any; the fingerprint stays the model's."""
        model, params = self.model.with_targets(self.params, targets)
        return dataclasses.replace(self, model=model, params=params)


def save_config(folder: Path, config: Any) -> None:
    """Write every option of the run, a mapping or a dataclass of dataclasses, as one whole YAML document."""
    content = config if isinstance(config, dict) else dataclasses.asdict(config)
    whole = yaml.safe_dump(content, sort_keys=False, explicit_start=True, explicit_end=True)
    with atomic_write(folder / "config.yaml") as aside:
        aside.write_text(whole, encoding="utf-8")


def save_model(folder: Path, model: SequenceModel, params: Params, tokenizer: Tokenizer, about: dict[str, Any]) -> None:
    """Write the static parameters and their card; in the type ``about["stored"]``, if given, which must hold them."""
    stored = _STORED.get(about.get("stored", ""))
    written = {name: tensor.to(stored) for name, tensor in params.items()} if stored else params
    save_tensors(folder / "model.safetensors", written)
    card = {
        "model": dataclasses.asdict(model.options),
        "vocabulary": model.vocab_size,
        "tensors": {name: list(shape) for name, shape in model.shapes().items()},
        "parameters": sum(tensor.numel() for tensor in params.values()),
        "tokenizer": tokenizer.fingerprint,
        "fingerprint": params_fingerprint(params),
        **about,
    }
    write_json(folder / "model.json", card)


def load_model(folder: Path, device: torch.device | str = "cpu") -> TrainedModel:
    """Load a run's model and tokenizer.

    Raises UserError if the folder holds no trained model, or if weights, card and tokenizer do not fit together.
    """
    if not folder.is_dir():
        raise UserError("no such run folder", folder, "run `dynlm pretrain` first")
    for name in ("model.json", "model.safetensors", *TOKENIZER_FILES):
        refuse_leaving_run(folder / name, folder)
    if not (folder / "model.json").exists():
        raise UserError("no trained model in this run folder", folder, "run `dynlm pretrain` to its end first")
    card, weights = read_json(folder / "model.json"), folder / "model.safetensors"
    model = _model_of(card, folder / "model.json")
    # A transformer is read in the type that it is stored in, a packed model in the default one.
    stored = _STORED.get(card.get("stored") or getattr(model.options, "dtype", ""))
    params, _ = load_tensors(weights, device, model.shapes(), dtype=stored)
    if "stored" in card:
        params = {name: tensor.to(torch.get_default_dtype()) for name, tensor in params.items()}
    for name, tensor in params.items():
        if not bool(tensor.isfinite().all()):
            raise UserError(f"{name} is not finite", weights, "restore the file or train again")
    if params_fingerprint(params) != card["fingerprint"]:
        raise UserError("the weights are not those that model.json describes", weights)
    tokenizer = load_tokenizer(folder / "tokenizer")
    own, needed = (tokenizer.size, tokenizer.fingerprint), (model.vocab_size, card["tokenizer"])
    if own != needed:
        what = "the tokenizer ({} tokens, {}) does not fit the model ({} tokens, {})".format(*own, *needed)
        raise UserError(what, folder / "tokenizer", "put back the tokenizer that the model was trained with")
    return TrainedModel(model, {name: params[name] for name in model.shapes()}, tokenizer, card)


def _model_of(card: Any, where: Path) -> SequenceModel:
    """Return the model that a card describes, without parameters: a wrong card costs no memory."""
    try:
        config = section_of(ModelOptions, card["model"])
        if not all(isinstance(card[name], str) for name in ("fingerprint", "tokenizer")):
            raise TypeError("fingerprints that are not strings")
        for name, kind in _CARD_TYPES.items():
            if not isinstance(card.get(name), kind | None) or isinstance(card.get(name), bool):
                raise TypeError(f"its {name} is a {type(card[name]).__name__}")
    except (UserError, KeyError, TypeError) as error:
        raise UserError(f"not a model card ({error})", where) from error
    return build_model(config, int(number_in(card, "vocabulary", where, 1, 2**31)))


def refuse_leaving_run(path: Path, folder: Path) -> None:
    """Raise UserError if ``path``, of the run in ``folder``, is a link that leads out of the run."""
    check_inside(path, link_root(folder))


def log_line(folder: Path, **fields: Any) -> None:
    """Append one JSON object to the run's log. Raises UserError if it is a link or cannot be written."""
    path = folder / "log.jsonl"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Through a link, another file would be appended to.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        with open(os.open(path, flags, 0o666), "a", encoding="utf-8") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UserError("not a regular file", path, "remove it")
            file.write(json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **fields}) + "\n")
    except OSError as error:
        raise cannot_write(path, error) from error


def load_options(folder: Path, kind: type[_Options], *makers: str) -> _Options:
    """Return the options of a run, a dataclass of sections. Raises UserError as ``read_options`` does."""
    content = read_options(folder, *makers)
    try:
        return options_of(kind, content)
    except UserError as error:
        raise UserError(f"not a config that dynlm can read ({error})", folder / "config.yaml") from error


def read_options(folder: Path, *makers: str) -> dict[str, Any]:
    """Return the content of a run's ``config.yaml``; ``makers`` are the commands that make such runs.

    Raises UserError if the file is missing, cut short or no mapping.
    """
    path = folder / "config.yaml"
    if not folder.is_dir() or not path.exists():
        made = " or ".join(f"`{maker}`" for maker in makers)
        raise UserError("no such run", folder, f"name a folder that {made} made")
    refuse_leaving_run(path, folder)
    content = read_yaml(path)
    data = read_bytes(path, LARGEST_JSON)
    # Half a file can be whole YAML, without the last sections, or with half a number in it.
    if not data.endswith(b"\n") or (data.startswith(b"---\n") and not data.endswith(b"\n...\n")):
        raise UserError("not a config that dynlm can read (it is cut short)", path)
    if not isinstance(content, dict):
        raise UserError("not a config that dynlm can read (it has no sections of options)", path)
    return rename_sections(content)
