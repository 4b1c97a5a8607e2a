"""Scenes for the tests of measurements: pixels in memory, masks, SOURCE arrays, and batches made of them.

A `Scene` is either synthetic (Gaussians and noise, with the footprints of their true ellipses) or what SExtractor saw
and wrote (`sextractor_scene`), so that each measurement can be held against it row by row.
"""

from __future__ import annotations

import shutil
import subprocess
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sextract.config.settings import PhotometrySettings, Settings
from sextract.measurement.measure import MEASUREMENTS, Batch, Cutter, family_of
from sextract.records import BAD, FRAGMENT, SOURCE, Box, Frame

# What a SOURCE needs of a SExtractor catalogue.
IMAGE_COLUMNS = {
    "x2": "X2", "y2": "Y2", "xy": "XY", "errx2": "ERRX2", "erry2": "ERRY2", "errxy": "ERRXY", "a": "A", "b": "B",
    "theta": "THETA", "cxx": "CXX", "cyy": "CYY", "cxy": "CXY", "npix": "ISOAREAF", "isoarea": "ISOAREA",
    "fwhm": "FWHM", "xmin": "XMIN", "xmax": "XMAX", "ymin": "YMIN", "ymax": "YMAX", "xpeak": "XPEAK", "ypeak": "YPEAK",
}  # fmt: skip
OTHER_COLUMNS = {
    "x": "X_IMAGE_DBL", "y": "Y_IMAGE_DBL", "number": "NUMBER", "flux_iso": "FLUX_ISO", "peak": "FLUX_MAX",
    "dthresh": "THRESHOLD", "bkg": "BACKGROUND", "flags": "FLAGS",
}  # fmt: skip
SOURCE_COLUMNS = {k: f"{v}_IMAGE" for k, v in IMAGE_COLUMNS.items()} | OTHER_COLUMNS

KERNEL = "CONV NORM\n1 2 1\n2 4 2\n1 2 1\n"


class SceneCutter(Cutter):
    """A cutter over an image in memory.

    Parameters
    ----------
    pixels : float32 array (height, width)
    masked : bool array (height, width)
        Every detected pixel.
    labels : int array (height, width)
        Whose pixel it is, 0 for nobody's.
    ids : int array (n,)
        Label of each source of the batch.
    mask_type : str
        MASK_TYPE; NONE cuts without masks.
    """

    def __init__(self, pixels: Any, masked: Any, labels: Any, ids: Any, mask_type: str = "CORRECT") -> None:
        self.pixels, self.masked, self.labels, self.ids, self.mask_type = pixels, masked, labels, ids, mask_type
        self.first_row, self.final_row = 0, pixels.shape[0]

    def cut(self, source: int, box: Box, out: Any) -> None:
        """Fill `out` with the pixels that source sees."""
        part = slice(box.y0, box.y1), slice(box.x0, box.x1)
        out[...] = self.pixels[part]
        if self.mask_type != "NONE":
            out[self.masked[part] & (self.labels[part] != self.ids[source])] = BAD

    def own(self, source: int, rows: tuple[int, int] | None = None) -> Any:
        """Its labelled pixels, one fragment each, last row first."""
        y, x = np.nonzero(self.labels == self.ids[source])
        out = np.empty(len(y), FRAGMENT)
        out["y"], out["x0"], out["x1"] = y, x, x + 1
        return out[::-1].copy()


@dataclass
class Scene:
    """An image, its sources, and, from SExtractor, its catalogue."""

    pixels: Any
    masked: Any
    labels: Any
    ids: Any
    sources: Any
    frame: Frame
    photometry: PhotometrySettings = field(default_factory=PhotometrySettings)
    table: Any = None

    def batch(
        self, columns: Any, *, index: Any = None, arena_px: int = 1 << 22, photometry: PhotometrySettings | None = None,
        reaches: Any = (),
    ) -> Batch:  # fmt: skip
        """A batch asking for `columns` (names, or name → dims) of the sources `index`, with an arena of that size."""
        index = np.arange(len(self.sources)) if index is None else np.asarray(index)
        photometry = photometry or self.photometry
        dims = dict(columns) if isinstance(columns, dict) else dict.fromkeys(columns, ())
        cutter = SceneCutter(self.pixels, self.masked, self.labels, self.ids[index], photometry.mask_type)
        arena = np.full(arena_px, np.nan, np.float32)
        sources, settings = self.sources[index].copy(), Settings(photometry=photometry)
        return Batch(sources, self.frame, settings, dims, cutter, arena, reaches=reaches)

    def measure(self, columns: Any, **options: Any) -> Batch:
        """Run the families that fill `columns`, in the order of their needs."""
        batch = self.batch(columns, **options)
        for name in MEASUREMENTS.ordered(families(batch.dims), lambda m: m.needs):
            MEASUREMENTS.get(name).run(batch)
        return batch


