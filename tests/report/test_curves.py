"""Figures of curves: which files are written, reproducible bytes, labels as text, and user errors."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.legend import Legend

from dynlm.errors import UserError
from dynlm.report import curves
from dynlm.report.article_labels import article_letters, spread
from dynlm.report.curves import plot_difference, plot_memory, plot_run
from dynlm.report.score_set import ScoreSet
from tests.report.samples import write_files
from tests.synthetic_scores import synthetic_scores

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("articles", [8, 30])
def test_every_figure_is_written_as_png_svg_and_pdf(tmp_path, articles):
    paths = write_files(tmp_path, synthetic_scores(articles, ("level 1", "rms", "meta"), tokens=150))
    written = plot_run(paths, tmp_path / "figures")
    assert [path.name for path in written] == [
        f"{name}.{kind}" for name in ("difference", "position") for kind in ("png", "svg", "pdf")
    ]
    for path in written:
        if path.suffix == ".png":
            assert path.read_bytes().startswith(PNG)
        elif path.suffix == ".pdf":
            assert path.read_bytes().startswith(b"%PDF-") and b"/Type3" not in path.read_bytes()
        else:
            assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_no_legend_covers_data(tmp_path, monkeypatch):
    """Two of three variants are nearly the same, so that a panel of their difference has a legend of its own."""
    level_1, rms, meta = synthetic_scores(3, ("level 1", "rms", "meta"), tokens=150)
    drawn = []
    monkeypatch.setattr(curves, "save_figure", lambda figure, path: drawn.append(figure) or [])
    plot_run(write_files(tmp_path, [level_1, rms, replace(meta, nats=rms.nats * 1.0001)]), tmp_path)
    legends = [legend for figure in drawn for axes in figure.axes for legend in axes.findobj(Legend)]
    assert len(drawn) == 2 and len(legends) == 4
    for legend in legends:
        legend.figure.draw_without_rendering()
        panel, box = legend.axes.get_window_extent(), legend.get_window_extent()
        assert box.y0 >= panel.y1 - 0.5 or box.y1 <= panel.y0 + 0.5, f"{box} is in {panel}"


def test_same_scores_give_the_same_bytes(tmp_path):
    scores = ScoreSet(synthetic_scores(3, tokens=60))
    first, second = (plot_difference(scores, tmp_path / name, window=20) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert b"<dc:date>" not in first[1].read_bytes() and b"CreationDate" not in first[2].read_bytes()


def test_one_file_gives_only_the_position_figure(tmp_path):
    paths = write_files(tmp_path, synthetic_scores(1, ("level 1",), tokens=60))
    assert [path.name for path in plot_run(paths, tmp_path)] == ["position.png", "position.svg", "position.pdf"]


def test_labels_and_titles_are_never_parsed_as_tex(tmp_path):
    variants = [
        replace(
            scores,
            protocol={
                **scores.protocol,
                "variant": f"_${{\\broken {index}$",
                "articles": [{"index": 0, "title": "$\\x"}],
            },
        )
        for index, scores in enumerate(synthetic_scores(1, ("a", "b", "c"), tokens=50))
    ]
    assert len(plot_run(write_files(tmp_path, variants), tmp_path)) == 6


def test_user_errors_name_the_wrong_choice(tmp_path):
    paths = write_files(tmp_path, synthetic_scores(2, tokens=60))
    with pytest.raises(UserError, match="'rsm'.*'level 1', 'rms'"):
        plot_run(paths, tmp_path, pairs=[("level 1", "rsm")])
    with pytest.raises(UserError, match="window is 0"):
        plot_run(paths, tmp_path, window=0)
    other = write_files(tmp_path / "other", synthetic_scores(2, tokens=90))
    with pytest.raises(UserError, match="cannot be compared"):
        plot_run([paths[0], other[1]], tmp_path)
    with pytest.raises(UserError, match="no score file"):
        plot_run([], tmp_path)


def test_recorded_memories_are_drawn_and_others_rejected(tmp_path):
    plain, learned = synthetic_scores(3, tokens=200)
    reset_share = (learned.segment % 5 == 0).astype(np.float32)
    distance = np.linspace(0, 1, len(reset_share), dtype=np.float32)
    for columns in (
        {"reset_share": reset_share},
        {"distance": distance},
        {"reset_share": reset_share, "distance": distance},
    ):
        paths = write_files(tmp_path, [plain, replace(learned, **columns)])
        assert [path.name for path in plot_run(paths, tmp_path)][-3:] == ["memory.png", "memory.svg", "memory.pdf"]
    with pytest.raises(UserError, match="no score file has a record"):
        plot_memory(ScoreSet([plain, learned]), tmp_path / "none")


def test_article_letters_continue_after_z():
    letters = [article_letters(index) for index in (0, 25, 26, 51, 52, 59, 701, 702)]
    assert letters == ["A", "Z", "AA", "AZ", "BA", "BH", "ZZ", "AAA"]


def test_spread_positions_keep_their_distance_and_the_limit():
    positions = spread(np.array([0.0, 1.0, 2.0, 99.0, 99.5]), 10.0, 100.0)
    assert (np.diff(positions) >= 10).all() and positions[-1] <= 100
    assert spread(np.array([5.0, 50.0]), 10.0, 100.0).tolist() == [5.0, 50.0]
