"""The command line: one verb, one function call. torch is imported only by verbs that compute.

Options are the dataclasses of ``dynlm.config``, read by jsonargparse from YAML (``--config``) and dotted options. A
verb that works on a run takes the run's own config as its defaults.
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from dynlm import fewshot_verbs, memory_verbs
from dynlm.errors import UserError
from dynlm.stopping import Stopped, stopped_by_sigterm
from dynlm.verb import Verb
from dynlm.verb import add_json as _add_json
from dynlm.verb import is_quiet as _quiet
from dynlm.verb import print_answer as _print

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from dynlm.config import Config
    from dynlm.study.options import StudyOptions


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 2 for what the user can mend, said in one line.

    130 where it is stopped by Ctrl-C, 143 by SIGTERM, 141 where nobody reads what it prints.
    """
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"dynlm: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Who was reading has what they wanted, as in `dynlm compare RUN | head`; what is left is for nobody.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno is None or error.filename is None:
            raise
        print(f"dynlm: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        stopped = stop if isinstance(stop, Stopped) else Stopped()
        # Of several processes that were stopped together, one tells.
        if os.environ.get("RANK", "0") == "0":
            goes_on = stopped.saved or "the newest checkpoint, where there is one"
            print(f"dynlm: stopped; the same command goes on from {goes_on}", file=sys.stderr)
        return stopped.exit_code


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
    with stopped_by_sigterm():
        return _call(name, VERBS[name], rest)


def load_config(path: str | Path) -> Config:
    """A config file with its options checked; what it leaves out has its default. Raises UserError."""
    from dynlm.config import Config

    config: Config = load_options(path, Config)
    return config


def load_options(path: str | Path, kind: type) -> Any:
    """The same of another dataclass of options, such as few-shot learning's."""
    return _options(_config_parser("dynlm", "", kind), ["--config", str(path)], kind)[1]


def _verb_of(argv: list[str]) -> tuple[str | None, list[str]]:
    """(the verb, what follows it); a verb of two words has its group first. None where a group's help is asked for."""
    group = {name for name in VERBS if name.startswith(f"{argv[0]} ")}
    if not group and argv[0] in VERBS:
        return argv[0], argv[1:]
    if group and len(argv) > 1 and " ".join(argv[:2]) in VERBS:
        return " ".join(argv[:2]), argv[2:]
    if group and (len(argv) == 1 or argv[1] in ("-h", "--help")):
        return None, []
    told = " ".join(argv[:2]) if group else argv[0]
    raise UserError(f"there is no verb {told!r}", do=f"choose one of {', '.join(sorted(group) or VERBS)}")


def _call(name: str, verb: Verb, argv: list[str]) -> int:
    kind = verb.options()
    parser = _config_parser(name, verb.about, kind) if verb.takes_config else _bare_parser(name, verb.about)
    if verb.takes_run:
        parser.add_argument("folder", type=str, metavar="RUN", help="the run's folder, such as runs/demo")
    if verb.takes_memory:
        about = "a memory file to start from, as `dynlm read` keeps it (also --memory FILE)"
        parser.add_argument("--memory_file", type=str | None, default=None, metavar="FILE", help=about)
        argv = ["--memory_file" + word.removeprefix("--memory") if _is_memory(word) else word for word in argv]
    verb.add_options(parser)
    parser.epilog = "examples:\n" + "\n".join(f"  {example}" for example in verb.examples)
    if verb.takes_run and (folder := _first_positional(argv)) is not None:
        import dataclasses

        config = verb.load_run(Path(folder))
        for path in _files(argv, "memory_file") if verb.takes_memory else ():
            if Path(path).exists():
                from dynlm.memory.file import options_of

                config = dataclasses.replace(config, memory=options_of(Path(path), config.memory))
        parser.set_defaults(dataclasses.asdict(config))
    if not verb.takes_config:
        return verb.run(parser.parse_args(argv), kind())
    return verb.run(*_options(parser, argv, kind))


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
        raise UserError(f"the options cannot be read ({error})", do="see --help for what each may be") from error


def _with_bases(argv: list[str], kind: type) -> list[str]:
    """``argv`` with the config files that ``base`` names read before all others.

    Raises UserError where a config file is none.
    """
    import dataclasses

    from dynlm.files import read_yaml

    takes_base = "base" in {item.name for item in dataclasses.fields(kind)}
    bases = [word for path in _files(argv, "base") if takes_base for word in ("--config", path)]
    for path in _files(argv, "config"):
        content = read_yaml(path)  # what it refuses the parser does not see
        if takes_base and isinstance(content, dict) and isinstance(base := content.get("base"), str):
            bases += ["--config", str(Path(path).parent / base)]
    # It is read: the options that are printed or kept stand by themselves.
    return [*bases, *argv, "--base=null"] if bases else argv


def _files(argv: list[str], option: str) -> list[str]:
    """The files that ``--option`` names."""
    files = [word.partition("=")[2] for word in argv if word.startswith(f"--{option}=")]
    return files + [path for word, path in itertools.pairwise(argv) if word == f"--{option}"]


def _bare_parser(name: str, about: str) -> ArgumentParser:
    import argparse

    import jsonargparse

    class Parser(jsonargparse.ArgumentParser):
        def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # type: ignore[override]
            raise UserError(_one_line(message), do=f"see `dynlm {name} --help`") from ex

    class Help(jsonargparse.DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
        pass

    parser: ArgumentParser = Parser(prog=f"dynlm {name}", description=about, formatter_class=Help, allow_abbrev=False)
    return parser


def _config_parser(name: str, about: str, kind: type) -> ArgumentParser:
    import jsonargparse

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = _bare_parser(name, about)
    parser.add_argument("--config", action="config", help="a YAML file with options; see configs/")
    parser.add_class_arguments(kind)
    return parser


def _instantiate(parser: ArgumentParser, options: Namespace, kind: type) -> Any:
    import dataclasses
    from typing import get_type_hints

    from dynlm.config import section_of

    for name, section in get_type_hints(kind).items():
        if isinstance(section, type) and dataclasses.is_dataclass(section):
            given = options.get(name)
            section_of(name, section, None if given is None else given.as_dict())
    made = parser.instantiate(options)
    return kind(**{item.name: getattr(made, item.name) for item in dataclasses.fields(kind)})


def _is_memory(word: str) -> bool:
    """Whether a word is the option ``--memory``, not one of the options of the memory (``--memory.rule``)."""
    return word == "--memory" or word.startswith("--memory=")


def _first_positional(argv: list[str]) -> str | None:
    """The run's folder, which stands first after the verb (or behind options written --name=value)."""
    return next((word for word in argv if not word.startswith("-")), None)


def _one_line(message: str) -> str:
    return " ".join(str(message).split())


def _overview(group: str = "") -> str:
    shown = {name: verb for name, verb in VERBS.items() if name.startswith(f"{group} " if group else "")}
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
            "  dynlm pretrain --config configs/wikitext-2-small.yaml --corpus.path DIR",
        ]
    )


