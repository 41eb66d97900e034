"""What a package says of itself: README.md as its description, with links that hold outside the repository.

hatchling runs it (pyproject.toml). ``DYNLM_REPOSITORY``, such as https://example.org/OWNER/NAME, and
``DYNLM_REVISION``, a tag or commit, say where the files are; a release sets both. Without them pictures are left out
and links to files are their text alone, since a package's page has none of these files.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)\s]+)\)")


def description(readme: str, repository: str | None, revision: str = "HEAD") -> str:
    """Return ``readme`` with absolute addresses of the files that it links to, or without links to files."""

    def absolute(link: re.Match[str]) -> str:
        is_picture, text, path = link.groups()
        if repository is None:
            return "" if is_picture else text
        return f"{is_picture}[{text}]({repository}/{'raw' if is_picture else 'blob'}/{revision}/{path})"

    return _LINK.sub(absolute, readme)


def addresses(repository: str, revision: str = "HEAD") -> dict[str, str]:
    """Return the project's URLs."""
    files = f"{repository}/blob/{revision}"
    return {
        "Source": repository,
        "Documentation": f"{files}/docs/quickstart.md",
        "Results": f"{files}/docs/results.md",
        "Changelog": f"{files}/CHANGELOG.md",
        "Issues": f"{repository}/issues",
    }


class PackageMetadata(MetadataHookInterface):
    """Sets the fields ``readme`` and ``urls``."""

    def update(self, metadata: dict[str, Any]) -> None:
        readme = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        where = os.environ.get("DYNLM_REPOSITORY"), os.environ.get("DYNLM_REVISION", "HEAD")
        metadata["readme"] = {"content-type": "text/markdown", "text": description(readme, *where)}
        if where[0] is not None:
            metadata["urls"] = addresses(where[0], where[1])
