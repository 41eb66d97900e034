"""The score file: what is written comes back, and what is damaged is refused in one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynlm.errors import UserError
from dynlm.evaluation.score_file import Scores, read_protocol, read_scores, scores_of_run, write_scores
from tests.synthetic_scores import synthetic_scores

COLUMNS = ("article", "position", "segment", "token", "words", "nats")

GOLDEN = Path(__file__).parents[1] / "golden" / "run" / "scores" / "kept.parquet"


@pytest.fixture
def scores() -> Scores:
    return synthetic_scores(articles=3, tokens=60)[1]


def rewrite(path: Path, change) -> None:
    """Replace the file's table by ``change(table)``."""
    pq.write_table(change(pq.read_table(path)), path)


def as_before(table: pa.Table) -> pa.Table:
    """Name a column as earlier versions did."""
    names = ["flush" if name == "reset_share" else name for name in table.column_names]
    return table.rename_columns(names).replace_schema_metadata(table.schema.metadata)


def with_protocol(table: pa.Table, **changes: object) -> pa.Table:
    protocol = {**json.loads(table.schema.metadata[b"dynlm"]), **changes}
    return table.replace_schema_metadata({b"dynlm": json.dumps(protocol).encode()})


def test_a_round_trip_keeps_unknown_protocol_keys(tmp_path, scores):
    scores.protocol["of a later version"] = {"kept": [1, 2.5, None, "ü"]}
    write_scores(tmp_path / "rms.parquet", scores)
    back = read_scores(tmp_path / "rms.parquet")
    assert back.protocol == {**scores.protocol, "format": 1}
    assert back.surface == list(scores.surface)
    for name in COLUMNS:
        assert np.array_equal(getattr(back, name), getattr(scores, name))
        assert getattr(back, name).dtype == getattr(scores, name).dtype


@settings(max_examples=30, deadline=None)
@given(surfaces=st.lists(st.binary(max_size=9), min_size=1, max_size=30))
def test_any_bytes_survive_as_surfaces(tmp_path_factory, surfaces):
    count = len(surfaces)
    zeros = np.zeros(count, dtype=np.int32)
    protocol = {"variant": "level 1", "articles": [{"index": 0, "title": "T"}], "text": "t", "tokenizer": "k"}
    nats = np.linspace(0, 20, count, dtype=np.float32)
    scores = Scores(protocol, zeros, np.arange(count), zeros, zeros, zeros, nats, surfaces)
    path = tmp_path_factory.mktemp("scores") / "a.parquet"
    write_scores(path, scores)
    back = read_scores(path)
    assert back.surface == surfaces
    assert back.bytes.tolist() == [len(surface) for surface in surfaces]


def test_the_columns_have_the_documented_types(tmp_path, scores):
    write_scores(tmp_path / "a.parquet", scores)
    schema = pq.read_schema(tmp_path / "a.parquet")
    assert {field.name: str(field.type) for field in schema} == {
        "article": "int32",
        "position": "int32",
        "segment": "int32",
        "token": "int32",
        "surface": "binary",
        "words": "int16",
        "nats": "float",
    }
    assert pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0).column(0).compression == "ZSTD"


def test_optional_columns_are_kept_where_recorded(tmp_path, scores):
    distance, reset_share = np.linspace(0, 2, len(scores)), np.zeros(len(scores))
    write_scores(tmp_path / "a.parquet", replace(scores, distance=distance, reset_share=reset_share))
    back = read_scores(tmp_path / "a.parquet")
    assert back.distance.dtype == np.float32 and back.distance == pytest.approx(distance)
    assert back.reset_share.tolist() == reset_share.tolist()
    write_scores(tmp_path / "b.parquet", replace(scores, reset_share=reset_share))
    assert read_scores(tmp_path / "b.parquet").distance is None
    with pytest.raises(ValueError, match="different lengths"):
        replace(scores, reset_share=reset_share[:-1])
    with pytest.raises(UserError, match="'distance'.*finite"):
        write_scores(tmp_path / "c.parquet", replace(scores, distance=distance * np.nan))
    rewrite(tmp_path / "a.parquet", lambda table: table.set_column(8, "reset_share", pa.array(reset_share + np.inf)))
    with pytest.raises(UserError, match=r"a\.parquet: .*'reset_share'.*finite"):
        read_scores(tmp_path / "a.parquet")


def test_a_column_of_an_earlier_version_is_read_by_its_name_of_now(tmp_path, scores):
    reset_share = np.linspace(0, 1, len(scores), dtype=np.float32)
    write_scores(tmp_path / "a.parquet", replace(scores, reset_share=reset_share))
    rewrite(tmp_path / "a.parquet", as_before)
    assert "flush" in pq.read_schema(tmp_path / "a.parquet").names
    assert read_scores(tmp_path / "a.parquet").reset_share.tolist() == reset_share.tolist()


def test_only_known_keys_of_earlier_versions_are_renamed(tmp_path, scores):
    """A key of the protocol that dynlm does not know keeps its name, whatever a rate was called."""
    write_scores(tmp_path / "a.parquet", scores)
    rewrite(tmp_path / "a.parquet", lambda table: with_protocol(table, alpha=1, guard=True))
    protocol = read_scores(tmp_path / "a.parquet").protocol
    assert (protocol["alpha"], protocol["update_filter"]) == (1, True)


def test_sums_and_rows_by_article(scores):
    assert scores.sums(scores.nats).sum() == pytest.approx(scores.nats.sum(dtype=np.float64))
    for place, article in enumerate(scores.articles):
        here = scores.article == article
        assert scores.sums(scores.bytes)[place] == scores.bytes[here].sum()
        assert np.flatnonzero(here).tolist() == list(range(len(scores)))[scores.rows(int(article))]
    with pytest.raises(KeyError):
        scores.rows(3)


