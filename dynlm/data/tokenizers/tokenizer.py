"""Text to tokens and back, without loss: SentencePiece with byte fallback, and a word vocabulary.

Each token keeps its surface, the exact bytes of the text that it stands for, so that any score can be divided by
tokens, words or bytes. SentencePiece writes a space as U+2581 and cannot tell it from a real U+2581; a real one (and
NUL, which ends a string in places) is therefore spelt in bytes here, beside the pieces that SentencePiece finds.
"""

from __future__ import annotations

import io
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import sentencepiece

from dynlm.data.options import TokenizerOptions
from dynlm.data.tokenizers.piece_model import check_identity
from dynlm.errors import UserError
from dynlm.runtime.files import atomic_write
from dynlm.runtime.hashing import fingerprint
from dynlm.runtime.parsing import LARGEST_JSON, read_bytes, read_json, write_json
from dynlm.runtime.paths import cache_folder
from dynlm.runtime.validation import section_of

SPACE = "\u2581"
END_OF_LINE = "<eos>"
UNKNOWN = "<unk>"
_SPELT = re.compile(f"([{SPACE}\x00]+)")
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
# A line of words: each word with the white space before it, then the end of line with what precedes it.
_WORD = re.compile(r"[^\S\n]*\n|\s*[^\s]+|[^\S\n]+")
# A word with the spaces before it, an end of line with those before it, or the spaces that end a text.
_UNIT = re.compile(r" *[^ \n]+| *\n| +")
_SAMPLE = "A  text\u00a0of \ufb01ve\t\u2460 \u6f22\u5b57, \U0001f600\n \n" + SPACE + "\x00"
"""What normalising would change, and what has to be spelt in bytes."""
_TRAINING_LINE = 1 << 18
"""Characters of a line that SentencePiece trains on, at most: it drops lines over ``_TRAINING_BYTES``."""
_TRAINING_BYTES = 4 * _TRAINING_LINE
_MEMO_CHARACTERS = 4_000_000
"""Of the units whose tokens are remembered."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """One text's tokens: ids, and the length in bytes of each one's surface."""

    ids: np.ndarray
    lengths: np.ndarray


class Tokenizer(Protocol):
    """What the rest of dynlm asks of a tokenizer."""

    config: TokenizerOptions
    start: int
    """Id fed in place of the token before an article's first one; it is never scored."""

    @property
    def size(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...

    def encode(self, text: str) -> Encoding: ...

    def decode(self, ids: Iterable[int]) -> str: ...

    def save(self, folder: Path) -> None: ...


class PieceTokenizer:
    """SentencePiece (unigram, Kudo 2018, or BPE, Sennrich et al. 2016); ``decode(encode(x).ids) == x`` for any text.

    Raises ValueError or RuntimeError where ``model`` is none that can keep that promise.
    """

    def __init__(self, config: TokenizerOptions, model: bytes):
        self.config = config
        self.model = model
        if not model:  # which SentencePiece takes, and then knows nothing
            raise ValueError("the model is empty")
        check_identity(model)
        self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.start = self._pieces.bos_id()
        size = self._pieces.get_piece_size()
        if not 0 <= self.start < size:
            raise ValueError("the model has no start token")
        self._byte_ids = np.full(256, -1, dtype=np.int32)
        self._surfaces: list[bytes] = []
        for index in range(size):
            piece = self._pieces.id_to_piece(index)
            if self._pieces.is_byte(index):
                self._byte_ids[int(piece[3:5], 16)] = index
                self._surfaces.append(bytes([int(piece[3:5], 16)]))
            elif self._pieces.is_control(index) or self._pieces.is_unknown(index):
                self._surfaces.append(b"")
            else:
                self._surfaces.append(piece.replace(SPACE, " ").encode())
        if (self._byte_ids < 0).any():
            raise ValueError("the model cannot spell every byte")
        self._lengths = np.array([len(surface) for surface in self._surfaces], dtype=np.int32)
        # Where no piece reaches over the border of two units, byte pairs merge in each unit as in the whole line.
        # A unigram's sums are rounded along the line, which can decide between near-equal pieces.
        within_units = all(map(_within_unit, self._surfaces))
        self._memo = _UnitMemo(self._pieces) if config.kind == "bpe" and within_units else None

    def __reduce__(self) -> tuple[type[PieceTokenizer], tuple[TokenizerOptions, bytes]]:
        return PieceTokenizer, (self.config, self.model)

    @classmethod
    def train(cls, config: TokenizerOptions, texts: Iterable[str]) -> PieceTokenizer:
        """Train on the first ``config.training_characters`` of ``texts``, whose rest is not read.

        Raises UserError where they are too little.
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

    @property
    def size(self) -> int:
        return len(self._surfaces)

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.model)

    def encode(self, text: str) -> Encoding:
        """Tokens of ``text``, as SentencePiece finds them in each of its lines: no piece crosses an end of line."""
        memo = self._memo
        if memo is None:
            return self.encode_lines(text)
        return self._encoding(text, lambda part: b"".join(map(memo.__getitem__, _UNIT.findall(part))))

    def encode_lines(self, text: str) -> Encoding:
        """What ``encode`` gives, without remembering units: the reference."""
        return self._encoding(text, lambda part: _id_bytes(self._pieces.encode(_LINE.findall(part), num_threads=1)))

    def _encoding(self, text: str, id_bytes: Callable[[str], bytes]) -> Encoding:
        """Tokens of ``text``: ``id_bytes`` of what has no special characters, and these spelt in bytes."""
        parts = _SPELT.split(text) if SPACE in text or "\x00" in text else [text]
        joined = bytearray()
        for index, part in enumerate(parts):
            if index % 2:
                joined += self._byte_ids[np.frombuffer(part.encode(), dtype=np.uint8)].tobytes()
            else:
                joined += id_bytes(part)
        ids = np.frombuffer(joined, dtype=np.int32)
        return Encoding(ids, self._lengths[ids])

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ``ids``; bytes that are no characters become U+FFFD."""
        return b"".join(self._surfaces[index] for index in ids).decode("utf-8", "replace")

    def save(self, folder: Path) -> None:
        with atomic_write(folder / "tokenizer.model") as aside:
            aside.write_bytes(self.model)
        write_json(folder / "tokenizer.json", _card(self))


class _UnitMemo(dict[str, bytes]):
    """The ids (int32, as bytes) of units, found when they are first met; forgotten all at once when they are many."""

    def __init__(self, pieces: sentencepiece.SentencePieceProcessor):
        super().__init__()
        self._pieces, self._characters = pieces, 0

    def __missing__(self, unit: str) -> bytes:
        if self._characters > _MEMO_CHARACTERS:
            self.clear()
            self._characters = 0
        ids = self[unit] = _id_bytes([self._pieces.encode(unit)])
        self._characters += len(unit)
        return ids


class WordTokenizer:
    """White-space words and ``<eos>`` at each end of line, the literature's WikiText vocabulary.

    Words that are not in the vocabulary are read as ``<unk>``, so decoding gives the words of a text, not its spacing.
    """

    def __init__(self, config: TokenizerOptions, types: list[str]):
        self.config = config
        self.types = types
        self._ids = {word: index for index, word in enumerate(types)}
        self._unknown = self._ids[UNKNOWN]
        self._end = self._ids[END_OF_LINE]
        self.start = self._end

    @classmethod
    def train(cls, config: TokenizerOptions, texts: Iterable[str]) -> WordTokenizer:
        """Count the words of ``texts``; the most frequent ``vocab_size`` types stay (0: all)."""
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text.split())
        for special in (UNKNOWN, END_OF_LINE):
            counts.pop(special, None)
        kept = sorted(counts, key=lambda word: (-counts[word], word))
        if config.vocab_size:
            kept = kept[: max(0, config.vocab_size - 2)]
        return cls(config, [UNKNOWN, END_OF_LINE, *kept])

    @property
    def size(self) -> int:
        return len(self.types)

    @property
    def fingerprint(self) -> str:
        return fingerprint(*self.types)

    def encode(self, text: str) -> Encoding:
        """Tokens of ``text``; white space that no word or end of line follows is scored as ``<unk>``."""
        ids, lengths = [], []
        for part in _WORD.findall(text):
            ids.append(self._end if part.endswith("\n") else self._ids.get(part.strip(), self._unknown))
            lengths.append(len(part.encode()))
        return Encoding(np.array(ids, dtype=np.int32), np.array(lengths, dtype=np.int32))

    def decode(self, ids: Iterable[int]) -> str:
        words = ("\n" if index == self._end else " " + self.types[index] for index in ids)
        return "".join(words)

    def save(self, folder: Path) -> None:
        write_json(folder / "words.json", self.types)
        write_json(folder / "tokenizer.json", _card(self))


