"""The heat map in a terminal: with colours, without, and never more than text."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from dynlm.errors import UserError
from dynlm.report.heatmap import heatmap_data
from dynlm.report.passages import Passage
from dynlm.report.terminal import heatmap_text, print_heatmap
from tests.report.samples import HOSTILE_TOKENS, write_files
from tests.synthetic_scores import synthetic_scores


def printed(variants, passage, **options) -> str:
    console = Console(file=io.StringIO(), highlight=False, **options)
    console.print(heatmap_text(heatmap_data(*variants, [passage]), console), soft_wrap=True)
    return console.file.getvalue()


def test_without_colours_signs_show_gain_and_loss():
    lower, higher = synthetic_scores(articles=1, tokens=60)
    nats = lower.nats.copy()
    nats[:3] += (-5, 5, 0)
    lines = printed((lower, replace(higher, nats=nats)), Passage(0, 0, 3), width=60).splitlines()
    words = [surface.decode().strip() for surface in lower.surface[:3]]
    assert lines[-1].split() == [words[0] + "+++", words[1] + "---", words[2]]
    assert "\x1b" not in "".join(lines)


def test_colours_follow_the_gain_and_repeated_words_are_underlined(monkeypatch):
    monkeypatch.delenv("COLORFGBG", raising=False)
    lower, higher = synthetic_scores(articles=1, tokens=400)
    text = printed((lower, higher), Passage(0, 0, 200), width=80, force_terminal=True, color_system="truecolor")
    assert "\x1b[4;" in text and ";48;2;" in text


@pytest.mark.parametrize("system", [None, "truecolor"])
def test_hostile_tokens_neither_control_the_terminal_nor_become_markup(system):
    lower, higher = synthetic_scores(articles=1, tokens=60)
    hostile = [*HOSTILE_TOKENS, b"\x1b[31mred", b"[bold red]x[/]", b"\x9b"]
    surface = [*hostile, *list(lower.surface)[len(hostile) :]]
    variants = (replace(lower, surface=surface), replace(higher, surface=surface))
    text = printed(variants, Passage(0, 0, 13), width=500, force_terminal=system is not None, color_system=system)
    assert "\x00" not in text and "\u202e" not in text and "\x1b[31m" not in text and "\x9b" not in text
    assert "[bold red]x[/]" in text and r"\x1b[31mred" in text


@pytest.mark.parametrize("width", [30, 100])
def test_lines_fit_the_terminal(width):
    variants = synthetic_scores(articles=2, tokens=300)
    lines = printed(variants, Passage(0, 0, 100), width=width).splitlines()
    passage = lines[lines.index("") + 3 :]
    assert passage and all(len(line) <= width for line in passage)
    assert len("".join(passage).split()) > 50


def test_a_heat_map_needs_two_files_of_one_text(tmp_path):
    paths = write_files(tmp_path, [*synthetic_scores(1, tokens=60), *synthetic_scores(1, ("x",), tokens=80)])
    console = Console(file=io.StringIO())
    print_heatmap(paths[:2], (1, 0, 10), console)
    assert "Tokens 0 to 9 of" in console.file.getvalue()
    for wrong, message in (
        (paths[:1], "two score files"),
        (paths, "two score files"),
        (paths[1:], "cannot be compared"),
    ):
        with pytest.raises(UserError, match=message):
            print_heatmap(wrong, console=console)
