"""Entry point of the command line: one command, one function call. torch is imported only by commands that compute."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Container

from dynlm.cli import command as registry
from dynlm.cli import completion, fewshot, learn, memory, reading, report, score, study, train
from dynlm.cli.command import Command
from dynlm.errors import UserError
from dynlm.runtime import renamed
from dynlm.runtime.launcher import is_main_process, is_multi_process
from dynlm.runtime.signals import Stopped, raise_on_sigterm
from dynlm.runtime.text import did_you_mean, escape_for_streams, printable

_GROUPS = (study, learn, train, score, report, reading, memory, fewshot)
COMMANDS: dict[str, Command] = {
    name: command
    for group in _GROUPS
    for name, command in registry.COMMANDS.items()
    if command.run.__module__ == group.__name__
}
"""All commands by name, in the overview's order."""
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_HELP = ("-h", "--help")
_OPTIONS = re.compile(r"`[^`]*`|--([a-z]+\.\w+)")
_OVERVIEW = """usage: dynlm COMMAND [options]

Language models whose weights change while they read.

{}

`dynlm COMMAND --help` shows a command's most used options, `--help all` every one.

examples:
  dynlm demo
  dynlm pretrain --config wikitext-2-small --corpus.path DIR"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code.

    2: an error that the user can correct, printed as one line; 130: stopped by Ctrl-C; 143: by SIGTERM; 141: the reader
    of standard output has closed it.
    """
    if completion.is_asked():
        return completion.complete(COMMANDS)
    argv = sys.argv[1:] if argv is None else argv
    escape_for_streams()
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()  # Not every command returns: --help raises SystemExit.
    except UserError as error:
        return _print_error(str(error))
    except BrokenPipeError:
        # As in `dynlm compare RUN | head`.
        _discard_output()
        return 141
    except OSError as error:
        if error.filename is None and error.errno in _DISK_ERRORS:
            # Standard output has no file name.
            _discard_output()
            return _print_error(f"cannot write: {error.strerror}; free some space and start again")
        if error.errno is None or error.filename is None:
            raise
        return _print_error(f"{error.filename}: {error.strerror}")
    except KeyboardInterrupt as stop:
        stopped = stop if isinstance(stop, Stopped) else Stopped()
        if is_main_process():
            command = COMMANDS.get(_split_command(argv)[0])
            newest = "the newest checkpoint, where there is one" if command and command.resumes else None
            saved = stopped.saved or newest
            then = f"goes on from {saved}" if saved else "begins anew"
            print(printable(f"dynlm: stopped; the same command {then}"), file=sys.stderr)
        return stopped.exit_code


def _print_error(message: str) -> int:
    print(f"dynlm: error: {printable(message)}", file=sys.stderr)
    return 2


def _discard_output() -> None:
    """Redirect standard output to nowhere: Python flushes what is left of it at exit, which would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(argv: list[str]) -> int:
    if argv[:1] == ["--version"]:
        import dynlm

        print(f"dynlm {dynlm.__version__}")
        return 0
    name, words = _split_command(argv)
    if name not in COMMANDS:
        shown = [each for each in COMMANDS if each.startswith(name)]
        width = max(map(len, shown))
        print(_OVERVIEW.format("\n".join(f"  {each:{width}}  {COMMANDS[each].about}" for each in shown)))
        return 0
    is_multi_process()  # Raises for an incomplete launcher environment, on which is_main_process relies.
    from dynlm.cli.parser import parse

    with raise_on_sigterm():
        options, config = parse(name, COMMANDS[name], words)
        try:
            return COMMANDS[name].run(options, config)
        except UserError as error:
            raise UserError(_as_taken(str(error), [*options.keys()])) from error


def _as_taken(message: str, options: Container[str]) -> str:
    """Return a message where a section's options that are not among the command's ``options`` have no dashes.

    So they are named as in config files: ``verify`` reads with the options of a score file. Command lines in backquotes
    stay.
    """
    return _OPTIONS.sub(lambda found: found[0] if found[1] is None or found[1] in options else found[1], message)


def _split_command(argv: list[str]) -> tuple[str, list[str]]:
    """Return (the command, the words that follow it), or (the group whose overview is wanted, "" for all, no words).

    Raises UserError, with the nearest command, if there is none of this name.
    """
    if not argv or argv[0] in _HELP:
        return "", []
    if new := renamed.COMMANDS.get(argv[0]):
        renamed.warn_renamed([(f"dynlm {argv[0]}", f"dynlm {new}")])
        argv = [new, *argv[1:]]
    for count in (2, 1):
        if (name := " ".join(argv[:count])) in COMMANDS:
            return name, argv[count:]
    group = sorted(name for name in COMMANDS if name.startswith(f"{argv[0]} "))
    if group and (len(argv) == 1 or argv[1] in _HELP):
        return argv[0], []
    given = " ".join(argv[:2]) if group else argv[0]
    what = f"there is no command {given!r}{did_you_mean(given, COMMANDS)}"
    raise UserError(what, do=f"choose one of {', '.join(group or COMMANDS)}")
