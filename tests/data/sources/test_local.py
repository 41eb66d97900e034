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
