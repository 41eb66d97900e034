"""Content-security policies: a page may use its own inline styles and scripts, and load nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence


def content_security_policy(style: str, scripts: Sequence[str] = (), images: bool = False) -> str:
    """Return the policy that allows this inline style, these inline scripts and, with ``images``, ``data:`` images."""
    script_src = f"script-src {' '.join(map(_source_hash, scripts))}; " if scripts else ""
    img_src = "img-src data:; " if images else ""
    return (
        f"default-src 'none'; {script_src}style-src {_source_hash(style)}; {img_src}base-uri 'none'; form-action 'none'"
    )


def _source_hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"
