"""Lines of compressed files equal those of plain ones, and every kind of damage is located."""

import bz2
import gzip
import lzma
import os
import re
import tracemalloc
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynlm.data.sources import lines
from dynlm.data.sources.lines import text_lines, unpacked_name
from dynlm.errors import UserError

TEXT = "Ärger\r\nlone \r CR\n\n" + "".join(f"line {i} of a longer file {i * i}\n" for i in range(3000)) + "no end"


def write_zip(data: bytes, path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, data)


def pack(data: bytes, path: Path) -> None:
    if path.suffix == ".zip":
        write_zip(data, path, "inside.txt", "__MACOSX/._inside.txt")
    elif path.suffix == ".zst":
        with pa.CompressedOutputStream(str(path), "zstd") as file:
            file.write(data)
    else:
        open_packed = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}.get(path.suffix, open)
        with open_packed(path, "wb") as file:
            file.write(data)


def read_lines(path: Path) -> list[str]:
    return [line for _, line in text_lines(path)]


def error_of(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_lines(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".xz", ".zip", ".zst"])
def test_every_compression_returns_the_exact_text(tmp_path, suffix):
    path = tmp_path / f"a.txt{suffix}"
    pack(TEXT.encode(), path)
    read = read_lines(path)
    assert "".join(read) == TEXT
    assert read[:3] == ["Ärger\r\n", "lone \r CR\n", "\n"]
    assert unpacked_name(path) == "a.txt"


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zip", ".zst"])
@pytest.mark.parametrize("share", [0, 0.3, 0.99])
def test_a_truncated_file_is_rejected(tmp_path, suffix, share):
    path = tmp_path / f"a.txt{suffix}"
    pack(TEXT.encode(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert "cut short or damaged" in error_of(path)


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zip", ".zst"])
def test_a_file_with_a_wrong_suffix_is_rejected(tmp_path, suffix):
    path = tmp_path / f"a.txt{suffix}"
    path.write_text(TEXT)
    assert "cut short or damaged" in error_of(path)


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_concatenated_streams_are_all_read(tmp_path, suffix):
    path = tmp_path / f"a.txt{suffix}"
    pack(b"one\n", path)
    path.write_bytes(path.read_bytes() * 2)
    assert read_lines(path) == ["one\n", "one\n"]


@pytest.mark.parametrize("zeros", [0, 4, 8, 1 << 17])
def test_padding_of_xz_streams_is_skipped(tmp_path, zeros):
    path = tmp_path / "a.xz"
    path.write_bytes(b"".join(lzma.compress(part) + bytes(zeros) for part in (b"one\n", b"", b"two\n")))
    assert read_lines(path) == ["one\n", "two\n"]


@pytest.mark.parametrize("zeros", [1, 6])
def test_padding_of_another_length_is_rejected(tmp_path, zeros):
    path = tmp_path / "a.xz"
    path.write_bytes(lzma.compress(b"one\n") + bytes(zeros) + lzma.compress(b"two\n"))
    assert "cut short or damaged" in error_of(path)


@pytest.mark.parametrize(
    ("suffix", "compress"), [(".bz2", bz2.compress), (".xz", lzma.compress), (".gz", gzip.compress)]
)
@pytest.mark.parametrize("at", range(3))
def test_a_later_stream_with_a_damaged_header_is_rejected(tmp_path, suffix, compress, at):
    path = tmp_path / f"a{suffix}"
    later = bytearray(compress(b"two\n"))
    later[at] ^= 0x55
    path.write_bytes(compress(b"one\n") + later)
    assert "cut short or damaged" in error_of(path)
    path.write_bytes(compress(b"one\n") + b"garbage")
    assert "cut short or damaged" in error_of(path)


def test_streams_are_decompressed_only_as_far_as_read(tmp_path):
    for suffix, compress in ((".bz2", bz2.compress), (".xz", lzma.compress)):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(compress(b"0123456\n" * (4 << 20)))
        tracemalloc.start()
        assert next(text_lines(path)) == (f"{path}:1", "0123456\n")
        assert tracemalloc.get_traced_memory()[1] < 12 << 20  # Of 32 << 20; the window of xz takes 8.
        tracemalloc.stop()


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".xz", ".zip", ".zst"])
def test_a_pipe_or_device_is_rejected_without_blocking(tmp_path, suffix):
    path = tmp_path / f"a.txt{suffix}"
    os.mkfifo(path)
    assert "not a regular file" in error_of(path)
    assert "not a regular file" in error_of(Path("/dev/zero"))


def test_a_zip_of_several_files_is_rejected(tmp_path):
    write_zip(b"text", tmp_path / "a.zip", "one.txt", "two.txt")
    assert "2 files" in error_of(tmp_path / "a.zip")


def test_invalid_utf8_is_located_by_line_and_byte(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbffine\nfi\xffne\n")
    message = error_of(path)
    assert f"{path}:2:" in message
    assert "byte 10 (0xff)" in message


def test_a_nul_character_is_located_by_line_and_byte(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"fine\n\nx\0y\n")
    message = error_of(path)
    assert f"{path}:3:" in message
    assert "byte 7" in message


def test_a_line_that_is_too_long_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "LONGEST_LINE", 10)
    path = tmp_path / "a.txt"
    path.write_bytes(b"123456789\n" * 3)
    assert len(read_lines(path)) == 3
    path.write_bytes(b"123456789\n1234567890\n")
    assert f"{path}:2: longer than" in error_of(path)


def test_the_limit_applies_to_compressed_files_without_line_ends(tmp_path):
    path = tmp_path / "a.txt.gz"
    pack(b"a" * (lines.LONGEST_LINE + 1), path)
    assert "longer than 16 MiB" in error_of(path)
    pack(b"a" * lines.LONGEST_LINE, path)
    assert len(next(text_lines(path))[1]) == lines.LONGEST_LINE


def test_a_byte_order_mark_is_dropped_only_at_the_start(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\ufeffone\n\ufefftwo\n", encoding="utf-8")
    assert read_lines(path) == ["one\n", "\ufefftwo\n"]


def test_a_missing_file_is_rejected(tmp_path):
    assert re.search("no such file", error_of(tmp_path / "none.txt"))


@settings(deadline=None)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_lines_joined_are_the_file(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_text(text, encoding="utf-8", newline="")
    assert "".join(read_lines(path)) == text.removeprefix("\ufeff")
