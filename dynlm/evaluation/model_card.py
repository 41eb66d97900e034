"""A model card: what a run says of itself, from its own figures, as Markdown with the front matter of model hubs.

Whatever comes from a corpus or a file (titles, names) is shown as text, whatever it holds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

import dynlm
from dynlm.adapt.options import LearnedRuleOptions
from dynlm.errors import UserError
from dynlm.evaluation.compare import compare
from dynlm.evaluation.score_file import Scores, read_scores, scores_of_run
from dynlm.evaluation.tables import markdown_table
from dynlm.run.folder import TrainedModel, memory_path
from dynlm.runtime.parsing import read_json
from dynlm.runtime.perplexity import format_perplexity
from dynlm.runtime.text import markdown, markdown_code
from dynlm.runtime.validation import section_of
from dynlm.train.config import load_config

_TITLES_SHOWN = 8
_RESAMPLES = 2000
_USE = """\
```python
from dynlm import DynamicLM

model = DynamicLM.from_pretrained("{place}")
for surface, nats in model.read("A text of your own.\\n"):
    print(surface, nats)  # of each token, before it was learned from
print(model.generate("The", tokens=50))
model.save_memory("me.safetensors")  # what was read stays with you
```"""


def model_card(folder: Path, trained: TrainedModel, place: str = "this folder or its name on the hub") -> str:
    """The card of the run in ``folder``; ``place`` is what ``from_pretrained`` is to be given.

    Raises UserError where a score file of the run, or what was tuned or learned, cannot be read.
    """
    config = load_config(folder)
    matter = {
        "library_name": "dynlm",
        "pipeline_tag": "text-generation",
        "tags": ["dynlm", "lstm", "dynamic-evaluation"],
    }
    parts = [
        f"---\n{yaml.safe_dump(matter, sort_keys=False)}---",
        f"# {markdown(config.run.name)}",
        "An LSTM language model whose weights can change while it reads: a small rule turns the gradient of what was "
        f"just read into new weights. Made with dynlm {dynlm.__version__}.",
        _USE.format(place=re.sub(r"[^\w./: -]", "", place)),
        "## The model",
        _table(("", ""), _model_rows(trained, config.model, config.tokenizer)),
        "## Its memory",
        *_memory(folder, trained),
        "## What reading costs",
        *_figures(scores_of_run(folder)),
        "## What is in these files",
        "Static parameters, a tokenizer, rates of the memory, and options: safetensors, JSON and YAML, no pickle. "
        "Nothing that anybody read with a memory is in them: a memory is a file of its own.",
    ]
    return "\n\n".join(parts) + "\n"


def _model_rows(trained: TrainedModel, model: Any, tokenizer: Any) -> list[tuple[str, str]]:
    card = trained.card
    rows = [
        ("parameters", f"{card.get('parameters') or 0:,}"),
        ("layers", f"{model.layers} LSTM, embedding {model.embedding}" + (", tied" if model.tied else "")),
        ("tokens", f"{card['vocabulary']:,} ({tokenizer.kind})"),
        ("fingerprint", str(card["fingerprint"])),
    ]
    if card.get("corpus") is not None:
        rows.append(("trained on", f"{Path(str(card['corpus'])).name}, {card.get('tokens') or 0:,} tokens"))
    if card.get("valid_nats_per_token") is not None:
        rows.append(("valid, level 1, nats per token", f"{card['valid_nats_per_token']:.4f}"))
    if "valid_perplexity_per_word" in card:
        rows.append(("valid, level 1, perplexity per word", format_perplexity(card["valid_perplexity_per_word"])))
    return rows


def _memory(folder: Path, trained: TrainedModel) -> list[str]:
    """What was tuned, and what was learned, for this model."""
    tuned_path, parts = memory_path(folder, "tuned.json"), []
    cards = [memory_path(folder, path.name) for path in sorted((folder / "memory").glob("*.json"))]
    tuned = read_json(tuned_path) if tuned_path.exists() else {}
    if not isinstance(tuned, dict):
        raise UserError("what was tuned cannot be read", tuned_path, "remove it and run tune again")
    rows = []
    for rule, resets in tuned.items() if tuned.get("model") == trained.fingerprint else ():
        for reset, found in resets.items() if isinstance(resets, dict) else ():
            if not isinstance(found, dict):
                raise UserError(f"what was tuned for {rule} cannot be read", tuned_path, "remove it and run tune again")
            rates = [_number(found.get(name)) for name in ("rate", "pull", "epsilon")]
            nats = [_number(found.get(name)) for name in ("nats_per_token", "level_1_nats_per_token")]
            rows.append((rule, reset, *rates, *nats))
    if rows:
        headings = ("rule", "reset", "rate", "pull", "epsilon", "nats/token, tuning articles", "level 1 there")
        parts.append("Tuned:\n\n" + _table(headings, rows))
    for path in cards:
        about = read_json(path)
        if isinstance(about, dict) and about.get("model") == trained.fingerprint and "g" in about:
            try:
                looks = ", ".join(section_of(LearnedRuleOptions, about["g"]).features) or "nothing"
            except UserError as error:
                raise UserError(
                    f"it does not tell how it was learned ({error})", path, "run metatrain again"
                ) from error
            kept = markdown_code(str(about.get("kept")))
            parts.append(
                f"Learned: {markdown_code(path.stem)}, whose gates look at {markdown_code(looks)}; kept: {kept}."
            )
    return parts or ["Not tuned yet."]


def _figures(paths: Sequence[Path]) -> list[str]:
    """A table for each text that was scored."""
    texts: dict[str, list[Scores]] = {}
    for path in paths:
        scores = read_scores(path)
        texts.setdefault(str(scores.protocol["text"]), []).append(scores)
    parts = []
    for variants in texts.values():
        comparison = compare(variants, resamples=_RESAMPLES)
        titles = [markdown_code(str(article["title"])) for article in comparison.articles[:_TITLES_SHOWN]]
        more = len(comparison.articles) - len(titles)
        parts.append(markdown_table(comparison).rstrip())
        parts.append(f"Articles: {', '.join(titles)}{f' and {more} more' if more else ''}.")
    return parts or ["Nothing was scored yet."]


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [" | ".join(headings), " | ".join("---" for _ in headings)]
    lines += [" | ".join(markdown(cell) for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def _number(value: Any) -> str:
    # An integer of a file's may be larger than any float.
    fits = isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**1000)
    return f"{value:.4g}" if fits else "-"
