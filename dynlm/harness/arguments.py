"""The arguments of the model, as ``--model_args`` gives them: which model, and the options of its memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from dynlm.errors import UserError
from dynlm.models.hf.options import HFOptions
from dynlm.runtime.validation import LARGEST_SEED, Section, shortened, types_of, within

_Section = TypeVar("_Section", bound=Section)

_OF_MODEL = tuple(item.name for item in fields(HFOptions) if item.name not in ("kind", "architecture"))
_DEFAULTS = {"reset": "article", "capture": False}
"""In place of a run's own: documents are independent, and too short to be worth a recording of kernels."""


@dataclass(frozen=True)
class Arguments:
    """``source`` is a run's folder, or with ``is_pretrained`` what ``dynlm adopt`` takes.

    ``memory`` and ``model`` are options, by name, that replace those of the run or the defaults; ``seed`` None is the
    run's own, or 0.
    """

    source: str
    is_pretrained: bool
    device: str | None
    seed: int | None
    memory: dict[str, Any]
    model: dict[str, Any]

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Arguments:
        """Sort arguments; options may have their full names too (``memory.lr``).

        Raises UserError, naming the argument, where the model is missing or named twice, and for what does not fit.
        """
        values = {name.removeprefix("memory.").removeprefix("model."): value for name, value in given.items()}
        sources = [name for name in ("run", "pretrained") if values.get(name) is not None]
        if len(sources) != 1:
            what = "run and pretrained are both given" if sources else "neither run nor pretrained is given"
            raise UserError(f"model_args: {what}", do="name one model, as run=runs/NAME or pretrained=FOLDER")
        source, is_pretrained = str(values[sources[0]]), sources == ["pretrained"]
        for name in ("run", "pretrained"):
            values.pop(name, None)
        device, seed = values.pop("device", None), values.pop("seed", None)
        if seed is not None:
            if isinstance(seed, bool) or not isinstance(seed, int):
                raise UserError(f"model_args: seed is {shortened(seed)}", do="write a whole number")
            within("model_args: seed", seed, 0, LARGEST_SEED)
        model = {name: values.pop(name) for name in _OF_MODEL if name in values}
        if model and not is_pretrained:
            raise UserError(
                f"model_args: {next(iter(model))} goes with pretrained", do="a run has its own: leave it out"
            )
        if values.get("lanes", 1) != 1:
            raise UserError(
                f"model_args: lanes is {shortened(values['lanes'])}, but documents are read one after another",
                do="leave it out",
            )
        memory = {**_DEFAULTS, **values, "lanes": 1}
        return cls(source, is_pretrained, None if device is None else str(device), seed, memory, model)


def changed(section: _Section, given: Mapping[str, Any], others: Iterable[str] = ()) -> _Section:
    """Return ``section`` with options as the harness parses them; None is the default, or the choice "none".

    Lists are joined by "+". Raises UserError as ``Section.with_options`` does.
    """
    named = {name: "none" if value is None and name == "rule" else value for name, value in given.items()}
    kind = type(section).select({**vars(section), **named})
    hints, items = types_of(kind), {item.name: item for item in fields(kind)}
    values = {name: _converted(value, hints[name]) if name in items else value for name, value in named.items()}
    unset = {name: _default(items[name]) for name, value in values.items() if value is None and name in items}
    return section.with_options({**values, **unset}, others)


def _default(item: Field[Any]) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


def _converted(value: object, hint: Any) -> object:
    """Return ``value`` as the type of an option, where it can be; what cannot is refused by ``check_types``."""
    hints = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    kinds = {get_origin(each) or each: each for each in hints}
    if value is None:
        return "none" if "none" in get_args(kinds.get(Literal)) else None
    if list in kinds:
        items = value.split("+") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
        return [_converted(item, get_args(kinds[list])[0]) for item in items]
    if str in kinds and isinstance(value, int | float):
        return str(value)
    if int in kinds and isinstance(value, float) and value.is_integer():
        return int(value)
    if float in kinds and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
