"""Pack a run as a model folder: what ``run.packing`` writes, with figures, a model card and checksums."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from dynlm.data.options import CorpusOptions
from dynlm.errors import UserError
from dynlm.evaluation.checks.packed import FILE, TOLERANCE, main_memories, measure
from dynlm.evaluation.model_card import model_card
from dynlm.run.locate import packed_folder
from dynlm.run.packing import write_packed
from dynlm.run.provenance import made_with
from dynlm.run.run import Run
from dynlm.runtime.checksums import write_checksums
from dynlm.runtime.files import atomic_write
from dynlm.runtime.parsing import write_json


def pack(
    run: Run, target: Path, learned: Collection[str] | None = None, tokens: int = 2000, replace: bool = False
) -> dict[str, Any]:
    """Pack ``run`` into the folder ``target``, with the run's options of the memory as its defaults.

    ``learned`` are the learned rules to keep; None: all. Figures are of the first ``tokens`` tokens of the valid split;
    0 reads none. With ``replace`` a packed model in ``target`` is replaced. Returns what was written. Raises UserError
    where ``target`` holds something else, where rounding costs more than TOLERANCE, and as ``write_packed`` does.
    """
    with packed_folder(run.path, target, replace) as staged:
        kept = write_packed(run, staged, target.resolve().name, learned)
        packed = Run.open(staged, run.section(CorpusOptions))
        packed.dynamic_model()  # the default memory has to be among what is kept
        figures: dict[str, Any] = {}
        if tokens:
            chosen = main_memories(kept, run.memory.policy)
            figures = measure(packed, chosen, "valid", tokens) | {"made_with": made_with()}
            exact = measure(run, [each for each in chosen if each.rule == "rms"][:1] or chosen[:1], "valid", tokens)
            figures["rounding"] = _rounding(figures, exact["figures"][0])
            write_json(staged / FILE, figures)
        with atomic_write(staged / "README.md") as aside:
            aside.write_text(model_card(packed, figures=figures), encoding="utf-8")
        write_checksums(staged)
        sizes = [path.stat().st_size for path in staged.rglob("*") if path.is_file()]
    return {
        "folder": str(target),
        "bytes": sum(sizes),
        "files": len(sizes),
        "variants": len(kept),
        "figures": {each["variant"]: each["nats_per_token"] for each in figures.get("figures", [])},
        "rounding": figures.get("rounding"),
    }


def _rounding(figures: dict[str, Any], exact: dict[str, Any]) -> dict[str, Any]:
    """Return what storing fewer digits costs. Raises UserError if it is more than TOLERANCE."""
    rounded = next(each for each in figures["figures"] if each["variant"] == exact["variant"])["nats_per_token"]
    costs = rounded - exact["nats_per_token"]
    if not abs(costs) < TOLERANCE:
        what = f"with weights in half precision {exact['variant']} costs {costs:+.4f} nats per token"
        raise UserError(what, do="keep this run as it is")
    return {"variant": exact["variant"], "float32_nats_per_token": exact["nats_per_token"], "difference": costs}
