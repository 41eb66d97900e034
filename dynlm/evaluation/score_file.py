"""The score file: what one variant lost on each token of a text. This module alone knows its format.

A Parquet file (zstd) with one row for each scored token, in the split's own order whatever order its articles were read
in; the protocol of the reading is JSON under the key ``dynlm`` of the file's metadata. Every table and picture is made
from these files, so each row keeps the token's bytes and its count of words: any loss can be divided by tokens, words
or bytes.

Two optional columns record the memory, of the weights that scored the token, so they are constant in a segment:
``distance`` (float32) is |theta_t - theta_0| / |theta_0| over all dynamic tensors as one vector; ``reset_share``
(float32, 0 to 1) is the share of the way back to theta_0 that the weights went just before the segment: 1 where they
were reset, else the mean decay of a step. The rates themselves are in the protocol, ``rule.rates``: ``lr`` and
``decay`` of each tensor.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dynlm.errors import UserError
from dynlm.runtime.arrow import from_bytes, from_numbers, to_numpy
from dynlm.runtime.files import atomic_write
from dynlm.runtime.parsing import parse_json
from dynlm.runtime.text import printable

FORMAT = 1
FOLDER = "scores"
_KEY = b"dynlm"
_TYPES = {
    "article": pa.int32(),
    "position": pa.int32(),
    "segment": pa.int32(),
    "token": pa.int32(),
    "surface": pa.binary(),
    "words": pa.int16(),
    "nats": pa.float32(),
    "distance": pa.float32(),
    "reset_share": pa.float32(),
}
_OPTIONAL = ("distance", "reset_share")
_COLUMNS = {"flush": "reset_share"}
_KEYS, _RATES = {"arm": "variant", "guard": "update_filter"}, {"alpha": "lr", "pull": "decay"}
"""New names of columns, keys of the protocol and rates of a tensor that earlier versions wrote by another one."""
_LARGEST = {"rows": (2**20, 8), "bytes": (128 * 2**20, 64), "bytes of text": (64 * 2**20, 64)}
"""What any file may claim, and a file for each byte of its size: losses are noise, and hardly compress."""
_UNREADABLE = (OSError, pa.ArrowException, ValueError, LookupError, MemoryError)
_NEEDED = {"variant": str, "articles": list, "text": str, "tokenizer": str}
_AGAIN = "score the text anew"


@dataclass(frozen=True, eq=False, repr=False)
class Scores:
    """One variant's reading of a text, one entry for each scored token in the split's own order.

    ``article`` is the index in the split from 0, ``position`` the token's place in its article from 0, ``segment`` the
    index of the segment within the file, ``surface`` the token's exact bytes (not always whole characters), ``words``
    how many words start in it (an end of line counts as one), ``nats`` its loss. ``path`` is the file that this was
    read from, if any.
    """

    protocol: dict[str, Any]
    article: np.ndarray
    position: np.ndarray
    segment: np.ndarray
    token: np.ndarray
    words: np.ndarray
    nats: np.ndarray
    surface: Sequence[bytes]
    path: Path | None = None
    distance: np.ndarray | None = None
    reset_share: np.ndarray | None = None

    def __post_init__(self) -> None:
        lengths = {name: len(column) for name, column in self.columns.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"columns of different lengths: {lengths}")

    def __len__(self) -> int:
        return len(self.nats)

    def __repr__(self) -> str:
        mean = f", {self.nats.mean(dtype=np.float64):.4f} nats/token" if len(self) else ""
        return f"Scores({self.name}: {len(self):,} tokens{mean})"

    @property
    def columns(self) -> dict[str, Any]:
        """The columns of the file, without those that were not recorded."""
        return {name: getattr(self, name) for name in _TYPES if getattr(self, name) is not None}

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
        """The number of bytes of each token (int64)."""
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
        """Return the rows of the article with this index in the split. Raises KeyError where it was not read."""
        found = np.flatnonzero(self.articles == article)
        if not len(found):
            raise KeyError(article)
        return slice(int(self.starts[found[0]]), int(self.starts[found[0] + 1]))

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sum ``values`` (one per row) over each article: float64 for floating point, else int64."""
        kind = np.float64 if np.issubdtype(values.dtype, np.floating) else np.int64
        return np.add.reduceat(values.astype(kind), self.starts[:-1])

    def title(self, article: int) -> str:
        """Return the title of the article with this index in one printable line, by default ``article N``."""
        titles = (entry.get("title") for entry in self.protocol["articles"] if entry["index"] == article)
        return printable(str(next(titles, None) or f"article {article + 1}"))


