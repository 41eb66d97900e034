"""The score file: what one variant lost on each token of a text. This module alone knows its format.

A Parquet file (zstd) with one row per scored token, in the split's own order whatever order its articles were read in;
the protocol of the reading is JSON under the key ``dynlm`` of the file's metadata. Every table and picture is made from
these files, so each row keeps the token's bytes and its count of words: any score can be divided by tokens, words or
bytes.

Two further columns may be there, for what the memory itself did; both are those of the weights that scored the token,
so they stay the same through a segment. ``distance`` (float32) is |theta_t - theta_0| / |theta_0| over all dynamic
tensors taken as one vector. ``flush`` (float32, 0 to 1) is how much of the way back to theta_0 the weights were moved
just before the segment: 1 where they started afresh, else the mean beta of the step. The rates themselves are in the
protocol, ``rule.rates``: an object of ``lr`` and ``decay`` for each tensor.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dynlm.errors import UserError
from dynlm.runtime.files import atomic_write
from dynlm.runtime.parsing import parse_json
from dynlm.runtime.text import printable

FORMAT = 1
FOLDER = "scores"
_KEY = b"dynlm"
_COLUMNS = pa.schema(
    [
        pa.field("article", pa.int32(), nullable=False),
        pa.field("position", pa.int32(), nullable=False),
        pa.field("segment", pa.int32(), nullable=False),
        pa.field("token", pa.int32(), nullable=False),
        pa.field("surface", pa.binary(), nullable=False),
        pa.field("words", pa.int16(), nullable=False),
        pa.field("nats", pa.float32(), nullable=False),
    ]
)
_OPTIONAL = pa.schema(
    [pa.field("distance", pa.float32(), nullable=False), pa.field("flush", pa.float32(), nullable=False)]
)
_ROWS_OF_ANY_FILE, _ROWS_A_BYTE = 2**20, 8
_TEXT_OF_ANY_FILE, _TEXT_A_BYTE = 64 * 2**20, 64
_UNPACKED_OF_ANY_FILE, _UNPACKED_A_BYTE = 128 * 2**20, 64
"""What a file may claim by its size in bytes: losses are noise, and hardly compress."""
_UNREADABLE = (OSError, pa.ArrowException, ValueError, LookupError, MemoryError)
_CURRENT_RATES = {"alpha": "lr", "pull": "decay"}
_NEEDED = {"variant": str, "articles": list, "text": str, "tokenizer": str}


@dataclass(frozen=True, eq=False)
class Scores:
    """One variant's reading of a text, one entry per scored token in the split's own order.

    ``article`` is the index in the split from 0, ``position`` the token's place in its article from 0, ``segment``
    the index of the segment within the file, ``surface`` the token's exact bytes (not always whole
    characters), ``words`` how many words start in it (an end of line counts as one), ``nats`` its loss.
    """

    protocol: dict[str, Any]
    article: np.ndarray
    position: np.ndarray
    segment: np.ndarray
    token: np.ndarray
    words: np.ndarray
    nats: np.ndarray
    surface: Sequence[bytes] = field(repr=False)
    path: Path | None = None
    """The file this was read from, if any."""
    distance: np.ndarray | None = None
    """How far the weights that scored the token were from theta_0, relative to its norm; None where not recorded."""
    flush: np.ndarray | None = None
    """How much of the way back to theta_0 they had just been moved, 0 to 1; None where not recorded."""

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in (*_COLUMNS.names, *self._recorded)}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"columns of different lengths: {lengths}")

    def __len__(self) -> int:
        return len(self.nats)

    @property
    def _recorded(self) -> list[str]:
        return [name for name in _OPTIONAL.names if getattr(self, name) is not None]

    @property
    def variant(self) -> str:
        """The variant's label, such as ``level 1`` or ``rms``."""
        return str(self.protocol["variant"])

    @property
    def name(self) -> str:
        """The variant and the file it was read from, for messages."""
        return f"{self.variant!r} ({self.path})" if self.path else repr(self.variant)

    @cached_property
    def bytes(self) -> np.ndarray:
        """The number of bytes that each token stands for (int64)."""
        return np.fromiter((len(surface) for surface in self.surface), dtype=np.int64, count=len(self))

    @cached_property
    def starts(self) -> np.ndarray:
        """The rows where an article begins, and the number of rows at the end."""
        changes = np.flatnonzero(np.diff(self.article)) + 1
        return np.concatenate([[0], changes, [len(self)]]).astype(np.int64)

    @cached_property
    def articles(self) -> np.ndarray:
        """Index in the split of each article read, in the order of the rows."""
        return np.asarray(self.article)[self.starts[:-1]]

    def rows(self, article: int) -> slice:
        """The rows of the article with this index in the split. Raises KeyError where it was not read."""
        places = np.flatnonzero(self.articles == article)
        if not len(places):
            raise KeyError(article)
        return slice(int(self.starts[places[0]]), int(self.starts[places[0] + 1]))

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sum ``values`` (one per row) over each article: float64 for floating point, else int64."""
        kind = np.float64 if np.issubdtype(values.dtype, np.floating) else np.int64
        return np.add.reduceat(values.astype(kind), self.starts[:-1])

    def title(self, article: int) -> str:
        """The title of the article with this index, as one printable line; ``article N`` where there is none."""
        for entry in self.protocol["articles"]:
            if entry["index"] == article:
                return printable(str(entry.get("title") or f"article {article + 1}"))
        return f"article {article + 1}"


def write_scores(path: Path, scores: Scores) -> None:
    """Write ``scores`` to ``path``, whole or not at all.

    Raises UserError where the file cannot be written or a loss is not a finite number.
    """
    _check_rows(scores.article, scores.nats, scores.variant)
    _check_recorded({name: getattr(scores, name) for name in scores._recorded}, scores.variant)
    protocol = {**scores.protocol, "format": FORMAT}
    _check_protocol(protocol, scores.variant)
    schema = pa.schema([*_COLUMNS, *(_OPTIONAL.field(name) for name in scores._recorded)])
    arrays = [pa.array(getattr(scores, column.name), type=column.type) for column in schema]
    schema = schema.with_metadata({_KEY: json.dumps(protocol, ensure_ascii=False).encode("utf-8", "surrogatepass")})
    table = pa.Table.from_arrays(arrays, schema=schema)
    with atomic_write(path) as aside:
        pq.write_table(table, aside, compression="zstd", write_page_checksum=True)


def read_scores(path: Path) -> Scores:
    """Read a score file.

    Raises UserError where it is missing, cut short, damaged, no score file of dynlm's, of a newer format, short of a
    column, or holds a loss that is not a finite number.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError("no such score file", path, "write it with `dynlm score`")
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            _check_claims(file.metadata, path)
            protocol = _protocol(schema, path)
            missing = [name for name in _COLUMNS.names if name not in schema.names]
            if missing:
                raise UserError(f"the score file has no column {missing[0]!r}", path, "score the text anew")
        wanted = pa.schema([*_COLUMNS, *(column for column in _OPTIONAL if column.name in schema.names)])
        numbers = pa.schema([column for column in wanted if column.name != "surface"])
        surfaces: list[bytes] = []
        parts = [numbers.empty_table()]
        with pq.ParquetFile(path, page_checksum_verification=True, read_dictionary=["surface"]) as file:
            # A row group at a time: each may have a dictionary of its own, as large as it claims.
            for index in range(file.metadata.num_row_groups):
                part = file.read_row_group(index, columns=wanted.names).select(wanted.names)
                _add_surfaces(surfaces, part.column("surface"), path)
                parts.append(part.replace_schema_metadata().drop_columns("surface").cast(numbers))
        table = pa.concat_tables(parts)
    except _UNREADABLE as error:
        raise _not_whole(path, error) from error
    if any(column.null_count for column in table.columns):
        raise UserError("the score file has empty fields", path, "score the text anew")
    columns = {name: table.column(name).to_numpy() for name in table.column_names}
    _check_rows(columns["article"], columns["nats"], path)
    _check_recorded(columns, path)
    return Scores(protocol=protocol, surface=surfaces, path=path, **columns)


