"""Commands that read with a run, and those that check it. torch is imported only when they run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dynlm.cli.command import Argument, Option, command, is_quiet, open_run, print_answer
from dynlm.runtime.validation import LARGEST_SEED

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from dynlm.train.config import Config


@command(
    "score",
    Option("--split", "split to read: train, meta, valid or test", str, "valid"),
    Option("--articles", "which of its articles, such as 31-60", str),
    Option("--order", "'in order', or shuffled by --order_seed", str, "in order"),
    Option("--order_seed", "seed of a shuffled order", int, 0, high=LARGEST_SEED),
    Option("--name", "the score file's name; unset: by what is scored", str),
    Option("--force", "score again what was scored before, and replace its file"),
    sections="run corpus model memory",
    takes_run=True,
    takes_memory=True,
    resumes=True,
)
def _score(options: Namespace, config: Config) -> int:
    """Read articles with a memory and write the loss of every token.

    dynlm score runs/demo --memory.rule none
    dynlm score runs/demo --memory.rule meta --split valid --articles 31-60
    """
    from dynlm.evaluation.compare import compare
    from dynlm.evaluation.protocol import ArticleOrder
    from dynlm.evaluation.score import ScoreRequest, score
    from dynlm.evaluation.tables import text_table

    order, file = ArticleOrder(options.order, options.order_seed), _memory_file(options)
    request = ScoreRequest(options.split, options.articles, order, file, name=options.name, force=options.force)
    path, scores = score(open_run(options, config), request, is_quiet(options))
    comparison, before = compare([scores]), scores.path is not None
    done = f"was scored before: {path} (--force scores it anew)" if before else f"wrote {path}"
    answer = {"file": str(path), "scored_before": before, **comparison.to_dict()}
    print_answer(options, answer, f"{text_table(comparison)}\n{done}")
    return 0


def _memory_file(options: Namespace) -> Path | None:
    return None if options.memory_file is None else Path(options.memory_file)


@command(
    "check",
    Option("--split", "split whose opening is read", str, "valid"),
    Option("--places", "positions of the text to change, one at a time", int, 20, 1, 1_000_000),
    Option("--all", "check every rule of the run, with a cache and mixed with level 1"),
    sections="run corpus model memory",
    takes_run=True,
)
def _check(options: Namespace, config: Config) -> int:
    """Check the protocol on a run, bit for bit: no loss depends on a later token, and the like.

    dynlm check runs/demo
    dynlm check runs/demo --memory.rule meta --places 50 --json
    """
    from dynlm.evaluation.checks.protocol import check_every_rule, check_protocol, to_dict, to_text

    check = check_every_rule if options.all else check_protocol
    checks = check(open_run(options, config), options.split, options.places)
    print_answer(options, to_dict(checks), to_text(checks))
    return 0 if all(check.kept for check in checks) else 1


@command(
    "verify",
    Argument("FILE", "score files, or a run whose files to take", many=True),
    Option("--articles", "read only these again, where articles do not depend on others", str),
    Option("--tokens", "read only the first so many tokens again", int),
    Option("--path", "where the corpus is now, if it was moved", str),
    Option("--tolerance", "nats a token may differ by on a machine that rounds otherwise", float, 1e-3, high=1000),
    takes_config=False,
)
def _verify(options: Namespace, config: None) -> int:
    """Score texts again, and check that every loss is the same.

    dynlm verify runs/demo
    dynlm verify runs/demo --tokens 5000
    """
    from dynlm.evaluation.checks.verify import verify
    from dynlm.evaluation.score_selection import texts_named

    paths = [path for paths in texts_named(options.files) for path in paths]
    done = [verify(path, options.articles, options.tokens, options.path, options.tolerance) for path in paths]
    holds = all(each.holds for each in done)
    answer = {"holds": holds, "files": [each.to_dict() for each in done]}
    print_answer(options, answer, "\n".join(each.to_text() for each in done))
    return 0 if holds else 1


@command(
    "stress",
    Option("--split", "split whose articles the texts are made of", str, "valid"),
    Option("--tokens", "read at most this many tokens of each text", int),
    sections="run corpus memory",
    takes_run=True,
)
def _stress(options: Namespace, config: Config) -> int:
    """Read adversarial texts with level 1, with a rule and with both mixed.

    dynlm stress runs/demo
    dynlm stress runs/demo --memory.rule meta --tokens 5000 --json
    """
    from dynlm.evaluation.checks.stress import stress_test

    done = stress_test(open_run(options, config), options.split, options.tokens, is_quiet(options))
    print_answer(options, done.to_dict(), done.to_text())
    return 0 if done.kept else 1
