"""Provenance of a run or a scoring: versions, machine, commit and data, for reproduction.

runs/NAME/provenance.json   data: articles and content fingerprint of each split
                            sittings: what the training ran on, an entry for each change, oldest first
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import dynlm
from dynlm.errors import UserError
from dynlm.runtime.parsing import read_json, write_json

FILE = "provenance.json"
_PACKAGES = ("numpy", "sentencepiece")


def made_with(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return date, versions, machine and git commit, as JSON values.

    ``commit`` is that of dynlm's own code if it runs from a git checkout, else None; ``dirty``: whether that code has
    uncommitted changes. ``platform`` has everything known to affect how sums are rounded.
    """
    commit, dirty = _commit()
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {
            "dynlm": dynlm.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            **{name: metadata.version(name) for name in _PACKAGES},
        },
        "platform": {
            "system": platform.platform(),
            "machine": platform.machine(),
            "processor": _processor(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else "cpu",
        },
        "commit": commit,
        "dirty": dirty,
    }


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the differences of two results of ``made_with``, such as "torch 2.13.0 then, 2.14.0 now"."""
    found = []
    for section in ("versions", "platform"):
        before = _section(then, section)
        changed = {name: value for name, value in now[section].items() if before.get(name) != value}
        found += [f"{name} {before.get(name)} then, {value} now" for name, value in changed.items()]
    if then.get("commit") != now["commit"]:
        found.append(f"commit {then.get('commit')} then, {now['commit']} now")
    if then.get("dirty") or now["dirty"]:
        found.append("dynlm's code has uncommitted changes")
    return found


def rounds_alike(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether both round sums alike, so that results must be equal bit for bit."""
    decisive = {"versions": ("torch",), "platform": ("machine", "processor", "instructions", "threads", "device")}
    return all(
        _section(then, section).get(name) == now[section][name] for section, names in decisive.items() for name in names
    )


def _section(made: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a section of a result of ``made_with``, empty where a file does not have it."""
    return section if isinstance(section := made.get(name), dict) else {}


def read_provenance(folder: Path) -> dict[str, Any]:
    """Return ``data`` and ``sittings`` of the run in ``folder``, both empty if there is no record.

    Raises UserError if it is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return {"data": {}, "sittings": []}
    match read_json(path):
        case {"data": dict(data), "sittings": list(sittings)}:
            if all(isinstance(one, dict) for one in (*data.values(), *sittings)):
                return {"data": data, "sittings": sittings}
    raise UserError("not a provenance record", path, "remove it")


def refuse_other_data(folder: Path, data: Mapping[str, Any]) -> None:
    """Raise UserError if the training in ``folder`` was started on other data than ``data``."""
    before = read_provenance(folder)["data"]
    for split, found in data.items():
        if before.get(split, found) != found:
            what = f"the text of split {split!r} is not the one that this run was started with"
            raise UserError(what, folder, "put the text back, or choose another --run.name")


def record_sitting(folder: Path, data: Mapping[str, Any], made: Mapping[str, Any]) -> None:
    """Record what training runs on in ``folder``, and its ``data`` (each split's fingerprint).

    A sitting equal to the last one is not repeated. Raises UserError if the training was started on other data.
    """
    refuse_other_data(folder, data)
    sittings = read_provenance(folder)["sittings"]
    if not sittings or {**sittings[-1], "date": None} != {**made, "date": None}:
        write_json(folder / FILE, {"data": dict(data), "sittings": [*sittings, dict(made)]})


def _commit() -> tuple[str | None, bool | None]:
    """Return (commit of dynlm's own code, whether it has uncommitted changes); (None, None) outside git.

    An installed copy within another project's checkout has no commit: git does not track its files.
    """
    code = Path(dynlm.__file__).parent
    try:
        _git(code, "ls-files", "--error-unmatch", "__init__.py")
        return _git(code, "rev-parse", "HEAD"), bool(_git(code, "status", "--porcelain", "--", "."))
    except (OSError, subprocess.SubprocessError):
        return None, None


def _git(folder: Path, *words: str) -> str:
    # Read only: take no lock.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    command = ["git", "-C", str(folder), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True, env=environment)
    return done.stdout.strip()


def _processor() -> str:
    """Return the processor's name, if the system has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
