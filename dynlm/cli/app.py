"""The command line: one verb, one function call. torch is imported only by verbs that compute.

Options are the dataclasses of ``dynlm.config``, read by jsonargparse from YAML (``--config``) and dotted options. A
verb that works on a run takes the run's own config as its defaults.
"""

from __future__ import annotations

import difflib
import errno
import itertools
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from dynlm.cli import fewshot as fewshot_verbs
from dynlm.cli import memory as memory_verbs
from dynlm.cli import report as picture_verbs
from dynlm.cli import score as scoring_verbs
from dynlm.cli import train as training_verbs
from dynlm.cli.command import Command, add_json, check_numbers, print_answer
from dynlm.cli.shipped_configs import config_path
from dynlm.errors import UserError
from dynlm.runtime.launcher import is_multi_process
from dynlm.runtime.signals import Stopped, raise_on_sigterm
from dynlm.runtime.text import escape_for_streams, printable

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from dynlm.study.options import StudyOptions
    from dynlm.train.config import Config


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 2 for what the user can mend, said in one line.

    130 where it is stopped by Ctrl-C, 143 by SIGTERM, 141 where nobody reads what it prints.
    """
    escape_for_streams()
    try:
        try:
            return _run(sys.argv[1:] if argv is None else argv)
        finally:
            sys.stdout.flush()  # --help leaves by SystemExit
    except UserError as error:
        return _refuse(str(error))
    except BrokenPipeError:
        # Who was reading has what they wanted, as in `dynlm compare RUN | head`; what is left is for nobody.
        _print_no_more()
        return 141
    except OSError as error:
        if error.filename is None and error.errno in _NO_ROOM:
            # What is written to standard output has no name.
            _print_no_more()
            return _refuse(f"cannot write: {error.strerror}; free some space and start again")
        if error.errno is None or error.filename is None:
            raise
        return _refuse(f"{error.filename}: {error.strerror}")
    except KeyboardInterrupt as stop:
        stopped = stop if isinstance(stop, Stopped) else Stopped()
        # Of several processes that were stopped together, one tells.
        if os.environ.get("RANK", "0") == "0":
            then = f"goes on from {stopped.saved}" if stopped.saved else "begins anew"
            print(printable(f"dynlm: stopped; the same command {then}"), file=sys.stderr)
        return stopped.exit_code


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def _refuse(message: str) -> int:
    print(f"dynlm: error: {printable(message)}", file=sys.stderr)
    return 2


def _print_no_more() -> None:
    """Send what is still to be printed nowhere: Python would fail on it once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if argv[0] == "--version":
        import dynlm

        print(f"dynlm {dynlm.__version__}")
        return 0
    name, rest = _verb_of(argv)
    if name is None:
        print(_overview(argv[0]))
        return 0
    is_multi_process()  # of several processes one tells: what says which has to be whole
    verb = COMMANDS[name]
    with raise_on_sigterm():
        try:
            return _call(name, verb, rest)
        except KeyboardInterrupt as stop:
            stopped = stop if isinstance(stop, Stopped) else Stopped()
            if verb.resumes and stopped.saved is None:
                stopped.saved = "the newest checkpoint, where there is one"
            raise stopped from None


def load_config(path: str | Path) -> Config:
    """A config file with its options checked; what it leaves out has its default. Raises UserError."""
    from dynlm.train.config import Config

    config: Config = load_options(path, Config)
    return config


def load_options(path: str | Path, kind: type) -> Any:
    """The same of another dataclass of options, such as few-shot learning's."""
    return _options(_config_parser("dynlm", "", kind), ["--config", str(path)], kind)[1]