def train_tokenizer(config: TokenizerOptions, texts: Iterable[str], corpus_fingerprint: str) -> Tokenizer:
    """Train a tokenizer, or take it from the cache if one was trained on the same text with the same options."""
    kind: type[PieceTokenizer] | type[WordTokenizer] = WordTokenizer if config.kind == "word" else PieceTokenizer
    key = fingerprint(json.dumps(vars(config), sort_keys=True), corpus_fingerprint, sentencepiece.__version__)
    folder = cache_folder() / "tokenizers" / key
    if (folder / "tokenizer.json").exists():
        try:
            return load_tokenizer(folder)
        except UserError:
            pass  # A damaged cache entry is made anew.
    tokenizer = kind.train(config, texts)
    tokenizer.save(folder)
    return tokenizer


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load what ``save`` wrote. Raises UserError where a file is missing or does not match its fingerprint."""
    card = read_json(folder / "tokenizer.json")
    tokenizer: Tokenizer
    try:
        config = section_of(TokenizerOptions, card["config"])
        if config.kind == "word":
            tokenizer = WordTokenizer(config, _types(read_json(folder / "words.json")))
        else:
            tokenizer = PieceTokenizer(config, read_bytes(folder / "tokenizer.model", LARGEST_JSON))
            if tokenizer.decode(tokenizer.encode(_SAMPLE).ids.tolist()) != _SAMPLE:
                raise ValueError("it does not give back the text that it takes")
        intact = tokenizer.fingerprint == card["fingerprint"]
    except (UserError, KeyError, TypeError, OSError, RuntimeError, ValueError, IndexError, OverflowError) as error:
        raise UserError(f"not a tokenizer that dynlm can read ({error})", folder, "train the run again") from error
    if not intact:
        raise UserError("the tokenizer is not the one its card describes", folder, "restore the file or train again")
    return tokenizer


def _types(content: object) -> list[str]:
    """A word vocabulary, checked."""
    if not isinstance(content, list) or not all(isinstance(word, str) for word in content):
        raise ValueError("words.json is no list of words")
    if len(set(content)) != len(content) or not {UNKNOWN, END_OF_LINE} <= set(content):
        raise ValueError(f"words.json has a word twice, or no {UNKNOWN} or {END_OF_LINE}")
    return content


def _within_unit(surface: bytes) -> bool:
    text = surface.decode("utf-8", "replace")
    return not text or _UNIT.fullmatch(text) is not None


def _id_bytes(ids: Iterable[Iterable[int]]) -> bytes:
    return np.fromiter(itertools.chain.from_iterable(ids), dtype=np.int32).tobytes()


def _training_lines(texts: Iterable[str], characters: int) -> Iterator[str]:
    """Lines to train on, the longest cut in parts."""
    seen = 0
    for text in texts:
        for line in text.split("\n"):
            if line.strip() and SPACE not in line and "\x00" not in line:
                yield from (line[at : at + _TRAINING_LINE] for at in range(0, len(line), _TRAINING_LINE))
        seen += len(text)
        if seen > characters:
            return


def _card(tokenizer: Tokenizer) -> dict[str, object]:
    return {"config": vars(tokenizer.config), "size": tokenizer.size, "fingerprint": tokenizer.fingerprint}
