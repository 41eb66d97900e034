"""Parser of a command's options: its own, and those of the sections that it uses, as ``--section.option``.

Each of these stands over all of the next: the command line, config files (``--config``), the options that a memory
file was read with (``--memory FILE``), the options of the run (RUN), the defaults.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import pkgutil
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import jsonargparse
import yaml
from docstring_parser import parse_from_object

from dynlm.cli import completion
from dynlm.cli.command import Argument, Command
from dynlm.cli.config_files import Files, Layers, config_path, read_config
from dynlm.cli.words import check_list, type_of
from dynlm.errors import UserError
from dynlm.run.locate import find_run
from dynlm.runtime.renamed import rename_words
from dynlm.runtime.text import did_you_mean
from dynlm.runtime.validation import Section, sections_of, types_of, within

_LONGEST_MESSAGE = 500
_METAVARS = {hint: name for kind, name in ((int, "N"), (float, "X"), (str, "TEXT")) for hint in (kind, kind | None)}
_WRONG_TYPE = re.compile(
    r'key "([\w.]+)": (?:Does not validate against any .*?Subtypes: |Expected an? )(.*?)(?: Errors: .*)?'
    r"(?:\. Got| Given) value: (?!NestedArg)(.*)"
)
_KINDS = {"bool": "true or false", "int": "a whole number", "float": "a number"}
Given = list[tuple[str, str]]
"""Options with the words that follow them."""


class _Parser(jsonargparse.ArgumentParser):
    sections: Mapping[str, type[Section]] = MappingProxyType({})
    """The classes of the command's sections."""
    other_sections: Sequence[str] = ()
    """Sections that config files may have and the command does not use."""
    other_options: Sequence[str] = ()
    """Options, of sections of which it uses others, that it does not."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # type: ignore[override]
        raise UserError(_explained(self, message), do=f"see `{self.prog} --help`") from ex

    def _print_message(self, message: str, file: Any = None) -> None:
        (file or sys.stderr).write(message)  # argparse's own ignores errors, such as a full disk


class _Help(argparse.RawDescriptionHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if action.option_strings and action.nargs != 0 and action.default not in (None, [], argparse.SUPPRESS):
            text += f" (default: {str(action.default).replace('%', '%%')})"
        return text


def parse(name: str, command: Command, argv: list[str]) -> tuple[jsonargparse.Namespace, Any]:
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
    kind, given = pkgutil.resolve_name(command.options), _given(argv)
    words: dict[str, dict[str, str]] = {}
    for option, value in given:
        section, dot, own = option.partition(".")
        if dot:
            words.setdefault(section, {})[own] = value
    named = _first_positional(parser, argv) if command.takes_run else None
    folder = None if named is None else find_run(named, command.runs)
    run = {} if folder is None else _run_options(command, folder, given)
    layers = Layers(kind, _config_files(command, kind, given), run, words)
    used = command.used_sections() or dict.fromkeys(layers.kinds, ())
    of_a_run = command.takes_run and not (command.run_is_optional and folder is None)
    unused = command.unused_options
    taken = {name: [*own] or _taken_options(layers.kinds[name], of_a_run, unused) for name, own in used.items()}
    parser.sections = layers.kinds
    parser.other_sections = [section for section in layers.kinds if not taken.get(section)]
    parser.other_options = [
        f"--{section}.{name}"
        for section in used
        for name in types_of(layers.kinds[section])
        if name not in taken[section]
    ]
    for section, names in taken.items():
        hints = types_of(layers.kinds[section])
        for name, word in words.get(section, {}).items():
            if name in names and not word.startswith("--"):
                check_list(f"{section}.{name}", hints[name], word)
    common, hidden = command.common.split() or [*used], 0
    for section, names in taken.items():
        shown = names if full_help else _common_options(section, layers) if section in common else []
        hidden += _add_section(parser, section, layers, names, shown) if names else 0
    if hidden:
        parser.epilog = f"`{parser.prog} --help all` lists {hidden} more options.\n\n{parser.epilog}"
    options = _parse_args(parser, command, argv)
    if folder is not None:
        options.folder = str(folder)
    config = layers.build({section: options[section].as_dict() for section in used if taken[section]})
    if options.print_config:
        print(yaml.safe_dump({each: vars(getattr(config, each)) for each in used}, sort_keys=False), end="")
        raise SystemExit(0)
    return options, config


def _own_parser(name: str, command: Command) -> _Parser:
    """Return the parser of a command without sections."""
    # jsonargparse's own --print_config would print the command's own options too.
    parser = _Parser(prog=f"dynlm {name}", formatter_class=_Help, allow_abbrev=False, print_config=None)
    parser.description = command.about
    parser.epilog = "\n".join(["examples:", *(f"  {example}" for example in command.examples)])
    if command.takes_config:
        about = "a YAML file with options, or a shipped config's name: demo"
        parser.add_argument("--config", type=str, metavar="FILE", help=about)
        if "base" in types_of(pkgutil.resolve_name(command.options)):
            about = "a config file that the options stand on; also a line of a config file"
            parser.add_argument("--base", type=str, metavar="FILE", help=about)
        parser.add_argument("--print_config", action="store_true", help="print the options as YAML, and do nothing")
    if command.takes_run:
        about, count = (
            f"a run: folder ({command.runs}/demo), name, or hub ORG/NAME",
            "?" if command.run_is_optional else None,
        )
        parser.add_argument("folder", type=str, nargs=count, metavar="RUN", help=about)
    if command.takes_memory:
        about = "a memory file to start from, as `dynlm read` writes it (also --memory FILE)"
        parser.add_argument("--memory_file", type=str, metavar="FILE", help=about)
    for each in command.own:
        if isinstance(each, Argument):
            count = "+" if each.many else None
            parser.add_argument(_dest(each), type=str, nargs=count, metavar=each.metavar, help=each.about)
        elif each.type is None:
            parser.add_argument(each.name, action="store_true", help=each.about)
        elif each.many:
            parser.add_argument(each.name, type=each.type, action="append", help=each.about)
        else:
            kind = each.type if each.default is not None or each.type is str else each.type | None
            parser.add_argument(each.name, type=kind, default=each.default, help=each.about)
    parser.add_argument("--json", action="store_true", help="print JSON, and nothing else on standard output")
    positionals = [action for action in parser._actions if not action.option_strings]
    shown = {"+": "{} ...", "?": "[{}]"}
    words = [shown.get(str(action.nargs), "{}").format(action.metavar) for action in positionals]
    parser.usage = " ".join([f"{parser.prog} [options]", *words])
    return parser


def _given(argv: list[str]) -> Given:
    """Return the options in ``argv`` with their values; the word after a switch passes for its value."""
    given = []
    for word, after in itertools.zip_longest(argv, argv[1:]):
        option, equals, value = word.partition("=")
        if option.startswith("--") and (equals or after is not None):
            given.append((option[2:], value if equals else after))
    return given


def _config_files(command: Command, kind: type, given: Given) -> Files:
    """Return the config files that are given, else the command's default one."""
    if command.config and "config" not in dict(given):
        given = [*given, ("config", command.config)]
    paths = [value for wanted in ("base", "config") for option, value in given if option == wanted and value != "null"]
    return [file for path in paths for file in read_config(config_path(path), kind)]


