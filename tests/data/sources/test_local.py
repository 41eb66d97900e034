"""Local files and folders: detection of formats and splits, and errors for what is ambiguous or broken."""

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dynlm.data.articles import iter_articles, load_articles, open_source
from dynlm.data.options import CorpusOptions
from dynlm.data.sources.records import parquet_records
from dynlm.errors import UserError
from dynlm.runtime import text


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
    return path


def wiki(*titles: str) -> str:
    return "".join(f" \n = {title} = \n \n text of {title} . \n" for title in titles)


def corpus(path: Path, **options: object) -> CorpusOptions:
    return CorpusOptions(path=str(path), hold_out_every=3, **options)


def titles(config: CorpusOptions, split: str = "train+meta") -> list[str]:
    return [article.title for article in iter_articles(config, split)]


def error_of(config: CorpusOptions, split: str = "train+meta") -> str:
    with pytest.raises(UserError) as caught:
        load_articles(config, split)
    return str(caught.value)


def test_splits_are_found_by_file_name(tmp_path):
    write(tmp_path / "wiki.train.tokens", wiki("A", "B"))
    write(tmp_path / "wiki.valid.tokens", wiki("C"))
    write(tmp_path / "README.md", "not read")
    (tmp_path / "wiki.test.tokens.gz").write_bytes(gzip.compress(wiki("D").encode()))
    config = corpus(tmp_path)
    assert [titles(config, split) for split in ("train", "valid", "test")] == [["A", "B"], ["C"], ["D"]]
    assert titles(config) == ["A", "B"]
    assert next(iter_articles(config, "valid")).where == f"{tmp_path / 'wiki.valid.tokens'}:2"


def test_wikitext_is_detected_by_content(tmp_path):
    config = corpus(write(tmp_path / "any.txt", wiki(*"ABCDEF")))
    assert [titles(config, split) for split in ("train+meta", "test", "valid")] == [["A", "D"], ["B", "E"], ["C", "F"]]


def test_each_text_file_is_an_article(tmp_path):
    write(tmp_path / "b.md", "bee\r\nline\r")
    write(tmp_path / "a" / "c.txt", "sea")
    write(tmp_path / "a.txt", "ay")
    write(tmp_path / "d.txt", " \n")
    write(tmp_path / ".hidden.txt", "hidden")
    write(tmp_path / "picture.png", "not text")
    config = corpus(tmp_path)
    articles = [a for split in ("train", "test", "valid") for a in iter_articles(config, split)]
    assert [(a.title, a.text) for a in articles] == [("a/c", "sea"), ("a", "ay"), ("b", "bee\r\nline\r")]
    assert articles[0].where == str(tmp_path / "a" / "c.txt")


def test_splits_are_found_by_folder_name(tmp_path):
    for name in ("train/x", "train/sub/test", "validation/y", "other/z"):
        write(tmp_path / f"{name}.txt", name)
    config = corpus(tmp_path)
    assert titles(config) == ["train/sub/test", "train/x"]
    assert titles(config, "valid") == ["validation/y"]
    assert "test" not in open_source(config).splits


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


def test_the_format_option_overrides_detection(tmp_path):
    write(tmp_path / "train.txt", wiki("A"))
    write(tmp_path / "x.txt", "x")
    assert titles(corpus(tmp_path, format="text"), "train+meta") == ["train"]
    assert titles(corpus(tmp_path, format="wikitext")) == ["A"]
    one = write(tmp_path / "one.log", '{"text": "t", "title": "T"}')
    assert titles(corpus(one, format="jsonl")) == ["T"]


def test_nothing_is_read_past_the_limit(tmp_path):
    lines = [json.dumps({"title": f"{i}", "text": "t"}) for i in range(6)]
    config = corpus(write(tmp_path / "a.jsonl", "\n".join([*lines, "broken"])), limit=2)
    assert titles(config) == ["0", "3"]


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


def test_missing_and_empty_inputs_are_rejected(tmp_path):
    assert "no such file or folder" in error_of(corpus(tmp_path / "none"))
    assert "no text, JSON lines, Parquet or MediaWiki XML files" in error_of(corpus(tmp_path))
    write(tmp_path / "a.txt", "text")
    assert "no jsonl files" in error_of(corpus(tmp_path, format="jsonl"))


def test_ambiguous_inputs_are_rejected(tmp_path):
    write(tmp_path / "mixed" / "a.txt", "text")
    write(tmp_path / "mixed" / "a.jsonl", '{"text": "t"}')
    assert "several formats: jsonl (" in error_of(corpus(tmp_path / "mixed"))
    write(tmp_path / "twice" / "train.txt", wiki("A"))
    (tmp_path / "twice" / "train.txt.gz").write_bytes(gzip.compress(wiki("A").encode()))
    assert "the same text as" in error_of(corpus(tmp_path / "twice"))
    write(tmp_path / "untitled" / "train.txt", "text")
    assert "--corpus.format text" in error_of(corpus(tmp_path / "untitled"))


