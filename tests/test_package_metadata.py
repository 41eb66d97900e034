"""What a package says of itself: no link of its description leads nowhere, and pictures have absolute addresses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(!?)\[[^\]]*\]\(([^)\s]+)\)")
REPOSITORY = "https://example.org/someone/dynlm"


def metadata() -> ProjectMetadata:  # type: ignore[type-arg]
    """The package's metadata, as hatchling builds it."""
    return ProjectMetadata(str(ROOT), PluginManager())


def test_every_file_that_the_description_links_to_has_an_absolute_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNLM_REPOSITORY", REPOSITORY)
    monkeypatch.setenv("DYNLM_REVISION", "v9")
    core = metadata().core
    assert core.readme_content_type == "text/markdown"
    links = LINK.findall(core.readme)
    assert len(links) == len(LINK.findall((ROOT / "README.md").read_text(encoding="utf-8"))) > 20
    for is_picture, address in links:
        if address.startswith(REPOSITORY):
            kind, revision, path = address.removeprefix(f"{REPOSITORY}/").partition("#")[0].split("/", 2)
            assert (kind, revision) == ("raw" if is_picture else "blob", "v9") and (ROOT / path).is_file(), address
        assert address.startswith("https://"), address
    assert sum(bool(is_picture) for is_picture, _ in links) >= 3
    files = [path.split("/blob/v9/")[1] for path in core.urls.values() if "/blob/" in path]
    assert len(files) == 3 and all((ROOT / path).is_file() for path in files) and core.urls["Source"] == REPOSITORY


def test_without_an_address_no_link_leads_to_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DYNLM_REPOSITORY", raising=False)
    core = metadata().core
    links = LINK.findall(core.readme)
    assert links and all(address.startswith("https://") and not picture for picture, address in links)
    assert "The quick start goes on from here" in " ".join(core.readme.split()) and not core.urls


def test_a_release_says_where_the_files_are() -> None:
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    (built,) = (step for step in jobs["build"]["steps"] if step.get("run") == "make wheel")
    assert set(built["env"]) == {"DYNLM_REPOSITORY", "DYNLM_REVISION"}
    assert jobs["publish"]["permissions"] == {"id-token": "write"}


def test_the_quick_start_lists_every_extra() -> None:
    text = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    table = text.partition("| extra | for |\n")[2].partition("\n\n")[0].splitlines()[1:]
    named = {name for row in table for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named == set(metadata().core.optional_dependencies)
