"""SentencePiece tokenizers with byte fallback, lossless for any text.

SentencePiece writes a space as U+2581 and cannot distinguish it from a real U+2581. A real one (and NUL, at which some
strings end) is therefore encoded here as bytes, between the pieces that SentencePiece finds.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import sentencepiece

from dynlm.data.options import TokenizerOptions
from dynlm.data.tokenizers.tokenizer import Encoding, write_card
from dynlm.errors import UserError
from dynlm.runtime.files import atomic_write
from dynlm.runtime.hashing import fingerprint
from dynlm.runtime.parsing import LARGEST_JSON, read_bytes

SPACE = "\u2581"
_SPECIAL = re.compile(f"([{SPACE}\x00]+)")
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
# A word or an end of line, each with the spaces before it; or the spaces that end a text.
_UNIT = re.compile(r" *[^ \n]+| *\n| +")
_PROBE = "A  text\u00a0of \ufb01ve\t\u2460 \u6f22\u5b57, \U0001f600\n \n" + SPACE + "\x00"
"""Text that any normalisation changes, with all characters that are encoded as bytes."""
_TRAINING_LINE = 1 << 18
"""Most characters of a line to train on: SentencePiece drops lines over ``_TRAINING_BYTES``."""
_TRAINING_BYTES = 4 * _TRAINING_LINE
_MEMO_CHARACTERS = 4_000_000
"""Most characters of the units whose tokens are cached."""
# Numbers of fields of sentencepiece_model.proto.
_NORMALIZER, _DENORMALIZER = 3, 5
_CHARACTER_MAP, _DUMMY_PREFIX, _REMOVE_SPACES, _ESCAPE_SPACES, _RULES = 2, 3, 4, 5, 6


class PieceTokenizer:
    """SentencePiece (unigram: Kudo 2018; BPE: Sennrich et al. 2016); ``decode(encode(x).ids) == x`` for any text.

    Raises ValueError or RuntimeError for a ``model`` that is damaged or cannot keep that promise.
    """

    def __init__(self, config: TokenizerOptions, model: bytes):
        self.config, self.model, self.fingerprint = config, model, fingerprint(model)
        if not model:  # SentencePiece accepts an empty model.
            raise ValueError("the model is empty")
        _check_identity(model)
        self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.start = self._pieces.bos_id()
        self.size = self._pieces.get_piece_size()
        if not 0 <= self.start < self.size:
            raise ValueError("the model has no start token")
        self._byte_ids = np.full(256, -1, dtype=np.int32)
        self._surfaces: list[bytes] = []
        for index in range(self.size):
            piece = self._pieces.id_to_piece(index)
            if self._pieces.is_byte(index):  # Such as "<0x0A>".
                self._byte_ids[int(piece[3:5], 16)] = index
                self._surfaces.append(bytes([int(piece[3:5], 16)]))
            elif self._pieces.is_control(index) or self._pieces.is_unknown(index):
                self._surfaces.append(b"")
            else:
                self._surfaces.append(piece.replace(SPACE, " ").encode())
        if (self._byte_ids < 0).any():
            raise ValueError("the model has no piece for some bytes")
        self._lengths = np.array([len(surface) for surface in self._surfaces], dtype=np.int32)
        # If no piece crosses the border of two units, BPE merges in each unit as in the whole line, and units can be
        # cached. A unigram model's sums are rounded along the line, which can decide between near-equal pieces.
        within_units = all(not s or _UNIT.fullmatch(s.decode("utf-8", "replace")) for s in self._surfaces)
        self._memo = _UnitMemo(self._pieces) if config.kind == "bpe" and within_units else None

    def __reduce__(self) -> tuple[type[PieceTokenizer], tuple[TokenizerOptions, bytes]]:
        return PieceTokenizer, (self.config, self.model)

    @classmethod
    def train(cls, config: TokenizerOptions, texts: Iterable[str]) -> PieceTokenizer:
        """Train on the first ``config.training_characters`` of ``texts``; the rest is not read.

        Raises UserError if they are too few for the vocabulary size.
        """
        out = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=_training_lines(texts, config.training_characters),
                model_writer=out,
                model_type=config.kind,
                vocab_size=config.vocab_size,
                character_coverage=config.character_coverage,
                byte_fallback=True,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                add_dummy_prefix=False,
                allow_whitespace_only_pieces=True,
                user_defined_symbols=[SPACE + "\n", "\n"],
                max_sentence_length=_TRAINING_BYTES,
                minloglevel=2,
                num_threads=1,
            )
        except RuntimeError as error:
            reason = str(error).rpartition("] ")[2] or str(error)
            raise UserError(
                f"SentencePiece cannot train {config.vocab_size} pieces on this corpus ({reason})",
                "tokenizer.vocab_size",
                "choose another size or more text",
            ) from error
        return cls(config, out.getvalue())

    @classmethod
    def load(cls, config: TokenizerOptions, folder: Path) -> PieceTokenizer:
        """Load the model that ``save`` wrote. Raises UserError, ValueError or RuntimeError if it is damaged."""
        tokenizer = cls(config, read_bytes(folder / "tokenizer.model", LARGEST_JSON))
        if tokenizer.decode(tokenizer.encode(_PROBE).ids.tolist()) != _PROBE:
            raise ValueError("decoding does not return the encoded text")
        return tokenizer

    def encode(self, text: str) -> Encoding:
        """Return the tokens of ``text``, as SentencePiece finds them in each line: no piece crosses an end of line."""
        if (memo := self._memo) is None:
            return self.encode_lines(text)
        return self._encode(text, lambda part: b"".join(map(memo.__getitem__, _UNIT.findall(part))))

    def encode_lines(self, text: str) -> Encoding:
        """Return what ``encode`` does, without the cache of units (its reference)."""
        return self._encode(text, lambda part: _to_bytes(self._pieces.encode(_LINE.findall(part), num_threads=1)))

    def _encode(self, text: str, encode_part: Callable[[str], bytes]) -> Encoding:
        """Encode runs of U+2581 and NUL as bytes, and the parts between them with ``encode_part``."""
        parts = _SPECIAL.split(text) if SPACE in text or "\x00" in text else [text]
        joined = bytearray()
        for index, part in enumerate(parts):
            if index % 2:
                joined += self._byte_ids[np.frombuffer(part.encode(), dtype=np.uint8)].tobytes()
            else:
                joined += encode_part(part)
        ids = np.frombuffer(joined, dtype=np.int32)
        return Encoding(ids, self._lengths[ids])

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ``ids``; bytes that are not UTF-8 become U+FFFD."""
        return b"".join(self._surfaces[index] for index in ids).decode("utf-8", "replace")

    def save(self, folder: Path) -> None:
        with atomic_write(folder / "tokenizer.model") as staged:
            staged.write_bytes(self.model)
        write_card(self, folder)


