"""Articles from records with a text field: JSON lines, Parquet rows, and rows of hub data sets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from dynlm.data.options import CorpusOptions
from dynlm.data.sources.lines import text_lines
from dynlm.data.sources.source import Article, too_long
from dynlm.data.sources.wikitext import wikitext_articles
from dynlm.errors import UserError
from dynlm.runtime import text as texts
from dynlm.runtime.files import open_regular

_BATCH_ROWS = 32
_BUFFER_BYTES = 1 << 20
_MOST_EXPANSION, _FREE_BYTES = 10_000, 1 << 30
"""Most bytes of text for each byte of a Parquet file, and how many more: dictionaries repeat a text at no cost."""
_ROWS_TO_JUDGE, _BYTES_TO_JUDGE = 1000, 16 << 20

Record = tuple[str, Mapping[str, Any]]
"""Location and fields of a record."""


def record_articles(records: Iterable[Record], corpus: CorpusOptions) -> Iterator[Article]:
    """Yield the articles of ``records``; a record without a title is titled by its location. Skips blank texts.

    Records that are lines of WikiText, as on the hub, are joined to articles. Raises UserError, naming the record, if
    the text field is missing, does not hold text, or is too long.
    """
    records = iter(records)
    head = list(_leading_lines(records, corpus))
    records = chain(head, records)
    if any(article.title for article in wikitext_articles(_wikitext_lines(head, corpus))):
        yield from wikitext_articles(_wikitext_lines(records, corpus))
        return
    for where, record in records:
        text = _text_of(record, where, corpus.text_field)
        if text.strip():
            title = record.get(corpus.title_field)
            yield Article(where if title is None else str(title), text, where)


def _leading_lines(records: Iterator[Record], corpus: CorpusOptions) -> Iterator[Record]:
    """Yield the first records that are single lines without a title, and one more."""
    size = 0
    for number, (where, record) in enumerate(records, 1):
        yield where, record
        text, title = record.get(corpus.text_field), record.get(corpus.title_field)
        if not isinstance(text, str) or title is not None or (text.strip() and text.find("\n") != len(text) - 1):
            return
        size += len(text)
        if number == _ROWS_TO_JUDGE or size > _BYTES_TO_JUDGE:
            return


def _wikitext_lines(records: Iterable[Record], corpus: CorpusOptions) -> Iterator[tuple[str, str]]:
    """Yield (location, line) of records that are lines of WikiText; the hub strips blank lines to the empty string."""
    for where, record in records:
        text = _text_of(record, where, corpus.text_field) if corpus.text_field in record else ""
        yield where, text or " \n"


def json_records(path: Path) -> Iterator[Record]:
    """Yield the objects of a JSON lines file. Raises UserError, naming the line, for anything else."""
    for where, line in text_lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"broken JSON ({error})", where, "write one complete object per line") from error
        if not isinstance(record, dict):
            raise UserError(f"a JSON {type(record).__name__}, not an object", where, "write one object per line")
        yield where, record


def parquet_records(path: Path, corpus: CorpusOptions) -> Iterator[Record]:
    """Yield title and text of the rows of a Parquet file, counted from 1, reading a few rows at a time.

    Raises UserError if the file is damaged or has no text column, if a text is too long, or if all texts together are
    out of proportion to the file's size.
    """
    row = 0
    try:
        with open_regular(path) as data:
            left = _FREE_BYTES + _MOST_EXPANSION * path.stat().st_size
            for batch in _parquet_batches(data, path, corpus):
                for values in zip(*batch.columns, strict=True):
                    row += 1
                    where, sizes = f"{path}:{row}", [_text_size(value) for value in values]
                    if max(sizes) > texts.LARGEST_TEXT:
                        raise too_long(where)
                    if (left := left - sum(sizes)) < 0:
                        what = f"its texts have over {_MOST_EXPANSION:,} times as many bytes as the file"
                        raise UserError(what, path, "write them as JSON lines")
                    try:
                        yield where, {name: v.as_py() for name, v in zip(batch.schema.names, values, strict=True)}
                    except UnicodeDecodeError as error:
                        what = f"not UTF-8 at byte {error.start} of the text"
                        raise UserError(what, where, "convert it to UTF-8") from error
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise UserError(f"not a readable Parquet file ({error})", path, "download or create the file again") from error


def _parquet_batches(data: IO[bytes], path: Path, corpus: CorpusOptions) -> Iterator[pa.RecordBatch]:
    """Yield a few rows of text and title at a time, dictionary-encoded: a repeated text is held once."""
    metadata = pq.read_metadata(data)
    schema = metadata.schema.to_arrow_schema()
    if corpus.text_field not in schema.names:
        raise _no_field(corpus.text_field, schema.names, str(path))
    columns = [name for name in (corpus.text_field, corpus.title_field) if name in schema.names]
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        largest = group.num_rows * (texts.LARGEST_TEXT + _BUFFER_BYTES)
        for column in map(group.column, range(group.num_columns)):
            if column.path_in_schema in columns and column.total_uncompressed_size > largest > 0:
                raise too_long(f"{path}, row group {index + 1}")
    dictionaries = [name for name in columns if pa.types.is_string(schema.field(name).type)]
    # Without the last two, a whole row group (which may be the whole file) is read at once.
    with pq.ParquetFile(
        data, metadata=metadata, read_dictionary=dictionaries, pre_buffer=False, buffer_size=_BUFFER_BYTES
    ) as file:
        yield from file.iter_batches(_BATCH_ROWS, columns=columns)


def _text_size(value: pa.Scalar) -> int:
    """Return the bytes of a text without decoding it; 0 if ``value`` is not text."""
    if isinstance(value, pa.DictionaryScalar):
        value = value.value
    return int(value.as_buffer().size) if value.is_valid and hasattr(value, "as_buffer") else 0


def _text_of(record: Mapping[str, Any], where: str, field: str) -> str:
    """Return the text of a record. Raises UserError unless it is text that UTF-8 can encode, within the limit."""
    if field not in record:
        raise _no_field(field, record, where)
    text = record[field]
    if not isinstance(text, str):
        raise UserError(f"field {field!r} holds {type(text).__name__}, not text", where, "choose --corpus.text_field")
    if (nul := text.find("\0")) >= 0:
        raise UserError(f"NUL character at character {nul} of field {field!r}", where, "remove it")
    try:
        size = len(text) if len(text) > texts.LARGEST_TEXT else len(text.encode())
    except UnicodeEncodeError as error:  # JSON can escape a lone surrogate.
        raise UserError(f"lone surrogate at character {error.start} of field {field!r}", where) from error
    if size > texts.LARGEST_TEXT:
        raise too_long(where)
    return text


def _no_field(field: str, fields: Iterable[str], where: str) -> UserError:
    return UserError(f"no field {field!r} among {', '.join(fields) or 'none'}", where, "choose --corpus.text_field")