def _corpus(options: Namespace, config: Config) -> int:
    from dynlm.corpus.articles import describe, source_name

    counts = describe(config.corpus)
    rows = [f"{source_name(config.corpus)}", f"{'split':8}{'articles':>10}{'words':>12}{'types':>10}  longest article"]
    for split, count in counts.items():
        longest = count["longest"]
        rows.append(
            f"{split:8}{count['articles']:>10,}{count['words']:>12,}{count['types']:>10,}  "
            f"{longest['title']} ({longest['words']:,} words)"
        )
    _print(options, counts, "\n".join([*rows, "words and types count each end of line as one, as the literature does"]))
    return 0


def _pretrain(options: Namespace, config: Config) -> int:
    from dynlm.training.pretrain import pretrain

    done = pretrain(config, _quiet(options))
    _print(
        options,
        done,
        f"level 1 on valid: {done['valid_nats_per_token']:.4f} nats per token, perplexity "
        f"{done['valid_perplexity_per_word']:.1f} per word, after {done['tokens']:,} tokens in {done['seconds']:.0f} s",
    )
    return 0


def _tune(options: Namespace, config: Config) -> int:
    if config.memory.cache != "none":
        return _tune_cache(options, config)
    from dynlm.training.tune import tune

    done = tune(Path(options.folder), config, _quiet(options))
    values = ", ".join(f"{name} {done[name]:g}" for name in ("rate", "pull", "epsilon") if name in done)
    _print(
        options,
        done,
        f"{done['rule']} ({done['reset']}): {values}: {done['nats_per_token']:.4f} nats per token, level 1 "
        f"{done['level_1_nats_per_token']:.4f}, on {len(done['articles'])} articles of {done['split']}",
    )
    return 0


