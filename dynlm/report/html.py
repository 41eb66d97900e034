"""HTML from Jinja templates: self-contained pages that run only their own scripts, and tables of text.

Every token, title and label is escaped by Jinja, or embedded as JSON that the page's script only sets as text.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from dynlm.report import palette
from dynlm.report.fewshot_results import Table
from dynlm.report.scale import LINES, UNDERLINE, all_steps
from dynlm.runtime.files import atomic_write

_FOLDER = Path(__file__).parent
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_FOLDER / "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)
_TEMPLATES.globals |= {"steps": all_steps(), "palette": palette, "marks": {"lines": LINES, "underline": UNDERLINE}}


def source(name: str) -> str:
    """Return the text of a file of this package, such as ``assets/uPlot.iife.min.js``, with Unix line ends."""
    return (_FOLDER / name).read_text(encoding="utf-8").replace("\r\n", "\n")


def render_page(name: str, scripts: Sequence[str] = (), style: str = "", **values: Any) -> str:
    """Return the page of ``templates/NAME.html.j2``, in the style ``style`` followed by ``templates/NAME.css``.

    Its content-security policy allows that style and ``scripts``, with scripts also ``data:`` images, and nothing else.
    """
    style += _TEMPLATES.get_template(f"{name}.css").render()
    more = f"script-src {' '.join(map(_source_hash, scripts))}; " if scripts else ""
    style_src = f"style-src {_source_hash(style)}; " + ("img-src data:; " if scripts else "")
    return _TEMPLATES.get_template(f"{name}.html.j2").render(
        policy=f"default-src 'none'; {more}{style_src}base-uri 'none'; form-action 'none'",
        style=Markup(style),
        scripts=[Markup(script) for script in scripts],
        **values,
    )


def _source_hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


def render_table(table: Table) -> str:
    """Return a table of texts."""
    return str(_TEMPLATES.get_template("table.html.j2").module.text_table(table))  # type: ignore[attr-defined]


def render_frame(page: str, title: str, height: int, sandbox: str = "") -> str:
    """Return a page within a frame of ``height`` pixels that isolates it from the notebook around it."""
    style = f"width: 100%; height: {height}px; border: 1px solid #8888"
    return f'<iframe title="{escape(title)}" sandbox="{sandbox}" srcdoc="{escape(page)}" style="{style}"></iframe>'


def write_page(path: Path, page: str) -> Path:
    """Write a page, whole or not at all. Return ``path``. Raises UserError where it cannot be written."""
    with atomic_write(path) as aside:
        aside.write_text(page, encoding="utf-8", newline="\n")
    return Path(path)
