"""Old names of options, of their values and of commands, which files and command lines may still use.

Fingerprints of work under way and of scorings keep the old names: what an earlier version began is found again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from dynlm.runtime.text import warn

OPTIONS: dict[str, dict[str, str]] = {
    "memory": {
        "rate": "lr",
        "pull": "decay",
        "cache_flatness": "cache_inverse_temperature",
        "guard": "update_filter",
        "dynamic": "targets",
    },
    "pretrain": {"rate": "lr", "final_rate": "final_lr"},
    "metatrain": {"rate": "lr"},
    "finetune": {"rate": "lr"},
    "g": {"flush": "boundary_reset", "consolidation": "slow_rate"},
    "study": {"arms": "variants"},
}
"""New name of each option by section and old name."""
FEATURES = {
    "fresh": "doc_age_20",
    "settling": "doc_age_100",
    "heading": "section_age",
    "surprise": "loss_delta",
    "steepness": "grad_rms",
    "distance": "weight_distance",
}
"""New name of each value of ``g.features`` by its old name."""
KEYS = {
    "rate": "lr",
    "pull": "decay",
    "flush": "boundary_reset",
    "consolidation": "slow_rate",
    "fading": "slow_decay",
    "flatness": "inverse_temperature",
}
"""New name of each key of the files in a run's ``memory/`` and of each part of phi, by its old name."""
COMMANDS = {"audit": "check", "hostile": "stress"}
SWITCHES = {"--markdown": ["--format", "markdown"]}
_warned: set[str] = set()


def rename_sections(content: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return the sections of a file with their options by new names, with one warning for all old ones."""
    found: list[tuple[str, str]] = []
    renamed = {section: current_options(section, values, found) for section, values in content.items()}
    warn_renamed(found)
    return renamed


def current_options(section: str, values: Any, found: list[tuple[str, str]] | None = None) -> Any:
    """Return options of a file by their new names, without a warning; (old, new) of each is added to ``found``."""
    if not isinstance(values, Mapping):
        return values
    names, found = OPTIONS.get(section, {}), [] if found is None else found
    found += [(f"{section}.{old}", f"{section}.{names[old]}") for old in values if old in names]
    renamed = {names.get(old, old): value for old, value in values.items()}
    if section == "g" and isinstance(features := renamed.get("features"), list):
        found += [(f"g.features {old}", new) for old, new in FEATURES.items() if old in features]
        renamed["features"] = [FEATURES.get(each, each) if isinstance(each, str) else each for each in features]
    return renamed


def current_keys(content: Any) -> Any:
    """Return the content of a JSON file with KEYS by their new names in mappings at every depth.

    The name of a part of phi ends at a dot: ``rate.gates`` is ``lr.gates``.
    """
    if not isinstance(content, Mapping):
        return content
    renamed = {}
    for key, value in content.items():
        name, dot, rest = key.partition(".")
        renamed[KEYS.get(name, name) + dot + rest] = current_keys(value)
    return renamed


def rename_words(argv: list[str]) -> list[str]:
    """Return the words of a command line with new names of options and of values in place of old ones."""
    words: list[str] = []
    option = ""
    for word in argv:
        if word in SWITCHES:
            warn_renamed([(word, " ".join(SWITCHES[word]))])
            words += SWITCHES[word]
            continue
        if word.startswith("--"):
            option, equals, value = word.partition("=")
            section, _, name = option[2:].partition(".")
            old = name.removesuffix("+")
            if (new := OPTIONS.get(section, {}).get(old)) is not None:
                warn_renamed([(f"{section}.{old}", f"{section}.{new}")])
                word = f"--{section}.{new}{name[len(old) :]}{equals}{value}"
        if option.removesuffix("+") == "--g.features":
            warn_renamed([(f"g.features {old}", FEATURES[old]) for old in re.findall(r"\w+", word) if old in FEATURES])
            word = re.sub(r"\w+", lambda found: FEATURES.get(found[0], found[0]), word)
        option = option if word.startswith("--") and "=" not in word else ""
        words.append(word)
    return words


def current_name(full: str) -> str:
    """Return the new name of SECTION.OPTION, which fingerprints have by its old one."""
    section, dot, option = full.partition(".")
    return section + dot + OPTIONS.get(section, {}).get(option, option)


def original_options(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return options and their values by the old names, which fingerprints have."""
    names = {new: old for old, new in OPTIONS.get(section, {}).items()}
    original = {names.get(name, name): value for name, value in values.items()}
    if section == "g" and "features" in original:
        features = {new: old for old, new in FEATURES.items()}
        original["features"] = [features.get(each, each) for each in original["features"]]
    return original


def warn_renamed(names: Sequence[tuple[str, str]]) -> None:
    """Print (old, new) names in one line, each once in a process."""
    if new := [f"{old} is now {new}" for old, new in names if old not in _warned]:
        warn(", ".join(new))
    _warned.update(old for old, _ in names)
