"""A model card in Markdown, with the front matter of model hubs, made from the files of a run.

Text from a corpus or a file (titles, names) is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dynlm
from dynlm.adapt.options import RESETS, LearnedRuleOptions
from dynlm.adapt.rules.registry import RULES, tuned_rules
from dynlm.data.options import TokenizerOptions
from dynlm.errors import UserError
from dynlm.evaluation.compare import compare
from dynlm.evaluation.export import markdown_rows, to_markdown
from dynlm.evaluation.score_file import read_scores, scores_of_run
from dynlm.evaluation.score_selection import texts_named
from dynlm.evaluation.tables import comparison_table, render_markdown
from dynlm.models.options import ModelOptions
from dynlm.run.options import RunOptions
from dynlm.run.provenance import FILE
from dynlm.run.run import Run
from dynlm.runtime.parsing import read_json
from dynlm.runtime.perplexity import format_perplexity
from dynlm.runtime.renamed import current_options
from dynlm.runtime.text import markdown
from dynlm.runtime.validation import section_of

_TEMPLATE = Path(__file__).parent / "templates" / "model_card.md.j2"
_TITLES_SHOWN = 8


def model_card(
    run: Run, place: str = "this folder or its name on the hub", figures: Mapping[str, Any] | None = None
) -> str:
    """Return the card of ``run``; ``place`` is what ``from_pretrained`` is to be given.

    A packed model has ``figures``, the content of its ``figures.json``, perhaps empty, and is loaded by its name.
    Raises UserError where a score file, tuned constants or a learned rule of the run cannot be read.
    """
    return render_markdown(
        _TEMPLATE,
        name=run.section(RunOptions).name,
        version=dynlm.__version__,
        place=re.sub(r"[^\w./: -]", "", place),
        packed=figures is not None,
        figures=_figures(figures or {}),
        made_of=_made_of(run) if figures is not None else "",
        model=_table([("", ""), *_model_rows(run)]),
        tuned=_tuned(run),
        learned=[each for reset in RESETS for each in _learned(run, reset)],
        texts=_texts(run.path),
    )


def _model_rows(run: Run) -> list[tuple[str, str]]:
    card, shape = run.trained.card, vars(run.section(ModelOptions))
    rows = [
        ("parameters", f"{card.get('parameters') or 0:,}"),
        ("shape", ", ".join(f"{name} {value}" for name, value in shape.items())),
        ("tokens", f"{card['vocabulary']:,} ({run.section(TokenizerOptions).kind})"),
        ("fingerprint", str(card["fingerprint"])),
    ]
    if card.get("corpus") is not None:
        rows.append(("trained on", f"{Path(str(card['corpus'])).name}, {card.get('tokens') or 0:,} tokens"))
    if card.get("valid_nats_per_token") is not None:
        rows.append(("valid, level 1, nats per token", f"{card['valid_nats_per_token']:.4f}"))
    if "valid_perplexity_per_word" in card:
        rows.append(("valid, level 1, perplexity per word", format_perplexity(card["valid_perplexity_per_word"])))
    return rows


def _tuned(run: Run) -> str:
    """Return a table of the tuned constants, empty where there are none."""
    rows: list[tuple[str, ...]] = []
    for rule in tuned_rules():
        for reset in RESETS:
            if found := run.store.load_tuned(rule, reset):
                constants = ", ".join(f"{name} {_number(found.get(name))}" for name in RULES[rule].searched)
                losses = (_number(found.get(name)) for name in ("nats_per_token", "level_1_nats_per_token"))
                rows.append((rule, reset, constants, *losses))
    headings = ("rule", "reset", "constants", "nats/token, tuning articles", "level 1 there")
    return _table([headings, *rows], left=3) if rows else ""


def _learned(run: Run, reset: str) -> list[dict[str, str]]:
    """Return name, gate features and kept candidate of each learned rule."""
    found = []
    for name in run.store.learned_names(reset):
        learned = run.store.load_learned(name, reset)
        assert learned is not None
        try:
            g = section_of(LearnedRuleOptions, current_options("g", learned[1]["g"]))
        except UserError as error:
            path = run.store.path(f"{name}-{reset}.safetensors")
            raise UserError(f"its options are not understood ({error})", path, "run metatrain again") from error
        features, kept = ", ".join(g.features) or "nothing", str(learned[1].get("kept"))
        found.append({"name": f"{name}-{reset}", "features": features, "kept": kept})
    return found


def _texts(folder: Path) -> list[dict[str, Any]]:
    """Return a table, and the titles of the first articles, of each text that was scored."""
    texts = []
    for paths in texts_named([str(folder)]) if scores_of_run(folder) else []:
        compared = compare([read_scores(path) for path in paths])
        titles = [str(article["title"]) for article in compared.articles]
        table, more = to_markdown(comparison_table(compared)).rstrip(), max(0, len(titles) - _TITLES_SHOWN)
        texts.append({"table": table, "titles": titles[:_TITLES_SHOWN], "more": more})
    return texts


def _figures(figures: Mapping[str, Any]) -> str:
    """Return a table of the figures of a packed model, empty where there are none."""
    rows = [
        (each["variant"], f"{each['tokens']:,}", f"{each['nats_per_token']:.4f}") for each in figures.get("figures", [])
    ]
    return _table([("variant", f"tokens of {figures['split']}", "nats/token"), *rows], left=1) if rows else ""


def _made_of(run: Run) -> str:
    """Return a table of the text that each part of a packed model was trained, tuned, learned or picked on."""
    provenance = read_json(run.path / FILE)
    rows: list[tuple[str, ...]] = []
    for split, text in provenance["data"].items():
        what = ("static parameters", "trained") if split == "train" else ("", "kept aside")
        rows.append((*what, split, f"{text.get('articles')} in all", str(text.get("fingerprint"))))
    rows += [
        tuple(str(one.get(name)) for name in ("what", "how", "split", "articles", "split_text"))
        for one in provenance["tuned_on"]
    ]
    return _table([("what", "how", "split", "articles", "fingerprint of the text"), *rows], left=5)


def _table(rows: list[tuple[str, ...]], left: int = 2) -> str:
    return "\n".join(markdown_rows([[markdown(cell) for cell in row] for row in rows], left))


def _number(value: Any) -> str:
    # An integer of a file's may be larger than any float.
    fits = isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**1000)
    return f"{value:.4g}" if fits else "-"
