"""Curves: files are made for short and long texts, the same scores give the same bytes, and mistakes are named."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest

from dynlm.errors import UserError
from dynlm.evaluation.score_file import write_scores
from dynlm.report.curves import _spread, article_letters, default_pairs, plot_difference, plot_run
from tests.readings import reading

PNG = b"\x89PNG\r\n\x1a\n"


def write(folder, arms):
    paths = []
    for index, scores in enumerate(arms):
        paths.append(folder / f"{index}.parquet")
        write_scores(paths[-1], scores)
    return paths


@pytest.mark.parametrize("articles", [8, 30])
def test_both_pictures_are_written_twice(tmp_path, articles):
    paths = write(tmp_path, reading(articles, ("level 1", "rms", "meta"), tokens=150))
    written = plot_run(paths, tmp_path / "pictures")
    assert [path.name for path in written] == ["difference.png", "difference.svg", "position.png", "position.svg"]
    for path in written:
        if path.suffix == ".png":
            assert path.read_bytes().startswith(PNG)
        else:
            assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_the_same_scores_give_the_same_bytes(tmp_path):
    arms = reading(3, tokens=60)
    first = plot_difference(arms, default_pairs(arms), 20, tmp_path / "a")
    second = plot_difference(arms, default_pairs(arms), 20, tmp_path / "b")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert b"<dc:date>" not in first[1].read_bytes()


def test_one_file_gives_the_position_alone(tmp_path):
    paths = write(tmp_path, reading(1, ("level 1",), tokens=60))
    assert [path.name for path in plot_run(paths, tmp_path)] == ["position.png", "position.svg"]


def test_labels_and_titles_are_text_and_never_tex(tmp_path):
    arms = [
        replace(
            arm,
            protocol={**arm.protocol, "variant": f"_${{\\broken {index}$", "articles": [{"index": 0, "title": "$\\x"}]},
        )
        for index, arm in enumerate(reading(1, ("a", "b", "c"), tokens=50))
    ]
    assert len(plot_run(write(tmp_path, arms), tmp_path)) == 4


def test_mistakes_are_named(tmp_path):
    paths = write(tmp_path, reading(2, tokens=60))
    with pytest.raises(UserError, match="'rsm'.*'level 1', 'rms'"):
        plot_run(paths, tmp_path, pairs=[("level 1", "rsm")])
    for window in (0, 10**6):
        with pytest.raises(UserError, match=f"window is {window}"):
            plot_run(paths, tmp_path, window=window)
    other = write(tmp_path / "other", reading(2, tokens=90))
    with pytest.raises(UserError, match="cannot be compared"):
        plot_run([paths[0], other[1]], tmp_path)
    with pytest.raises(UserError, match="nothing to draw"):
        plot_run([], tmp_path)


def test_letters_go_on_after_z():
    assert [article_letters(index) for index in (0, 25, 26, 51, 52, 59, 701, 702)] == [
        "A",
        "Z",
        "AA",
        "AZ",
        "BA",
        "BH",
        "ZZ",
        "AAA",
    ]


def test_spread_places_keep_their_distance_and_the_limit():
    import numpy as np

    places = _spread(np.array([0.0, 1.0, 2.0, 99.0, 99.5]), 10.0, 100.0)
    assert (np.diff(places) >= 10).all() and places[-1] <= 100
    assert _spread(np.array([5.0, 50.0]), 10.0, 100.0).tolist() == [5.0, 50.0]