def _run_options(command: Command, folder: Path, given: Given) -> dict[str, Any]:
    """Return the options of a run, with those of a memory file that is given."""
    config = pkgutil.resolve_name(command.load_run)(folder)
    files = [Path(value) for option, value in given if option == "memory_file" and command.takes_memory]
    if existing := [path for path in files if path.exists()]:
        from dynlm.adapt.memory_file import options_of

        config = dataclasses.replace(config, memory=options_of(existing[-1], config.memory))
    elif command.mixes_new_memories:
        config = dataclasses.replace(config, memory=dataclasses.replace(config.memory, no_regret=True))
    return dataclasses.asdict(config)


def _common_options(section: str, layers: Layers) -> list[str]:
    """Return the options of a section that it names as common, and those that a plug-in adds which names none."""
    kind, base = layers.kinds[section], sections_of(layers.kind)[section]
    common, hints = kind.COMMON.split() or list(types_of(kind)), types_of(base)
    return common + [name for name in types_of(kind) if kind.COMMON == base.COMMON and name not in hints]


def _taken_options(kind: type[Section], of_a_run: bool, unused: set[str]) -> list[str]:
    """Return a section's options that a command takes, without ``unused``: for a run that is made, those of reading."""
    names = kind.READING.split() if of_a_run and kind.READING != "*" else [*types_of(kind)]
    return [name for name in names if f"{kind.SECTION}.{name}" not in unused]


