"""Check of a SentencePiece model file for normalisation, before SentencePiece reads it.

SentencePiece before 0.2.1 reads past the end of crafted normalisation tables, and the library's parser of model files
needs the protobuf package; the few fields that matter are parsed here. Their numbers are those of
sentencepiece_model.proto.
"""

from __future__ import annotations

from collections.abc import Iterator

_NORMALIZER, _DENORMALIZER = 3, 5
_CHARACTER_MAP, _DUMMY_PREFIX, _REMOVE_SPACES, _ESCAPE_SPACES, _RULES = 2, 3, 4, 5, 6


def check_identity(model: bytes) -> None:
    """Raise ValueError unless ``model`` leaves texts unchanged."""
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
