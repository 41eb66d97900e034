"""Exporting memory files as adapter folders, and importing them again.

The losses that an export reports are those of frozen weights: nothing is learned from the text.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynlm.adapt.loop import iter_segments
from dynlm.adapt.memory_file import changing, load_about, options_of
from dynlm.adapt.memory_folder import (
    AdapterOptions,
    MemoryAdapter,
    current_params,
    memory_file_of,
    not_carried_over,
    require_transformer,
    save_memory_folder,
)
from dynlm.adapt.options import MemoryOptions
from dynlm.data.stream import read_in_order
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.errors import UserError
from dynlm.evaluation.session import Session
from dynlm.evaluation.tables import text_rows
from dynlm.run.folder import TrainedModel
from dynlm.run.run import Run
from dynlm.runtime.files import atomic_write
from dynlm.runtime.text import printable

if TYPE_CHECKING:
    from dynlm.models.hf.adapter import Base

_LARGEST_RANK = 512
"""Of vLLM."""


def export_memory(
    run: Run, path: Path, folder: Path, how: AdapterOptions, base: str | None = None, text: str | None = None
) -> dict[str, Any]:
    """Write the memory file ``path``, which belongs to ``run``, as the adapter folder ``folder``; return a report.

    ``base``: the base model's name in the adapter, unset: where it was adopted from. With ``text`` the report has its
    nats per token by the memory, the adapter and the static model, all frozen. Raises UserError as ``Session.open`` and
    ``save_memory_folder`` do, and for a base that is not known.
    """
    run = run.with_sections(options_of(path, run.section(MemoryOptions)))
    session = Session.open(run, path)
    dynamic_model, saved = session.dynamic_model, session.saved
    require_transformer(dynamic_model)
    origin = base_of(run.trained) if base is None else base_of(run.trained)._replace(name=base, revision=None)
    options = run.section(MemoryOptions)
    split = None if text is None else TokenisedSplit.from_texts([text], run.trained.tokenizer)
    if split is not None and not len(split.ids_N):
        raise UserError("an empty text", "--text", "name a file with at least one character")
    written, made = save_memory_folder(folder, saved, dynamic_model, options, origin, how)
    report = {"memory": str(path), "folder": str(written), "base": origin._asdict(), **_report(made)}
    report["not_carried_over"] = not_carried_over(saved, dynamic_model)
    report["nats_per_token"] = None if split is None else _frozen_losses(made, session, split, options.segment)
    return report


def base_of(trained: TrainedModel) -> Base:
    """Return the model that an adapter belongs to, by the name that it was loaded by."""
    from dynlm.models.hf.adapter import Base

    name, revision = trained.card.get("adopted_from"), trained.card.get("revision")
    # A model of a hub has a revision, and may have the name of a folder.
    source = _source(name) if revision is None else name
    return Base(trained.fingerprint, trained.tokenizer.fingerprint, source, revision)


def import_memory(folder: Path, path: Path) -> dict[str, Any]:
    """Write the memory of an adapter folder to the memory file ``path``, bit for bit; return what it is.

    Raises UserError if ``path`` exists, and as ``memory_file_of`` does.
    """
    source = memory_file_of(folder)
    with changing(path) as path:
        if path.exists():
            raise UserError("there is something already", path, "name another file")
        with atomic_write(path, private=True) as staged:
            shutil.copyfile(source, staged)
    about, _ = load_about(path)
    return {"file": str(path), "tokens": about.tokens, "articles": about.articles, "content": about.content}


def as_text(report: dict[str, Any]) -> str:
    """Return the report of an export for a terminal."""
    padded = f" (of {report['moved_rank']}, padded with zeros)" if report["padded"] else ""
    rank, base = f"rank {report['rank']}{padded}", report["base"]["name"] or report["base"]["fingerprint"]
    lines = [
        f"{report['layers']} linear layers of {base}, {rank}, alpha {report['alpha']:g}",
        f"serve it as {report['name']}: the name changes with the weights",
    ]
    if report["rank"] > _LARGEST_RANK:
        lines.append(f"vLLM takes no rank above {_LARGEST_RANK}")
    else:
        lines.append(f"vLLM needs --max-lora-rank {report['rank']} or more")
    if report["errors"] is not None:
        rows = [(f"  {name}", f"{error:.3f}") for name, error in report["errors"].items()]
        lines += ["relative error of each matrix (Frobenius norm):", *text_rows(rows, left=2)]
        lines.append(f"relative error of everything that moved: {report['relative_error']:.3f}")
    lines += [f"left out: {name}" for name in report["dropped"]]
    lines += [f"not in the adapter: {what}" for what in report["not_carried_over"]]
    if (nats := report["nats_per_token"]) is not None:
        figures = ", ".join(f"{label} {nats[label]:.4f}" for label in ("static", "memory", "adapter"))
        lines.append(f"nats per token with frozen weights: {figures}")
    return "\n".join([*map(printable, lines), f"wrote {printable(report['folder'])}"])


def _report(made: MemoryAdapter) -> dict[str, Any]:
    adapter, truncation = made.adapter, made.truncation
    return {
        "name": made.name,
        "layers": len(adapter.layers),
        "rank": adapter.rank,
        "moved_rank": made.rank,
        "padded": adapter.rank != made.rank,
        "alpha": adapter.scale * adapter.rank,
        "errors": None if truncation is None else truncation.errors,
        "relative_error": None if truncation is None else truncation.error,
        "dropped": made.dropped,
    }


def _source(adopted_from: Any) -> str | None:
    """Return where a base model can be found: a folder by its whole path, or a name on the hub."""
    if not isinstance(adopted_from, str):
        return None
    path = Path(adopted_from).expanduser()
    return str(path.resolve()) if path.exists() else adopted_from


def _frozen_losses(made: MemoryAdapter, session: Session, split: TokenisedSplit, segment: int) -> dict[str, float]:
    """Return the nats per token of a text by the static model, the memory and the adapter, none of which learns."""
    static, saved = session.dynamic_model.static, session.saved
    weights = {"static": static, "memory": current_params(saved.memory, session.dynamic_model)}
    if made.truncation is not None:
        weights["adapter"] = static | made.adapter.merged(static)
    nats = {}
    for label, params in weights.items():
        frozen = dataclasses.replace(session.dynamic_model.level_1(), static=params)
        read = iter_segments(frozen, read_in_order(split, segment, [0]))
        nats[label] = sum(float(each.nats_T.double().sum()) for each in read) / len(split.ids_N)
    # Low-rank factors are the adapter itself.
    return {"adapter": nats["memory"], **nats}