def write_scores(path: Path, scores: Scores) -> None:
    """Write ``scores`` atomically. Raises UserError where ``path`` cannot be written or a value is not finite."""
    protocol = {**scores.protocol, "format": FORMAT}
    _check_protocol(protocol, scores.variant)
    _check(scores, scores.variant)
    metadata = {_KEY: json.dumps(protocol, ensure_ascii=False).encode("utf-8", "surrogatepass")}
    fields = [pa.field(name, _TYPES[name], nullable=False) for name in scores.columns]
    arrays = [
        from_bytes(column) if name == "surface" else from_numbers(column, _TYPES[name])
        for name, column in scores.columns.items()
    ]
    with atomic_write(path) as staged:
        table = pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata=metadata))
        pq.write_table(table, staged, compression="zstd", write_page_checksum=True)


def read_scores(path: Path) -> Scores:
    """Read a score file.

    Raises UserError where it is missing, cut short, damaged, no score file of dynlm's, of a newer format, short of a
    column, or holds a value that is not finite.
    """
    path = Path(path)
    protocol = read_protocol(path)
    surfaces: list[bytes] = []
    try:
        with pq.ParquetFile(path, page_checksum_verification=True, read_dictionary=["surface"]) as file:
            # What the file claims is refused before anything is allocated.
            groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
            _check_claim(path, "bytes", sum(group.total_byte_size for group in groups))
            _check_claim(path, "rows", max(file.metadata.num_rows, sum(group.num_rows for group in groups)))
            stored = {_COLUMNS.get(name, name): name for name in file.schema_arrow.names}
            stored = {name: stored[name] for name in _TYPES if name in stored}
            if missing := [name for name in _TYPES if name not in (*stored, *_OPTIONAL)]:
                raise UserError(f"the score file has no column {missing[0]!r}", path, _AGAIN)
            numbers = pa.schema([pa.field(name, _TYPES[name]) for name in stored if name != "surface"])
            parts = []
            # A row group at a time: each may have a dictionary of its own, as large as it claims.
            for index in range(len(groups)):
                part = file.read_row_group(index, columns=[*stored.values()])
                part = part.select([*stored.values()]).rename_columns([*stored])
                _add_surfaces(surfaces, part.column("surface"), path)
                parts.append(part.select(numbers.names).replace_schema_metadata().cast(numbers))
        table = pa.concat_tables(parts) if parts else numbers.empty_table()
    except _UNREADABLE as error:
        raise _damaged(path, error) from error
    if any(column.null_count for column in table.columns):
        raise UserError("the score file has empty fields", path, _AGAIN)
    columns = {name: to_numpy(table.column(name)) for name in table.column_names}
    scores = Scores(protocol=protocol, surface=surfaces, path=path, **columns)
    _check(scores, path)
    return scores


def load_if_whole(path: Path) -> Scores | None:
    """Read a score file; None where there is none, or a damaged one."""
    try:
        return read_scores(path)
    except UserError:
        return None