def _tune_cache(options: Namespace, config: Config) -> int:
    from dynlm.training.cache_gate import tune_cache

    done = tune_cache(Path(options.folder), config, _quiet(options))
    _print(
        options,
        done,
        f"{done['rule']} + cache ({done['reset']}): window {done['window']}, flatness {done['flatness']:g}, share "
        f"{done['share']:g}: {done['nats_per_token']:.4f} nats per token, without it "
        f"{done['without_cache_nats_per_token']:.4f}, on {len(done['articles'])} articles of {done['split']}",
    )
    return 0


def _metatrain(options: Namespace, config: Config) -> int:
    if config.memory.cache != "none":
        return _train_gate(options, config)
    from dynlm.training.metatrain import metatrain

    done = metatrain(Path(options.folder), config, _quiet(options))
    nats = done["tuning_nats_per_token"]
    rows = [f"{'tensor':20}{'rate':>12}{'pull':>12}{'flush':>8}"]
    rows += [
        f"{name:20}{told['alpha']:>12.3g}{told['lambda']:>12.3g}{told.get('flush', 0.0):>8.2f}"
        for name, told in done["phi"].items()
    ]
    rows.append(
        f"on the tuning articles: {nats['start']:.4f} nats per token at the start (rms), "
        f"{nats['halfway']:.4f} halfway, {nats['learned']:.4f} as learned; kept: {done['kept']}"
    )
    _print(options, done, "\n".join(rows))
    return 0


def _finetune(options: Namespace, config: Config) -> int:
    from dynlm.training.finetune import finetune

    done = finetune(Path(options.folder), config, _quiet(options))
    nats = ", ".join(f"{value:.4f} {name}" for name, value in done["tuning_nats_per_token"].items())
    _print(
        options,
        done,
        f"on the tuning articles, nats per token by {done['picked_by']}: {nats}; kept: {done['kept']}\n"
        f"level 1 on valid: {done['valid_nats_per_token']:.4f} nats per token\nwrote {done['run']}",
    )
    return 0


def _train_gate(options: Namespace, config: Config) -> int:
    from dynlm.training.cache_gate import train_gate

    done = train_gate(Path(options.folder), config, _quiet(options))
    nats, flatness = done["tuning_nats_per_token"], ", ".join(f"{value:g}" for value in done["flatness"])
    _print(
        options,
        done,
        f"{done['rule']} + gated cache ({done['reset']}): window {done['window']}, flatness {flatness}\n"
        f"on the tuning articles: {nats['none']:.4f} nats per token without a cache, {nats['start']:.4f} at the start, "
        f"{nats['learned']:.4f} as learned; kept: {done['kept']}",
    )
    return 0


def _add_text_options(parser: ArgumentParser) -> None:
    parser.add_argument("--split", type=str, default="valid", help="split to read: train, meta, valid or test")
    parser.add_argument("--articles", type=str | None, default=None, help="which of its articles, such as 31-60")


