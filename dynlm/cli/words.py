"""Words of the command line as values of options, where YAML would read them otherwise than they are meant."""

from __future__ import annotations

import json
import shlex
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import yaml

from dynlm.errors import UserError
from dynlm.runtime.validation import is_of, shortened

_BRACKETS = "[]"
_QUOTES = "\"'"


def text_or_null(word: str) -> str | None:
    """Return ``word`` as it is, and None for null: YAML would take ``#a``, ``&a`` and ``~`` for null as well."""
    return None if word == "null" else word


def type_of(hint: Any) -> Any:
    """Return what the parser is to make of a word for an option of the type ``hint``."""
    return text_or_null if hint == str | None else hint


def check_list(option: str, hint: Any, word: str) -> None:
    """Raise UserError, with what to write instead, for a word that is no list of what ``hint``, a list, holds.

    Words for options of another type pass.
    """
    kinds = [kind for kind in (hint, *get_args(hint)) if get_origin(kind) is list]
    if not kinds or (word == "null" and NoneType in get_args(hint)):
        return
    (items,) = get_args(kinds[0])
    value, of_text = _parsed(word), items is str or get_origin(items) is Literal
    if isinstance(value, list) and all(isinstance(item, str) if of_text else is_of(item, items) for item in value):
        return
    if not of_text:
        do = "write numbers in brackets, such as [1, 2]" if items in (int, float) else "write it in a config file"
        raise UserError(f"--{option} is {shortened(word)}, which is not a list of {_named(items)}", do=do)
    entries = [entry.strip() for entry in word.strip().strip(_BRACKETS).split(",")]
    misread = [entry for entry in entries if not _is_text(entry)]
    what = f"--{option} is {shortened(word)}, "
    what += f"where YAML does not read {misread[0]} as text" if misread else "which is not a list"
    written = [json.dumps(entry.strip(_QUOTES), ensure_ascii=False) if entry in misread else entry for entry in entries]
    do = "put it in quotes" if misread else "put it in brackets"
    raise UserError(what, do=f"{do}: --{option} {shlex.quote('[' + ', '.join(written) + ']')}")


def _parsed(word: str) -> Any:
    """Return the value of ``word`` as YAML; None where it has none."""
    try:
        return yaml.safe_load(word)
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _is_text(entry: str) -> bool:
    """Return whether YAML reads ``entry``, in a list, as a text."""
    value = _parsed(f"[{entry}]")
    return isinstance(value, list) and len(value) == 1 and isinstance(value[0], str)


def _named(items: Any) -> str:
    return {int: "whole numbers", float: "numbers"}.get(items, "mappings")