def read_protocol(path: Path) -> dict[str, Any]:
    """What a score file says of its reading, without its rows. Raises UserError as ``read_scores`` does."""
    path = Path(path)
    if not path.is_file():
        raise UserError("no such score file", path, "write it with `dynlm score`")
    try:
        with pq.ParquetFile(path) as file:
            return _protocol(file.schema_arrow, path)
    except _UNREADABLE as error:
        raise _not_whole(path, error) from error


def scores_of_run(folder: Path) -> list[Path]:
    """The score files in ``folder/scores``, sorted by name; none where nothing was scored yet."""
    return sorted(path for path in (Path(folder) / FOLDER).glob("*.parquet") if not path.name.startswith("."))


def _check_claims(metadata: Any, path: Path) -> None:
    """Refuse, before anything is taken for them, more rows or bytes than a file of this size can hold."""
    size = path.stat().st_size
    unpacked = sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
    if unpacked > max(_UNPACKED_OF_ANY_FILE, _UNPACKED_A_BYTE * size):
        raise UserError(f"claims {unpacked:,} bytes in {size:,}, which no reading does", path, "score the text anew")
    rows = max(metadata.num_rows, sum(metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)))
    if rows > max(_ROWS_OF_ANY_FILE, _ROWS_A_BYTE * size):
        raise UserError(f"claims {rows:,} rows in {size:,} bytes, which no reading does", path, "score the text anew")


