"""Markdown pages from Jinja templates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from dynlm.runtime.text import markdown, markdown_code


def render_markdown(template: Path, **values: Any) -> str:
    """Render a template; its filters ``markdown`` and ``code`` escape text, and make it a code span."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"markdown": markdown, "code": markdown_code}
    return environment.get_template(template.name).render(values)