def _verb_of(argv: list[str]) -> tuple[str | None, list[str]]:
    """(the verb, what follows it); a verb of two words has its group first. None where a group's help is asked for."""
    group = {name for name in COMMANDS if name.startswith(f"{argv[0]} ")}
    if not group and argv[0] in COMMANDS:
        return argv[0], argv[1:]
    if group and len(argv) > 1 and " ".join(argv[:2]) in COMMANDS:
        return " ".join(argv[:2]), argv[2:]
    if group and (len(argv) == 1 or argv[1] in ("-h", "--help")):
        return None, []
    told = " ".join(argv[:2]) if group else argv[0]
    near = difflib.get_close_matches(told, COMMANDS, n=1)
    meant = f" (did you mean {near[0]}?)" if near else ""
    raise UserError(f"there is no verb {told!r}{meant}", do=f"choose one of {', '.join(sorted(group) or COMMANDS)}")


def _call(name: str, verb: Command, argv: list[str]) -> int:
    kind = verb.options()
    parser = _config_parser(name, verb.about, kind) if verb.takes_config else _bare_parser(name, verb.about)
    if verb.takes_config:
        argv = _with_config_paths(argv)
        if verb.config is not None and not _files(argv, "config"):
            argv = ["--config", config_path(verb.config), *argv]
    if verb.takes_run:
        parser.add_argument("folder", type=str, metavar="RUN", help="the run's folder, such as runs/demo")
    if verb.takes_memory:
        about = "a memory file to start from, as `dynlm read` keeps it (also --memory FILE)"
        parser.add_argument("--memory_file", type=str | None, default=None, metavar="FILE", help=about)
        argv = ["--memory_file" + word.removeprefix("--memory") if _is_memory(word) else word for word in argv]
    verb.add_options(parser)
    parser.epilog = "examples:\n" + "\n".join(f"  {example}" for example in verb.examples)
    if verb.takes_run and (folder := _first_positional(parser, argv)) is not None:
        import dataclasses

        config = verb.load_run(Path(folder))
        for path in _files(argv, "memory_file") if verb.takes_memory else ():
            if Path(path).exists():
                from dynlm.adapt.memory_file import options_of

                config = dataclasses.replace(config, memory=options_of(Path(path), config.memory))
            elif verb.mixes_new_memories:
                config = dataclasses.replace(config, memory=config.memory.replace(no_regret=True))
        parser.set_defaults(dataclasses.asdict(config))
    if not verb.takes_config:
        options, config = _parsed(parser, argv), kind()
    else:
        options, config = _options(parser, argv, kind)
    check_numbers(options)
    return verb.run(options, config)


def _options(parser: ArgumentParser, argv: list[str], kind: type) -> tuple[Namespace, Any]:
    """The options of ``argv``, checked. Raises UserError, which names the config file where that is what is wrong."""
    argv = _with_bases(argv, kind)
    try:
        options = _parsed(parser, argv)
        return options, _instantiate(parser, options, kind)
    except UserError:
        for path in _files(argv, "config"):
            alone = _config_parser("dynlm", "", kind)
            try:
                _instantiate(alone, _parsed(alone, ["--config", path]), kind)
            except UserError as error:
                what = str(error).partition("; see `dynlm")[0]
                raise UserError(what, None if path in what else path) from error
        raise


def _parsed(parser: ArgumentParser, argv: list[str]) -> Namespace:
    """What the parser makes of ``argv``. Raises UserError for whatever it stumbles over in values."""
    try:
        return parser.parse_args(argv)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise UserError(
            f"the options cannot be read ({_shortened(str(error))})", do="see --help for what each may be"
        ) from error


def _with_bases(argv: list[str], kind: type) -> list[str]:
    """``argv`` with the config files that ``base`` names read before all others.

    Raises UserError where a config file is none.
    """
    import dataclasses

    from dynlm.runtime.parsing import read_yaml

    takes_base = "base" in {item.name for item in dataclasses.fields(kind)}
    bases = [word for path in _files(argv, "base") if takes_base for word in ("--config", path)]
    sections = [item.name for item in dataclasses.fields(kind) if dataclasses.is_dataclass(item.default_factory)]
    # What is refused here the parser does not see, which would open whatever a section names in place of options.
    for section in sections:
        for word in _files(argv, section):
            if os.path.exists(word):
                raise UserError(f"--{section} names a file", word, "give it by --config, with its sections")
    for path in bases[1::2]:
        _refuse_nested(read_yaml(path), path, sections)
    for path in _files(argv, "config"):
        content = read_yaml(path)
        _refuse_nested(content, path, sections)
        if takes_base and isinstance(content, dict) and isinstance(base := content.get("base"), str):
            below = Path(path).parent / base
            _refuse_nested(read_yaml(below), below, sections)
            bases += ["--config", str(below)]
    # It is read: the options that are printed or kept stand by themselves.
    return [*bases, *argv, "--base=null"] if bases else argv


