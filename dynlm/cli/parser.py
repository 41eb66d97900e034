"""Parser of a command's options: its own, and those of the sections that it uses, as ``--section.option``.

Each of these stands over all of the next: the command line, config files (``--config``), the options that a memory
file was read with (``--memory FILE``), the options of the run (RUN), the defaults.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_type_hints

from dynlm.cli.command import Argument, Command
from dynlm.cli.config_files import Files, Layers, config_path, read_config
from dynlm.errors import UserError
from dynlm.runtime.renamed import rename_words
from dynlm.runtime.validation import sections_of, within

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

_LONGEST_MESSAGE = 500
_METAVARS = {hint: name for kind, name in ((int, "N"), (float, "X"), (str, "TEXT")) for hint in (kind, kind | None)}


def parse(name: str, command: Command, argv: list[str]) -> tuple[Namespace, Any]:
    """Return a command's own options and the dataclass of its sections, both checked.

    Raises UserError for words that are no options of the command and for values that they cannot have; SystemExit for
    ``--help`` and ``--print_config``, which print instead.
    """
    argv = rename_words(argv)
    full_help = ("--help", "all") in itertools.pairwise(argv)
    if full_help:
        argv = [*itertools.takewhile(lambda word: word != "--help", argv), "--help"]
    if command.takes_memory:
        # The option --memory would be the whole section memory for the parser.
        argv = [re.sub(r"^--memory(?==|$)", "--memory_file", word) for word in argv]
    parser = _own_parser(name, command)
    if not command.takes_config:
        return _parse_args(parser, command, argv), None
    kind = command.options()
    words: dict[str, dict[str, str]] = {}
    for word, after in itertools.zip_longest(argv, argv[1:], fillvalue=""):
        option, equals, value = word.partition("=")
        section, dot, own = option.removeprefix("--").partition(".")
        if dot and option.startswith("--"):
            words.setdefault(section, {})[own] = value if equals else after
    layers = Layers(kind, _config_files(command, kind, argv), _run_options(command, parser, argv), words)
    used = command.sections.split() or list(layers.kinds)
    parser.other_sections = [section for section in layers.kinds if section not in used]
    hidden = 0
    for section in used:
        is_common = section in (command.common.split() or used)
        hidden += _add_section(parser, section, layers, "all" if full_help else "common" if is_common else "none")
    if hidden:
        parser.epilog = f"`dynlm {name} --help all` lists {hidden} more options.\n\n{parser.epilog}"
    options = _parse_args(parser, command, argv)
    config = layers.build({section: options[section].as_dict() for section in used})
    if options.print_config:
        import yaml

        print(yaml.safe_dump({each: vars(getattr(config, each)) for each in used}, sort_keys=False), end="")
        raise SystemExit(0)
    return options, config


def _own_parser(name: str, command: Command) -> Any:
    """Return the parser of a command without sections."""
    parser = _make_parser(name, command)
    if command.takes_config:
        about = "a YAML file with options, or a shipped config's name: demo"
        parser.add_argument("--config", type=str, metavar="FILE", help=about)
        if "base" in get_type_hints(command.options()):
            about = "a config file that the options stand on; also a line of a config file"
            parser.add_argument("--base", type=str, metavar="FILE", help=about)
        parser.add_argument("--print_config", action="store_true", help="print the options as YAML, and do nothing")
    if command.takes_run:
        parser.add_argument("folder", type=str, metavar="RUN", help="the run's folder, such as runs/demo")
    if command.takes_memory:
        about = "a memory file to start from, as `dynlm read` writes it (also --memory FILE)"
        parser.add_argument("--memory_file", type=str | None, default=None, metavar="FILE", help=about)
    for each in command.own:
        if isinstance(each, Argument):
            dest, many = each.metavar.lower() + "s" * each.many, {"nargs": "+"} if each.many else {}
            parser.add_argument(dest, type=str, metavar=each.metavar, help=each.about, **many)
        elif each.type is None:
            parser.add_argument(each.name, action="store_true", help=each.about)
        else:
            kind = each.type if each.default is not None else each.type | None
            parser.add_argument(each.name, type=kind, default=each.default, help=each.about)
    parser.add_argument("--json", action="store_true", help="print JSON, and nothing else on standard output")
    positionals = [action for action in parser._actions if not action.option_strings]
    words = [f"{action.metavar} ..." if action.nargs == "+" else action.metavar for action in positionals]
    parser.usage = " ".join([f"dynlm {name} [options]", *words])
    return parser


def _make_parser(name: str, command: Command) -> Any:
    import argparse

    import jsonargparse

    class Parser(jsonargparse.ArgumentParser):
        other_sections: tuple[str, ...] = ()
        """Sections that config files may have and the command does not use."""

        def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # type: ignore[override]
            raise UserError(_explained(self, message), do=f"see `dynlm {name} --help`") from ex

        def _print_message(self, message: str, file: Any = None) -> None:
            (file or sys.stderr).write(message)  # argparse's own ignores errors, such as a full disk

    class Help(argparse.RawDescriptionHelpFormatter):
        def _get_help_string(self, action: argparse.Action) -> str:
            text = action.help or ""
            if action.option_strings and action.nargs != 0 and action.default not in (None, [], argparse.SUPPRESS):
                text += f" (default: {str(action.default).replace('%', '%%')})"
            return text

    epilog = "examples:\n" + "\n".join(f"  {example}" for example in command.examples)
    # jsonargparse's own --print_config would print the command's own options too.
    parser = Parser(prog=f"dynlm {name}", formatter_class=Help, allow_abbrev=False, print_config=None)
    parser.description, parser.epilog = command.about, epilog
    return parser


def _config_files(command: Command, kind: type, argv: list[str]) -> Files:
    """Return the config files that ``argv`` names, else the command's default one."""
    named = _values(argv, "config") or ([command.config] if command.config else [])
    bases = _values(argv, "base") if "base" in get_type_hints(kind) else []
    return [file for path in (*bases, *named) if path != "null" for file in read_config(config_path(path), kind)]


