"""``sextract --estimate IMAGE``: what a run would do and hold, from headers and settings alone.

No pixel is read and no process started, so what processes take is predicted by the constants of ``layout.py``; the run
itself splits the limit by the same numbers.  How long it takes depends on how many sources there are, which nobody knows
yet: a middling field is assumed.  A crowd, or a detection of more than some hundred thousand pixels, takes more, within the
limit all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sextract.background.mesh import MeshGrid
from sextract.config.locations import shown
from sextract.config.machine import default_workers
from sextract.config.settings import Settings
from sextract.measurement.stamps import TileGrid
from sextract.memory.budget import MIB, size_text
from sextract.pipeline.facts import memory_outputs
from sextract.pipeline.layout import Fit, Layout, fit, smallest_limit
from sextract.pipeline.plan import families
from sextract.pipeline.stages import Plan, imports_astropy
from sextract.reading.source import ImageInfo, ImageSource, open_images

# Of a run on one core of 2024: to start, to import astropy, and per million pixels with some 500 sources, read twice.
START_SECONDS, ASTROPY_SECONDS, SECONDS_PER_MPIXEL = 0.4, 0.7, 0.06
# What heaps grow to, of what they are allowed: over 67 million pixels and 29,000 sources four processes came to 5 MiB beyond
# the base.
HEAP_USED = 3 * MIB // 2
# A middling field, for the memory that sources take: one in so many pixels, its row, fragments and rows of the catalogue while
# CLEAN may still reach it, its runs as long as the image lasts; and room for one large detection.
PIXELS_PER_SOURCE, SOURCE_BYTES, RUNS_BYTES, LARGE_BYTES = 600, 820, 100, 4 * MIB
# Rows between the scan and what is final, beside CLEAN's reach; open components of a column; tables of any run.
LAG_ROWS, COLUMN_BYTES, TABLE_BYTES = 200, 144, 3 * MIB // 2


@dataclass(frozen=True, slots=True)
class Estimate:
    """Plan and predicted peak of a run.

    Attributes
    ----------
    image : str
    limit_bytes, smallest_limit_bytes : int
        The limit, and the smallest that works (everything in one process).
    parts : tuple of (name, bytes)
        How the limit is split: base, heaps, kernel, slab.
    workers, asked_workers : int
    sizes : tuple of (width, height)
        Of each extension, pixels.
    tiles : TileGrid
    mesh : MeshGrid
        Both of the largest extension.
    scratch_bytes : int
        Of each worker.
    output_bytes : int
        Check-images in folders that are memory.
    peak_bytes : int
        Of all processes together.
    seconds : float
    """

    image: str
    limit_bytes: int
    smallest_limit_bytes: int
    parts: tuple[tuple[str, int], ...]
    workers: int
    asked_workers: int
    sizes: tuple[tuple[int, int], ...]
    tiles: TileGrid
    mesh: MeshGrid
    scratch_bytes: int
    output_bytes: int
    peak_bytes: int
    seconds: float

    def __str__(self) -> str:
        sizes = ", ".join(f"{w} × {h}" for w, h in self.sizes[:4]) + (", …" if len(self.sizes) > 4 else "")
        split = ", ".join(f"{name} {size_text(nbytes)}" for name, nbytes in self.parts)
        fewer = "" if self.workers == self.asked_workers else f" of {self.asked_workers} asked for"
        t, m = self.tiles, self.mesh
        lines = [
            ("image", f"{self.image}: {len(self.sizes)} extension{'s' * (len(self.sizes) != 1)}, {sizes} pixels"),
            ("memory limit", f"{size_text(self.limit_bytes)} ({split})"),
            ("smallest limit", size_text(self.smallest_limit_bytes)),
            ("predicted peak", size_text(self.peak_bytes)),
            ("workers", f"{self.workers}{fewer}, {size_text(self.scratch_bytes)} of scratch each"),
            ("tiles", f"{t.down} × {t.across} of {t.rows} rows × {t.columns} columns"),
            ("background mesh", f"{m.ny} × {m.nx} cells of {m.cell_height} × {m.cell_width} pixels"),
            ("time", f"about {self.seconds:.0f} s"),
        ]
        if self.output_bytes:
            lines.append(("outputs in memory", size_text(self.output_bytes)))
        return "\n".join(f"{name + ':':<19}{text}" for name, text in lines)

    def as_json(self) -> str:
        """The same as one line of JSON for a job script; its keys, listed in docs/guide.md, stay what they are."""
        import json

        t, m = self.tiles, self.mesh
        return json.dumps(
            {
                "image": self.image,
                "extensions": [{"width": width, "height": height} for width, height in self.sizes],
                "limit_bytes": self.limit_bytes,
                "smallest_limit_bytes": self.smallest_limit_bytes,
                "predicted_peak_bytes": self.peak_bytes,
                "predicted_seconds": round(self.seconds, 1),
                "workers": self.workers,
                "workers_asked": self.asked_workers,
                "tiles": {"rows": t.rows, "columns": t.columns, "down": t.down, "across": t.across},
                "mesh": {"rows": m.ny, "columns": m.nx, "cell_height": m.cell_height, "cell_width": m.cell_width},
                "scratch_bytes_per_worker": self.scratch_bytes,
                "outputs_in_memory_bytes": self.output_bytes,
                "parts_bytes": dict(self.parts),
            }
        )


def estimate(image: str, settings: Settings) -> Estimate:
    """Plan a run without reading a pixel.

    Parameters
    ----------
    image : str
        File name, maybe with ``[n]`` or ``[NAME]``.
    settings : Settings

    Raises
    ------
    LimitError
        The limit is too small; the message names the smallest that works.
    InputError
        The image can't be opened.
    """
    plan = families(settings)
    infos = [source.info for source in _opened(image, settings)]
    limit, asked = settings.resources.mem_limit_bytes, settings.resources.workers
    in_memory = memory_outputs(settings, infos)
    fitted = fit(limit - in_memory.nbytes, asked, infos, settings, plan)
    largest = max(range(len(infos)), key=lambda k: infos[k].width * infos[k].height)
    layout = fitted.layouts[largest]
    return Estimate(
        image=shown(image),
        limit_bytes=limit,
        smallest_limit_bytes=smallest_limit(infos, settings, plan) + in_memory.nbytes,
        parts=tuple(fitted.budget.lines()),
        workers=fitted.workers,
        asked_workers=asked,
        sizes=tuple((info.width, info.height) for info in infos),
        tiles=layout.tiles,
        mesh=layout.mesh,
        scratch_bytes=max(each.scratch_bytes for each in fitted.layouts),
        output_bytes=in_memory.nbytes,
        peak_bytes=_peak(fitted, infos, settings) + in_memory.nbytes,
        seconds=_seconds(fitted, infos, plan),
    )


def _opened(image: str, settings: Settings) -> list[ImageSource]:
    r = settings.resources
    return open_images(image, scratch_dir=r.scratch_dir, limit_bytes=r.mem_limit_bytes)


def _peak(fitted: Fit, infos: Sequence[ImageInfo], settings: Settings) -> int:
    """What all processes hold when the slab has filled with tiles, or with all there are."""
    budget = fitted.budget
    filled = max(
        _filled(layout, info, settings, fitted.workers) for layout, info in zip(fitted.layouts, infos, strict=True)
    )
    heaps = budget.processes * min(budget.heap_per_process, HEAP_USED)
    opening = max(info.opening_bytes for info in infos)
    return -(-max(budget.base + heaps + min(budget.slab, filled), opening) // MIB) * MIB


def _filled(layout: Layout, info: ImageInfo, settings: Settings, workers: int) -> int:
    """Bytes of the slab with all tiles, and what a middling field needs beside them."""
    t, pixels, workers = layout.tiles, info.width * info.height, max(workers, 1)
    halo = t.down * t.across * 4 * 2 * (t.halo_y * t.columns + (t.halo_x * t.rows if t.across > 1 else 0))
    lag = LAG_ROWS + (settings.deblending.clean_reach_rows if settings.deblending.clean else 0)
    window = info.width * min(info.height, lag) // PIXELS_PER_SOURCE * SOURCE_BYTES
    sources = window + pixels // PIXELS_PER_SOURCE * RUNS_BYTES + min(layout.giant_bytes // 8, LARGE_BYTES)
    at_work = workers * (layout.scratch_bytes + layout.tile_bytes // 8) + COLUMN_BYTES * info.width + TABLE_BYTES
    return layout.mesh_bytes + at_work + 4 * pixels + halo + sources


def _seconds(fitted: Fit, infos: Sequence[ImageInfo], plan: Plan) -> float:
    """Elapsed seconds, very roughly: they depend on sources, columns, disk and machine."""
    at_once = max(min(fitted.workers, default_workers().value), 1)
    importing = ASTROPY_SECONDS * imports_astropy(plan, infos)
    work = importing + SECONDS_PER_MPIXEL * sum(info.width * info.height for info in infos) / 1e6
    return START_SECONDS + max(work / at_once, importing)
