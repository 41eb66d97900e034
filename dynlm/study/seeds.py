"""Figures over seeds: mean and range of each reading's loss, and of its gains, over base models and meta-training.

A gain is always that of two variants on one base model, with one seed of meta-training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dynlm.study.cells import Cell
from dynlm.study.results import CellFigures, GainOverSeeds, Results, Row, SeedRow, Spread
from dynlm.study.variants import Reading

Key = tuple[str, str | None, str | None]
"""Variant, reset policy and order of a reading."""


def key_of(reading: Reading) -> Key:
    """Return what is the same for a reading with any seed."""
    return reading.variant.name, reading.reset, reading.order


def cell_figures(results: Results, cell: Cell) -> dict[Key, CellFigures]:
    """Return the figures of each reading in one cell."""
    found = {}
    for row in results.rows:
        gains = {over.name: over.gain.nats for over in row.over if over.gain is not None}
        own = row.own.gain.nats if row.own is not None and row.own.gain is not None else None
        figures = CellFigures(cell.base_seed, cell.meta_seed, row.figures.nats_per_token, gains, own)
        found[key_of(row.done.reading)] = figures
    return found


def over_seeds(results: Results, cells: Sequence[Mapping[Key, CellFigures]]) -> list[SeedRow]:
    """Return a row for each reading of the first cell, whose results are ``results``, that other cells have, too.

    A variant that learns nothing has the same loss with all seeds of meta-training, but not always the same gain.
    """
    rows = []
    for row in results.rows:
        found = [cell[key] for cell in cells if (key := key_of(row.done.reading)) in cell]
        if len(found) > 1:
            rows.append(_row_of(row, found))
    return rows


def _row_of(row: Row, cells: list[CellFigures]) -> SeedRow:
    reading = row.done.reading
    # The same number of cells for each base model: none counts more than another.
    nats = Spread.of([cell.nats for cell in cells])
    assert nats is not None
    gains = [
        GainOverSeeds(
            over.name, Spread.of([cell.gains[over.name] for cell in cells if over.name in cell.gains]), over.gain
        )
        for over in row.over
    ]
    own = None
    if row.own is not None:
        values = [cell.own for cell in cells if cell.own is not None]
        own = GainOverSeeds(row.own.name, Spread.of(values), row.own.gain)
    bases = len({cell.base_seed for cell in cells})
    metas = len({cell.meta_seed for cell in cells}) if reading.variant.is_learned else None
    return SeedRow(reading, bases, metas, nats, gains, own, cells)