def _add_score_options(parser: ArgumentParser) -> None:
    _add_text_options(parser)
    parser.add_argument("--order", type=str, default="in order", help="'in order', or shuffled by --order_seed")
    parser.add_argument("--order_seed", type=int, default=0, help="seed of a shuffled order")
    _add_json(parser)


def _score(options: Namespace, config: Config) -> int:
    from dynlm.evaluation.compare import compare
    from dynlm.evaluation.score import score

    path, scores = score(
        Path(options.folder),
        config,
        options.split,
        options.articles,
        _quiet(options),
        options.order,
        options.order_seed,
        memory_file=_memory_file(options),
    )
    comparison = compare([scores])
    _print(options, {"file": str(path), **comparison.to_dict()}, f"{comparison.to_text()}\nwrote {path}")
    return 0


def _score_files(words: list[str], one_text: bool = True) -> list[Path]:
    """Score files named one by one, or all those of a run; with ``one_text`` they have to be of the same text."""
    from dynlm.evaluation.scores_file import read_scores, scores_of_run

    paths: list[Path] = []
    for word in words:
        path = Path(word)
        if not path.is_dir():
            paths.append(path)
            continue
        found = scores_of_run(path)
        if not found:
            raise UserError("no score files in this run", path, f"run `dynlm score {path}` first")
        texts = {each: read_scores(each).protocol["text"] for each in found}
        if one_text and len(set(texts.values())) > 1:
            raise UserError(
                "this run's score files are of several texts", path, f"name files: {' '.join(map(str, found))}"
            )
        paths += found
    return sorted(paths, key=lambda path: _place_of(read_scores(path).protocol))


def _place_of(protocol: dict[str, Any]) -> tuple[int, int, int, bool]:
    """From the plain LSTM up: by level, then in the rules' own order, each before its caches, then mixtures."""
    from dynlm.config import CACHES, RULES

    name = protocol.get("rule", {}).get("name")
    cache = (protocol.get("cache") or {}).get("kind", "none")
    return (
        int(protocol.get("level", 9)),
        RULES.index(name) if name in RULES else len(RULES),
        CACHES.index(cache) if cache in CACHES else len(CACHES),
        "no_regret" in protocol,
    )


def _add_files(parser: ArgumentParser) -> None:
    parser.add_argument("files", type=str, nargs="+", metavar="FILE", help="score files, or a run whose files to take")


def _add_compare_options(parser: ArgumentParser) -> None:
    _add_files(parser)
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    parser.add_argument("--resamples", type=int, default=2000, help="bootstrap resamples of the articles")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap")
    _add_json(parser)


def _compare(options: Namespace, config: Config) -> int:
    from dynlm.evaluation.compare import compare
    from dynlm.evaluation.scores_file import read_scores

    comparison = compare(
        [read_scores(path) for path in _score_files(options.files)], resamples=options.resamples, seed=options.seed
    )
    _print(options, comparison.to_dict(), comparison.to_markdown() if options.markdown else comparison.to_text())
    return 0


def _add_picture_options(parser: ArgumentParser) -> None:
    _add_files(parser)
    parser.add_argument("--out", type=str | None, default=None, help="folder to write to; unset: the run's figures/")
    _add_json(parser)


def _add_plot_options(parser: ArgumentParser) -> None:
    _add_picture_options(parser)
    parser.add_argument("--window", type=int | None, default=None, help="tokens that the curve is smoothed over")
    parser.add_argument("--pairs", type=str | None, default=None, help="pairs of arms, such as 'level 1:rms,rms:meta'")


def _figures(options: Namespace, paths: list[Path]) -> Path:
    return Path(options.out) if options.out else paths[0].parent.parent / "figures"


def _print_written(options: Namespace, written: list[Path]) -> None:
    _print(options, {"files": [str(path) for path in written]}, "\n".join(f"wrote {path}" for path in written))


