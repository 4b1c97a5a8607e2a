"""wcslib alone, against astropy.wcs: the same bits for every kind of header, and no trouble for who imports astropy later."""

import json
import subprocess
import sys

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import PRJ_CODES, WCS
from test_sky import BASE, CASES, PV, axes, cd, text

from sextract.errors import InputError
from sextract.measurement import sky, wcslib
from sextract.measurement.sky import needs_astropy, wcs_cards

SIP = {"A_ORDER": 3, "B_ORDER": 2, "A_2_0": 1e-4, "A_0_2": -2.5e-5, "A_1_2": 1e-7, "A_3_0": 2e-6, "B_1_1": 3e-5,
       "B_2_0": -1e-4, "A_DMAX": 1.5}  # fmt: skip
INVERSE = {"AP_ORDER": 2, "BP_ORDER": 2, "AP_1_1": 1e-5}
# Coefficients as SCAMP writes them for a wide camera.
SCAMP = {f"PV{axis}_{k}": 10.0 ** -(1 + k % 4) * (-1) ** (k + axis) for axis in (1, 2) for k in (0, 2, 4, 5, 6, 7, 8, 9, 10)}
SCAMP |= {"PV1_1": 1.0002, "PV2_1": 0.99987}
LATITUDES = {"COP": {"PV2_1": 30.0}, "COE": {"PV2_1": 30.0}, "COD": {"PV2_1": 30.0}, "COO": {"PV2_1": 30.0},
             "BON": {"PV2_1": 30.0}, "ZPN": {"PV2_1": 1.0, "PV2_3": 0.1}}  # fmt: skip
STEPS = {"CDELT1": -1 / 3600, "CDELT2": 1.1 / 3600}


def plus(*cards):
    """An ordinary header with these cards before it, as they are written."""
    return "".join(card.ljust(80) for card in cards) + text(BASE, axes("TAN"), cd(33, 0.3))


PLATE = {"PLTRAH": 8, "PLTRAM": 55, "PLTRAS": 55.04834, "PLTDECSN": "-", "PLTDECD": 11, "PLTDECM": 26, "PLTDECS": 58.31554,
         "CNPIX1": 8734, "CNPIX2": 7218, "XPIXELSZ": 25.28445, "YPIXELSZ": 25.28445, "PPO3": 174974.71555, "PPO6": 174974.71555,
         **{f"AMD{axis}{n}": 0.0 for axis in "XY" for n in range(1, 21)}, "AMDX1": 67.24, "AMDX2": 0.71, "AMDX3": -66.9,
         "AMDX4": -9.5e-6, "AMDX12": 2e-6, "AMDY1": 67.26, "AMDY2": -0.71, "AMDY3": -136.7, "AMDY5": 1.2e-6}  # fmt: skip

ALONE = {
    **{name: text(*parts) for name, parts in CASES.items()},
    **{f"{p} projection": text(BASE, axes(p), cd(10, 200.0), LATITUDES.get(p, {})) for p in PRJ_CODES},
    "SCAMP": text(BASE, axes("TAN"), cd(5), SCAMP),
    "SCAMP's TPV": text(BASE, axes("TPV"), cd(5), SCAMP),
    "SIP": text(BASE, axes("TAN-SIP"), cd(10), SIP),
    "SIP without a suffix": text(BASE, axes("TAN"), cd(10), SIP),
    "SIP with its inverse": text(BASE, axes("TAN-SIP"), cd(10), SIP, INVERSE),
    "SIP's suffix alone": text(BASE, axes("TAN-SIP"), cd(10)),
    "SIP of another kind": text(BASE, axes("SIN-SIP"), cd(10), SIP),
    "supergalactic": text(BASE, axes("TAN", "SLON", "SLAT"), cd(10)),
    "planetary": text(BASE, axes("SIN", "TLON", "TLAT"), cd(10)),
    "linear": text(BASE, {"CTYPE1": "X", "CTYPE2": "Y"}, cd(10)),
    "nothing": text(),
    "wavelength": text({"CTYPE1": "WAVE", "CTYPE2": "LINEAR", "CRVAL1": 5e-7, "CDELT1": 1e-10, "CUNIT1": "m"}),
    "cube": text(BASE, axes("TAN"), cd(10), {"WCSAXES": 3, "CTYPE3": "FREQ", "CRVAL3": 1.4e9, "CDELT3": 1e6, "CRPIX3": 1.0}),
    "units": text(BASE, axes("TAN"), {"CDELT1": -1.0, "CDELT2": 1.1, "CUNIT1": "arcsec", "CUNIT2": "arcsec"}),
    "CROTA1 too": text(BASE, axes("TAN"), STEPS, {"CROTA1": 5.0, "CROTA2": 33.0}),
    "old PC": text(BASE, axes("TAN"), STEPS, {"PC001001": 0.8, "PC001002": -0.6, "PC002001": 0.6, "PC002002": 0.8}),
    "NCP": text(BASE, axes("NCP"), cd(10)),
    "GLS": text(BASE, axes("GLS"), cd(10)),
    "no CRPIX": text({"CRVAL1": 150.0, "CRVAL2": 20.0}, axes("TAN"), cd(10)),
    "equinox 1950": text(BASE, axes("TAN"), cd(0), {"EQUINOX": 1950.0}),
    "EPOCH": text(axes("TAN"), cd(0), {"EPOCH": 1975.0}),
    "RADECSYS": text(BASE, axes("TAN"), cd(0), {"RADECSYS": "FK5"}),
    "FK4": text(BASE, axes("TAN"), cd(0), {"RADESYS": "FK4", "EQUINOX": 1950.0}),
    "another WCS beside it": text(BASE, axes("TAN"), cd(0), {"CTYPE1A": "LINEAR", "CRVAL1A": 3.0}),
    "double precision": plus("CRPIX1  =   4.125D+01", "CRVAL2  =  -1.5E+0001", "CDELT1  =  .5"),
    "a value twice": plus("CRVAL1  =  10.0", "CRVAL1  =  20.0 / the last counts"),
    "dates": plus("DATE-OBS= '31/12/88'", "MJD-OBS =  51910.25 / of something else"),
    "text": plus("HISTORY = 'of it", "COMMENT = hello", "OBJECT  = 'Barnard''s star' / it's near", "EMPTY   =", "YES     = T"),
    "a plate solution": text(PLATE),
    "one pixel wide steps": text(BASE, axes("CAR"), {"CDELT1": -1.0, "CDELT2": 1.0}),
}  # fmt: skip

