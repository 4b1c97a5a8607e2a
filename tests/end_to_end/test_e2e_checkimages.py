"""Check-images are SExtractor's, and the same bytes alone or together, for any tiles and workers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray

from tests.conftest import CommandLine
from tests.end_to_end import sides
from tests.parity import compare, reference
from tests.parity.reference import Setup
from tests.scenes import field

needs_reference = pytest.mark.skipif(reference.SEXTRACTOR is None, reason="source-extractor is not installed")
OUTPUT = 4
TYPES = ("SEGMENTATION", "BACKGROUND", "BACKGROUND_RMS", "-BACKGROUND", "FILTERED", "OBJECTS", "APERTURES")
# What SExtractor's APERTURES and FLAGS hang on is requested in both programs.
COLUMNS = ("NUMBER", "X_IMAGE", "Y_IMAGE", "XPEAK_IMAGE", "YPEAK_IMAGE", "ISOAREAF_IMAGE", "FLUX_APER(3)", "FLUX_AUTO")
COLUMNS += ("KRON_RADIUS", "FLUX_ISO", "FLAGS")


def name_of(kind: str) -> str:
    """File of a kind."""
    return f"{kind.strip('-').lower()}{'_off' if kind[0] == '-' else ''}.fits"


def keywords(folder: Path, *kinds: str) -> dict[str, str]:
    """Ask for these check-images in a folder."""
    folder.mkdir(exist_ok=True)
    names = ",".join(str(folder / name_of(k)) for k in kinds)
    return {"CHECKIMAGE_TYPE": ",".join(kinds), "CHECKIMAGE_NAME": names}


def planes(folder: Path, kind: str) -> list[NDArray[Any]]:
    """The images of a file, one for each extension."""
    with fits.open(folder / name_of(kind)) as hdus:
        return [np.array(h.data) for h in hdus if h.data is not None]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A crowded image; no other has as much for CLEAN to merge."""
    return field(tmp_path_factory.mktemp("checks") / "crowded.fits", (240, 260), 220, 31).path


@pytest.fixture(scope="module")
def mosaic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three extensions, the middle one without sources."""
    return field(tmp_path_factory.mktemp("checks") / "mosaic.fits", 150, 40, 22, extensions=3, empty=(2,)).path


def same_topology(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Whether two segmentations differ in their ids alone."""
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    return all(len(np.unique(side)) == pairs.shape[1] for side in pairs)


@needs_reference
@pytest.mark.parametrize(
    "more", [{"DEBLEND_MINCONT": "1"}, {"DEBLEND_MINCONT": "1", "FILTER": "N", "CLEAN": "N", "MASK_TYPE": "NONE"}, {}]
)
def test_sextractors_images(more: dict[str, str], image: Path, cli: CommandLine, tmp_path: Path) -> None:
    theirs, own = tmp_path / "theirs", tmp_path / "own"
    Setup(tmp_path, COLUMNS, {**more, **keywords(theirs, *TYPES)}).reference(image)
    setup = Setup(tmp_path, COLUMNS, {**more, **keywords(own, *TYPES)})
    sides.ours(cli, setup, image, "--workers", 2, "--tile-shape", "70x80")
    for kind in TYPES:
        (a,), (b,) = planes(theirs, kind), planes(own, kind)
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        if kind == "SEGMENTATION":
            np.testing.assert_array_equal(a > 0, b > 0)
            # Pixels between blended sources are drawn by lot.
            assert not more or same_topology(a, b)
        elif kind == "APERTURES":
            # Corners of outlines may fall on either side of a pixel's edge.
            assert np.mean(a == b) > (0.99 if more else 0.95)
        else:
            np.testing.assert_array_equal(a, b, err_msg=kind)


@needs_reference
def test_sextractors_images_of_a_mosaic(mosaic: Path, cli: CommandLine, tmp_path: Path) -> None:
    theirs, own = tmp_path / "theirs", tmp_path / "own"
    once = {"DEBLEND_MINCONT": "1"}
    Setup(tmp_path, COLUMNS, once | keywords(theirs, *TYPES)).reference(mosaic)
    sides.ours(cli, Setup(tmp_path, COLUMNS, once | keywords(own, *TYPES)), mosaic, "--workers", 2)
    for kind in TYPES:
        with fits.open(theirs / name_of(kind)) as a, fits.open(own / name_of(kind)) as b:
            assert [h.name for h in a] == [h.name for h in b]
            assert [h.shape for h in a] == [h.shape for h in b]
        for x, y in zip(planes(theirs, kind), planes(own, kind), strict=True):
            if kind == "SEGMENTATION":
                assert same_topology(x, y)
            elif kind == "APERTURES":
                assert np.mean(x == y) > 0.98
            else:
                np.testing.assert_array_equal(x, y, err_msg=kind)