def _plot(options: Namespace, config: Config) -> int:
    from dynlm.report.curves import plot_run

    paths = _score_files(options.files)
    pairs = None
    if options.pairs:
        pairs = []
        for pair in options.pairs.split(","):
            lower, separator, higher = pair.partition(":")
            if not separator:
                raise UserError(f"--pairs has {pair!r}", do="write LOWER:HIGHER, with commas between pairs")
            pairs.append((lower.strip(), higher.strip()))
    _print_written(options, plot_run(paths, _figures(options, paths), options.window, pairs))
    return 0


def _add_heatmap_options(parser: ArgumentParser) -> None:
    _add_picture_options(parser)
    parser.add_argument("--article", type=int | None, default=None, help="article of the split, counted from 1")
    parser.add_argument("--start", type=int, default=0, help="the passage's first token in the article")
    parser.add_argument("--length", type=int, default=180, help="tokens shown")
    parser.add_argument("--terminal", action="store_true", help="print it in colours instead of writing files")


def _heatmap(options: Namespace, config: Config) -> int:
    from dynlm.report.heatmap import heatmap_run

    paths = _score_files(options.files)
    if len(paths) < 2:
        raise UserError("a heat map needs two score files", do="name the lower and the higher level's")
    passage = None if options.article is None else (options.article, options.start, options.length)
    if options.terminal:
        if options.json or options.out:
            raise UserError("--terminal writes no files", do="leave out --json and --out")
        from dynlm.report.terminal import print_heatmap

        print_heatmap([paths[0], paths[-1]], passage)
        return 0
    _print_written(options, heatmap_run([paths[0], paths[-1]], _figures(options, paths), passage))
    return 0


def _add_report_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "runs", type=str, nargs="+", metavar="RUN", help="runs or score files of one text, and few-shot results"
    )
    parser.add_argument("--out", type=str | None, default=None, help="file; unset: report.html in the run's figures/")
    parser.add_argument("--open", action="store_true", help="show it in the browser")
    parser.add_argument(
        "--window", type=int | None, default=None, help="tokens that the curve is smoothed over at first"
    )
    parser.add_argument("--resamples", type=int, default=2000, help="bootstrap resamples of the articles")
    _add_json(parser)


def _report(options: Namespace, config: Config) -> int:
    from dynlm.report.fewshot_results import FILE
    from dynlm.report.page import default_place, report_run, show

    fewshot = [Path(word) for word in options.runs if (Path(word) / FILE).is_file()]
    read = [word for word in options.runs if Path(word) not in fewshot]
    if not read:
        raise UserError("a report needs score files beside few-shot results", do="name a run")
    paths = _score_files(read)
    out = Path(options.out) if options.out else default_place(paths)
    if out.is_dir():
        raise UserError("a folder", out, "name the file to write")
    written = report_run(paths, out, fewshot, options.window, options.resamples)
    _print_written(options, [written])
    if options.open and not show(written):
        raise UserError("no browser was found to show it in", written, "open it yourself")
    return 0


def _add_generate_options(parser: ArgumentParser) -> None:
    parser.add_argument("--prompt", type=str, default="", help="text to read first; - reads standard input")
    parser.add_argument("--tokens", type=int, default=200, help="tokens to generate")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest token each time")
    parser.add_argument("--top", type=int, default=40, help="draw among this many likeliest tokens; 0: all")
    _add_json(parser)


def _memory_file(options: Namespace) -> Path | None:
    return None if options.memory_file is None else Path(options.memory_file)


def _prompt(given: str) -> str:
    """The prompt, or standard input's text for ``-``. Raises UserError where it is not UTF-8."""
    where = "standard input" if given == "-" else "--prompt"
    try:
        prompt = sys.stdin.read() if given == "-" else given
        prompt.encode()
    except UnicodeError as error:
        raise UserError("the prompt is not UTF-8", where, "convert it") from error
    return prompt


