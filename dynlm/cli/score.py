"""Commands that read with a run, and those that check it. torch is imported only when they run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dynlm.cli.command import MEMORY, READING, WORK, Argument, Option, command, is_quiet, open_run, print_answer
from dynlm.run.locate import is_packed
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
    sections=f"{WORK} corpus model memory",
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
    sections=f"{READING} corpus model {MEMORY}",
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
    Argument("FILE", "score files, a run whose files to take, or a packed model", many=True, runs="runs"),
    Option("--articles", "read only these again, where articles do not depend on others", str),
    Option("--tokens", "read only the first so many tokens again", int),
    Option("--path", "where the corpus is now, if it was moved", str),
    Option("--tolerance", "nats a token may differ by on a machine that rounds otherwise", float, 1e-3, high=1000),
    takes_config=False,
)
def _verify(options: Namespace, config: None) -> int:
    """Score texts again and check that every loss is the same, or check a packed model.

    dynlm verify runs/demo --tokens 5000
    dynlm verify data/models/wikitext-2-small --path wikitext-2/
    """
    from dynlm.evaluation.checks.packed import check_packed
    from dynlm.evaluation.checks.verify import verify
    from dynlm.evaluation.score_selection import texts_named
    from dynlm.fewshot.packing import check_packed_learner, is_learner

    models = [Path(name) for name in options.files if is_packed(Path(name))]
    files = [name for name in options.files if Path(name) not in models]
    paths = [path for paths in (texts_named(files) if files else []) for path in paths]
    checked = [check_packed_learner(path) if is_learner(path) else check_packed(path, options.path) for path in models]
    done = [verify(path, options.articles, options.tokens, options.path, options.tolerance) for path in paths]
    holds = all(each.holds for each in (*checked, *done))
    answer = {"holds": holds, "files": [each.to_dict() for each in done]}
    answer |= {"models": [each.to_dict() for each in checked]} if checked else {}
    print_answer(options, answer, "\n".join(each.to_text() for each in (*checked, *done)))
    return 0 if holds else 1


@command(
    "pack",
    Argument("TARGET", "the model's folder to write, such as data/models/NAME"),
    Option("--learned", "learned rules to keep, such as level-3,level-2; unset: all, '': none", str),
    Option("--tokens", "tokens of the valid split that figures are of; 0: no figures", int, 2000),
    Option("--replace", "replace a packed model that is there"),
    sections=f"{READING} corpus memory",
    common="corpus memory",
    takes_run=True,
)
def _pack(options: Namespace, config: Config) -> int:
    """Pack a run as a small read-only model folder: weights, tokenizer, memory, figures, checksums.

    dynlm pack runs/demo data/models/demo
    dynlm pack runs/demo demo-model --memory.rule meta --learned meta --replace
    """
    from dynlm.evaluation.packing import pack

    learned = None if options.learned is None else [name for name in options.learned.split(",") if name]
    run, target = open_run(options, config), Path(options.target)
    done = pack(run, target, learned, options.tokens, options.replace)
    lines = [f"{variant}: {nats:.4f} nats per token" for variant, nats in done["figures"].items()]
    if done["rounding"] is not None:
        lines.append(f"rounding: {done['rounding']['variant']} {done['rounding']['difference']:+.6f} nats per token")
    lines.append(f"wrote {target}: {done['files']} files, {done['bytes'] / 1e6:.2f} MB, {done['variants']} variants")
    print_answer(options, done, "\n".join(lines))
    return 0


@command(
    "stress",
    Option("--split", "split whose articles the texts are made of", str, "valid"),
    Option("--tokens", "read at most this many tokens of each text", int),
    sections=f"{READING} corpus {MEMORY} -memory.lanes -memory.no_regret",
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
