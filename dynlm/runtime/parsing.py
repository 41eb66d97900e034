"""Reading of JSON, YAML and binary files with bounds on size and nesting, and writing of JSON.

Files may come from untrusted sources: none can exhaust memory, block on a pipe, or run code.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from typing import TYPE_CHECKING, Any

from dynlm.errors import UserError
from dynlm.runtime.files import StrPath, atomic_write, cannot_read, open_regular

if TYPE_CHECKING:
    import yaml

LARGEST_JSON = 256 * 2**20
"""Bytes: more than the largest vocabulary takes."""
_LARGEST_YAML = 2**20
_DEEPEST_YAML = 20
_MOST_YAML_VALUES = 20_000
_MARKED_VALUE = re.compile(r"[*&!%@`][^\s,\]}\"']*")


def read_bytes(path: StrPath, largest: int) -> bytes:
    """Return the content of a file. Raises UserError if it is missing, not regular, or over ``largest`` bytes."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            data = b"" if size > largest else file.read(largest + 1)
    except OSError as error:
        raise cannot_read(path, error) from error
    if max(size, len(data)) > largest:
        raise UserError(f"larger than {largest / 2**20:,.0f} MiB", path, "name another file, or split it")
    return data


def write_json(path: StrPath, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically. Raises UserError if ``path`` cannot be written."""
    with atomic_write(path) as staged:
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        # File names may contain lone surrogates: JSON can escape them, UTF-8 cannot encode them.
        staged.write_text(text, encoding="utf-8", errors="backslashreplace")


def read_json(path: StrPath) -> Any:
    """Parse a JSON file. Raises UserError if it is missing, not valid JSON, or over 256 MiB."""
    try:
        return parse_json(read_bytes(path, LARGEST_JSON).decode("utf-8"))
    except ValueError as error:
        raise UserError(f"not a readable JSON file ({error})", path, "it may be cut short; create it again") from error


def parse_json(text: str | bytes) -> Any:
    """Parse JSON. Raises ValueError if ``text`` is invalid or nested too deeply for the parser."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def read_yaml(path: StrPath) -> Any:
    """Parse a YAML file of options with the safe loader.

    Raises UserError if it is missing, invalid, over 1 MiB, nested over 20 levels deep, or has over 20,000 values with
    its aliases expanded: a few lines of nested aliases can stand for more values than fit into memory.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Reads 1e-3 as a number, as YAML 1.2 does: PyYAML's YAML 1.1 takes it for text."""

    exponent = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", exponent, list("-+.0123456789"))

    def count(node: yaml.Node, depth: int = 1) -> int:
        """Return the number of values that ``node`` stands for."""
        if depth > _DEEPEST_YAML:
            raise ValueError("nested too deep, or an alias of what holds it")
        total, children = 1, node.value if isinstance(node, yaml.CollectionNode) else ()
        for child in itertools.chain.from_iterable(children) if isinstance(node, yaml.MappingNode) else children:
            if (total := total + count(child, depth + 1)) > _MOST_YAML_VALUES:
                raise ValueError("too long")
        return total

    try:
        text = read_bytes(path, _LARGEST_YAML).decode("utf-8-sig")
        loader = Loader(text)
        if (root := loader.get_single_node()) is None:
            return None
        count(root)
        return loader.construct_document(root)
    except RecursionError as error:
        raise UserError("not a valid config (nested too deep)", path, "write every option out") from error
    except yaml.MarkedYAMLError as error:
        raise UserError(f"not a valid config ({error})", path, _to_quote(text, error)) from error
    except (ValueError, LookupError, AttributeError, TypeError, OverflowError, yaml.YAMLError) as error:
        raise UserError(f"not a valid config ({error})", path) from error


def _to_quote(text: str, error: yaml.MarkedYAMLError) -> str | None:
    """Return what to do about an error at a value that begins with a mark of YAML, such as an alias's; else None."""
    lines = text.splitlines()
    for mark in (error.context_mark, error.problem_mark):
        rest = lines[mark.line][mark.column :] if mark is not None and mark.line < len(lines) else ""
        if value := _MARKED_VALUE.match(rest):
            return f'put {value[0]} in quotes: "{value[0]}"'
    return None