def _generate(options: Namespace, config: Config) -> int:
    from dynlm.evaluation.generate import generate

    prompt = _prompt(options.prompt)
    folder, memory = Path(options.folder), _memory_file(options)
    text = generate(folder, config, prompt, options.tokens, options.temperature, options.top, memory)
    _print(options, {"prompt": prompt, "generated": text}, prompt + text)
    return 0


def _add_audit_options(parser: ArgumentParser) -> None:
    parser.add_argument("--split", type=str, default="valid", help="split whose opening is read")
    parser.add_argument("--places", type=int, default=20, help="tokens to change, one at a time")
    _add_json(parser)


def _audit(options: Namespace, config: Config) -> int:
    from dynlm.evaluation.audit import audit, to_dict, to_text

    checks = audit(Path(options.folder), config, options.split, options.places)
    _print(options, to_dict(checks), to_text(checks))
    return 0 if all(check.kept for check in checks) else 1


def _add_verify_options(parser: ArgumentParser) -> None:
    _add_files(parser)
    parser.add_argument(
        "--articles",
        type=str | None,
        default=None,
        help="read only these again, where articles do not depend on others",
    )
    parser.add_argument("--tokens", type=int | None, default=None, help="read only the first so many tokens again")
    parser.add_argument("--path", type=str | None, default=None, help="where the corpus lies now, if it was moved")
    parser.add_argument(
        "--tolerance", type=float, default=1e-3, help="nats a token may differ by where the machine rounds otherwise"
    )
    _add_json(parser)


def _verify(options: Namespace, config: Config) -> int:
    from dynlm.evaluation.verify import verify

    paths = _score_files(options.files, one_text=False)
    done = [verify(path, options.articles, options.tokens, options.path, options.tolerance) for path in paths]
    holds = all(each.holds for each in done)
    answer = {"holds": holds, "files": [each.to_dict() for each in done]}
    _print(options, answer, "\n".join(each.to_text() for each in done))
    return 0 if holds else 1


def _add_hostile_options(parser: ArgumentParser) -> None:
    parser.add_argument("--split", type=str, default="valid", help="split whose articles the texts are made of")
    parser.add_argument("--tokens", type=int | None, default=None, help="read at most this many tokens of each text")
    _add_json(parser)


def _hostile(options: Namespace, config: Config) -> int:
    from dynlm.evaluation.hostile import hostile

    done = hostile(Path(options.folder), config, options.split, options.tokens, _quiet(options))
    _print(options, done.to_dict(), done.to_text())
    return 0 if done.kept else 1


def _demo(options: Namespace, config: Config) -> int:
    from dynlm.demo import demo

    comparison, written = demo(config, quiet=options.json, progress=sys.stderr.isatty() and not options.json)
    files = [str(path) for path in written]
    _print(
        options,
        {**comparison.to_dict(), "files": files},
        "\n".join(["", comparison.to_text(), "", *(f"wrote {file}" for file in files)]),
    )
    return 0


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
    _print(options, {**as_dict(results), "files": files}, "\n".join(text))
    return 0


