"""Entry point of the command line: one command, one function call. torch is imported only by commands that compute."""

from __future__ import annotations

import difflib
import errno
import os
import sys

from dynlm.cli import command as registry
from dynlm.cli import fewshot, memory, report, score, study, train
from dynlm.cli.command import Command
from dynlm.cli.parser import parse
from dynlm.errors import UserError
from dynlm.runtime import renamed
from dynlm.runtime.launcher import is_multi_process
from dynlm.runtime.signals import Stopped, raise_on_sigterm
from dynlm.runtime.text import escape_for_streams, printable

_GROUPS = (study, train, score, report, memory, fewshot)
COMMANDS: dict[str, Command] = {
    name: command
    for group in _GROUPS
    for name, command in registry.COMMANDS.items()
    if command.run.__module__ == group.__name__
}
"""All commands by name, in the overview's order."""
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code.

    2: an error that the user can correct, printed as one line; 130: stopped by Ctrl-C; 143: by SIGTERM; 141: the reader
    of standard output has closed it.
    """
    escape_for_streams()
    try:
        try:
            return _run(sys.argv[1:] if argv is None else argv)
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
        if _is_main_process():
            then = f"goes on from {stopped.saved}" if stopped.saved else "begins anew"
            print(printable(f"dynlm: stopped; the same command {then}"), file=sys.stderr)
        return stopped.exit_code


def _is_main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _print_error(message: str) -> int:
    print(f"dynlm: error: {printable(message)}", file=sys.stderr)
    return 2


def _discard_output() -> None:
    """Redirect standard output to nowhere: Python flushes what is left of it at exit, which would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if argv[0] == "--version":
        import dynlm

        print(f"dynlm {dynlm.__version__}")
        return 0
    name, rest = _split_command(argv)
    if name is None:
        print(_overview(argv[0]))
        return 0
    is_multi_process()  # Raises for an incomplete launcher environment, on which _is_main_process relies.
    command = COMMANDS[name]
    with raise_on_sigterm():
        try:
            return _call(name, command, rest)
        except KeyboardInterrupt as stop:
            stopped = stop if isinstance(stop, Stopped) else Stopped()
            if command.resumes and stopped.saved is None:
                stopped.saved = "the newest checkpoint, where there is one"
            raise stopped from None


def _call(name: str, command: Command, argv: list[str]) -> int:
    return command.run(*parse(name, command, argv))


def _split_command(argv: list[str]) -> tuple[str | None, list[str]]:
    """Return (the command, the words that follow it); None for a group of commands (memory, fewshot) without one.

    Raises UserError, with the nearest command, if there is none of this name.
    """
    if argv[0] in renamed.COMMANDS:
        renamed.warn_renamed([(f"dynlm {argv[0]}", f"dynlm {renamed.COMMANDS[argv[0]]}")])
        argv = [renamed.COMMANDS[argv[0]], *argv[1:]]
    group = [name for name in COMMANDS if name.startswith(f"{argv[0]} ")]
    if not group and argv[0] in COMMANDS:
        return argv[0], argv[1:]
    if group and len(argv) > 1 and " ".join(argv[:2]) in COMMANDS:
        return " ".join(argv[:2]), argv[2:]
    if group and (len(argv) == 1 or argv[1] in ("-h", "--help")):
        return None, []
    given = " ".join(argv[:2]) if group else argv[0]
    near = difflib.get_close_matches(given, COMMANDS, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise UserError(f"there is no command {given!r}{hint}", do=f"choose one of {', '.join(sorted(group) or COMMANDS)}")


def _overview(group: str = "") -> str:
    shown = {name: command for name, command in COMMANDS.items() if name.startswith(f"{group} " if group else "")}
    width = max(map(len, shown))
    return "\n".join(
        [
            "usage: dynlm COMMAND [options]",
            "",
            "LSTM language models whose weights change while they read.",
            "",
            *(f"  {name:{width}}  {command.about}" for name, command in shown.items()),
            "",
            "`dynlm COMMAND --help` shows a command's most used options, `--help all` every one.",
            "",
            "examples:",
            "  dynlm demo",
            "  dynlm pretrain --config wikitext-2-small --corpus.path DIR",
        ]
    )


if __name__ == "__main__":
    raise SystemExit(main())