def _add_surfaces(surfaces: list[bytes], column: pa.ChunkedArray, path: Path) -> None:
    """Add each row's bytes; rows with the same share them, so that they take no more memory than the file says."""
    total, most = sum(map(len, surfaces)), max(_TEXT_OF_ANY_FILE, _TEXT_A_BYTE * path.stat().st_size)
    for chunk in column.chunks:
        if not isinstance(chunk, pa.DictionaryArray):
            chunk = chunk.cast(pa.binary()).dictionary_encode()
        if chunk.null_count:
            raise UserError("the score file has empty fields", path, "score the text anew")
        values, places = chunk.dictionary.cast(pa.binary()).to_pylist(), chunk.indices.to_numpy()
        if None in values:
            raise UserError("the score file has empty fields", path, "score the text anew")
        total += int(np.array([len(value) for value in values], dtype=np.int64)[places].sum())
        if total > most:
            raise UserError(f"claims {total:,} bytes of text, more than its size allows", path, "score the text anew")
        surfaces += [values[place] for place in places.tolist()]


def _not_whole(path: Path, error: BaseException) -> UserError:
    reason = str(error).partition("\n")[0]
    return UserError(f"not a whole score file ({reason})", path, "it may be cut short; score the text anew")


def _protocol(schema: pa.Schema, path: Path) -> dict[str, Any]:
    text = (schema.metadata or {}).get(_KEY)
    if text is None:
        raise UserError("a Parquet file, but no score file of dynlm's", path)
    try:
        protocol = parse_json(text)
        version = protocol["format"]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError("the score file's protocol cannot be read", path, "score the text anew") from error
    if not isinstance(version, int) or version > FORMAT:
        raise UserError(f"format {version} is newer than this dynlm reads ({FORMAT})", path, "upgrade dynlm")
    protocol = _with_current_names(protocol)
    _check_protocol(protocol, path)
    return protocol


def _with_current_names(protocol: dict[str, Any]) -> dict[str, Any]:
    """Translate the keys of files written before 0.2: ``arm``, and a rate's ``alpha`` and ``pull``."""
    if "arm" in protocol:
        protocol = {"variant": protocol["arm"], **protocol}
    rule = protocol.get("rule")
    if isinstance(rule, dict) and isinstance(rates := rule.get("rates"), dict):
        current = {
            tensor: {_CURRENT_RATES.get(key, key): value for key, value in of_tensor.items()}
            for tensor, of_tensor in rates.items()
            if isinstance(of_tensor, dict)
        }
        protocol = {**protocol, "rule": {**rule, "rates": current}}
    return protocol


def _check_protocol(protocol: dict[str, Any], where: object) -> None:
    for key, kind in _NEEDED.items():
        if not isinstance(protocol.get(key), kind):
            raise UserError(f"the score file's protocol has no {key!r}", where, "score the text anew")
    if not all(isinstance(entry, dict) and isinstance(entry.get("index"), int) for entry in protocol["articles"]):
        raise UserError("the protocol's list of articles is damaged", where, "score the text anew")


def _check_rows(article: np.ndarray, nats: np.ndarray, where: object) -> None:
    if not len(nats):
        raise UserError("no scored tokens", where, "choose a text that is not empty")
    broken = np.flatnonzero(~np.isfinite(nats))
    if len(broken):
        raise UserError(
            f"the loss of token {broken[0]} is {nats[broken[0]]}", where, "the variant diverged: lower its rate"
        )
    beginnings = np.asarray(article)[np.concatenate([[0], np.flatnonzero(np.diff(article)) + 1])]
    if len(set(beginnings.tolist())) != len(beginnings):
        raise UserError("an article's tokens are not in one piece", where, "score the articles one after the other")


def _check_recorded(columns: dict[str, np.ndarray], where: object) -> None:
    for name in _OPTIONAL.names:
        if name in columns and not np.isfinite(columns[name]).all():
            raise UserError(f"the column {name!r} holds what is no finite number", where, "score the text anew")