VERBS: dict[str, Verb] = {
    "demo": Verb(
        "the main job on the embedded corpus: train, tune, meta-train, read, compare, draw",
        ("dynlm demo", "dynlm demo --run.name quick --pretrain.epochs 1"),
        _demo,
        _add_json,
    ),
    "corpus": Verb(
        "tell what a corpus holds: articles, words, types, longest article of each split",
        ("dynlm corpus", "dynlm corpus --corpus.path wikitext-2/ --json"),
        _corpus,
        _add_json,
    ),
    "pretrain": Verb(
        "train level 1: the tokenizer and the static parameters",
        (
            "dynlm pretrain --config configs/wikitext-2-small.yaml --corpus.path DIR",
            "dynlm pretrain --run.name mine --corpus.path book.txt --print_config",
        ),
        _pretrain,
        _add_json,
    ),
    "tune": Verb(
        "tune a hand-made rule's rates on articles that no figure is reported on",
        ("dynlm tune runs/demo", "dynlm tune runs/demo --memory.rule sgd --memory.reset article"),
        _tune,
        _add_json,
        takes_run=True,
    ),
    "metatrain": Verb(
        "learn the memory's rates on training articles that the LSTM has not seen",
        ("dynlm metatrain runs/demo", "dynlm metatrain runs/demo --metatrain.tokens 200000 --json"),
        _metatrain,
        _add_json,
        takes_run=True,
    ),
    "finetune": Verb(
        "train the static parameters further while a rule reads with them, into a run of its own",
        (
            "dynlm finetune runs/demo --memory.rule rms",
            "dynlm finetune runs/demo --memory.rule none --finetune.pick_rule rms",
        ),
        _finetune,
        _add_json,
        takes_run=True,
    ),
    "score": Verb(
        "read articles with a memory and write what every token cost",
        (
            "dynlm score runs/demo --memory.rule none",
            "dynlm score runs/demo --memory.rule meta --split valid --articles 31-60",
        ),
        _score,
        _add_score_options,
        takes_run=True,
        takes_memory=True,
    ),
    "study": Verb(
        "which arm is better: tune every arm alike, read other articles by each, and tell what came of it",
        (
            "dynlm study --config configs/study-wikitext-2.yaml --corpus.path DIR",
            "dynlm study --config runs/wikitext-2-small/study/config.yaml --corpus.path OTHER --study.tune false",
        ),
        _study,
        _add_json,
        options=_study_options,
    ),
    "compare": Verb(
        "one table of several score files of the same text",
        ("dynlm compare runs/demo", "dynlm compare a.parquet b.parquet --markdown"),
        _compare,
        _add_compare_options,
        takes_config=False,
    ),
    "plot": Verb(
        "draw the perplexity difference over articles, and loss against position",
        ("dynlm plot runs/demo", "dynlm plot runs/demo --pairs 'level 1:meta' --window 2000"),
        _plot,
        _add_plot_options,
        takes_config=False,
    ),
    "heatmap": Verb(
        "show token by token where the memory helped and where it hurt",
        ("dynlm heatmap runs/demo", "dynlm heatmap a.parquet b.parquet --article 7 --start 0 --length 300"),
        _heatmap,
        _add_heatmap_options,
        takes_config=False,
    ),
    "report": Verb(
        "write one page where the curve leads to the words: self-contained HTML",
        ("dynlm report runs/demo --open", "dynlm report runs/one runs/other --out report.html"),
        _report,
        _add_report_options,
        takes_config=False,
    ),
    "generate": Verb(
        "read a prompt, learn from it, and go on writing",
        (
            "dynlm generate runs/demo --prompt 'Return the'",
            "dynlm generate runs/demo --memory.rule meta --prompt - < notes.txt",
        ),
        _generate,
        _add_generate_options,
        takes_run=True,
        takes_memory=True,
    ),
    "audit": Verb(
        "try the protocol's promises on a run, bit for bit",
        ("dynlm audit runs/demo", "dynlm audit runs/demo --memory.rule meta --places 50 --json"),
        _audit,
        _add_audit_options,
        takes_run=True,
    ),
    "verify": Verb(
        "read scored texts again, and tell whether every loss still holds",
        ("dynlm verify runs/demo", "dynlm verify runs/demo/scores/valid-rms-stream.parquet --tokens 5000"),
        _verify,
        _add_verify_options,
        takes_config=False,
    ),
    "hostile": Verb(
        "read texts made to hurt by level 1, by a rule and by both mixed",
        ("dynlm hostile runs/demo", "dynlm hostile runs/demo --memory.rule meta --tokens 5000 --json"),
        _hostile,
        _add_hostile_options,
        takes_run=True,
    ),
    **memory_verbs.VERBS,
    **fewshot_verbs.VERBS,
}


if __name__ == "__main__":
    raise SystemExit(main())
