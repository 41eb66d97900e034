"""What a SentencePiece model file says of normalising: the few fields of its protocol buffer that change a text.

Field numbers are those of sentencepiece_model.proto. SentencePiece's own reader of them needs the protobuf package.
"""

from __future__ import annotations

from collections.abc import Iterator

_NORMALISER, _DENORMALISER = 3, 5
_CHARACTER_MAP, _DUMMY_PREFIX, _REMOVE_SPACES, _ESCAPE_SPACES, _RULES = 2, 3, 4, 5, 6


def check_identity(model: bytes) -> None:
    """Raise ValueError unless ``model`` takes and gives back every text as it is."""
    # Defaults of the format; a message that comes in several parts is the sum of them, the last value counting.
    specs: dict[int, dict[int, int | bytes]] = {
        number: {_CHARACTER_MAP: b"", _DUMMY_PREFIX: 1, _REMOVE_SPACES: 1, _ESCAPE_SPACES: 1, _RULES: b""}
        for number in (_NORMALISER, _DENORMALISER)
    }
    for number, value in _fields(model):
        if number in specs and isinstance(value, bytes):
            specs[number].update(_fields(value))
    normaliser, denormaliser = specs[_NORMALISER], specs[_DENORMALISER]
    if normaliser[_CHARACTER_MAP] or denormaliser[_CHARACTER_MAP] or normaliser[_RULES] or denormaliser[_RULES]:
        raise ValueError("the model changes characters (its normalisation is not identity)")
    if normaliser[_DUMMY_PREFIX] or normaliser[_REMOVE_SPACES] or not normaliser[_ESCAPE_SPACES]:
        raise ValueError("the model adds or removes spaces")


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of a message's fields. Raises ValueError where it is cut short or malformed."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == 2:
            size, at = _varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of kind {kind} in the model")
        if at + size > len(message):
            raise ValueError("the model is cut short")
        yield number, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("the model is cut short")
        value |= (message[at] & 127) << shift
        at += 1
        if message[at - 1] < 128:
            return value, at
    raise ValueError("a number in the model is too long")
