"""What every measurement keeps, whatever it measures: its bits depend on pixels and configuration alone.

A measurement's test inherits `MeasurementContract` and names its family and columns; ``test_photometry_twins.py`` has
examples.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pytest
from scene_cutter import Scene, synthetic_scene

from sextract.measurement.measure import MEASUREMENTS, NeedRows, reaches_of
from sextract.records import Column

DTYPES = {"i2", "i4", "f4", "f8"}


@cache
def contract_scene(photometry: tuple[tuple[str, Any], ...]) -> Scene:
    """Forty sources, some over the frame's edge, one a giant; nobody may change it."""
    scene = synthetic_scene(3, (120, 140), 40, **dict(photometry))
    s = scene.sources
    s["a"][7], s["b"][7] = 12, 9
    s["x2"][7], s["y2"][7], s["xy"][7] = 144, 81, 0
    s["cxx"][7], s["cyy"][7], s["cxy"][7], s["theta"][7] = 1 / 144, 1 / 81, 0, 0
    return scene


class MeasurementContract:
    """Inherit, set `family` and `columns`, and every test below runs.

    Attributes
    ----------
    family : str
        Name under which the measurement is registered.
    columns : mapping
        Column → dims to ask for; any that it declares may be left out.
    photometry : mapping
        Settings of the scene other than the defaults.
    """

    family: ClassVar[str]
    columns: ClassVar[dict[str, tuple[int, ...]]]
    photometry: ClassVar[dict[str, Any]] = {}

    @pytest.fixture
    def scene(self) -> Scene:
        return contract_scene(tuple(self.photometry.items()))

    @pytest.fixture
    def expected(self, scene: Scene) -> dict[str, Any]:
        """The values in one batch with room for all stamps."""
        return self.values(scene)

    def values(self, scene: Scene, **options: Any) -> dict[str, Any]:
        """Columns of the family, and FLAGS."""
        batch = scene.measure(self.columns, **options)
        return {**{name: batch[name] for name in self.columns}, "flags": batch.sources["flags"]}

    def same(self, values: dict[str, Any], expected: dict[str, Any], index: Any = slice(None)) -> None:
        """Bit for bit, type for type."""
        for name, column in expected.items():
            assert values[name].dtype == column.dtype
            assert values[name].tobytes() == column[index].tobytes(), name

    def test_declares_what_it_fills(self, expected: dict[str, Any], scene: Scene) -> None:
        declared = {c.name: c for c in MEASUREMENTS.get(self.family).columns}
        assert set(self.columns) <= set(declared)
        for name, dims in self.columns.items():
            column: Column = declared[name]
            assert column.dtype in DTYPES
            assert column.display and column.doc and column.ucd
            assert expected[name].dtype == np.dtype(column.dtype)
            assert expected[name].shape == (len(scene.sources), *dims)
            assert bool(column.vector) or not dims

    def test_order_of_sources_changes_no_bit(self, scene: Scene, expected: dict[str, Any]) -> None:
        order = np.random.default_rng(1).permutation(len(scene.sources))
        self.same(self.values(scene, index=order), expected, order)

    def test_one_at_a_time(self, scene: Scene, expected: dict[str, Any]) -> None:
        for i in range(len(scene.sources)):
            self.same(self.values(scene, index=[i]), expected, [i])

    @pytest.mark.parametrize("arena_px", [20000, 5000, 3000])
    def test_small_arena(self, scene: Scene, expected: dict[str, Any], arena_px: int) -> None:
        """Some batches have to be split, and giants come in pieces."""
        self.same(self.values(scene, arena_px=arena_px), expected)

    def test_larger_stamps_change_no_bit(self, scene: Scene, expected: dict[str, Any]) -> None:
        batch = scene.batch(self.columns)
        half = np.full(len(batch), 60.0)
        for _ in batch.windows(half, half):
            pass
        for name in MEASUREMENTS.ordered([self.family], lambda m: m.needs):
            MEASUREMENTS.get(name).run(batch)
        self.same({**{n: batch[n] for n in self.columns}, "flags": batch.sources["flags"]}, expected)

    @pytest.mark.parametrize("final_row, arena_px", [(1 << 30, 1 << 22), (100, 1 << 22), (1 << 30, 20000)])
    def test_stamps_cut_for_all_families_change_no_bit(
        self, scene: Scene, expected: dict[str, Any], final_row: int, arena_px: int
    ) -> None:
        """Cut once for whatever a run may ask for, no lower than rows that are final."""
        early, reaches = np.arange(len(scene.sources)), reaches_of(list(MEASUREMENTS))
        while len(early):
            batch = scene.batch(self.columns, index=early, arena_px=arena_px, reaches=reaches)
            batch.cutter.final_row = min(final_row, batch.cutter.final_row)
            try:
                for name in MEASUREMENTS.ordered([self.family], lambda m: m.needs):
                    MEASUREMENTS.get(name).run(batch)
                break
            except NeedRows as late:
                early = np.delete(early, list(late.rows))
        assert len(early)
        self.same({**{n: batch[n] for n in self.columns}, "flags": batch.sources["flags"]}, expected, early)

    def test_a_second_run_is_the_first(self, scene: Scene, expected: dict[str, Any]) -> None:
        batch = scene.batch(self.columns)
        order = MEASUREMENTS.ordered([self.family], lambda m: m.needs)
        for name in [*order, *order]:
            MEASUREMENTS.get(name).run(batch)
        self.same({**{n: batch[n] for n in self.columns}, "flags": batch.sources["flags"]}, expected)

    def test_rows_to_come(self, scene: Scene, expected: dict[str, Any]) -> None:
        """A source that sees rows whose masks aren't final is put off, and no other."""
        batch = scene.batch(self.columns)
        batch.cutter.final_row = 60
        try:
            for name in MEASUREMENTS.ordered([self.family], lambda m: m.needs):
                MEASUREMENTS.get(name).run(batch)
        except NeedRows as late:
            assert all(row > 60 for row in late.rows.values())
            early = np.setdiff1d(np.arange(len(batch)), list(late.rows))
            self.same(self.values(scene, index=early), expected, early)

    def test_declared_reach_is_of_the_batch(self, scene: Scene) -> None:
        reach = MEASUREMENTS.get(self.family).reach
        if reach is None:
            return
        for half in reach(scene.sources, scene.photometry):
            assert half.shape == (len(scene.sources),)
            assert half.dtype == np.float64
            assert (half > 0).all()

    def test_no_sources(self, scene: Scene) -> None:
        empty = replace(scene, sources=scene.sources[:0], ids=scene.ids[:0])
        assert all(len(v) == 0 for v in self.values(empty).values())