class _UnitMemo(dict[str, bytes]):
    """Cache of the ids (int32, as bytes) of units; it is emptied when it gets too large."""

    def __init__(self, pieces: sentencepiece.SentencePieceProcessor):
        super().__init__()
        self._pieces, self._characters = pieces, 0

    def __missing__(self, unit: str) -> bytes:
        if self._characters > _MEMO_CHARACTERS:
            self.clear()
            self._characters = 0
        ids = self[unit] = _to_bytes([self._pieces.encode(unit)])
        self._characters += len(unit)
        return ids


def _to_bytes(ids: Iterable[Iterable[int]]) -> bytes:
    return np.fromiter(itertools.chain.from_iterable(ids), dtype=np.int32).tobytes()


def _training_lines(texts: Iterable[str], characters: int) -> Iterator[str]:
    """Yield the lines of the first texts, the longest cut into parts."""
    seen = 0
    for text in texts:
        for line in text.split("\n"):
            if line.strip() and SPACE not in line and "\x00" not in line:
                yield from (line[begin : begin + _TRAINING_LINE] for begin in range(0, len(line), _TRAINING_LINE))
        seen += len(text)
        if seen > characters:
            return


def _check_identity(model: bytes) -> None:
    """Raise ValueError unless ``model`` leaves texts unchanged, before SentencePiece reads any of its tables.

    SentencePiece's own parser of model files needs the protobuf package.
    """
    specs: dict[int, dict[int, int | bytes]] = {
        number: {_CHARACTER_MAP: b"", _DUMMY_PREFIX: 1, _REMOVE_SPACES: 1, _ESCAPE_SPACES: 1, _RULES: b""}
        for number in (_NORMALIZER, _DENORMALIZER)
    }  # Defaults of the format; of a repeated field the last value counts.
    for number, value in _fields(model):
        if number in specs and isinstance(value, bytes):
            specs[number].update(_fields(value))
    if any(spec[field] for spec in specs.values() for field in (_CHARACTER_MAP, _RULES)):
        raise ValueError("the model changes characters (its normalisation is not identity)")
    spec = specs[_NORMALIZER]
    if spec[_DUMMY_PREFIX] or spec[_REMOVE_SPACES] or not spec[_ESCAPE_SPACES]:
        raise ValueError("the model adds or removes spaces")


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of each field of a message. Raises ValueError if it is truncated or malformed."""
    offset = 0
    while offset < len(message):
        key, offset = _varint(message, offset)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, offset = _varint(message, offset)
            yield number, value
            continue
        if kind not in (1, 2, 5):
            raise ValueError(f"a field of kind {kind} in the model")
        size, offset = _varint(message, offset) if kind == 2 else (8 if kind == 1 else 4, offset)
        if offset + size > len(message):
            raise ValueError("the model is cut short")
        yield number, message[offset : offset + size]
        offset += size


def _varint(message: bytes, offset: int) -> tuple[int, int]:
    """Return the variable-length integer at ``offset``, and the offset after it."""
    value = 0
    for shift in range(0, 70, 7):
        if offset >= len(message):
            raise ValueError("the model is cut short")
        value |= (message[offset] & 127) << shift
        offset += 1
        if message[offset - 1] < 128:
            return value, offset
    raise ValueError("a number in the model is too long")
