"""Model cards: the figures of the run, with hostile text escaped."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from dynlm.errors import UserError
from dynlm.evaluation.compare import compare
from dynlm.evaluation.model_card import model_card
from dynlm.evaluation.score_file import read_scores, write_scores
from dynlm.evaluation.tables import figures_of
from dynlm.run.folder import load_model, save_config
from dynlm.run.provenance import made_with, record_sitting
from dynlm.runtime.text import markdown_code
from tests.tiny import Run, opened, scored, with_memory

HOSTILE = (
    "<script>alert(1)</script> [x](javascript:1) | `` ` \u202e\x00 https://evil.example www.evil.example &lt; **b**"
)


def body(card: str) -> str:
    return card.split("---\n", 2)[2]


def test_a_card_has_the_runs_own_figures(tuned_copy: Run) -> None:
    scores = []
    for rule in ("none", "rms"):
        path, _ = scored(tuned_copy.folder, with_memory(tuned_copy.config, rule=rule), "1-3")
        scores.append(read_scores(path))
    trained = load_model(tuned_copy.folder)
    card = model_card(opened(tuned_copy.folder, tuned_copy.config))
    matter = yaml.safe_load(card.split("---\n", 2)[1])
    assert matter["library_name"] == "dynlm"
    for variant in compare(scores).variants:
        assert "|".join(figures_of(variant)[:4]) in card.replace(" ", "")
    for reported in (
        f"{trained.card['parameters']:,}",
        f"{trained.card['valid_nats_per_token']:.4f}",
        trained.fingerprint,
    ):
        assert reported in card
    assert re.search(r"^\| rms +\| stream +\| lr \d", card, re.MULTILINE)
    assert "Learned: ` meta-stream `" in card
    assert scores[0].title(0) in card
    assert str(tuned_copy.corpus) not in card.replace(str(scores[0].protocol["corpus"]), "")


def test_a_card_of_an_untuned_run_without_scores(run_copy: Run) -> None:
    card = model_card(opened(run_copy.folder, run_copy.config))
    assert "Not tuned yet." in card and "Nothing was scored yet." in card


def test_hostile_text_is_escaped(tuned_copy: Run) -> None:
    path, _ = scored(tuned_copy.folder, with_memory(tuned_copy.config, rule="rms"), "1-2")
    scores = read_scores(path)
    titles = [{"index": 0, "title": HOSTILE}, {"index": 1, "title": "\n# heading\n---\n"}]
    changes = {"articles": titles, "variant": HOSTILE, "run": HOSTILE, "split": HOSTILE, "statement": HOSTILE}
    write_scores(path, dataclasses.replace(scores, protocol={**scores.protocol, **changes}))
    run = dataclasses.replace(tuned_copy.config.run, name="**b** [x](y) www.evil.example")
    save_config(tuned_copy.folder, dataclasses.replace(tuned_copy.config, run=run))
    card = body(model_card(opened(tuned_copy.folder, dataclasses.replace(tuned_copy.config, run=run))))
    assert "alert(1)" in card
    assert "\u202e" not in card and "\x00" not in card
    # Outside of code spans and blocks nothing is left that Markdown would act upon.
    plain = re.sub(r"(?s)```python.*?```", "", card)
    plain = re.sub(r"(?s)(?<![\\`])(`+) .*? \1(?!`)", "", plain)
    plain = re.sub(r"\\.", "", plain)
    assert "<" not in plain and "`" not in plain and "](" not in plain
    assert "://" not in plain and "www." not in plain and "**" not in plain and "&" not in plain
    assert [line for line in plain.splitlines() if line.startswith("#")] == [
        line for line in plain.splitlines() if line.startswith(("# ", "## "))
    ]
    assert plain.count("\n# ") == 1


@pytest.mark.parametrize("title", ["`", "``` x", "a`b``c", "", "   ", "`x`"])
def test_a_title_ends_no_code_span(title: str, tuned_copy: Run) -> None:
    span = markdown_code(title)
    fence = re.match("`+", span)
    assert fence is not None
    inner = span[len(fence[0]) : -len(fence[0])]
    assert fence[0] not in re.findall("`+", inner)
    assert inner.strip() == title.strip()


NOT_AS_IT_SHOULD_BE = (None, [], {}, "x", 7, True, -1.5, [[]], {"a": {"b": []}}, 10**400, "\ud800")


@pytest.mark.parametrize("name", ["model.json", "memory/tuned.json", "provenance.json"])
def test_damaged_files_of_a_run_are_refused_in_one_line(name: str, tuned_copy: Run) -> None:
    path = tuned_copy.folder / name
    whole = json.loads(path.read_text())

    def damaged(value: Any) -> Iterator[Any]:
        yield from NOT_AS_IT_SHOULD_BE
        if isinstance(value, dict):
            for key in value:
                for other in damaged(value[key]):
                    yield {**value, key: other}
                yield {other: one for other, one in value.items() if other != key}
        elif isinstance(value, list) and value:
            for other in damaged(value[0]):
                yield [other, *value[1:]]

    cards = list(damaged(whole))
    refused = 0
    run = opened(tuned_copy.folder, tuned_copy.config)
    assert run.fingerprint
    for card in cards[:: max(1, len(cards) // 500)]:
        path.write_text(json.dumps(card))
        try:
            if name == "provenance.json":
                record_sitting(tuned_copy.folder, {"train": {"articles": 1, "fingerprint": "f"}}, made_with())
            else:
                model_card(run if name != "model.json" else opened(tuned_copy.folder, tuned_copy.config))
        except UserError:
            refused += 1
    assert refused > 20
