"""Articles from records with a text field: JSON lines, Parquet rows, and the hub's rows."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from dynlm.data.article import Article, too_long
from dynlm.data.options import CorpusOptions
from dynlm.data.sources.lines import regular_file, text_lines
from dynlm.data.sources.wikitext import wikitext_articles
from dynlm.errors import UserError
from dynlm.runtime import text as texts

_ROWS_AT_ONCE = 32
_TIMES_UNPACKED, _BYTES_UNPACKED = 10_000, 1 << 30
"""A Parquet file's texts may have so many times its bytes, and so many more: a few bytes repeat a text endlessly."""
_BYTES_AT_ONCE = 1 << 20
_ROWS_TO_JUDGE = 1000
"""WikiText has a title among its first lines."""
_BYTES_TO_JUDGE = 16 << 20

Record = tuple[str, Mapping[str, Any]]
"""Where a record stands, and its fields."""


def record_articles(records: Iterable[Record], corpus: CorpusOptions) -> Iterator[Article]:
    """The records' articles; without a title field, ``where`` is the title. Empty texts are passed over.

    Records that are the lines of WikiText, as the hub keeps it, are joined into its articles. Raises UserError, naming
    the record, where the text field is missing, holds something else than text, or one over ``text.LARGEST_TEXT``.
    """
    records = iter(records)
    begins = list(_while_lines(records, corpus))
    records = chain(begins, records)
    if any(article.title for article in wikitext_articles(_lines(begins, corpus), "")):
        yield from _joined(records, corpus)
        return
    for where, record in records:
        text = _text(record, where, corpus.text_field)
        if text.strip():
            title = record.get(corpus.title_field)
            yield Article(where if title is None else str(title), text, where)


def _while_lines(records: Iterator[Record], corpus: CorpusOptions) -> Iterator[Record]:
    """The first records as far as they are lines of text, and one more."""
    size = 0
    for number, (where, record) in enumerate(records, 1):
        yield where, record
        text = record.get(corpus.text_field)
        is_line = isinstance(text, str) and (not text.strip() or text.find("\n") == len(text) - 1)
        if not is_line or record.get(corpus.title_field) is not None:
            return
        size += len(text or "")
        if number == _ROWS_TO_JUDGE or size > _BYTES_TO_JUDGE:
            return


def _lines(records: Iterable[Record], corpus: CorpusOptions) -> Iterator[str]:
    """WikiText's lines: the hub keeps them whole but for the empty ones, whose space and line end it drops."""
    for where, record in records:
        text = _text(record, where, corpus.text_field) if corpus.text_field in record else ""
        yield text or " \n"


def _joined(records: Iterable[Record], corpus: CorpusOptions) -> Iterator[Article]:
    """The articles that the records are lines of; each is named by its file and its title's row in that file."""
    files: list[tuple[int, str]] = []  # of each file, the rows before its first one, and its name

    def noted() -> Iterator[Record]:
        for before, (where, record) in enumerate(records):
            name = where.rpartition(":")[0]
            if not files or files[-1][1] != name:
                files.append((before, name))
            yield where, record

    for article in wikitext_articles(_lines(noted(), corpus), ""):
        row = int(article.where.removeprefix(":"))
        before, name = next(file for file in reversed(files) if file[0] < row)
        yield replace(article, where=f"{name}:{row - before}")


def json_records(path: Path) -> Iterator[Record]:
    """The objects of a JSON lines file. Raises UserError, naming the line, where one is broken or no object."""
    for number, line in enumerate(text_lines(path), 1):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"broken JSON ({error})", where, "write one whole object a line") from error
        if not isinstance(record, dict):
            raise UserError(f"a JSON {type(record).__name__}, no object", where, "write one object a line")
        yield where, record


