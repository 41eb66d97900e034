"""A model card in Markdown, with the front matter of model hubs, made from the files of a run.

Text from a corpus or a file (titles, names) is escaped.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

import dynlm
from dynlm.adapt.options import LearnedRuleOptions
from dynlm.data.options import TokenizerOptions
from dynlm.errors import UserError
from dynlm.evaluation.compare import compare
from dynlm.evaluation.score_file import Scores, read_scores, scores_of_run
from dynlm.evaluation.tables import markdown_rows, markdown_table
from dynlm.models.options import ModelOptions
from dynlm.run.options import RunOptions
from dynlm.run.run import Run
from dynlm.runtime.parsing import read_json
from dynlm.runtime.perplexity import format_perplexity
from dynlm.runtime.text import markdown, markdown_code
from dynlm.runtime.validation import section_of

_TITLES_SHOWN = 8
_FRONT_MATTER = {
    "library_name": "dynlm",
    "pipeline_tag": "text-generation",
    "tags": ["dynlm", "dynamic-evaluation"],
}
_USE = """\
```python
from dynlm import DynamicLM

model = DynamicLM.from_pretrained("{place}")
for surface, nats in model.read("A text of your own.\\n"):
    print(surface, nats)  # of each token, before it was learned from
print(model.generate("The", tokens=50))
model.save_memory("me.safetensors")  # what was read stays with you
```"""


def model_card(run: Run, place: str = "this folder or its name on the hub") -> str:
    """Return the card of ``run``; ``place`` is what ``from_pretrained`` is to be given.

    Raises UserError where a score file, tuned constants or a learned rule of the run cannot be read.
    """
    parts = [
        f"---\n{yaml.safe_dump(_FRONT_MATTER, sort_keys=False)}---",
        f"# {markdown(run.section(RunOptions).name)}",
        "A language model whose weights can change while it reads: a small rule turns the gradient of what was just "
        f"read into new weights. Made with dynlm {dynlm.__version__}.",
        _USE.format(place=re.sub(r"[^\w./: -]", "", place)),
        "## The model",
        _table([("", ""), *_model_rows(run)]),
        "## Its memory",
        *(_tuned(run) + _learned(run) or ["Not tuned yet."]),
        "## What reading costs",
        *_figures(scores_of_run(run.path)),
        "## What is in these files",
        "Static parameters, a tokenizer, rates of the memory, and options: safetensors, JSON and YAML, no pickle. "
        "Nothing that anybody read with a memory is in them: a memory is a file of its own.",
    ]
    return "\n\n".join(parts) + "\n"


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


def _tuned(run: Run) -> list[str]:
    """Return a table of the tuned constants of this model, if there are any."""
    path = run.memory_path("tuned.json")
    tuned = read_json(path) if path.exists() else {}
    if not isinstance(tuned, dict):
        raise UserError("the tuned constants cannot be read", path, "remove the file and run tune again")
    rows: list[tuple[str, ...]] = [
        ("rule", "reset", "rate", "pull", "epsilon", "nats/token, tuning articles", "level 1 there")
    ]
    for rule, resets in tuned.items() if tuned.get("model") == run.fingerprint else ():
        for reset, found in resets.items() if isinstance(resets, dict) else ():
            if not isinstance(found, dict):
                raise UserError(f"the tuned constants of {rule} cannot be read", path, "remove it and run tune again")
            names = ("rate", "pull", "epsilon", "nats_per_token", "level_1_nats_per_token")
            rows.append((rule, reset, *(_number(found.get(name)) for name in names)))
    return ["Tuned:\n\n" + _table(rows)] if len(rows) > 1 else []


def _learned(run: Run) -> list[str]:
    """Describe the learned rules of this model, a paragraph each."""
    parts = []
    for path in sorted((run.path / "memory").glob("*.json")):
        about = read_json(run.memory_path(path.name))
        if isinstance(about, dict) and about.get("model") == run.fingerprint and "g" in about:
            try:
                features = ", ".join(section_of(LearnedRuleOptions, about["g"]).features) or "nothing"
            except UserError as error:
                raise UserError(f"its options are not understood ({error})", path, "run metatrain again") from error
            parts.append(
                f"Learned: {markdown_code(path.stem)}, whose gates look at {markdown_code(features)}; kept: "
                f"{markdown_code(str(about.get('kept')))}."
            )
    return parts


def _figures(paths: list[Path]) -> list[str]:
    """Return a table for each text that was scored."""
    texts: dict[str, list[Scores]] = {}
    for path in paths:
        scores = read_scores(path)
        texts.setdefault(str(scores.protocol["text"]), []).append(scores)
    parts = []
    for variants in texts.values():
        comparison = compare(variants)
        titles = [markdown_code(str(article["title"])) for article in comparison.articles[:_TITLES_SHOWN]]
        more = len(comparison.articles) - len(titles)
        parts.append(markdown_table(comparison).rstrip())
        parts.append(f"Articles: {', '.join(titles)}{f' and {more} more' if more else ''}.")
    return parts or ["Nothing was scored yet."]


def _table(rows: list[tuple[str, ...]]) -> str:
    return "\n".join(markdown_rows([[markdown(cell) for cell in row] for row in rows], left=2))


def _number(value: Any) -> str:
    # An integer of a file's may be larger than any float.
    fits = isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**1000)
    return f"{value:.4g}" if fits else "-"