def families(columns: Any) -> list[str]:
    """Names of the families that fill these columns."""
    return sorted({m.name for c in columns for m in [family_of(c)] if m is not None})


def gaussian_image(
    seed: int = 1, shape: tuple[int, int] = (200, 240), count: int = 40, noise: float = 1.0
) -> tuple[Any, Any]:
    """An image of elliptical Gaussians and noise, and their truth (x, y, a, b, theta in radians, flux)."""
    rng = np.random.default_rng(seed)
    h, w = shape
    truth = np.column_stack(
        [
            rng.uniform(-1, w, count),
            rng.uniform(-1, h, count),
            rng.uniform(1.6, 3.5, count),
            rng.uniform(1.0, 1.6, count),
            rng.uniform(-1.5, 1.5, count),
            noise * 10 ** rng.uniform(2.2, 4.5, count),
        ]
    )
    y, x = np.mgrid[:h, :w].astype(np.float64)
    image = rng.normal(0, noise, shape)
    for cx, cy, a, b, t, flux in truth:
        dx, dy = x - cx, y - cy
        u, v = dx * np.cos(t) + dy * np.sin(t), dy * np.cos(t) - dx * np.sin(t)
        image += flux / (2 * np.pi * a * b) * np.exp(-0.5 * ((u / a) ** 2 + (v / b) ** 2))
    return image.astype(np.float32), truth


def synthetic_scene(
    seed: int = 1, shape: tuple[int, int] = (200, 240), count: int = 40, gain: float = 0.0, **photometry: Any
) -> Scene:
    """A scene from `gaussian_image`; each source owns the pixels of its 2 sigma ellipse that no one before it owns."""
    image, truth = gaussian_image(seed, shape, count)
    y, x = np.mgrid[: shape[0], : shape[1]]
    labels = np.zeros(shape, np.int32)
    rows = []
    for k, (cx, cy, a, b, t, flux) in enumerate(truth):
        s = np.zeros((), SOURCE)
        c, n = np.cos(t), np.sin(t)
        s["x"], s["y"], s["a"], s["b"], s["theta"], s["flux_iso"] = cx, cy, a, b, np.rad2deg(t), flux
        s["x2"], s["y2"], s["xy"] = (a * c) ** 2 + (b * n) ** 2, (a * n) ** 2 + (b * c) ** 2, (a * a - b * b) * c * n
        s["cxx"], s["cyy"] = (c / a) ** 2 + (n / b) ** 2, (n / a) ** 2 + (c / b) ** 2
        s["cxy"] = 2 * c * n * (1 / a**2 - 1 / b**2)
        dx, dy = x - cx, y - cy
        own = (s["cxx"] * dx * dx + s["cyy"] * dy * dy + s["cxy"] * dx * dy <= 4) & (labels == 0)
        if own.sum() < 5:
            continue
        labels[own] = k + 1
        s["number"], s["npix"], s["isoarea"], s["dthresh"], s["thresh"] = k + 1, own.sum(), own.sum(), 1.5, 1.5
        s["var_iso"], s["peak"], s["fwhm"], s["abcor"] = own.sum(), image[own].max(), 2.35 * np.sqrt(a * b), 1
        s["ymin"], s["xmin"] = (int(v.min()) for v in np.nonzero(own))
        s["ymax"], s["xmax"] = (int(v.max()) for v in np.nonzero(own))
        s["iso"][:] = own.sum()
        rows.append(s)
    sources = np.array(rows, SOURCE)
    frame = Frame(width=shape[1], height=shape[0], rms=1.0, threshold=1.5, analysis_threshold=1.5, gain=gain)
    settings = replace(PhotometrySettings(), gain=gain, **photometry)
    return Scene(image, labels > 0, labels, sources["number"].copy(), sources, frame, settings)


