#!/usr/bin/env python3
"""One image through sep or photutils, as their documentation shows, to a table with about the columns of ``bench.py``.

    bench_peers.py sep|photutils FIELD.fits OUT.fits
    bench_peers.py --versions

Mesh 64, threshold 1.5 sigma, 5 pixels, the 3 x 3 filter; apertures of 5, 10 and 20 pixels, Kron fluxes, half-light
radii, windowed positions, sky positions.  sep is asked not to CLEAN: with it, many detections take it minutes.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from numpy.typing import NDArray

PROGRAMS = ("sep", "photutils")
DIAMETERS = (5.0, 10.0, 20.0)
KERNEL = np.array([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]], np.float32)
Pixels = NDArray[np.float32]


def with_sep(pixels: Pixels, header: fits.Header) -> Table:
    """sep's functions, one after the other."""
    import sep

    sep.set_extract_pixstack(10_000_000)
    back = sep.Background(pixels, bw=64, bh=64, fw=3, fh=3)
    back.subfrom(pixels)
    rms = back.globalrms
    found = sep.extract(pixels, 1.5, err=rms, minarea=5, filter_kernel=KERNEL, clean=False)
    x, y, a, b, theta = (found[name] for name in ("x", "y", "a", "b", "theta"))
    out = Table(found)
    gain = header.get("GAIN", 1.0)
    for k, d in enumerate(DIAMETERS):
        out[f"flux_aper{k}"], out[f"fluxerr_aper{k}"], _ = sep.sum_circle(pixels, x, y, d / 2, err=rms, gain=gain)
    a, b, theta = np.maximum(a, 0.5), np.maximum(b, 0.5), np.clip(theta, -np.pi / 2, np.pi / 2)
    kron, _ = sep.kron_radius(pixels, x, y, a, b, theta, 6.0)
    kron = np.where(np.isfinite(kron), np.maximum(kron, 1.4), 1.4)
    out["kron_radius"] = kron
    out["flux_auto"], out["fluxerr_auto"], _ = sep.sum_ellipse(pixels, x, y, a, b, theta, 2.5 * kron, err=rms, gain=gain)
    radius, _ = sep.flux_radius(pixels, x, y, 6.0 * a, 0.5, normflux=out["flux_auto"], subpix=5)
    out["flux_radius"] = radius
    sigma = np.where(np.isfinite(radius) & (radius > 0), 2.0 / 2.35 * radius, 1.0)
    out["xwin"], out["ywin"], _ = sep.winpos(pixels, x, y, sigma)
    return with_sky(out, x, y, header)


def with_photutils(pixels: Pixels, header: fits.Header) -> Table:
    """photutils' classes, one after the other."""
    from astropy.convolution import convolve
    from photutils.background import Background2D, SExtractorBackground
    from photutils.segmentation import SourceCatalog, deblend_sources, detect_sources

    back = Background2D(pixels, 64, filter_size=3, bkg_estimator=SExtractorBackground())
    data = pixels - back.background
    smooth = convolve(data, KERNEL / KERNEL.sum())
    labels = detect_sources(smooth, 1.5 * back.background_rms_median, 5)
    labels = deblend_sources(smooth, labels, 5, n_levels=32, contrast=0.005, progress_bar=False)
    error = np.full(data.shape, back.background_rms_median)
    found = SourceCatalog(
        data, labels, convolved_data=smooth, error=error, background=back.background, wcs=WCS(header), kron_params=(2.5, 1.4)
    )
    names = [
        "label", "x_centroid", "y_centroid", "x_centroid_win", "y_centroid_win", "sky_centroid", "segment_flux",
        "segment_flux_err", "kron_flux", "kron_flux_err", "semimajor_axis", "semiminor_axis", "orientation", "kron_radius",
        "area", "bbox_xmin", "bbox_xmax", "bbox_ymin", "bbox_ymax", "max_value", "fwhm", "elongation", "local_background",
    ]  # fmt: skip
    out = found.to_table(columns=names)
    for k, d in enumerate(DIAMETERS):
        out[f"flux_aper{k}"], out[f"fluxerr_aper{k}"] = found.circular_photometry(d / 2)
    out["flux_radius"] = found.flux_radius(0.5)
    sky = out["sky_centroid"]
    out["ra"], out["dec"] = sky.ra.deg, sky.dec.deg
    out.remove_column("sky_centroid")
    return out


def with_sky(out: Table, x: Any, y: Any, header: fits.Header) -> Table:
    """Sky positions beside."""
    out["ra"], out["dec"] = WCS(header).wcs_pix2world(np.c_[x, y], 0).T
    return out


def versions() -> dict[str, str]:
    """Versions of what is installed."""
    found = {}
    for name in PROGRAMS:
        try:
            found[name] = importlib.import_module(name).__version__
        except ImportError:
            continue
    return found


def main(argv: list[str]) -> int:
    """Runs the command line."""
    if argv == ["--versions"]:
        for name, version in versions().items():
            print(name, version)
        return 0
    program, field, out = argv
    with fits.open(field, memmap=False) as hdus:
        header = hdus[0].header
        pixels = np.ascontiguousarray(hdus[0].data, np.float32)
    table = with_sep(pixels, header) if program == "sep" else with_photutils(pixels, header)
    table.meta.clear()
    table.write(out, overwrite=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
