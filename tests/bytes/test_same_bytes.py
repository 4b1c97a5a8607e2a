"""The catalogue's bytes depend on pixels and configuration alone: not on tiles, workers or the limit."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from astropy.io import fits

from tests.conftest import CommandLine, Outcome
from tests.parity.reference import COLUMNS, DATA, IMAGES, Setup
from tests.scenes import field

TILES = ("whole", "512", "300", "97", "256x256")
WORKERS = (0, 1, 2, 7)
LIMITS = ("128M", "512M", "2G")
TOO_SMALL = 5

SMALL = {
    "crowded": {"size": 420, "sources": 700, "seed": 21, "trail": True},
    "mosaic": {"size": 300, "sources": 60, "seed": 22, "extensions": 3, "empty": (2,)},
}
LARGE = {
    "crowded": {"size": 2048, "sources": 9000, "seed": 2},
    "trail": {"size": 2048, "sources": 1900, "seed": 3, "trail": True},
}
# One change at a time from the reference, and a few together, for every run of the tests.
THIN = [
    ("512", 0, "512M"),
    ("300", 1, "512M"),
    ("97", 2, "512M"),
    ("256x256", 2, "2G"),
    ("97", 0, "128M"),
    ("whole", 7, "512M"),
    ("256x256", 7, "128M"),
]


def run(cli: CommandLine, image: Path, folder: Path, tile: str, workers: int, limit: str) -> Outcome:
    """One combination; the configuration is the same file for all."""
    sex = folder / "parity.sex"
    options = ("--tile-shape", tile, "--workers", workers, "--mem-limit", limit)
    return cli(image, "-c", sex, "-CATALOG_NAME", "out.cat", *options)


def compare(
    cli: CommandLine, image: Path, folder: Path, combinations: list[tuple[str, int, str]], **keywords: str
) -> int:
    """Asserts equal bytes and returns how many combinations fitted their limit."""
    Setup(folder, COLUMNS, keywords).write()
    reference: dict[str, bytes] = {}
    fitted = 0
    for number, (tile, workers, limit) in enumerate([("whole", 0, "2G"), *combinations], 1):
        done = run(cli, image, folder, tile, workers, limit)
        if done.code == TOO_SMALL and limit == "128M":
            continue
        assert done.code == 0, f"{tile} {workers} {limit}: {done.err}"
        found = {name: (folder / f"run{number}" / name).read_bytes() for name in sorted(done.made)}
        reference = reference or found
        assert found.keys() == reference.keys()
        for name, content in found.items():
            assert content == reference[name], f"{name} of {image.name}: tiles {tile}, {workers} workers, {limit}"
        fitted += 1
    return fitted - 1


@pytest.mark.parametrize("name", SMALL)
def test_a_few_combinations(name: str, cli: CommandLine, tmp_path: Path) -> None:
    image = field(tmp_path / f"{name}.fits", **SMALL[name]).path
    assert compare(cli, image, tmp_path, THIN) >= len(THIN) - 2


def test_sources_measured_while_the_scan_goes_on(cli: CommandLine, tmp_path: Path) -> None:
    """A short CLEAN_REACH and narrow tiles: batches, far sources, windows and rows that wait for their turn."""
    image = field(tmp_path / "crowded.fits", 420, 900, 25, trail=True).path
    keywords = {
        "CLEAN_REACH": "24", "BACK_SIZE": "420", "CHECKIMAGE_TYPE": "SEGMENTATION", "CHECKIMAGE_NAME": "seg.fits"
    }  # fmt: skip
    combinations = [("16", 2, "512M"), ("7", 0, "512M"), ("37x100", 1, "2G"), ("16", 3, "128M")]
    assert compare(cli, image, tmp_path, combinations, **keywords) >= 3


@pytest.mark.parametrize("extensions", [1, 2])
def test_sky_positions_that_come_late(cli: CommandLine, tmp_path: Path, extensions: int) -> None:
    """A limit without room for astropy beside pixels, and one with; for a header that astropy has to mend."""
    image = field(tmp_path / "sky.fits", 300, 120, 26, extensions=extensions).path
    with fits.open(image, mode="update") as hdus:
        for hdu in hdus:
            if hdu.data is not None:
                hdu.header.update(CTYPE1="RA---TAN-SIP", CTYPE2="DEC--TAN-SIP", A_ORDER=1, B_ORDER=1)
    (tmp_path / "sky.param").write_text("NUMBER\nALPHA_J2000\nDELTA_J2000\nFLUX_AUTO\nX_WORLD\n")
    options = ("-PARAMETERS_NAME", tmp_path / "sky.param", "-o", "out.fits", "-CATALOG_TYPE", "FITS_1.0")
    found = []
    for limit, workers in (("512M", 2), ("94M", 2), ("93M", 1)):
        done = cli(image, *options, "--mem-limit", limit, "--workers", workers, watched=True)
        assert done.code == 0, done.err
        assert "leaves room" not in done.err
        assert done.peak <= int(limit[:-1]) << 20
        found.append((tmp_path / f"run{len(found) + 1}" / "out.fits").read_bytes())
    assert found[0] == found[1] == found[2]


def test_every_format(cli: CommandLine, tmp_path: Path) -> None:
    image = field(tmp_path / "small.fits", 256, 60, 23).path
    for kind in ("FITS_LDAC", "ASCII_HEAD", "ASCII"):
        folder = tmp_path / kind
        folder.mkdir()
        Setup(folder, COLUMNS, {"CATALOG_TYPE": kind}).write()
        found = []
        for tile, workers in (("whole", 0), ("97", 2)):
            done = cli(image, "-c", folder / "parity.sex", "-CATALOG_NAME", f"{workers}.cat", "--tile-shape", tile,
                       "--workers", workers, "--mem-limit", "512M", cwd=folder)  # fmt: skip
            assert done.code == 0, done.err
            # The name of the catalogue may be in it; nothing else may differ.
            content = (folder / f"{workers}.cat").read_bytes()
            found.append(content if kind != "FITS_LDAC" else content[-len(content) // 2 :])
        assert found[0] == found[1]


def test_check_images(cli: CommandLine, tmp_path: Path) -> None:
    image = field(tmp_path / "small.fits", 256, 80, 24, trail=True).path
    types = "SEGMENTATION,BACKGROUND,BACKGROUND_RMS,-BACKGROUND,FILTERED,OBJECTS,APERTURES"
    names = "seg.fits,back.fits,rms.fits,minus.fits,filtered.fits,objects.fits,apertures.fits"
    keywords = {"CHECKIMAGE_TYPE": types, "CHECKIMAGE_NAME": names}
    assert (
        compare(cli, image, tmp_path, [("97", 0, "512M"), ("256x256", 2, "512M"), ("60x70", 2, "2G")], **keywords) == 3
    )


def image_of(name: str, folder: Path) -> Path:
    """A simulated field, or a real image if it is there."""
    if name in LARGE:
        return field(folder / f"{name}.fits", **LARGE[name]).path
    if not (DATA / name).exists():
        pytest.skip(f"{name} is not in {DATA} (set SEXTRACT_TEST_DATA)")
    return DATA / name


@pytest.mark.slow
@pytest.mark.parametrize("name", [*IMAGES, *LARGE])
def test_every_combination(name: str, cli: CommandLine, tmp_path: Path) -> None:
    image = image_of(name, tmp_path)
    combinations = list(itertools.product(TILES, WORKERS, LIMITS))
    assert compare(cli, image, tmp_path, combinations) >= len(combinations) * 2 // 3
