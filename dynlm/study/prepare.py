"""Steps before a reading, each of which fills one slot of the run (the rates of rms under ``stream``, say) once.

``memory/prepared.json`` records the options with which each slot was filled, so that a study that was stopped resumes,
and one with other options fills it anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynlm.errors import UserError
from dynlm.run.run import Run
from dynlm.runtime.hashing import fingerprint
from dynlm.runtime.parsing import read_json, write_json
from dynlm.runtime.renamed import current_name
from dynlm.study.budget import Budget

_LEDGER = Path("memory") / "prepared.json"


@dataclass(frozen=True)
class Step:
    """One thing to be found before a variant reads."""

    slot: str
    """The slot of the run that it fills, as messages name it; variants with the same slot share what is found."""
    options: Mapping[str, Any]
    """All options that affect what is found."""
    find: Callable[[bool], object]
    """Finds and saves it; takes whether to be quiet."""
    held: Callable[[], dict[str, Any] | None]
    """Returns what the run holds in the slot, ready for JSON; None where it is empty."""
    budget: Callable[[dict[str, Any]], Budget]
    """Returns what finding it took, given what is held."""
    apart: str = "use two runs"
    """How another variant gets a slot of its own."""


@dataclass(frozen=True)
class Prepared:
    """A filled slot: what is in it, and what filling it took."""

    slot: str
    held: dict[str, Any]
    budget: Budget


def fingerprint_of(content: Any) -> str:
    """Return the fingerprint of content that is ready for JSON."""
    return fingerprint(json.dumps(content, sort_keys=True, default=list))


def _entry(key: str, held: dict[str, Any] | None) -> dict[str, str]:
    """Return what the ledger says of a slot."""
    return {"options": key, "held": fingerprint_of(content_of(held))}


def content_of(held: dict[str, Any] | None) -> dict[str, Any]:
    """Return what is held without the time that finding it took, on which nothing depends."""
    return {name: value for name, value in (held or {}).items() if name != "seconds"}


def check_slots(steps_of_variants: Mapping[str, Sequence[Step]]) -> None:
    """Raise UserError where two variants would fill one slot of the run with different things."""
    filled: dict[str, tuple[str, Step]] = {}
    for variant, steps in steps_of_variants.items():
        for step in steps:
            other, first = filled.setdefault(step.slot, (variant, step))
            if first.options != step.options:
                names = [name for name in step.options if step.options[name] != first.options.get(name)]
                names += [name for name in first.options if name not in step.options]
                what = (
                    f"variants {other!r} and {variant!r} need {step.slot} found with different {current_name(names[0])}"
                )
                raise UserError(what, do=step.apart)


def prepare(
    run: Run,
    steps: Sequence[Step],
    find: bool,
    filled: dict[str, Prepared],
    say: Callable[[str], None] = lambda what: None,
    quiet: bool = True,
) -> list[Prepared]:
    """Fill the slots of ``steps`` one after the other, except those that hold what these options lead to.

    Without ``find`` they are taken as they are; raises UserError for an empty one. ``filled`` has the slots filled for
    other variants, and receives those of ``steps``.
    """
    path, prepared = run.path / _LEDGER, list[Prepared]()
    for step in steps:
        if step.slot not in filled:
            held = step.held()
            if find:
                ledger = read_json(path) if path.exists() else {}
                key = fingerprint_of([step.options, run.fingerprint, [content_of(each.held) for each in prepared]])
                if held is not None and ledger.get(step.slot) == _entry(key, held):
                    say(f"reused: {step.slot}")
                else:
                    say(f"finding {step.slot}")
                    step.find(quiet)
                    held = step.held()
                    write_json(path, {**ledger, step.slot: _entry(key, held)})
            if held is None:
                raise UserError(
                    f"it holds no {step.slot.removeprefix('the ')}",
                    run.path,
                    "leave out --study.tune false to have it found",
                )
            filled[step.slot] = Prepared(step.slot, held, step.budget(held))
        prepared.append(filled[step.slot])
    return prepared
