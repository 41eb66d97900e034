"""The tables of a study as frames of pandas, read from the files in its folder: no model, no score file."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any, Literal

from dynlm.errors import UserError
from dynlm.run.locate import find_run
from dynlm.runtime.files import StrPath
from dynlm.runtime.frames import import_pandas
from dynlm.runtime.parsing import LARGEST_JSON, read_bytes, read_json
from dynlm.runtime.text import csv_text
from dynlm.study.variants import gain_key

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["readings", "seeds", "cells"]
_FILES = {"readings": "table.csv", "seeds": "seeds.csv", "cells": "seeds.json"}
_TEXTS = ("variant", "reset", "order", "own_baseline")


def load_study(run: StrPath, name: str = "study", table: Kind = "readings") -> pd.DataFrame:
    """Return a table of the study ``name`` of a run, which is named by its folder or its name.

    ``run`` may be the study's own folder. Figures are unrounded: nats per token, and gains in nats per token with
    the ends of their 95 % interval (``_low``, ``_high``). What is missing is NaN, or None.

    Args:
        run: A run that ``dynlm study`` was run on.
        name: The study's name (``study.name``).
        table: ``readings`` has a row for each variant, reset policy and order, with its figures, its gains over the
            baselines (``gain_over_NAME``), and what finding and reading took. ``seeds`` has the mean, the lowest and
            the highest of its loss and gains over seeds, ``cells`` those figures for each pair of seeds.

    Raises:
        UserError: where there is no such study or table, the file is damaged, or pandas is not installed.
    """
    if table not in _FILES:
        raise UserError(f"a study has no table {table!r}", do=f"choose one of {', '.join(_FILES)}")
    pandas, folder = import_pandas(), find_run(run)
    folder = folder if (folder / _FILES["readings"]).exists() else folder / name
    path = folder / _FILES[table]
    if not (folder / _FILES["readings"]).exists():
        raise UserError("no such study", folder, "run `dynlm study` first, or name another study")
    if not path.exists():
        raise UserError("this study has no table over seeds", folder, "give study.base_seeds or study.meta_seeds")
    try:
        rows = _cells(read_json(path)) if table == "cells" else _rows(read_bytes(path, LARGEST_JSON))
        frame: pd.DataFrame = pandas.DataFrame(rows)
        frame["variant"]  # that it is a study's
    except (ValueError, LookupError, TypeError, AttributeError, csv.Error) as error:
        do = "run `dynlm study` again, which computes nothing twice"
        raise UserError(f"not a table of a study ({error})", path, do) from error
    return frame


def _rows(data: bytes) -> list[dict[str, Any]]:
    """Return the records that ``export.to_csv`` wrote."""
    lines = csv.DictReader(io.StringIO(data.decode("utf-8"), newline=""), strict=True)
    return [{name: _value(name, field) for name, field in line.items()} for line in lines]


def _value(name: str, field: str) -> Any:
    """Return what a field stands for: in columns of names a text, else a number; None for an empty one."""
    if field == "":
        return None
    if name in _TEXTS:
        return csv_text(field)
    return float(field) if set(field) - set("-0123456789") else int(field)


def _cells(content: Any) -> list[dict[str, Any]]:
    """Return a row for each reading and pair of seeds, of the content of ``seeds.json``."""
    return [
        {name: row[name] for name in ("variant", "reset", "order")}
        | {name: cell[name] for name in ("base_seed", "meta_seed")}
        | {"nats_per_token": cell["nats"]}
        | {gain_key(name): gain for name, gain in cell["gains"].items()}
        | {"gain_over_own": cell["own"]}
        for row in content["rows"]
        for cell in row["cells"]
    ]
