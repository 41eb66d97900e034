"""Hooks of the documentation site (mkdocs.yml): pages from files outside docs/, API pages, docstrings that are missing.

Pages outside docs/ keep their path in the repository, so that links between them hold; README.md is the home page.
Whatever is wrong is logged as a warning, which `mkdocs build --strict` turns into a failure.
"""

from __future__ import annotations

import logging
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    **{
        name: name
        for name in ("CONTRIBUTING.md", "CHANGELOG.md", "data/README.md", "data/models/README.md", "scripts/README.md")
    },
}
"""Markdown files outside docs/, with their path in the site."""
STATIC = ("LICENSE", "CITATION.cff", "configs/**/*.yaml", "scripts/*.sh", "tests/plugins/*.py", "tests/examples/*.py")
"""Files that pages link to."""
NOT_DOCUMENTED = ("cli", "__main__")
_LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?(?:\s+\"[^\"]*\")?\))")
_INCLUDE = re.compile(r"^<!-- include (\S+\.py) -->$", re.MULTILINE)

log = logging.getLogger("mkdocs.hooks")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages outside docs/, the files that they link to, and the API pages."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=relinked(text, source, page)))
    for pattern in STATIC:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    package = griffe.load("dynlm", search_paths=[str(ROOT)])
    for name, content in api_pages(package):
        files.append(File.generated(config, f"api/{name}.md", content=content))
    for name in undocumented(package):
        log.warning("%s is public and has no docstring", name)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point the links of docs/*.md that leave docs/ to their pages in the site."""
    path = page.file.src_uri
    return relinked(markdown, f"docs/{path}", path) if (ROOT / "docs" / path).exists() else markdown


def relinked(text: str, source: str, page: str) -> str:
    """Return the repository's file ``source`` as the site's page ``page``: links rewritten, included files inserted."""

    def of_site(match: re.Match[str]) -> str:
        target = match[2]
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        path = PAGES.get(path, path.removeprefix("docs/"))
        return f"{match[1]}{posixpath.relpath(path, posixpath.dirname(page) or '.')}{match[3]}"

    def included(match: re.Match[str]) -> str:
        return f"```python\n{(ROOT / match[1]).read_text(encoding='utf-8')}```"

    return _INCLUDE.sub(included, _LINK.sub(of_site, text))


def api_pages(package: griffe.Module) -> Iterator[tuple[str, str]]:
    """Yield (package, Markdown) of each API page: `dynlm` itself, then its packages with all public modules."""
    yield "dynlm", "# dynlm\n\n::: dynlm.api\n\n::: dynlm.errors\n"
    for name, member in sorted(package.modules.items()):
        if not member.is_alias and member.is_init_module and name not in NOT_DOCUMENTED:
            modules = [each.path for each in walk(member) if has_public_members(each)]
            yield name, f"# dynlm.{name}\n\n" + "\n".join(f"::: {path}\n" for path in modules)


def walk(module: griffe.Module) -> Iterator[griffe.Module]:
    """Yield a module and all public modules in it."""
    yield module
    for name, member in sorted(module.modules.items()):
        if not name.startswith("_") and not member.is_alias:
            yield from walk(member)


def has_public_members(module: griffe.Module) -> bool:
    return any(is_public(member) for member in module.members.values())


def is_public(member: griffe.Object | griffe.Alias) -> bool:
    """Whether it is a public class or function that is defined here and not imported."""
    return not member.is_alias and not member.name.startswith("_") and (member.is_class or member.is_function)


def undocumented(package: griffe.Module) -> Iterator[str]:
    """Yield public classes, functions and methods without a docstring.

    A method may leave its documentation to a base class, or to a protocol of the package that has a method of its name.
    """
    modules = [each for name, top in package.modules.items() if name not in NOT_DOCUMENTED for each in walk(top)]
    classes = [each for module in modules for each in module.members.values() if is_public(each) and each.is_class]
    protocols = [each for each in classes if any(str(base).split("[")[0] == "Protocol" for base in each.bases)]
    inherited = {name for each in protocols for name, method in each.members.items() if method.has_docstring}
    for module in modules:
        if not module.has_docstring:
            yield module.path
        for member in filter(is_public, module.members.values()):
            if not member.has_docstring:
                yield member.path
            for method in filter(is_public, member.members.values() if member.is_class else ()):
                bases = (base.members.get(method.name) for base in member.mro())
                if not (method.has_docstring or method.name in inherited or any(b and b.has_docstring for b in bases)):
                    yield method.path
