"""Completion of the command line in a shell, by ``argcomplete`` (extra ``dynlm[completion]``).

The shell's function, which ``register-python-argcomplete dynlm`` prints, runs ``dynlm`` with the line in COMP_LINE and
the number of words that are not the parser's in _ARGCOMPLETE. Commands are completed here, and what follows one by
jsonargparse, which asks argcomplete before it parses.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
from collections.abc import Iterable
from typing import Any, Literal, get_args, get_origin

from dynlm.cli.command import Command
from dynlm.errors import UserError


def is_asked() -> bool:
    """Return whether a shell runs this process to complete a line."""
    return "_ARGCOMPLETE" in os.environ


def complete(commands: dict[str, Command]) -> int:
    """Hand the shell the completions of its line, and end the process; return where there are none.

    Options are those that ``--help`` shows. Without argcomplete there are none.
    """
    try:
        import argcomplete
        from argcomplete.lexers import split_line
    except ImportError:
        return 1
    line, point = os.environ.get("COMP_LINE", ""), os.environ.get("COMP_POINT", "")
    words = split_line(line, int(point) if point.isdecimal() else len(line))[3][1:]
    name = next((name for count in (2, 1) if (name := " ".join(words[:count])) in commands), None)
    if name is None:
        parser = argparse.ArgumentParser()
        parser.add_argument("command", choices=_next_words(words, commands))
        _skip(len(words))
        argcomplete.autocomplete(parser)
        return 1
    from dynlm.cli.parser import parse

    _skip(len(name.split()))
    with contextlib.suppress(UserError, SystemExit):  # A run or a config file that cannot be read.
        parse(name, commands[name], words[len(name.split()) :])
    return 1


def offer_values(parser: argparse.ArgumentParser) -> None:
    """Complete the values of a parser's options: choices, or files where the value is text."""
    from argcomplete.completers import FilesCompleter

    for action in parser._actions:
        if (hint := getattr(action, "_typehint", None)) is not None:
            choices = _choices(hint)
            is_text = hint is str or str in get_args(hint)
            completer = FilesCompleter() if is_text and not choices else functools.partial(_offer, choices)
            action.completer = completer  # type: ignore[attr-defined]


def _offer(choices: list[str], **asked: Any) -> list[str]:
    return choices


def _choices(hint: Any) -> list[str]:
    if hint is bool:
        return ["true", "false"]
    if get_origin(hint) is Literal:
        return [str(value) for value in get_args(hint)]
    return [choice for part in get_args(hint) for choice in _choices(part)]


def _next_words(words: list[str], commands: Iterable[str]) -> list[str]:
    """Return what may follow ``words``, the first words of commands."""
    count = len(words)
    found = [name.split()[count] for name in commands if name.split()[:count] == words and len(name.split()) > count]
    return [*dict.fromkeys(found), *([] if words else ["--version"])]


def _skip(count: int) -> None:
    """Tell argcomplete that ``count`` words after the program's name are not its parser's."""
    os.environ["_ARGCOMPLETE"] = str(count + 1)
