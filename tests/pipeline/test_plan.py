"""Plans for a limit: what fits, what is refused, and that the smallest limit named is the smallest."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st

from sextract.config.settings import (
    BackgroundSettings,
    DeblendingSettings,
    DetectionSettings,
    ResourceSettings,
    Settings,
)
from sextract.errors import InputError, LimitError
from sextract.memory.budget import MIB
from sextract.memory.timeline import VALUES, timeline_bytes
from sextract.pipeline.layout import Base, base_bytes, fit, lay_out, smallest_limit, try_fit
from sextract.pipeline.stages import Plan
from sextract.reading.source import ImageInfo
from tests.conftest import CommandLine

KERNEL = np.ones((3, 3), np.float32)
SETTINGS = Settings(detection=DetectionSettings(kernel=KERNEL))
PLAN = Plan((), (), np.dtype("f4"), {})
SKY = Plan((), ("sky",), np.dtype("f4"), {})
CELESTIAL = "".join(f"{key:8}= '{value}'".ljust(80) for key, value in [("CTYPE1", "RA---TAN"), ("CTYPE2", "DEC--TAN")])
# With a small letter in a number, which isn't as the standard has it.
MENDED = CELESTIAL + "CRVAL1  = 1.5d2".ljust(80)
LIMIT_EXIT = 5


def info(width: int, height: int, **facts: int | str) -> ImageInfo:
    """An image of that size."""
    known = {"path": "a.fits", "spec": "a.fits", "hdu": 0, "ext_number": 1, "bitpix": -32, "header": "", "primary_header": ""}
    return ImageInfo(width=width, height=height, **{**known, **facts})  # type: ignore[arg-type]


SHAPES = [(64, 64), (2048, 2048), (8192, 8192), (100_000, 1), (1, 100_000), (30_000, 500), (30_000, 30_000)]


@pytest.mark.parametrize("workers", [0, 1, 2, 7])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_smallest_limit_fits_and_so_does_every_larger_one(shape: tuple[int, int], workers: int) -> None:
    images = [info(*shape)]
    smallest = smallest_limit(images, SETTINGS, PLAN, workers) // MIB
    larger = [*range(smallest, smallest + 60), *range(smallest + 60, 3000, 41)]
    assert all(try_fit(m * MIB, workers, images, SETTINGS, PLAN).fits for m in larger)
    assert not any(try_fit(m * MIB, workers, images, SETTINGS, PLAN).fits for m in range(1, smallest, 3))
    assert not try_fit((smallest - 1) * MIB, workers, images, SETTINGS, PLAN).fits


@given(
    width=st.integers(1, 50_000), height=st.integers(1, 50_000), slab=st.integers(1, 4000), workers=st.integers(1, 16)
)
def test_buffers_of_a_layout_are_within_its_need(width: int, height: int, slab: int, workers: int) -> None:
    layout = lay_out(info(width, height), SETTINGS, workers, slab * MIB)
    tiles = layout.tiles
    block = tiles.block(0, 0)
    assert layout.tile_bytes >= 4 * block.size
    assert layout.need_bytes >= workers * (layout.scratch_bytes + layout.tile_bytes) + layout.mesh_bytes
    assert tiles.across * tiles.columns >= width > (tiles.across - 1) * tiles.columns
    down, across = layout.mesh_cells
    assert down == 1 or across == layout.mesh.nx


def test_too_many_workers_become_fewer() -> None:
    images = [info(2048, 2048)]
    found = fit(128 * MIB, 64, images, SETTINGS, PLAN)
    assert 0 < found.workers < 64
    assert found.fits
    assert not try_fit(128 * MIB, found.workers + 1, images, SETTINGS, PLAN).fits
    assert fit(4096 * MIB, 7, images, SETTINGS, PLAN).workers == 7


def test_without_room_for_a_worker_one_process_is_left() -> None:
    images = [info(2048, 2048)]
    limit = smallest_limit(images, SETTINGS, PLAN)
    assert limit < smallest_limit(images, SETTINGS, PLAN, workers=1)
    assert fit(limit, 4, images, SETTINGS, PLAN).workers == 0


def test_a_refusal_names_both_ways_out() -> None:
    images = [info(2048, 2048)]
    smallest = smallest_limit(images, SETTINGS, PLAN)
    with pytest.raises(LimitError, match=rf"smallest limit that works is {smallest // MIB}M") as caught:
        fit(smallest - MIB, 2, images, SETTINGS, PLAN)
    pixels = re.search(r"-FOOTPRINT_MAXPIX (\d+)", str(caught.value))
    assert pixels is not None
    fewer = dataclasses.replace(SETTINGS, deblending=DeblendingSettings(max_footprint_px=int(pixels[1])))
    assert fit(smallest - MIB, 2, images, fewer, PLAN).fits


def test_a_refusal_is_silent_on_footprints_that_do_not_decide() -> None:
    with pytest.raises(LimitError) as caught:
        fit(20 * MIB, 1, [info(64, 64)], SETTINGS, PLAN)
    assert "FOOTPRINT" not in str(caught.value)


def test_what_cfitsio_will_take_is_part_of_the_base() -> None:
    plain, decoded = info(100, 100), info(100, 100, library_bytes=5 * MIB)
    assert base_bytes(3, [decoded]) - base_bytes(3, [plain]) == 15 * MIB


def test_astropy_counts_where_there_is_room_and_comes_late_where_there_is_none() -> None:
    image = info(100, 100, header=MENDED)
    roomy = try_fit(512 * MIB, 2, [image], SETTINGS, SKY)
    assert roomy.late is None
    assert roomy.budget.base > try_fit(512 * MIB, 2, [image], SETTINGS, PLAN).budget.base + 30 * MIB
    smallest = smallest_limit([image], SETTINGS, PLAN, 2)
    tight = try_fit(max(smallest, 100 * MIB), 2, [image], SETTINGS, SKY)
    assert tight.fits
    assert tight.late is not None
    assert tight.late.processes == 3
    assert tight.budget.base == try_fit(smallest, 2, [image], SETTINGS, PLAN).budget.base
    # One process can't get rid of astropy before a second extension.
    assert try_fit(80 * MIB, 0, [image], SETTINGS, SKY).late is not None
    assert try_fit(80 * MIB, 0, [image, image], SETTINGS, SKY).late is None


@pytest.mark.parametrize("header", ["", CELESTIAL])
def test_sky_positions_take_little_where_wcslib_alone_will_do(header: str) -> None:
    image = info(8192, 8192, header=header)
    for workers in (0, 2, 16):
        found, without = (try_fit(512 * MIB, workers, [image], SETTINGS, plan) for plan in (SKY, PLAN))
        assert found.late is None
        assert 0 < found.budget.base - without.budget.base <= (workers + 2) * MIB // 4
    # One image of several is enough.
    both = [image, info(100, 100, header=MENDED)]
    assert try_fit(512 * MIB, 2, both, SETTINGS, SKY).budget.base > 30 * MIB + found.budget.base - 14 * 6 * MIB


def test_a_wcs_without_sense_is_refused_if_sky_positions_are_asked_for() -> None:
    image = info(100, 100, header=CELESTIAL.replace("DEC--TAN", "LINEAR  "))
    assert try_fit(512 * MIB, 2, [image], SETTINGS, PLAN).fits
    with pytest.raises(InputError, match="WCS"):
        try_fit(512 * MIB, 2, [image], SETTINGS, SKY)


def test_a_base_that_was_measured_counts_if_it_is_more() -> None:
    images = [info(64, 64)]
    predicted = try_fit(256 * MIB, 2, images, SETTINGS, PLAN)
    assert try_fit(256 * MIB, 2, images, SETTINGS, PLAN, measured=Base(1)).budget == predicted.budget
    assert try_fit(256 * MIB, 2, images, SETTINGS, PLAN, measured=Base(100 * MIB)).budget.base == 100 * MIB


RSS = dataclasses.replace(SETTINGS, resources=ResourceSettings(account="rss"))


@pytest.mark.parametrize("workers", [0, 1, 8])
def test_the_sum_of_rss_needs_a_larger_limit(workers: int) -> None:
    images = [info(4096, 4096)]
    smallest = smallest_limit(images, RSS, PLAN, workers=workers)
    assert smallest >= smallest_limit(images, SETTINGS, PLAN, workers=workers)
    found = try_fit(smallest, workers, images, RSS, PLAN)
    assert found.fits
    (layout,) = found.layouts
    assert found.lent_bytes >= layout.tile_bytes
    # What processes have beside the slab, and what they have mapped of it.
    assert found.budget.base_rss + layout.map_bytes <= smallest
    assert not try_fit(smallest - MIB, workers, images, RSS, PLAN).fits


def test_a_larger_limit_lends_more_where_the_sum_of_rss_counts() -> None:
    images = [info(4096, 4096)]
    lent = [try_fit(limit * MIB, 4, images, RSS, PLAN).lent_bytes for limit in (400, 500, 1000)]
    assert lent == sorted(set(lent))
    assert dict(try_fit(500 * MIB, 4, images, RSS, PLAN).budget.lines())["mapped"] < 500 * MIB
    # Otherwise a task may have every tile.
    assert try_fit(400 * MIB, 4, images, SETTINGS, PLAN).lent_bytes > 1000 * lent[-1]


def test_the_sum_of_rss_measured_counts_if_it_is_more() -> None:
    images = [info(64, 64)]
    measured = Base(MIB, 300 * MIB)
    assert try_fit(512 * MIB, 2, images, RSS, PLAN, measured=measured).budget.base_rss == 300 * MIB
    assert try_fit(512 * MIB, 2, images, SETTINGS, PLAN, measured=measured).budget.base_rss == 0


def test_a_report_needs_room() -> None:
    images = [info(512, 512)]
    reported = dataclasses.replace(SETTINGS, resources=ResourceSettings(mem_report=("a.json",)))
    need = [try_fit(128 * MIB, 4, images, each, PLAN).need_bytes for each in (SETTINGS, reported)]
    assert need[1] - need[0] == timeline_bytes(len(VALUES) + 6)


def test_a_forced_tile_shape_is_taken() -> None:
    forced = dataclasses.replace(SETTINGS, resources=ResourceSettings(tile_shape=(97, 256)))
    tiles = lay_out(info(2048, 500), forced, 2, 100 * MIB).tiles
    assert (tiles.rows, tiles.columns) == (97, 256)


def test_a_cell_larger_than_the_scratch_is_one_task() -> None:
    large = dataclasses.replace(SETTINGS, background=BackgroundSettings(size=(30_000, 30_000)))
    layout = lay_out(info(30_000, 30_000), large, 2, 100 * MIB)
    assert layout.mesh_cells == (1, 1)
    assert layout.scratch_bytes < 20 * MIB


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image with a few sources, larger than a background cell that is held."""
    rng = np.random.default_rng(5)
    pixels = rng.normal(100, 3, (1200, 1400)).astype(np.float32)
    y, x = np.mgrid[:1200, :1400]
    for k in range(12):
        pixels += 300 * np.exp(-((x - 60 - 70 * k) ** 2 + (y - 50 - 50 * k) ** 2) / 8).astype(np.float32)
    path = tmp_path_factory.mktemp("plan") / "blobs.fits"
    fits.writeto(path, pixels)
    return path


