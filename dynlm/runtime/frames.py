"""Frames of pandas, which is an extra (``dynlm[pandas]``)."""

from __future__ import annotations

from typing import Any

from dynlm.errors import UserError


def import_pandas() -> Any:
    """Return pandas. Raises UserError where it is not installed."""
    try:
        import pandas
    except ImportError as error:
        raise UserError("a table needs pandas", do="pip install 'dynlm[pandas]'") from error
    return pandas
