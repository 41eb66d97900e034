"""Colours of variants: one for each name wherever it is drawn, readable, and told apart without full colour sight."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from PIL import Image

from dynlm.errors import UserError
from dynlm.report.curves import plot_memory, plot_position
from dynlm.report.palette import DARK, DASHES, LIGHT, learner_styles, line_styles
from dynlm.report.score_set import ScoreSet
from tests.report.test_scale import contrast
from tests.synthetic_scores import synthetic_scores

STUDIED = ["level 1", "sgd", "rms", "level 2", "level 3", "level 3 + cache", "no-regret"]


@given(st.permutations(STUDIED), st.integers(1, len(STUDIED)))
def test_a_studied_variant_has_one_colour_in_any_choice_and_order_of_variants(names, count):
    whole = dict(zip(STUDIED, line_styles(STUDIED), strict=True))
    assert line_styles(names[:count]) == [whole[name] for name in names[:count]]
    assert len({style.colour for style in whole.values()}) == len(LIGHT)


@given(st.lists(st.text(max_size=8), unique=True, max_size=7), st.randoms(use_true_random=False))
def test_other_names_have_colours_of_their_own_whatever_their_order(names, random):
    styles = dict(zip(names, line_styles(names), strict=True))
    assert len({style.colour for style in styles.values()}) == len(names)
    shuffled = random.sample(names, len(names))
    assert dict(zip(shuffled, line_styles(shuffled), strict=True)) == styles


def test_readings_of_one_variant_share_its_colour_and_differ_in_dashes():
    styles = line_styles(["level 1", "rms", "rms", "rms", "another"])
    assert len({style.colour for style in styles[1:4]}) == 1
    assert len(set(styles)) == 5 and all(style.dash < len(DASHES) for style in styles)
    many = line_styles([f"variant {index}" for index in range(30)])
    assert {style.colour for style in many} == set(range(len(LIGHT)))
    assert len(set(many)) == 30


TOGETHER = [
    ["random initialisation", "MAML", "Reptile", "FOMAML", "Meta-SGD", "ANIL", "MAML++"],
    ["random initialisation", "MAML", "Reptile", "FOMAML", "pretrained", "guided search"],
    ["random actions", "RL²", "Thompson sampling", "UCB1", "epsilon-greedy", "Gittins index", "oracle"],
    ["random actions", "RL²", "PSRL", "optimistic PSRL", "epsilon-greedy on the mean model", "oracle"],
]


@pytest.mark.parametrize("labels", TOGETHER)
def test_learners_that_are_drawn_together_have_different_colours(labels):
    assert len({style.colour for style in learner_styles(labels)}) == len(labels)


@given(st.lists(st.sampled_from([*{label for labels in TOGETHER for label in labels}, "a plug-in's", "greedy"])))
def test_a_learner_has_one_colour_whatever_else_is_drawn(labels):
    styles = learner_styles(labels)
    assert [style.colour for style in styles] == [learner_styles([label])[0].colour for label in labels]
    assert len(set(styles)) >= min(len(labels), len(DASHES))
    assert learner_styles([f"{label} + transduction" for label in labels]) == styles


def lab(colour: str, sight: np.ndarray) -> np.ndarray:
    """Return CIE Lab of a colour as seen through the matrix ``sight`` on linear RGB."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ np.clip(sight @ linear, 0, 1) / (0.9505, 1.0, 1.089)
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


# Machado, Oliveira & Fernandes 2009, severity 1.
PROTANOPIA = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
DEUTERANOPIA = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]


@pytest.mark.parametrize(("palette", "paper"), [(LIGHT, "#ffffff"), (DARK, "#181a1f")])
def test_colours_are_readable_and_differ_for_colour_blind_readers(palette, paper):
    assert all(contrast(colour, paper) >= 4.5 for colour in palette)
    for sight, least in ((np.eye(3), 25), (np.array(PROTANOPIA), 10), (np.array(DEUTERANOPIA), 10)):
        seen = [lab(colour, sight) for colour in palette]
        assert min(float(np.linalg.norm(a - b)) for a, b in combinations(seen, 2)) >= least


def pixels(path, colour: str) -> int:
    """Return how many pixels of a picture have exactly this colour."""
    return int((np.asarray(Image.open(path).convert("RGB")) == np.round(255 * np.array(to_rgb(colour)))).all(-1).sum())


def test_pictures_draw_a_variant_in_its_colour_whichever_others_are_there(tmp_path):
    plain, sgd, rms, level_3 = synthetic_scores(12, ("level 1", "sgd", "rms", "level 3"), tokens=200)
    for number, variants in enumerate(([plain, sgd, rms, level_3], [rms, plain], [level_3, plain])):
        (png, *_) = plot_position(ScoreSet(variants), tmp_path / str(number))
        names = {each.variant for each in variants}
        for name, colour in (("level 1", LIGHT[0]), ("sgd", LIGHT[1]), ("rms", LIGHT[2]), ("level 3", LIGHT[3])):
            assert (pixels(png, colour) > 50) == (name in names)


def test_a_memory_without_distances_is_drawn_without_an_empty_panel(tmp_path):
    plain, learned = synthetic_scores(3, tokens=200)
    share = (learned.segment % 5 == 0).astype(np.float32)
    both = replace(learned, reset_share=share, distance=share)
    heights = []
    for number, each in enumerate((both, replace(both, distance=None), replace(both, reset_share=None))):
        (png, *_) = plot_memory(ScoreSet([plain, each]), tmp_path / str(number))
        heights.append(Image.open(png).height)
    assert heights[0] > heights[2] > heights[1]


def test_a_variant_is_not_paired_with_itself():
    with pytest.raises(UserError, match="'rms' with itself"):
        ScoreSet(synthetic_scores(1, tokens=60)).pairs([("rms", "rms")])