def _run_options(command: Command, parser: ArgumentParser, argv: list[str]) -> dict[str, Any]:
    """Return the options of the run that ``argv`` names, with those of a memory file."""
    folder = _first_positional(parser, argv) if command.takes_run else None
    if folder is None:
        return {}
    config = command.load_run(Path(folder))
    for path in _values(argv, "memory_file") if command.takes_memory else ():
        if Path(path).exists():
            from dynlm.adapt.memory_file import options_of

            config = dataclasses.replace(config, memory=options_of(Path(path), config.memory))
        elif command.mixes_new_memories:
            config = dataclasses.replace(config, memory=dataclasses.replace(config.memory, no_regret=True))
    return dataclasses.asdict(config)


def _add_section(parser: ArgumentParser, section: str, layers: Layers, shows: Literal["all", "common", "none"]) -> int:
    """Add the options of a section; return how many of them ``--help`` does not show.

    Common ones are those that the section names, and those that a plug-in adds to it which names none.
    """
    from argparse import SUPPRESS

    from docstring_parser import parse_from_object

    kind, base = layers.kinds[section], sections_of(layers.kind)[section]
    bases = [each for each in reversed(kind.__mro__) if dataclasses.is_dataclass(each)]
    about = {
        each.arg_name: each.description or "" for each_kind in bases for each in parse_from_object(each_kind).params
    }
    group = parser.add_argument_group(f"{section}: {(kind.__doc__ or '').strip().partition(chr(10))[0].rstrip('.')}")
    hints, hidden = get_type_hints(kind), 0
    common = getattr(kind, "COMMON", "").split() or list(hints)
    if common == getattr(base, "COMMON", "").split():
        common += [name for name in hints if name not in get_type_hints(base)]
    for item in dataclasses.fields(kind):
        name, text = item.name, SUPPRESS
        if shows == "all" or (shows == "common" and name in common):
            text = " ".join(about.get(name, "").split()).replace("%", "%%")
        hidden += text is SUPPRESS
        default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
        default = layers.values[section].get(name, default)
        action = group.add_argument(f"--{section}.{name}", type=hints[name], default=default, help=text)
        action.metavar = _METAVARS.get(hints[name], action.metavar)
    for name in layers.ignored[section]:
        group.add_argument(f"--{section}.{name}", default=SUPPRESS, help=SUPPRESS)
    return hidden


def _parse_args(parser: ArgumentParser, command: Command, argv: list[str]) -> Namespace:
    """Parse ``argv``. Raises UserError for whatever the parser raises for a value, and for numbers out of bounds."""
    try:
        options = parser.parse_args(argv)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        what = _cut(str(error))
        raise UserError(f"the options cannot be read ({what})", do="see --help for what each may be") from error
    for each in command.own:
        if not isinstance(each, Argument) and isinstance(value := options[each.name[2:]], int | float):
            within(each.name, value, each.low, each.high)
    return options


def _values(argv: list[str], option: str) -> list[str]:
    """Return the values that ``argv`` gives ``--option``."""
    values = [word.partition("=")[2] for word in argv if word.startswith(f"--{option}=")]
    return values + [value for word, value in itertools.pairwise(argv) if word == f"--{option}"]


def _first_positional(parser: ArgumentParser, argv: list[str]) -> str | None:
    """Return the run's folder: the first word that is neither an option nor an option's value."""
    words = iter(argv)
    for word in words:
        if word == "--":
            return next(words, None)
        if not word.startswith("-") or word == "-":
            return word
        action = parser._option_string_actions.get(word)
        # Options of sections, which the parser does not have yet, take a value.
        if "=" not in word and (action is None or action.nargs != 0):
            next(words, None)
    return None


def _explained(parser: Any, message: str) -> str:
    """Return the parser's message on one line of bearable length, with choices, the nearest option, and metavars."""
    text = " ".join(str(message).split())
    if "required" in text:
        for action in parser._actions:
            if not action.option_strings and isinstance(action.metavar, str):
                text = re.sub(rf"\b{re.escape(action.dest)}\b", action.metavar, text)
    if choice := re.search(r'key "([\w.]+)": Expected a typing\.Literal\[(.*)\]\. Got value: (.*)', text):
        option, choices, value = choice.groups()
        return f"{option} is {_cut(value)!r}; choose one of {choices.replace(chr(39), '')}"
    names = [name for name in parser._option_string_actions if name.startswith("--")]
    unknown = [word for word in re.findall(r"--[\w.]+", text) if word not in names]
    if unknown and (section := unknown[0][2:].partition(".")[0]) in parser.other_sections:
        return f"{unknown[0]} is not used by this command, nor is any option of {section}"
    near = difflib.get_close_matches(unknown[0], names, n=1) if unknown else []
    return _cut(text) + (f" (did you mean {near[0]}?)" if near else "")


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]}..."