def _refuse_nested(content: object, path: str | Path, sections: list[str]) -> None:
    """Raise UserError where a section of a config file is no mapping: the parser would take text for a file's name."""
    for section in sections:
        if isinstance(content, dict) and section in content and not isinstance(content[section], dict | type(None)):
            raise UserError(f"{section} is {_shortened(repr(content[section]), 60)}", path, "write its options there")


def _with_config_paths(argv: list[str]) -> list[str]:
    """``argv`` with the files of shipped configs in place of their names. Raises UserError for what is neither."""
    words, options = list(argv), ("--config", "--base")
    for index, word in enumerate(argv):
        option, separator, value = word.partition("=")
        if option in options and separator and value != "null":
            words[index] = f"{option}={config_path(value)}"
        elif index and argv[index - 1] in options and word != "null":
            words[index] = config_path(word)
    return words


def _files(argv: list[str], option: str) -> list[str]:
    """The files that ``--option`` names."""
    files = [word.partition("=")[2] for word in argv if word.startswith(f"--{option}=")]
    return files + [path for word, path in itertools.pairwise(argv) if word == f"--{option}"]


def _bare_parser(name: str, about: str) -> ArgumentParser:
    import argparse

    import jsonargparse

    class Parser(jsonargparse.ArgumentParser):
        def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # type: ignore[override]
            raise UserError(_explained(self, message), do=f"see `dynlm {name} --help`") from ex

        def _print_message(self, message: str, file: Any = None) -> None:
            (file or sys.stderr).write(message)  # argparse's own hides that a disk is full

    class Help(jsonargparse.DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
        pass

    parser: ArgumentParser = Parser(prog=f"dynlm {name}", description=about, formatter_class=Help, allow_abbrev=False)
    return parser


def _config_parser(name: str, about: str, kind: type) -> ArgumentParser:
    import jsonargparse

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = _bare_parser(name, about)
    parser.add_argument("--config", action="config", help="a YAML file with options, or a shipped config's name: demo")
    parser.add_class_arguments(kind)
    return parser


def _instantiate(parser: ArgumentParser, options: Namespace, kind: type) -> Any:
    import dataclasses
    from typing import get_type_hints

    from dynlm.runtime.validation import section_of

    for name, section in get_type_hints(kind).items():
        if isinstance(section, type) and dataclasses.is_dataclass(section):
            given = options.get(name)
            section_of(section, None if given is None else given.as_dict(), name)
    made = parser.instantiate(options)
    return kind(**{item.name: getattr(made, item.name) for item in dataclasses.fields(kind)})


def _is_memory(word: str) -> bool:
    """Whether a word is the option ``--memory``, not one of the options of the memory (``--memory.rule``)."""
    return word == "--memory" or word.startswith("--memory=")


def _first_positional(parser: ArgumentParser, argv: list[str]) -> str | None:
    """The run's folder: the first word that is neither an option nor an option's value."""
    words = iter(argv)
    for word in words:
        if word == "--":
            return next(words, None)
        if not word.startswith("-") or word == "-":
            return word
        action = parser._option_string_actions.get(word)
        # An option that is not known is refused later; its value is none of the folder's.
        if "=" not in word and (action is None or action.nargs != 0):
            next(words, None)
    return None


def _explained(parser: ArgumentParser, message: str) -> str:
    """The parser's message on one line of bearable length: with the nearest options, and what usage calls arguments."""
    told = " ".join(str(message).split())
    if "required" in told:
        for action in parser._actions:
            if not action.option_strings and isinstance(action.metavar, str):
                told = re.sub(rf"\b{re.escape(action.dest)}\b", action.metavar, told)
    if choice := re.search(r'key "([\w.]+)": Expected a typing\.Literal\[(.*)\]\. Got value: (.*)', told):
        option, choices, value = choice.groups()
        return f"{option} is {_shortened(value)!r}; choose one of {choices.replace(chr(39), '')}"
    names = [name for name in parser._option_string_actions if name.startswith("--")]
    unknown = [word for word in re.findall(r"--[\w.]+", told) if word not in names]
    near = difflib.get_close_matches(unknown[0], names, n=1) if unknown else []
    return _shortened(told) + (f" (did you mean {near[0]}?)" if near else "")


def _shortened(told: str, most: int = 500) -> str:
    return told if len(told) <= most else f"{told[:most]}..."


def _overview(group: str = "") -> str:
    shown = {name: verb for name, verb in COMMANDS.items() if name.startswith(f"{group} " if group else "")}
    width = max(map(len, shown))
    lines = [f"  {name:{width}}  {verb.about}" for name, verb in shown.items()]
    return "\n".join(
        [
            "usage: dynlm VERB [options]",
            "",
            "LSTM language models whose weights change while they read.",
            "",
            *lines,
            "",
            "`dynlm VERB --help` lists a verb's options.",
            "",
            "examples:",
            "  dynlm demo",
            "  dynlm pretrain --config wikitext-2-small --corpus.path DIR",
        ]
    )


def _demo(options: Namespace, config: Config) -> int:
    from dynlm.evaluation.checks.protocol import check_every_rule, to_dict, to_text
    from dynlm.evaluation.tables import text_table
    from dynlm.run.folder import run_path
    from dynlm.run.run import Run
    from dynlm.study.demo import demo

    comparison, written = demo(config, quiet=options.json, progress=sys.stderr.isatty() and not options.json)
    checks = check_every_rule(Run.open(run_path(config.run), *vars(config).values()), "valid", places=4)
    files = [str(path) for path in written]
    print_answer(
        options,
        {**comparison.to_dict(), "files": files, "audit": to_dict(checks)},
        "\n".join(["", text_table(comparison), "", to_text(checks), "", *(f"wrote {file}" for file in files)]),
    )
    return 0 if all(check.kept for check in checks) else 1


def _study_options() -> type:
    from dynlm.study.options import StudyOptions

    return StudyOptions


def _study(options: Namespace, config: StudyOptions) -> int:
    from dynlm.study.pages import verdict
    from dynlm.study.run import study
    from dynlm.study.tables import as_dict, figures_table

    results, written = study(config, quiet=options.json, progress=sys.stderr.isatty() and not options.json)
    files = [str(path) for path in written]
    text = ["", figures_table(results), verdict(results), "", *(f"wrote {file}" for file in files)]
    print_answer(options, {**as_dict(results), "files": files}, "\n".join(text))
    return 0


COMMANDS: dict[str, Command] = {
    "demo": Command(
        "the main job on the embedded corpus: train, tune, meta-train, read, compare, draw",
        ("dynlm demo", "dynlm demo --run.name quick --pretrain.epochs 1"),
        _demo,
        add_json,
        config="demo",
        resumes=True,
    ),
    "study": Command(
        "which arm is better: tune every arm alike, read other articles by each, and tell what came of it",
        (
            "dynlm study --config study-wikitext-2 --corpus.path DIR",
            "dynlm study --config runs/wikitext-2-small/study/config.yaml --corpus.path OTHER --study.tune false",
        ),
        _study,
        add_json,
        options=_study_options,
        resumes=True,
    ),
    **training_verbs.COMMANDS,
    **scoring_verbs.COMMANDS,
    **picture_verbs.COMMANDS,
    **memory_verbs.COMMANDS,
    **fewshot_verbs.COMMANDS,
}


if __name__ == "__main__":
    raise SystemExit(main())
