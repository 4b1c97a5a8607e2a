"""Images whose runs hold memory in different ways, for comparing predicted with measured peaks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from astropy.io import fits

from tests.scenes import Scene, field


def _empty(path: Path) -> None:
    field(path, 1500, 0, 1)


def _sparse(path: Path) -> None:
    field(path, 2048, 300, 2)


def _crowded(path: Path) -> None:
    field(path, 1200, 6000, 3)


def _galaxy(path: Path) -> None:
    Scene(1500, 1500, seed=4).galaxy(750, 740, 1e8, 90, 0.6, 30.0).write(path)


def _trail(path: Path) -> None:
    field(path, 2000, 900, 5, trail=True)


def _mosaic(path: Path) -> None:
    field(path, 900, 600, 6, extensions=4)


def _int16(path: Path) -> None:
    field(path, 2200, 2000, 7, bitpix=16)


def _packed(path: Path) -> None:
    plain = path.with_name("plain.fits")
    field(plain, 1500, 900, 8, bitpix=16)
    with fits.open(plain) as hdus:
        packed = fits.CompImageHDU(hdus[0].data, hdus[0].header, compression_type="RICE_1")
        fits.HDUList([fits.PrimaryHDU(), packed]).writeto(path)


def _wide(path: Path) -> None:
    field(path, (300, 16000), 2500, 9)


def _small(path: Path) -> None:
    field(path, 300, 60, 10)


SCENES: dict[str, Callable[[Path], None]] = {
    "small": _small, "empty": _empty, "sparse": _sparse, "crowded": _crowded, "galaxy": _galaxy, "trail": _trail,
    "mosaic": _mosaic, "int16": _int16, "packed": _packed, "wide": _wide,
}  # fmt: skip

def make_scene(name: str, folder: Path) -> Path:
    """The image of a scene, made if it isn't there."""
    path = folder / (f"{name}.fits.fz" if name == "packed" else f"{name}.fits")
    if not path.exists():
        SCENES[name](path)
    return path
