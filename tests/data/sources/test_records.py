"""Records of JSON lines and Parquet: fields, WikiText in rows, and limits of size."""

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dynlm.data.articles import iter_articles, load_articles
from dynlm.data.sources.records import parquet_records
from dynlm.errors import UserError
from tests.data.sources.test_local import corpus, error_of, titles, wiki, write


@pytest.mark.parametrize("suffix", [".jsonl", ".json.gz"])
def test_json_lines(tmp_path, suffix):
    records = [{"title": "A", "text": "one\u2028\r\n"}, {"text": "two"}, {"title": 3, "text": "three"}, {"text": ""}]
    data = ("\n".join(map(json.dumps, records)) + "\n\n").encode()
    train, valid = tmp_path / f"train{suffix}", tmp_path / "valid.jsonl"
    train.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
    write(valid, '{"title": "V", "text": "v"}')
    articles = load_articles(corpus(tmp_path), "train")
    assert [a.title for a in articles] == ["A", f"{train}:2", "3"]
    assert [a.text for a in articles] == ["one\u2028\r\n", "two", "three"]
    assert titles(corpus(tmp_path), "valid") == ["V"]


def test_parquet_of_several_batches_and_shards(tmp_path):
    for shard in range(2):
        table = {"heading": [f"{shard}/{i}" for i in range(300)], "body": ["text"] * 300, "other": [None] * 300}
        pq.write_table(pa.table(table), tmp_path / f"train-{shard:05}-of-00002.parquet", row_group_size=70)
    config = corpus(tmp_path, text_field="body", title_field="heading")
    read = sorted(titles(config) + titles(config, "valid") + titles(config, "test"))
    assert read == sorted(f"{shard}/{i}" for shard in range(2) for i in range(300))
    first = next(iter_articles(config, "train"))
    assert first.where.endswith("train-00000-of-00002.parquet:1")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"text": "cut sho', "broken JSON"),
        ('["a", "list"]', "not an object"),
        ('{"body": "x"}', "no field 'text' among body"),
        ('{"text": 3}', "holds int"),
        ('{"text": "a\\u0000b"}', "NUL character at character 1"),
        ('{"text": "ab\\ud800"}', "lone surrogate at character 2"),
    ],
)
def test_a_bad_json_line_is_located(tmp_path, line, expected):
    path = write(tmp_path / "a.jsonl", '{"text": "fine"}\n\n' + line)
    message = error_of(corpus(path))
    assert message.startswith(f"{path}:3: ")
    assert expected in message


def test_a_large_row_group_is_read_in_parts(tmp_path):
    texts = [os.urandom(4000).hex() for _ in range(1500)]
    in_pages = {"write_batch_size": 32, "data_page_size": 1 << 18, "use_dictionary": False}
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", row_group_size=len(texts), **in_pages)
    before = pa.total_allocated_bytes()
    rows = parquet_records(tmp_path / "a.parquet", corpus(tmp_path))
    assert next(rows)[1]["text"] == texts[0]
    assert pa.total_allocated_bytes() - before < 6_000_000  # Of 12,000,000.
    assert [row["text"] for _, row in rows] == texts[1:]


def test_bad_parquet_is_rejected(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": ["x"]}), path)
    assert f"{path}: no field 'text' among body" in error_of(corpus(path))
    pq.write_table(pa.table({"text": ["x", None]}), path)
    assert f"{path}:2: field 'text' holds NoneType" in error_of(corpus(path))
    not_utf8 = pa.Array.from_buffers(pa.string(), 1, pa.array([b"fi\xffne"], pa.binary()).buffers())
    pq.write_table(pa.table({"text": pa.concat_arrays([pa.array(["x"]), not_utf8])}), path)
    assert f"{path}:2: not UTF-8 at byte 2" in error_of(corpus(path))
    path.write_bytes(path.read_bytes()[:-7])
    assert f"{path}: not a readable Parquet file" in error_of(corpus(path))


def lines_of(text: str) -> list[str]:
    """Return the hub's rows of WikiText: its lines, with blank ones stripped."""
    return [line if line.strip() else "" for line in text.splitlines(keepends=True)]


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_wikitext_rows_are_joined_across_shards(tmp_path, form):
    rows = lines_of(wiki("A", "B", "C"))
    for shard, part in enumerate((rows[:5], rows[5:])):
        (tmp_path / "rows").mkdir(exist_ok=True)
        path = tmp_path / "rows" / f"train-{shard}.{form}"
        if form == "parquet":
            pq.write_table(pa.table({"text": part}), path)
        else:
            write(path, "".join(json.dumps({"text": row}) + "\n" for row in part))
    write(tmp_path / "plain" / "train.txt", wiki("A", "B", "C"))
    joined = [a for split in ("train+meta", "test", "valid") for a in load_articles(corpus(tmp_path / "rows"), split)]
    plain = [a for split in ("train+meta", "test", "valid") for a in load_articles(corpus(tmp_path / "plain"), split)]
    assert [(a.title, a.text) for a in joined] == [(a.title, a.text) for a in plain]
    assert [Path(a.where).name for a in joined] == [f"train-0.{form}:2", f"train-1.{form}:1", f"train-1.{form}:5"]


def test_single_lines_without_titles_are_articles(tmp_path):
    pq.write_table(pa.table({"text": ["one\n", "", "two\n", "three\n"]}), tmp_path / "train.parquet")
    assert len(titles(corpus(tmp_path / "train.parquet"))) == 1
    assert [a.text for a in load_articles(corpus(tmp_path / "train.parquet"), "valid")] == ["three\n"]


def test_parquet_that_expands_out_of_proportion_is_rejected(tmp_path, monkeypatch):
    from dynlm.data.sources import records

    monkeypatch.setattr(records, "_FREE_BYTES", 1 << 16)
    text = "the town was seen .\n" * 600
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 40_000, pa.int32()), pa.array([text]))
    pq.write_table(pa.table({"text": repeated}), tmp_path / "a.parquet", compression="zstd")
    size = (tmp_path / "a.parquet").stat().st_size
    assert 40_000 * len(text) > 10_000 * size + (1 << 16)
    given = 0
    with pytest.raises(UserError, match=r"a\.parquet: its texts have over 10,000 times as many bytes"):
        for _, record in parquet_records(tmp_path / "a.parquet", corpus(tmp_path)):
            given += len(record["text"])
    assert given <= 10_000 * size + (1 << 16)


def test_a_row_group_that_is_too_large_is_rejected_before_reading(tmp_path, monkeypatch):
    monkeypatch.setattr("dynlm.runtime.text.LARGEST_TEXT", 1000)
    made = pa.table({"text": ["a\n" * 2_000_000], "other": ["b" * 9_000_000]})
    pq.write_table(made, tmp_path / "a.parquet", compression="zstd", use_dictionary=False)
    monkeypatch.setattr(pq, "ParquetFile", None)
    with pytest.raises(UserError, match="a.parquet, row group 1: longer than"):
        next(parquet_records(tmp_path / "a.parquet", corpus(tmp_path)))