def parquet_records(path: Path, corpus: CorpusOptions) -> Iterator[Record]:
    """The rows of a Parquet file, counted from 1, as far as they are needed: a few and a MiB at a time.

    Raises UserError where the file is damaged or has no text column, where a text is over ``text.LARGEST_TEXT``, and
    where all of them are out of all proportion to the file.
    """
    row = 0
    try:
        with regular_file(path) as data:
            left = _BYTES_UNPACKED + _TIMES_UNPACKED * path.stat().st_size
            for batch in _batches(data, path, corpus):
                for values in zip(*batch.columns, strict=True):
                    row += 1
                    sizes = [_size(value) for value in values]
                    if max(sizes) > texts.LARGEST_TEXT:
                        raise too_long(f"{path}:{row}")
                    if (left := left - sum(sizes)) < 0:
                        what = f"its texts have over {_TIMES_UNPACKED:,} times as many bytes as the file"
                        raise UserError(what, path, "write them as JSON lines")
                    yield f"{path}:{row}", _row(batch.schema.names, values, f"{path}:{row}")
    except FileNotFoundError as error:
        raise UserError("no such file", path) from error
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise UserError(f"no readable Parquet file ({error})", path, "fetch or make the file anew") from error


def _batches(data: IO[bytes], path: Path, corpus: CorpusOptions) -> Iterator[pa.RecordBatch]:
    """Text and title of a few rows at a time, those of a dictionary kept in it: once, not once a row."""
    metadata = pq.read_metadata(data)
    schema = metadata.schema.to_arrow_schema()
    if corpus.text_field not in schema.names:
        raise _no_field(corpus.text_field, schema.names, str(path))
    wanted = [name for name in (corpus.text_field, corpus.title_field) if name in schema.names]
    _check_row_groups(metadata, wanted, path)
    in_dictionary = [name for name in wanted if pa.types.is_string(schema.field(name).type)]
    # Without the last two a whole row group, which may be the whole file, is read at once.
    with pq.ParquetFile(
        data, metadata=metadata, read_dictionary=in_dictionary, pre_buffer=False, buffer_size=_BYTES_AT_ONCE
    ) as file:
        yield from file.iter_batches(_ROWS_AT_ONCE, columns=wanted)


def _check_row_groups(metadata: pq.FileMetaData, wanted: Container[str], path: Path) -> None:
    """Raise UserError where a column that is wanted unpacks to more than its rows may have."""
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        largest = group.num_rows * (texts.LARGEST_TEXT + _BYTES_AT_ONCE)
        for column in map(group.column, range(group.num_columns)):
            if column.path_in_schema in wanted and column.total_uncompressed_size > largest > 0:
                raise too_long(f"{path}, row group {index + 1}")


def _size(value: pa.Scalar) -> int:
    """Bytes of a text that is not decoded yet; 0 of what is none."""
    if isinstance(value, pa.DictionaryScalar):
        value = value.value
    is_text = value.is_valid and hasattr(value, "as_buffer")
    return int(value.as_buffer().size) if is_text else 0


def _row(names: Iterable[str], values: Iterable[pa.Scalar], where: str) -> dict[str, Any]:
    try:
        return {name: value.as_py() for name, value in zip(names, values, strict=True)}
    except UnicodeDecodeError as error:
        raise UserError(f"no UTF-8 at byte {error.start} of the text", where, "convert it to UTF-8") from error


def _text(record: Mapping[str, Any], where: str, field: str) -> str:
    if field not in record:
        raise _no_field(field, record, where)
    text = record[field]
    _check_size(text, where)
    if not isinstance(text, str):
        raise UserError(f"field {field!r} holds {type(text).__name__}, no text", where, "choose --corpus.text_field")
    if (nul := text.find("\0")) >= 0:
        raise UserError(f"NUL character at character {nul} of field {field!r}", where, "take it out")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
        raise UserError(f"half a character at character {error.start} of field {field!r}", where) from error
    return text


def _check_size(text: object, where: str) -> None:
    if isinstance(text, str) and (
        len(text) > texts.LARGEST_TEXT or len(text.encode("utf-8", "replace")) > texts.LARGEST_TEXT
    ):
        raise too_long(where)


def _no_field(field: str, fields: Iterable[str], where: str) -> UserError:
    return UserError(f"no field {field!r} among {', '.join(fields) or 'none'}", where, "choose --corpus.text_field")