def _add_section(parser: _Parser, section: str, layers: Layers, names: list[str], shown: list[str]) -> int:
    """Add the options ``names`` of a section; return how many of them ``--help`` hides: all but ``shown``."""
    kind = layers.kinds[section]
    bases = [each for each in reversed(kind.__mro__) if dataclasses.is_dataclass(each)]
    about = {item.arg_name: item.description or "" for each in bases for item in parse_from_object(each).params}
    group = parser.add_argument_group(f"{section}: {(kind.__doc__ or '').strip().partition(chr(10))[0].rstrip('.')}")
    hints, hidden = types_of(kind), 0
    for item in (each for each in dataclasses.fields(kind) if each.name in names):
        name, is_shown = item.name, item.name in shown
        default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
        default = layers.values[section].get(name, default)
        text = " ".join(about.get(name, "").split()).replace("%", "%%") if is_shown else argparse.SUPPRESS
        hidden += not is_shown
        action = group.add_argument(f"--{section}.{name}", type=type_of(hints[name]), default=default, help=text)
        action.metavar = _METAVARS.get(hints[name], action.metavar)
    for name in layers.ignored[section]:
        group.add_argument(f"--{section}.{name}", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return hidden


def _parse_args(parser: _Parser, command: Command, argv: list[str]) -> jsonargparse.Namespace:
    """Parse ``argv``. Raises UserError for whatever the parser raises for a value, and for numbers out of bounds."""
    if completion.is_asked():
        completion.offer_values(parser)
    try:
        options = parser.parse_args(argv)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        what = _cut(str(error))
        raise UserError(f"the options cannot be read ({what})", do="see --help for what each may be") from error
    for each in command.own:
        if not isinstance(each, Argument) and isinstance(value := options[each.name[2:]], int | float):
            within(each.name, value, each.low, each.high)
        if isinstance(each, Argument) and each.runs is not None:
            dest = _dest(each)
            words = options[dest] if each.many else [options[dest]]
            found = [str(find_run(word, each.runs, missing_ok=each.many)) for word in words]
            options[dest] = found if each.many else found[0]
    return options


def _dest(argument: Argument) -> str:
    """Return the name of a positional argument among the parsed options."""
    return argument.metavar.lower() + "s" * argument.many


def _first_positional(parser: _Parser, argv: list[str]) -> str | None:
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


def _explained(parser: _Parser, message: str) -> str:
    """Return the parser's message on one line of bearable length, with choices, the nearest option, and metavars."""
    text = " ".join(str(message).split())
    if "required" in text:
        for action in parser._actions:
            if not action.option_strings and isinstance(action.metavar, str):
                text = re.sub(rf"\b{re.escape(action.dest)}\b", action.metavar, text)
    if choice := re.search(r'key "([\w.]+)": Expected a typing\.Literal\[(.*)\]\. Got value: (.*)', text):
        option, choices, value = choice.groups()
        return f"{option} is {_cut(value)!r}; choose one of {choices.replace(chr(39), '')}"
    if wrong := _WRONG_TYPE.search(text):
        option, hint, value = wrong.groups()
        if kinds := [kind for name, kind in _KINDS.items() if f"'{name}'" in hint]:
            return f"--{option} is {_cut(value)!r}; write {' or '.join(kinds)}"
    names = [name for name in parser._option_string_actions if name.startswith("--")]
    unknown = [word for word in re.findall(r"--[\w.]+", text) if word not in names]
    if unknown and (section := unknown[0][2:].partition(".")[0]) in parser.other_sections:
        return f"{unknown[0]} is not used by this command, nor is any option of {section}"
    if unknown and unknown[0] in parser.other_options:
        return f"{unknown[0]} is not used by this command"
    section, _, name = unknown[0][2:].partition(".") if unknown else ("", "", "")
    if section in parser.sections and (chosen := parser.sections[section].selected_by(name)):
        return f"{unknown[0]} goes with {chosen} alone"
    return _cut(text) + (did_you_mean(unknown[0], names) if unknown else "")


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]}..."