NEEDY = {
    "SIP beside PV": text(BASE, axes("TAN-SIP"), cd(10), SIP, PV),
    "SIP beside TPV": text(BASE, axes("TPV"), cd(10), SIP),
    "SIP of order 1": text(BASE, axes("TAN-SIP"), cd(10), {"A_ORDER": 1, "B_ORDER": 1, "A_1_0": 0.1}),
    "SIP of one axis": text(BASE, axes("TAN-SIP"), cd(10), {"A_ORDER": 2, "A_2_0": 1e-4}),
    "SIP with half an inverse": text(BASE, axes("TAN-SIP"), cd(10), SIP, {"AP_ORDER": 2}),
    "distortion by tables": text(BASE, axes("TAN"), cd(10), {"CPDIS1": "LOOKUP"}),
    "coordinates in tables": text(BASE, axes("TAB"), cd(10)),
    "half a plate solution": text({"PLTRAH": 9, "AMDX1": 67.2, "AMDY1": 67.1}),
    "a type that is a number": text(BASE, {"CTYPE1": 5}, cd(10)),
    "a type twice": plus("CTYPE1  = 'RA---SIN'"),
    "small letters": plus("CRPIX1  =   4.125d+01"),
    "an equals sign too early": plus("CRPIX1 =   4.125"),
    "no number": plus("DATE-OBS= 2001-01-01"),
}
BROKEN = {
    "singular": text(BASE, axes("TAN"), {"CD1_1": 0.0, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 0.0}),
    "half a sphere": text(BASE, {"CTYPE1": "RA---TAN", "CTYPE2": "LINEAR"}, cd(10)),
    "two projections": text(BASE, {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--SIN"}, cd(10)),
    "a projection that needs a latitude": text(BASE, axes("COP"), cd(10)),
    "an unknown unit": text(BASE, axes("TAN"), cd(10), {"CUNIT1": "furlongs"}),
}  # fmt: skip

X = np.array([1.0, 40.0, 88.5, -3e4, 7.25, 1e9])
Y = np.array([3.0, 55.0, 20.25, 1e4, 1e7, -1e9])


def facts(axes):
    """What a WCS says, in bits."""
    with np.errstate(all="ignore"):
        world = axes.world(X, Y)
    return world.tobytes(), axes.longitude, axes.system, axes.radesys, float(axes.equinox).hex()


@pytest.mark.filterwarnings("ignore::astropy.wcs.FITSFixedWarning")
@pytest.mark.parametrize("name", ALONE)
def test_wcslib_alone_gives_astropys_bits(name):
    ours = wcslib.read_axes(wcs_cards(ALONE[name]))
    wcs = WCS(fits.Header.fromstring("".join(wcs_cards(ALONE[name]))), naxis=2)
    assert ours is not None
    assert ours.world(X, Y).tobytes() == np.column_stack(wcs.all_pix2world(X, Y, 1)).tobytes()
    assert ours.longitude == (wcs.wcs.lng if wcs.has_celestial else -1)
    assert facts(ours) == facts(sky._read_by_astropy(ALONE[name]))


@pytest.mark.parametrize("name", NEEDY)
def test_what_takes_astropy_is_left_to_it(name):
    assert wcslib.read_axes(wcs_cards(NEEDY[name])) is None
    assert needs_astropy(NEEDY[name])


@pytest.mark.parametrize("name", ["FK4", "equinox 1950"])
def test_astropy_turns_to_j2000_what_we_do_not(name):
    assert needs_astropy(ALONE[name])


@pytest.mark.parametrize(
    "name", ["TAN", "galactic", "supergalactic", "ecliptic", "FK5 1975", "ICRS", "SIP", "TNX", "linear", "nothing"]
)
def test_usual_headers_need_no_astropy(name):
    assert not needs_astropy(ALONE[name])


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_said_in_the_same_words(name):
    said = []
    for read in (sky._read_alone, sky._read_by_astropy):
        with pytest.raises(InputError, match="WCS") as caught:
            read(BROKEN[name])
        said.append(str(caught.value))
    assert said[0] == said[1]
    with pytest.raises(InputError, match="WCS"):
        needs_astropy(BROKEN[name])


def run(code, *arguments):
    """What a process of its own prints, as JSON."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


ALONE_IN_A_PROCESS = """
import json, sys
from pathlib import Path
import numpy as np
from sextract.measurement.sky import _read_alone
headers, x, y = json.loads(Path(sys.argv[1]).read_text())
with np.errstate(all="ignore"):
    found = {name: _read_alone(header).world(np.array(x), np.array(y)).tobytes().hex() for name, header in headers.items()}
json.dump([found, sorted(m for m in sys.modules if "astropy" in m or m.endswith("_wcs"))], sys.stdout)
"""


@pytest.mark.filterwarnings("ignore::astropy.wcs.FITSFixedWarning")
def test_a_process_without_astropy_finds_the_same_bits_and_stays_without(tmp_path):
    (tmp_path / "headers.json").write_text(json.dumps([ALONE, X.tolist(), Y.tolist()]))
    found, modules = run(ALONE_IN_A_PROCESS, str(tmp_path / "headers.json"))
    assert modules == []
    for name, header in ALONE.items():
        assert found[name] == facts(sky._read_by_astropy(header))[0].hex(), name


LATER = """
import json, pickle, sys
import numpy as np
from sextract.measurement import sky, wcslib
tan, sip, x, y = *json.loads(sys.argv[1]), np.array([1.0, 40.0]), np.array([3.0, 55.0])
loaded = wcslib._compiled()
before = [sky.locate(h, x, y).tobytes() for h in (tan, sip)]
kept = sky.read_sky(tan)
import astropy.wcs
from astropy.io import fits
from astropy.wcs import WCS, _wcs
theirs = [np.column_stack(WCS(fits.Header.fromstring(h), naxis=2).all_pix2world(x, y, 1)).tobytes() for h in (tan, sip)]
copied = pickle.loads(pickle.dumps(WCS(fits.Header.fromstring(tan)))).all_pix2world(x, y, 1)
sky.read_sky.cache_clear()
after = [sky.locate(h, x, y).tobytes() for h in (tan, sip)]
json.dump({
    "a module of its own": loaded is not _wcs and astropy.wcs._wcs is _wcs,
    "astropy's from now on": wcslib._compiled() is _wcs,
    "same before and after": before == after,
    "astropy works": theirs == [np.column_stack(WCS(fits.Header.fromstring(h)).all_pix2world(x, y, 1)).tobytes()
                                for h in (tan, sip)],
    "copies work": bool(np.isfinite(copied).all()),
    "what was read before works": kept.world(x, y).tobytes() == theirs[0],
}, sys.stdout)
"""


def test_astropy_may_be_imported_later():
    told = run(LATER, json.dumps([ALONE["TAN"], ALONE["SIP"]]))
    assert all(told.values()), told


def test_an_astropy_that_is_there_is_used():
    code = "import astropy.wcs, json; from sextract.measurement import wcslib; print(json.dumps(" \
        "wcslib._compiled() is astropy.wcs._wcs and wcslib._load.cache_info().misses == 0))"  # fmt: skip
    assert run(code) is True


OTHERS = {
    "none": "PathFinder.find_spec = classmethod(lambda cls, name, path=None, target=None: None)",
    "a broken file": "folder.mkdir(); (folder / ('_wcs' + EXTENSION_SUFFIXES[0])).write_text('no library')",
    "without what is needed": "wcslib._load = lambda: ModuleType('_wcs')",
}


@pytest.mark.parametrize("name", OTHERS)
def test_without_a_module_that_can_be_used_alone_astropy_does_it(name, tmp_path):
    code = f"""
import json, sys
from importlib.machinery import EXTENSION_SUFFIXES, PathFinder
from pathlib import Path
from types import ModuleType
import numpy as np
from sextract.measurement import sky, wcslib
header, where = json.loads(sys.argv[1])
folder = Path(where) / "astropy" / "wcs"
folder.parent.mkdir()
(folder.parent / "__init__.py").touch()
real = sys.path[:]
find = PathFinder.__dict__["find_spec"]
sys.path.insert(0, where) if {name == "a broken file"} else None
{OTHERS[name]}
needed = sky.needs_astropy(header)
sys.path[:], PathFinder.find_spec = real, find
sys.path_importer_cache.clear()
found = sky.locate(header, np.array([40.0]), np.array([55.0])).tolist()[0][:2]
print(json.dumps([needed, found, "astropy.wcs" in sys.modules]))
"""
    needed, found, imported = run(code, json.dumps([ALONE["TAN"], str(tmp_path)]))
    assert needed and imported
    assert found == pytest.approx([150.0, 20.0])
