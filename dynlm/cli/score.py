"""The verbs that read with a run, and those that try its promises. torch is imported only by their calls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dynlm.cli.command import Command, add_files, add_json, is_quiet, open_run, print_answer
from dynlm.errors import UserError
from dynlm.runtime.text import read_text
from dynlm.runtime.validation import is_utf8

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from dynlm.train.config import Config


def _add_text_options(parser: ArgumentParser) -> None:
    parser.add_argument("--split", type=str, default="valid", help="split to read: train, meta, valid or test")
    parser.add_argument("--articles", type=str | None, default=None, help="which of its articles, such as 31-60")


def _add_score_options(parser: ArgumentParser) -> None:
    _add_text_options(parser)
    parser.add_argument("--order", type=str, default="in order", help="'in order', or shuffled by --order_seed")
    parser.add_argument("--order_seed", type=int, default=0, help="seed of a shuffled order")
    parser.add_argument("--name", type=str | None, default=None, help="the score file's name; unset: by what is scored")
    parser.add_argument("--force", action="store_true", help="score anew what was scored before, and replace its file")
    add_json(parser)


def _score(options: Namespace, config: Config) -> int:
    from dynlm.evaluation.compare import compare
    from dynlm.evaluation.protocol import ArticleOrder
    from dynlm.evaluation.score import ScoreRequest, score
    from dynlm.evaluation.score_path import Output
    from dynlm.evaluation.tables import text_table

    order, output = ArticleOrder(options.order, options.order_seed), Output(name=options.name, force=options.force)
    request = ScoreRequest(options.split, options.articles, order, _memory_file(options), output)
    path, scores = score(open_run(options, config), request, is_quiet(options))
    comparison, before = compare([scores]), scores.path is not None
    done = f"was scored before: {path} (--force scores it anew)" if before else f"wrote {path}"
    answer = {"file": str(path), "scored_before": before, **comparison.to_dict()}
    print_answer(options, answer, f"{text_table(comparison)}\n{done}")
    return 0


def _add_generate_options(parser: ArgumentParser) -> None:
    parser.add_argument("--prompt", type=str, default="", help="text to read first; - reads standard input")
    parser.add_argument("--tokens", type=int, default=200, help="tokens to generate")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest token each time")
    parser.add_argument("--top", type=int, default=40, help="draw among this many likeliest tokens; 0: all")
    add_json(parser)


def _memory_file(options: Namespace) -> Path | None:
    return None if options.memory_file is None else Path(options.memory_file)


def _prompt(given: str) -> str:
    """The prompt, or standard input's text for ``-``. Raises UserError where it is not UTF-8."""
    if given == "-":
        return read_text("-")
    if not is_utf8(given):
        raise UserError("the prompt is not UTF-8", "--prompt", "convert it")
    return given


def _generate(options: Namespace, config: Config) -> int:
    from dynlm.evaluation.generate import Sampling, generate

    prompt = _prompt(options.prompt)
    sampling = Sampling(options.tokens, options.temperature, options.top, config.run.seed)
    text = generate(open_run(options, config), prompt, sampling, _memory_file(options))
    print_answer(options, {"prompt": prompt, "generated": text}, prompt + text)
    return 0


def _add_audit_options(parser: ArgumentParser) -> None:
    parser.add_argument("--split", type=str, default="valid", help="split whose opening is read")
    parser.add_argument("--places", type=int, default=20, help="places of the text to change, one at a time")
    parser.add_argument("--all", action="store_true", help="try every rule of the run, with a cache and without regret")
    add_json(parser)


def _audit(options: Namespace, config: Config) -> int:
    from dynlm.evaluation.checks.protocol import check_every_rule, check_protocol, to_dict, to_text

    check = check_every_rule if options.all else check_protocol
    checks = check(open_run(options, config), options.split, options.places)
    print_answer(options, to_dict(checks), to_text(checks))
    return 0 if all(check.kept for check in checks) else 1


def _add_verify_options(parser: ArgumentParser) -> None:
    add_files(parser)
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
    add_json(parser)


def _verify(options: Namespace, config: Config) -> int:
    from dynlm.evaluation.checks.verify import verify
    from dynlm.evaluation.score_selection import score_files_named

    paths = score_files_named(options.files)
    done = [verify(path, options.articles, options.tokens, options.path, options.tolerance) for path in paths]
    holds = all(each.holds for each in done)
    answer = {"holds": holds, "files": [each.to_dict() for each in done]}
    print_answer(options, answer, "\n".join(each.to_text() for each in done))
    return 0 if holds else 1


def _add_hostile_options(parser: ArgumentParser) -> None:
    parser.add_argument("--split", type=str, default="valid", help="split whose articles the texts are made of")
    parser.add_argument("--tokens", type=int | None, default=None, help="read at most this many tokens of each text")
    add_json(parser)


def _hostile(options: Namespace, config: Config) -> int:
    from dynlm.evaluation.checks.stress import stress_test

    done = stress_test(open_run(options, config), options.split, options.tokens, is_quiet(options))
    print_answer(options, done.to_dict(), done.to_text())
    return 0 if done.kept else 1


COMMANDS: dict[str, Command] = {
    "score": Command(
        "read articles with a memory and write what every token cost",
        (
            "dynlm score runs/demo --memory.rule none",
            "dynlm score runs/demo --memory.rule meta --split valid --articles 31-60",
        ),
        _score,
        _add_score_options,
        takes_run=True,
        resumes=True,
        takes_memory=True,
        sections=("run", "corpus", "memory"),
    ),
    "generate": Command(
        "read a prompt, learn from it, and go on writing",
        (
            "dynlm generate runs/demo --prompt 'Return the'",
            "dynlm generate runs/demo --memory.rule meta --prompt - < notes.txt",
        ),
        _generate,
        _add_generate_options,
        takes_run=True,
        takes_memory=True,
        sections=("run", "memory"),
    ),
    "audit": Command(
        "try the protocol's promises on a run, bit for bit",
        ("dynlm audit runs/demo", "dynlm audit runs/demo --memory.rule meta --places 50 --json"),
        _audit,
        _add_audit_options,
        takes_run=True,
        sections=("run", "corpus", "memory"),
    ),
    "verify": Command(
        "read scored texts again, and tell whether every loss still holds",
        ("dynlm verify runs/demo", "dynlm verify runs/demo --tokens 5000"),
        _verify,
        _add_verify_options,
        takes_config=False,
    ),
    "hostile": Command(
        "read texts made to hurt by level 1, by a rule and by both mixed",
        ("dynlm hostile runs/demo", "dynlm hostile runs/demo --memory.rule meta --tokens 5000 --json"),
        _hostile,
        _add_hostile_options,
        takes_run=True,
        sections=("run", "corpus", "memory"),
    ),
}
