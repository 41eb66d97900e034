"""Runs that hold scores of several texts: every command that reads them says which, and takes another where asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dynlm.cli.main import main
from dynlm.errors import UserError
from dynlm.evaluation.score_file import read_protocol, read_scores, write_scores
from dynlm.evaluation.score_selection import one_text_named, texts_named
from tests.cli.commands import answer, answer_json
from tests.synthetic_scores import synthetic_scores
from tests.test_repository import python

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two variants on one text, then two on another, newer one."""
    for number, (text, articles) in enumerate((("aa11", 4), ("aa22", 2))):
        for scores in synthetic_scores(articles=articles, variants=("level 1", "rms")):
            scores.protocol.update(text=text, split="valid", date=f"2026-11-2{number}T00:00:00+0000")
            write_scores(tmp_path / "scores" / f"{text}-{scores.variant.replace(' ', '')}.parquet", scores)
    return tmp_path


def names(paths: list[Path]) -> list[str]:
    return [path.stem for path in paths]


def test_texts_come_newest_first_and_one_can_be_chosen(run: Path) -> None:
    both = [["aa22-level1", "aa22-rms"], ["aa11-level1", "aa11-rms"]]
    assert [names(files) for files in texts_named([str(run)])] == both
    assert [names(files) for files in texts_named([str(run)], "aa1")] == [["aa11-level1", "aa11-rms"]]
    for key, message in (("aa", "2 texts begin with"), ("b", "no text begins with")):
        with pytest.raises(UserError, match=message):
            texts_named([str(run)], key)


def test_files_named_one_by_one_have_to_be_of_one_text(run: Path) -> None:
    files = sorted(map(str, (run / "scores").iterdir()))
    assert names(one_text_named(files[:2])) == ["aa11-level1", "aa11-rms"]
    with pytest.raises(UserError, match="of several texts"):
        one_text_named(files)


@pytest.mark.parametrize("verb", ["plot", "heatmap", "report"])
def test_pictures_are_of_the_newest_text_and_say_so(verb: str, run: Path, capsys: Capture) -> None:
    assert main([verb, str(run)]) == 0
    out, err = capsys.readouterr()
    assert "wrote" in out
    assert "of aa22 (valid, 2 articles)" in err and "aa11 (valid, 4 articles)" in err and err.count("\n") == 1
    assert main([verb, str(run), "--text", "aa11"]) == 0
    assert capsys.readouterr().err == ""


def test_compare_prints_a_table_for_each_text(run: Path, capsys: Capture) -> None:
    message = answer(capsys, "compare", run, "--resamples", "10")
    assert message.count("nats/token  ") == 2 and "2 articles" in message and "4 articles" in message
    both = answer_json(capsys, "compare", run, "--resamples", "10")["texts"]
    alone = [answer_json(capsys, "compare", run, "--resamples", "10", "--text", key) for key in ("aa22", "aa11")]
    assert both == alone


def test_a_files_protocol_is_read_without_its_rows(run: Path) -> None:
    path = next((run / "scores").iterdir())
    assert read_protocol(path) == read_scores(path).protocol
    path.write_bytes(path.read_bytes()[:-9])
    for read in (read_protocol, read_scores):
        with pytest.raises(UserError, match="cut short|not a whole|damaged"):
            read(path)


def test_hidden_files_are_no_scores(run: Path) -> None:
    (run / "scores" / ".aa33.parquet").write_bytes(b"under way")
    assert [len(files) for files in texts_named([str(run)])] == [2, 2]


@pytest.fixture
def large(run: Path) -> Callable[[int], Path]:
    """A small file of many row groups, each with a dictionary of one long token."""

    def made(groups: int) -> Path:
        scores = read_scores(run / "scores" / "aa11-rms.parquet")
        path = run / "large.parquet"
        table = pq.read_table(scores.path).slice(0, 1)
        at = table.schema.get_field_index("surface")
        long = table.set_column(at, table.schema.field("surface"), pa.array([b"a" * 2**22]))
        with pq.ParquetWriter(path, table.schema, compression="zstd") as writer:
            for number in range(groups):
                writer.write_table(long if number else table)
        return path

    return made


def test_a_small_file_that_unpacks_to_much_is_refused_before_it_is_read(large: Callable[[int], Path]) -> None:
    path = large(200)
    assert path.stat().st_size < 2**20
    with pytest.raises(UserError, match="claims .* bytes, more than its size allows"):
        read_scores(path)


def test_reading_a_protocol_takes_little_memory(large: Callable[[int], Path]) -> None:
    path = large(30)
    code = f"""
import resource
from pathlib import Path
from dynlm.errors import UserError
from dynlm.evaluation.score_file import read_scores
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_scores(Path({str(path)!r}))
except UserError as error:
    print(error, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    message = python("-c", code).stdout
    assert "bytes of text, more than its size allows" in message and int(message.split()[-1]) < 300