@pytest.mark.parametrize("columns", [COLUMNS, ("X_IMAGE", "Y_IMAGE")])
def test_the_same_alone_as_together(columns: tuple[str, ...], mosaic: Path, cli: CommandLine, tmp_path: Path) -> None:
    together = tmp_path / "together"
    sides.ours(cli, Setup(tmp_path, columns, keywords(together, *TYPES)), mosaic, "--workers", 2)
    catalogue = compare.load(tmp_path / "ours.cat")
    alone = tmp_path / "alone"
    for k, kind in enumerate(TYPES):
        setup = Setup(tmp_path, columns, keywords(alone, kind))
        sides.ours(cli, setup, mosaic, "--workers", k % 3, "--tile-shape", ("whole", "50x150", "37x41")[k % 3])
        again = compare.load(tmp_path / "ours.cat")
        assert [t.rows.tobytes() for t in again] == [t.rows.tobytes() for t in catalogue]
        for a, b in zip(planes(alone, kind), planes(together, kind), strict=True):
            np.testing.assert_array_equal(a, b, err_msg=kind)


@pytest.mark.parametrize(("workers", "tile"), [(0, "whole"), (1, "40x260"), (2, "61x53")])
def test_segmentation_holds_numbers(workers: int, tile: str, image: Path, cli: CommandLine, tmp_path: Path) -> None:
    # Sources lose little by little to their neighbours: many are eaten.
    more = {"CLEAN_PARAM": "0.3", **keywords(tmp_path / "c", "SEGMENTATION", "OBJECTS", "-BACKGROUND", "FILTERED")}
    setup = Setup(tmp_path, COLUMNS, more)
    sides.ours(cli, setup, image, "--workers", workers, "--tile-shape", tile)
    rows = compare.load(tmp_path / "ours.cat")[0].rows
    (labels,), (objects,) = planes(tmp_path / "c", "SEGMENTATION"), planes(tmp_path / "c", "OBJECTS")
    (subtracted,), (filtered,) = planes(tmp_path / "c", "-BACKGROUND"), planes(tmp_path / "c", "FILTERED")
    assert np.array_equal(np.unique(labels), np.arange(len(rows) + 1))
    # What a source ate bears its number, and is in its pixels and its flux.
    np.testing.assert_array_equal(np.bincount(labels.ravel())[1:], rows["ISOAREAF_IMAGE"])
    flux = np.bincount(labels.ravel(), subtracted.ravel().astype(float))[1:]
    np.testing.assert_allclose(flux, rows["FLUX_ISO"], rtol=1e-5)
    np.testing.assert_array_equal(labels[rows["YPEAK_IMAGE"] - 1, rows["XPEAK_IMAGE"] - 1], rows["NUMBER"])
    np.testing.assert_array_equal(objects, np.where(labels > 0, subtracted, 0))
    assert filtered[labels > 0].min() > filtered[labels == 0].mean()
    plain = sides.tables(cli, Setup(tmp_path, COLUMNS, {"CLEAN": "N"}), image)[0].rows
    assert len(plain) > len(rows) + 2


def test_no_catalogue_but_images(image: Path, cli: CommandLine, tmp_path: Path) -> None:
    setup = Setup(tmp_path, COLUMNS, {"CATALOG_TYPE": "NONE", **keywords(tmp_path / "c", "BACKGROUND")})
    done = sides.ours(cli, setup, image)
    assert "ours.cat" not in done.made
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["background.fits"]


@pytest.mark.parametrize("workers", [0, 2])
def test_one_that_cant_be_written_leaves_none(workers: int, image: Path, cli: CommandLine, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.fits", tmp_path / "absent" / "bad.fits"
    done = cli(
        image, "-CHECKIMAGE_TYPE", "BACKGROUND,SEGMENTATION", "-CHECKIMAGE_NAME", f"{good},{bad}", "-o", "out.cat",
        "--workers", workers, *sides.LIMIT,
    )  # fmt: skip
    assert done.code == OUTPUT
    assert "absent" in done.err
    assert done.made == frozenset()
    assert not good.exists()


def test_a_full_disk_leaves_none(image: Path, cli: CommandLine, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    command = [mount or "", "-t", "tmpfs", "-o", "size=400k", "none", str(disk)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        names = f"{disk}/one.fits,{disk}/two.fits"
        for workers in (0, 2):
            done = cli(image, "-CHECKIMAGE_TYPE", "BACKGROUND,FILTERED", "-CHECKIMAGE_NAME", names, "-o", "out.cat",
                       "--workers", workers, *sides.LIMIT)  # fmt: skip
            assert done.code == OUTPUT
            assert "Traceback" not in done.err
            assert done.made == frozenset()
            assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)
