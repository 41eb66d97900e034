"""The tables of a study as frames: the figures of its files, exactly; what is no table is refused in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import dynlm
from dynlm.errors import UserError
from dynlm.evaluation.export import to_csv
from dynlm.study.results import Results, results_of
from dynlm.study.tables import figures
from tests.study.test_results import BELOW, done, options

pandas = pytest.importorskip("pandas")


@pytest.fixture
def study(tmp_path: Path) -> Results:
    """The figures of a study whose table is in ``tmp_path``."""
    asked = options()
    asked.study.variants[2]["over"] = "rms"  # type: ignore[index]
    made = results_of(done(asked, BELOW, tmp_path), asked.study.replace(baselines=["level 1"]))
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "table.csv").write_text(to_csv(figures(made)))
    return made


def test_a_frame_has_the_figures_of_the_table(study: Results, tmp_path: Path) -> None:
    frame, records = dynlm.load_study(tmp_path), figures(study).records
    assert list(frame) == list(records[0])
    for name in frame:
        for found, made in zip(frame[name], (record[name] for record in records), strict=True):
            assert found == made or (made is None and pandas.isna(found)), name
    assert frame.equals(dynlm.load_study(tmp_path / "study"))
    best = frame.sort_values("nats_per_token").iloc[0]
    assert (best.variant, best.reset, best.order) == ("meta", "stream", "in order")
    assert best.gain_over_level_1_low < best.gain_over_level_1 < best.gain_over_level_1_high
    assert best.own_baseline == "rms, article"


def test_names_are_text_as_they_were_given(tmp_path: Path) -> None:
    names = ["-1", "1e3", "NA", "nan", "=1+1", "@x", "'s", "True", 'a, "b"']
    asked = options({name: "none" for name in names}, baselines=[], pairs=[])
    made = results_of(done(asked, dict.fromkeys(names, 0.0), tmp_path), asked.study)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "table.csv").write_text(to_csv(figures(made)))
    frame = dynlm.load_study(tmp_path, "other")
    assert frame["variant"].tolist() == names
    assert frame["reset"].isna().all()


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"a,b\n1,2\n", b'variant\n"a', b"variant\na,1\n", b"variant,nats\na\n", b"variant,nats\na,b\n"],
)
def test_a_damaged_table_is_refused(study: Results, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "study" / "table.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"table\.csv: not a table of a study"):
        dynlm.load_study(tmp_path)


def test_what_is_not_there_is_refused(study: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no such study"):
        dynlm.load_study(tmp_path, "another")
    with pytest.raises(UserError, match="no table over seeds"):
        dynlm.load_study(tmp_path, table="cells")
    with pytest.raises(UserError, match="no table 'rows'; choose one of readings, seeds, cells"):
        dynlm.load_study(tmp_path, table="rows")  # type: ignore[arg-type]
    (tmp_path / "study" / "seeds.json").write_text('{"rows": [{"variant": "a"}]}')
    with pytest.raises(UserError, match=r"seeds\.json: not a table of a study"):
        dynlm.load_study(tmp_path, table="cells")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match=r"pip install 'dynlm\[pandas\]'"):
        dynlm.load_study(tmp_path)