def test_titles_are_one_line_and_never_missing(scores):
    scores.protocol["articles"] = [{"index": 0, "title": "two\nlines"}, {"index": 1}]
    assert [scores.title(index) for index in range(3)] == ["two lines", "article 2", "article 3"]


def test_columns_of_different_lengths_are_refused(scores):
    with pytest.raises(ValueError, match="different lengths"):
        replace(scores, nats=scores.nats[:-1])


@pytest.mark.parametrize("kept", [0, 3, 100, 0.5, 0.99])
def test_a_file_cut_short_is_refused(tmp_path, scores, kept):
    path = tmp_path / "a.parquet"
    write_scores(path, scores)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    with pytest.raises(UserError, match=r"a\.parquet: .*cut short"):
        read_scores(path)


def test_a_changed_byte_among_the_losses_is_refused(tmp_path, scores):
    path = tmp_path / "a.parquet"
    write_scores(path, scores)
    offset = pq.ParquetFile(path).metadata.row_group(0).column(6).data_page_offset
    data = bytearray(path.read_bytes())
    data[offset + 60] ^= 0x55
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.parquet"):
        read_scores(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: with_protocol(table, format=2), "newer"),
        (lambda table: with_protocol(table, format="x"), "newer"),
        (lambda table: with_protocol(table, variant=None), "'variant'"),
        (lambda table: with_protocol(table, articles=["no index"]), "articles"),
        (lambda table: table.replace_schema_metadata({b"dynlm": b"{"}), "cannot be read"),
        (lambda table: table.replace_schema_metadata({b"dynlm": b"[]"}), "cannot be read"),
        (lambda table: table.replace_schema_metadata({}), "no score file"),
        (lambda table: table.drop_columns(["nats"]), "'nats'"),
        (lambda table: table.drop_columns(["surface"]), "'surface'"),
        (lambda table: table.set_column(0, "article", pa.array(["x"] * len(table))), "not a whole score file"),
        (lambda table: table.set_column(0, "article", pa.nulls(len(table), pa.int32())), "empty fields|not a whole"),
        (lambda table: table.slice(0, 0), "no scored tokens"),
        (lambda table: pa.concat_tables([table, table]), "one piece"),
    ],
)
def test_other_damage_is_named(tmp_path, scores, change, message):
    path = tmp_path / "a.parquet"
    write_scores(path, scores)
    rewrite(path, change)
    with pytest.raises(UserError, match=message) as caught:
        read_scores(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none.parquet"):
        with pytest.raises(UserError, match="no such score file"):
            read_scores(path)


@pytest.mark.parametrize("loss", [np.nan, np.inf])
def test_non_finite_losses_are_neither_written_nor_read(tmp_path, scores, loss):
    path = tmp_path / "a.parquet"
    write_scores(path, scores)
    before = path.read_bytes()
    broken = scores.nats.copy()
    broken[7] = loss
    with pytest.raises(UserError, match=f"token 7 is {loss}"):
        write_scores(path, replace(scores, nats=broken))
    assert path.read_bytes() == before
    rewrite(path, lambda table: table.set_column(table.schema.get_field_index("nats"), "nats", pa.array(broken)))
    with pytest.raises(UserError, match=f"token 7 is {loss}"):
        read_scores(path)


def test_score_files_of_a_run_come_sorted_without_unfinished_ones(tmp_path, scores):
    assert scores_of_run(tmp_path) == []
    for name in ("rms", "level-1", ".rms.parquet.x"):
        write_scores(tmp_path / "scores" / f"{name}.parquet", scores)
    assert [path.name for path in scores_of_run(tmp_path)] == ["level-1.parquet", "rms.parquet"]


def test_hidden_files_are_no_scores_of_a_run(tmp_path, scores):
    """Such as macOS leaves beside a copied file, whatever they hold."""
    write_scores(tmp_path / "scores" / "rms.parquet", scores)
    for name in (".rms.parquet", "._rms.parquet", ".aside.parquet"):
        (tmp_path / "scores" / name).write_bytes(b"no score file")
    assert [path.name for path in scores_of_run(tmp_path)] == ["rms.parquet"]


def test_more_rows_than_a_file_of_its_size_can_hold_are_refused_before_they_are_read(tmp_path, scores):
    """Rows that are all alike take next to nothing in a file, and gigabytes as arrays."""
    path = tmp_path / "scores.parquet"
    write_scores(path, scores)
    schema = pq.read_schema(path)
    assert not any(field.nullable for field in schema)
    rows = 2**20 + 1
    alike = [pa.array(np.zeros(rows), type=f.type) if f.name != "surface" else pa.array([b"a"] * rows) for f in schema]
    pq.write_table(pa.Table.from_arrays(alike, schema=schema), path, compression="zstd")
    assert path.stat().st_size * 8 < rows
    with pytest.raises(UserError, match=f"claims {rows:,} rows"):
        read_scores(path)


def test_files_of_an_earlier_version_have_todays_names():
    protocol = read_protocol(GOLDEN)
    assert protocol["variant"] == read_scores(GOLDEN).variant == "rms"
    assert protocol["update_filter"]["refused"] == {}
    assert protocol["rule"]["rates"]["embedding"].keys() == {"lr", "decay"}


def test_the_repr_is_one_line_with_the_mean_loss(scores):
    assert repr(scores) == f"Scores('{scores.variant}': {len(scores):,} tokens, {scores.nats.mean():.4f} nats/token)"