def columns(folder: Path) -> Path:
    """A parameter file without sky positions."""
    path = folder / "few.param"
    path.write_text("NUMBER\nX_IMAGE\nY_IMAGE\nFLUX_AUTO\nBACKGROUND\nTHRESHOLD\n")
    return path


def test_the_named_limit_works_and_one_less_is_refused(blobs: Path, cli: CommandLine, tmp_path: Path) -> None:
    param = columns(tmp_path)
    refused = cli(blobs, "-PARAMETERS_NAME", param, "--mem-limit", "8M", "--workers", 1, "-o", "out.cat")
    named = re.search(r"works is (\d+)M", refused.err)
    assert refused.code == LIMIT_EXIT
    assert not refused.made
    assert named is not None
    less = cli(blobs, "-PARAMETERS_NAME", param, "--mem-limit", f"{int(named[1]) - 1}M", "--workers", 1, "-o", "out.cat")
    done = cli(blobs, "-PARAMETERS_NAME", param, "--mem-limit", f"{named[1]}M", "--workers", 1, "-o", "out.cat")
    assert less.code == LIMIT_EXIT
    assert done.code == 0, done.err
    assert "leaves room for 0 of 1 workers" in done.err


def test_a_streamed_background_cell_gives_the_same_catalogue(blobs: Path, cli: CommandLine, tmp_path: Path) -> None:
    param, found = columns(tmp_path), []
    options = ("-PARAMETERS_NAME", param, "-BACK_SIZE", 2000, "--workers", 1, "-o", "out.cat")
    # A cell of 6.7 MB: more than is held under the first limit, less than under the second.
    for number, limit in enumerate(("100M", "2G"), 1):
        done = cli(blobs, *options, "--mem-limit", limit)
        assert done.code == 0, done.err
        found.append((tmp_path / f"run{number}" / "out.cat").read_bytes())
    assert found[0] == found[1]