def test_a_single_article_leaves_no_validation_split(tmp_path):
    config = corpus(write(tmp_path / "book.txt", "It was a dark night."))
    assert titles(config) == ["book"]
    message = error_of(config, "valid")
    assert "no articles in split 'valid'" in message
    assert str(tmp_path / "book.txt") in message


def test_skipped_files_are_listed_with_reasons(tmp_path):
    write(tmp_path / "data" / "train.jsonl", '{"text": "a"}\n')
    write(tmp_path / "data" / "dev.jsonl", '{"text": "b"}\n')
    write(tmp_path / "data" / "cars.jsonl", '{"text": "c"}\n')
    write(tmp_path / "data" / "README.md", "about it")
    write(tmp_path / "data" / "picture.png", "")
    write(tmp_path / "data" / ".DS_Store", "")
    (tmp_path / "data" / "gone.txt").symlink_to("nowhere")
    (tmp_path / "data" / "round").symlink_to(".")
    config = corpus(tmp_path / "data")
    assert [len(titles(config, split)) for split in ("train+meta", "valid")] == [1, 1]
    assert {Path(path).name: why.split()[-1] for path, why in open_source(config).skipped.items()} == {
        "cars.jsonl": "none",
        "README.md": "data",
        "picture.png": "file",
        "gone.txt": "nowhere",
        "round": "folder",
    }


@pytest.mark.parametrize("name", ["valid", "validation", "val", "dev", "development", "Dev"])
def test_names_of_the_validation_split(tmp_path, name):
    for split in ("train", name):
        write(tmp_path / f"{split}.jsonl", f'{{"text": "{split}"}}\n')
    assert [a.text for a in load_articles(corpus(tmp_path), "valid")] == [name]


def test_a_linked_split_folder_must_stay_inside_the_corpus(tmp_path):
    write(tmp_path / "c" / "kept" / "a.txt", "a")
    (tmp_path / "c" / "train").symlink_to("kept")
    assert titles(corpus(tmp_path / "c")) == ["train/a"]
    write(tmp_path / "elsewhere" / "b.txt", "b")
    (tmp_path / "c" / "valid").symlink_to(tmp_path / "elsewhere")
    assert f"{tmp_path / 'c' / 'valid'}: leads out of" in error_of(corpus(tmp_path / "c"))


def test_notes_are_skipped_when_the_format_is_detected(tmp_path):
    for name in ("README.md", "LICENSE.txt", "a.txt"):
        write(tmp_path / name, "one line\n")
    write(tmp_path / "shard-0.txt", wiki("A", "B"))
    write(tmp_path / "shard-1.txt", wiki("C"))
    config = corpus(tmp_path)
    read = [a.title for split in ("train+meta", "test", "valid") for a in load_articles(config, split)]
    assert sorted(read) == ["A", "B", "C", "a"]
    assert {Path(path).name for path in open_source(config).skipped} == {"README.md", "LICENSE.txt"}


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


@pytest.mark.parametrize("name", ["pipe.txt", "train.jsonl", "a.parquet", "wiki.valid.tokens.xz"])
def test_a_pipe_is_rejected_alone_and_in_a_folder(tmp_path, name):
    os.mkfifo(tmp_path / name)
    for path in (tmp_path / name, tmp_path):
        assert f"{tmp_path / name}: not a regular file" in error_of(corpus(path))


def test_an_article_that_is_too_long_is_rejected_in_every_format(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "LARGEST_TEXT", 1000)
    fits, longer = "ä\n" * 333, "ä\n" * 334
    for body, refused in ((fits, False), (longer, True)):
        made = [write(tmp_path / "a.txt", body), write(tmp_path / "a.jsonl", json.dumps({"text": body}))]
        pq.write_table(pa.table({"text": [body]}), tmp_path / "a.parquet")
        (tmp_path / "b.txt.gz").write_bytes(gzip.compress(body.encode()))
        made += [tmp_path / "a.parquet", tmp_path / "b.txt.gz"]
        made.append(write(tmp_path / "wiki.txt", " \n = A = \n \n" + body if refused else wiki("A") + body[:600]))
        for path in made:
            if refused:
                message = error_of(corpus(path))
                assert message.startswith(str(path)) and "the most that an article may have" in message
            else:
                assert len(titles(corpus(path))) == 1


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
