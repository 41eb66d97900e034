"""Commands that run a whole experiment: ``dynlm demo``, ``dynlm study``. torch is imported only when they run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dynlm.cli.command import FORMAT, answer_format, command, print_answer, print_tables
from dynlm.run.locate import writable_copy

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from dynlm.study.options import StudyOptions
    from dynlm.train.config import Config


@command("demo", common="run corpus model pretrain metatrain", config="demo", resumes=True)
def _demo(options: Namespace, config: Config) -> int:
    """Train, tune, meta-train, score, compare and draw on the embedded corpus.

    dynlm demo
    dynlm demo --run.name quick --pretrain.epochs 1
    """
    from dynlm.evaluation.checks.protocol import check_every_rule, to_dict, to_text
    from dynlm.evaluation.tables import text_table
    from dynlm.run.run import Run
    from dynlm.study.main_job import main_job

    comparison, written = main_job(config, quiet=options.json, progress=sys.stderr.isatty() and not options.json)
    checks = check_every_rule(Run.open(config.run.path, *vars(config).values()), "valid", places=4)
    files = [str(path) for path in written]
    print_answer(
        options,
        {**comparison.to_dict(), "files": files, "checks": to_dict(checks)},
        "\n".join(["", text_table(comparison), "", to_text(checks), "", *(f"wrote {file}" for file in files)]),
    )
    return 0 if all(check.kept for check in checks) else 1


@command(
    "study",
    FORMAT,
    options="dynlm.study.options:StudyOptions",
    common="run corpus study",
    takes_run=True,
    run_is_optional=True,
    resumes=True,
)
def _study(options: Namespace, config: StudyOptions) -> int:
    """Compare variants: tune every variant alike, score other articles with each, and tabulate.

    dynlm study --config study-wikitext-2 --corpus.path DIR
    dynlm study runs/smol --corpus.path DIR
    """
    from dynlm.evaluation.export import to_markdown
    from dynlm.study.pages import verdict
    from dynlm.study.run import study
    from dynlm.study.seed_tables import STATEMENT, seed_dict, seed_figures
    from dynlm.study.tables import as_dict, figures

    if options.folder is not None:
        path = writable_copy(Path(options.folder), config.run.path)
        path = path if path.name not in ("", "..") else path.resolve()
        config.run = config.run.replace(folder=str(path.parent), name=path.name)
    quiet = answer_format(options) != "text"
    results, written = study(config, quiet=quiet, progress=sys.stderr.isatty() and not quiet)
    files, rows = [str(path) for path in written], results.over_seeds
    tables = [figures(results), *([seed_figures(rows)] if rows else [])]
    shown = [to_markdown(table) for table in tables]
    text = ["", shown[0], verdict(results), *(f"\n{table}\n{STATEMENT}" for table in shown[1:])]
    content = {**as_dict(results), **({"over_seeds": seed_dict(rows)} if rows else {}), "files": files}
    print_tables(options, tables, content, "\n".join([*text, "", *(f"wrote {file}" for file in files)]))
    return 0