def run_sextractor(folder: Path, image: Path, columns: Any, **keywords: Any) -> Any:
    """SExtractor's catalogue of `image` and its check-images as dict, or None if that program isn't installed.

    Parameters
    ----------
    columns : iterable of str
        Lines of the ``.param`` file.
    keywords
        Configuration. Defaults: threshold 2 (so that RMS is exactly THRESHOLD/2), no CLEAN, a ring above the image.
    """
    from astropy.io import fits

    program = shutil.which("source-extractor") or shutil.which("sex")
    if program is None:
        return None
    (folder / "k.conv").write_text(KERNEL)
    (folder / "p.param").write_text("\n".join(columns) + "\n")
    (folder / "d.sex").write_text("")
    checks = {"-BACKGROUND": "sub.fits", "SEGMENTATION": "seg.fits", "FILTERED": "fil.fits"}
    options = {
        "PARAMETERS_NAME": "p.param",
        "FILTER_NAME": "k.conv",
        "CATALOG_TYPE": "FITS_1.0",
        "CATALOG_NAME": "o.cat",
        "CHECKIMAGE_TYPE": ",".join(checks),
        "CHECKIMAGE_NAME": ",".join(checks.values()),
        "CLEAN": "N",
        "DETECT_THRESH": "2",
        "ANALYSIS_THRESH": "2",
        "MEMORY_BUFSIZE": "4096",
        "MEMORY_PIXSTACK": "3000000",
        "MEMORY_OBJSTACK": "20000",
        "PIXEL_SCALE": "1",
        "VERBOSE_TYPE": "QUIET",
        **{k: str(v) for k, v in keywords.items()},
    }
    args = [program, str(image), "-c", "d.sex", *(w for k, v in options.items() for w in (f"-{k}", v))]
    subprocess.run(args, cwd=folder, check=True, capture_output=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # headers of old observatories
        table = np.array(fits.getdata(folder / "o.cat", "OBJECTS"))
        images = {k: fits.getdata(folder / v) for k, v in checks.items()}
    return table.astype(table.dtype.newbyteorder("=")), images


def sextractor_scene(
    folder: Path, image: Path, columns: Any, photometry: PhotometrySettings, **keywords: Any
) -> Scene | None:
    """The scene SExtractor saw, with its catalogue of `columns` in `table`; None if it isn't installed."""
    words = {
        "PHOT_APERTURES": ",".join(map(str, photometry.apertures)),
        "PHOT_FLUXFRAC": ",".join(map(str, photometry.fluxfrac)),
        "PHOT_AUTOPARAMS": "{},{}".format(*photometry.autoparams),
        "PHOT_PETROPARAMS": "{},{}".format(*photometry.petroparams),
        "PHOT_AUTOAPERS": "{},{}".format(*photometry.autoapers),
        "MASK_TYPE": photometry.mask_type,
        "MAG_ZEROPOINT": photometry.mag_zeropoint,
        "GAIN": photometry.gain,
        "GAIN_KEY": "NONE",
        "SATUR_LEVEL": photometry.satur_level,
        "SATUR_KEY": "NONE",
        "SEEING_FWHM": photometry.seeing_fwhm,
        **keywords,
    }
    bare = {c.split("(")[0] for c in columns}
    found = run_sextractor(folder, image, [*columns, *(c for c in SOURCE_COLUMNS.values() if c not in bare)], **words)
    if found is None:
        return None
    t, checks = found
    s = np.zeros(len(t), SOURCE)
    threshold = np.float32(t["THRESHOLD"][0]) if len(t) else np.float32(1)
    rms = float(threshold) / float(words.get("DETECT_THRESH", 2))
    for name, column in SOURCE_COLUMNS.items():
        s[name] = t[column]
    for name in ("x", "y", "xmin", "xmax", "ymin", "ymax", "xpeak", "ypeak"):
        s[name] -= 1
    s["thresh"], s["var_iso"] = s["dthresh"], s["npix"] * rms**2
    s["flags"] &= ~(1 | 16)
    sub, seg, fil = checks["-BACKGROUND"].astype(np.float32), checks["SEGMENTATION"], checks["FILTERED"]
    h, w = sub.shape
    frame = Frame(w, h, rms=rms, threshold=float(threshold), analysis_threshold=float(threshold), gain=photometry.gain)
    return Scene(sub, fil > threshold, seg, s["number"].copy(), s, frame, photometry, t)