def read_protocol(path: Path) -> dict[str, Any]:
    """Read the protocol of a score file, without its rows. Raises UserError as ``read_scores`` does."""
    if not Path(path).is_file():
        raise UserError("no such score file", path, "write it with `dynlm score`")
    try:
        metadata = pq.read_schema(path).metadata or {}
    except _UNREADABLE as error:
        raise _damaged(path, error) from error
    if _KEY not in metadata:
        raise UserError("a Parquet file, but no score file of dynlm's", path)
    try:
        protocol = parse_json(metadata[_KEY])
        version = protocol["format"]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError("the score file's protocol cannot be read", path, _AGAIN) from error
    if not isinstance(version, int) or version > FORMAT:
        raise UserError(f"format {version} is newer than this dynlm reads ({FORMAT})", path, "upgrade dynlm")
    protocol = {_KEYS.get(name, name): value for name, value in protocol.items()}
    rule = protocol.get("rule")
    if isinstance(rule, dict) and isinstance(rates := rule.get("rates"), dict):
        of_tensors = {tensor: rate for tensor, rate in rates.items() if isinstance(rate, dict)}
        rates = {tensor: {_RATES.get(k, k): v for k, v in rate.items()} for tensor, rate in of_tensors.items()}
        protocol["rule"] = {**rule, "rates": rates}
    _check_protocol(protocol, path)
    return protocol


def scores_of_run(folder: Path) -> list[Path]:
    """Return the score files in ``folder/scores``, sorted by name; none where nothing was scored yet."""
    return sorted(path for path in (Path(folder) / FOLDER).glob("*.parquet") if not path.name.startswith("."))


def _check_claim(path: Path, what: str, count: int) -> None:
    """Raise UserError where a reading in a file of this size cannot have so many bytes or rows."""
    of_any_file, a_byte = _LARGEST[what]
    if count > max(of_any_file, a_byte * path.stat().st_size):
        raise UserError(f"claims {count:,} {what}, more than its size allows", path, _AGAIN)


def _add_surfaces(surfaces: list[bytes], column: pa.ChunkedArray, path: Path) -> None:
    """Append each row's bytes; equal rows share them, so that they take no more memory than the file."""
    total = sum(map(len, surfaces))
    for chunk in column.chunks:
        if not isinstance(chunk, pa.DictionaryArray):
            chunk = chunk.cast(pa.binary()).dictionary_encode()
        values = chunk.dictionary.cast(pa.binary()).to_pylist()
        if chunk.null_count or None in values:
            raise UserError("the score file has empty fields", path, _AGAIN)
        indices = to_numpy(chunk.indices)
        total += int(np.array([len(value) for value in values], dtype=np.int64)[indices].sum())
        _check_claim(path, "bytes of text", total)
        surfaces += [values[index] for index in indices.tolist()]


def _damaged(path: Path, error: BaseException) -> UserError:
    reason = str(error).partition("\n")[0]
    return UserError(f"not a whole score file ({reason})", path, f"it may be cut short; {_AGAIN}")


def _check_protocol(protocol: dict[str, Any], where: object) -> None:
    for key, kind in _NEEDED.items():
        if not isinstance(protocol.get(key), kind):
            raise UserError(f"the score file's protocol has no {key!r}", where, _AGAIN)
    if not all(isinstance(entry, dict) and isinstance(entry.get("index"), int) for entry in protocol["articles"]):
        raise UserError("the protocol's list of articles is damaged", where, _AGAIN)


def _check(scores: Scores, where: object) -> None:
    if not len(scores):
        raise UserError("no scored tokens", where, "choose a text that is not empty")
    if len(broken := np.flatnonzero(~np.isfinite(scores.nats))):
        what = f"the loss of token {broken[0]} is {scores.nats[broken[0]]}"
        raise UserError(what, where, "the variant diverged: lower its rate")
    if len(set(scores.articles.tolist())) != len(scores.articles):
        raise UserError("an article's tokens are not in one piece", where, "score the articles one after the other")
    for name in _OPTIONAL:
        if not np.isfinite(scores.columns.get(name, 0)).all():
            raise UserError(f"the column {name!r} has a value that is not finite", where, _AGAIN)
