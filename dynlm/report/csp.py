"""Content-security policies: a page may use the styles and scripts that it was written with, and ask for nothing."""

from __future__ import annotations

import base64
import hashlib


def source_hash(text: str) -> str:
    """A policy's name for an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"
