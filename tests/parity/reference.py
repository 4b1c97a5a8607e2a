"""Runs SExtractor, plain or with its ``rand()`` reseeded, and sextract, on one image with one configuration file.

It does not compare what comes out (``compare.py``).  The reference gets a ring of lines taller than any image and ample
stacks, because its numbers otherwise depend on them.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SEXTRACTOR = shutil.which("source-extractor") or shutil.which("sex")
CC = shutil.which("cc") or shutil.which((sysconfig.get_config_var("CC") or "gcc").split()[0])

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("SEXTRACT_TEST_DATA", ROOT.parent / "shared" / "data"))
IMAGES = ("sep_image.fits", "M6707HH.fits", "spitzer_example_image.fits", "gc_2mass_k.fits")

# What the comparison covers: apertures, AUTO, ISO, FLUX_RADIUS, windowed positions and shapes, shapes, extents, flags.
# SExtractor's FLAGS depend on the columns requested; with this set they have the meaning that ours always have.
PARAMETERS = """
    NUMBER X_IMAGE Y_IMAGE X_IMAGE_DBL Y_IMAGE_DBL FLUX_ISO FLUXERR_ISO MAG_ISO MAGERR_ISO
    FLUX_APER(3) FLUXERR_APER(3) MAG_APER(3) MAGERR_APER(3)
    FLUX_AUTO FLUXERR_AUTO MAG_AUTO MAGERR_AUTO KRON_RADIUS FLUX_RADIUS(3)
    BACKGROUND THRESHOLD FLUX_MAX ISOAREA_IMAGE ISOAREAF_IMAGE XMIN_IMAGE XMAX_IMAGE YMIN_IMAGE YMAX_IMAGE
    XPEAK_IMAGE YPEAK_IMAGE X2_IMAGE Y2_IMAGE XY_IMAGE A_IMAGE B_IMAGE THETA_IMAGE CXX_IMAGE CYY_IMAGE CXY_IMAGE
    ERRX2_IMAGE ERRY2_IMAGE ERRXY_IMAGE ERRA_IMAGE ERRB_IMAGE ERRTHETA_IMAGE ELONGATION ELLIPTICITY FWHM_IMAGE
    ISO0 ISO4 ISO7 XWIN_IMAGE YWIN_IMAGE X2WIN_IMAGE Y2WIN_IMAGE XYWIN_IMAGE AWIN_IMAGE BWIN_IMAGE THETAWIN_IMAGE
    ERRAWIN_IMAGE ERRBWIN_IMAGE FLUX_WIN SNR_WIN FLAGS FLAGS_WIN
"""
COLUMNS = PARAMETERS.split()

# The 3 x 3 pyramid.
KERNEL = "CONV NORM\n1 2 1\n2 4 2\n1 2 1\n"

KEYWORDS: dict[str, str] = {
    "CATALOG_TYPE": "FITS_1.0",
    "DETECT_TYPE": "CCD",
    "DETECT_MINAREA": "5",
    "DETECT_THRESH": "1.5",
    "ANALYSIS_THRESH": "1.5",
    "FILTER": "Y",
    "DEBLEND_NTHRESH": "32",
    "DEBLEND_MINCONT": "0.005",
    "CLEAN": "Y",
    "CLEAN_PARAM": "1.0",
    "MASK_TYPE": "CORRECT",
    "PHOT_APERTURES": "5,10,20",
    "PHOT_AUTOPARAMS": "2.5,3.5",
    "PHOT_FLUXFRAC": "0.2,0.5,0.8",
    "SATUR_LEVEL": "50000.0",
    "BACK_SIZE": "64",
    "BACK_FILTERSIZE": "3",
    "BACKPHOTO_TYPE": "GLOBAL",
    "SEEING_FWHM": "1.2",
    "PIXEL_SCALE": "1.0",
    "CHECKIMAGE_TYPE": "NONE",
    "VERBOSE_TYPE": "QUIET",
    # Above the height of every test image; the stacks at the largest values SExtractor takes without complaint.
    "MEMORY_BUFSIZE": "8192",
    "MEMORY_PIXSTACK": "8000000",
    "MEMORY_OBJSTACK": "65535",
}


@dataclass(frozen=True)
class Setup:
    """A configuration that both programs read, in a folder of its own.

    Attributes
    ----------
    folder : Path
        Where the ``.sex``, ``.param`` and ``.conv`` files go, and the catalogues.
    columns : sequence of str
        Lines of the ``.param`` file.
    keywords : mapping
        Changes to `KEYWORDS`.
    kernel : str
        Content of the ``.conv`` file.
    """

    folder: Path
    columns: Sequence[str] = tuple(COLUMNS)
    keywords: Mapping[str, str] = field(default_factory=dict)
    kernel: str = KERNEL

    def write(self) -> Path:
        """Writes the files and returns the ``.sex``."""
        (self.folder / "parity.param").write_text("".join(f"{c}\n" for c in self.columns))
        (self.folder / "parity.conv").write_text(self.kernel)
        keywords = {
            **KEYWORDS,
            "PARAMETERS_NAME": str(self.folder / "parity.param"),
            "FILTER_NAME": str(self.folder / "parity.conv"),
            **self.keywords,
        }
        path = self.folder / "parity.sex"
        path.write_text("".join(f"{key} {value}\n" for key, value in keywords.items()))
        return path

    def reference(self, image: Path, seed: int | None = None) -> Path:
        """SExtractor's catalogue; with a `seed`, from a run whose ``rand()`` starts there."""
        if SEXTRACTOR is None:
            raise FileNotFoundError("source-extractor is not installed")
        out = self.folder / (f"{image.stem}.ref.cat" if seed is None else f"{image.stem}.seed{seed}.cat")
        env = dict(os.environ)
        if seed is not None:
            env |= {"LD_PRELOAD": str(reseed_library()), "SEXTRACT_PARITY_SEED": str(seed)}
        command = [SEXTRACTOR, str(image), "-c", str(self.write()), "-CATALOG_NAME", str(out)]
        run(command, self.folder, env)
        return out

    def ours(self, image: Path, *options: str) -> Path:
        """The catalogue of sextract."""
        out = self.folder / f"{image.stem}.ours.cat"
        command = [sys.executable, "-m", "sextract", str(image), "-c", str(self.write()), "-CATALOG_NAME", str(out)]
        run([*command, *options], self.folder, {**os.environ, "PYTHONPATH": python_path()})
        return out


def python_path() -> str:
    """PYTHONPATH under which a child finds the package that this process tests."""
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def run(command: Sequence[str], folder: Path, env: Mapping[str, str]) -> None:
    """Runs a program in `folder`; what it said is in the exception if it fails."""
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        said = (done.stdout + done.stderr).strip()[-2000:]
        raise RuntimeError(f"{Path(command[0]).name} ended with {done.returncode}: {said}")


@functools.cache
def reseed_library() -> Path:
    """The compiled shim, one per process."""
    if CC is None:
        raise FileNotFoundError("no C compiler for the rand() shim")
    folder = tempfile.TemporaryDirectory(prefix="sextract-parity-")
    # Kept alive, and removed with the interpreter, by hanging on the function.
    reseed_library.folder = folder  # type: ignore[attr-defined]
    library = Path(folder.name) / "reseed.so"
    source = Path(__file__).with_name("reseed.c")
    subprocess.run([CC, "-O2", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return library
