"""What a run keeps for its caches, in ``runs/NAME/memory``: one of each kind for each rule and reset policy.

cache-RULE-RESET.json                          the fixed cache's tuned window, inverse temperature and share
gated-cache-RULE-RESET.safetensors and .json   the learned gate, as tensors and readable
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dynlm.adapt.options import LARGEST_WINDOW, MAX_INVERSE, MIN_INVERSE, MemoryOptions
from dynlm.adapt.partners.cache import Cache
from dynlm.adapt.partners.cache_gate import Gate, gate_feature_names
from dynlm.errors import UserError
from dynlm.run.folder import TrainedModel, load_stored, memory_path, read_stored
from dynlm.runtime.parsing import write_json
from dynlm.runtime.tensors import check_shapes, save_tensors
from dynlm.runtime.validation import number_in

FIXED = {"window": "cache_window", "inverse_temperature": "cache_inverse_temperature", "share": "cache_share"}
"""Option of the memory for each constant of a fixed cache, by the name under which it is stored."""
_MOST_INVERSE_TEMPERATURES = 64


def rule_stem(memory: MemoryOptions) -> str:
    """Return the rule's part of file names: for a learned rule the name that it was learned under."""
    return memory.g if memory.rule == "meta" else memory.rule.replace("+", "-")


def save_fixed(folder: Path, memory: MemoryOptions, tuned: Mapping[str, Any], trained: TrainedModel) -> None:
    """Write the constants of a fixed cache, and how they were tuned."""
    write_json(_path(folder, memory, "cache", "json"), {"model": trained.fingerprint, **tuned})


def load_fixed(folder: Path, memory: MemoryOptions, trained: TrainedModel) -> dict[str, Any] | None:
    """Load what ``save_fixed`` wrote; None if it was not tuned. Raises UserError if it is another model's."""
    path = _path(folder, memory, "cache", "json")
    if (content := read_stored(path, trained)) is None:
        return None
    content["window"] = int(number_in(content, "window", path, 1, LARGEST_WINDOW))
    number_in(content, "inverse_temperature", path, MIN_INVERSE, MAX_INVERSE)
    number_in(content, "share", path, 0, 0.99)
    return content


def save_gated(
    folder: Path, memory: MemoryOptions, cache: Cache, about: Mapping[str, Any], trained: TrainedModel
) -> None:
    """Write a cache with a learned gate."""
    assert isinstance(cache.gate, Gate)
    about = {
        "model": trained.fingerprint,
        "window": cache.window,
        "inverse_temperature": list(cache.inverse_temperatures),
        **about,
    }
    save_tensors(_path(folder, memory, "gated-cache", "safetensors"), cache.gate.params, about)
    content = {**about, "features": gate_feature_names(cache.inverse_temperatures)}
    write_json(_path(folder, memory, "gated-cache", "json"), content)


def load_gated(
    folder: Path, memory: MemoryOptions, trained: TrainedModel, device: torch.device | str = "cpu"
) -> tuple[Cache, dict[str, Any]] | None:
    """Load (the cache, how its gate was learned); None if it was not. Raises UserError if it is another model's."""
    path = _path(folder, memory, "gated-cache", "safetensors")
    if (stored := load_stored(path, trained, device)) is None:
        return None
    tensors, about = stored
    window, inverses = int(number_in(about, "window", path, 1, LARGEST_WINDOW)), about.get("inverse_temperature")
    if not isinstance(inverses, list) or not 1 <= len(inverses) <= _MOST_INVERSE_TEMPERATURES:
        raise UserError("it does not say its inverse temperatures", path, "run metatrain again")
    for value in inverses:
        number_in({"inverse_temperature": value}, "inverse_temperature", path, MIN_INVERSE, MAX_INVERSE)
    hidden = tensors["hidden.bias"].numel() if "hidden.bias" in tensors else 0
    pieces, shares = len(gate_feature_names(inverses)), 1 + len(inverses)
    wanted = {
        **{"center": (pieces,), "spread": (pieces,), "hidden.weight": (hidden, pieces), "hidden.bias": (hidden,)},
        **{"output.weight": (shares, hidden), "output.bias": (shares,)},
    }
    check_shapes({name: tuple(tensor.shape) for name, tensor in tensors.items()}, wanted, path)
    if not all(tensor.dtype == torch.float32 and bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise UserError("the gate is not of finite float32 numbers", path, "run metatrain again")
    return Cache(window, tuple(inverses), Gate(tensors)), about


def open_cache(folder: Path, trained: TrainedModel, memory: MemoryOptions) -> Cache | None:
    """Return the cache of ``memory``'s options, with tuned or learned constants for those that they leave unset.

    Raises UserError if constants are neither given nor tuned, or the gate was not learned.
    """
    if memory.cache == "none":
        return None
    if memory.cache == "learned":
        for option in FIXED.values():
            if getattr(memory, option) is not None:
                raise UserError(f"memory.{option} does not go with memory.cache learned, which keeps its own")
        gated = load_gated(folder, memory, trained, trained.device)
        if gated is None:
            raise UserError(
                f"no gated cache for rule {memory.rule!r} and reset {memory.reset!r}",
                folder,
                f"run `{command('metatrain', folder, memory)}` first",
            )
        return gated[0]
    tuned = load_fixed(folder, memory, trained) or {}
    values = {}
    for name, option in FIXED.items():
        given = getattr(memory, option)
        given = given[0] if isinstance(given, list) else given
        value = tuned.get(name) if given is None else given
        if value is None:
            raise UserError(
                f"no memory.{option}, and no cache tuned for rule {memory.rule!r} and reset {memory.reset!r}",
                folder,
                f"give --memory.{option} or run `{command('tune', folder, memory)}` first",
            )
        values[name] = value
    return Cache(values["window"], (values["inverse_temperature"],), values["share"])


def command(name: str, folder: Path, memory: MemoryOptions) -> str:
    """Return the command line that tunes or learns the cache of ``memory``."""
    named = f" --memory.g {memory.g}" if memory.rule == "meta" and memory.g != "meta" else ""
    options = f"--memory.rule {memory.rule}{named} --memory.reset {memory.reset} --memory.cache {memory.cache}"
    return f"dynlm {name} {folder} {options}"


def _path(folder: Path, memory: MemoryOptions, kind: str, suffix: str) -> Path:
    return memory_path(folder, f"{kind}-{rule_stem(memory)}-{memory.reset}.{suffix}")
