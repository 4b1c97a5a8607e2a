"""CLASS_STAR: networks of known answers, a twin in NumPy, and SExtractor with its own network."""

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from scene_cutter import gaussian_image, sextractor_scene, synthetic_scene

from sextract.config.settings import PhotometrySettings
from sextract.errors import ConfigError, InputError
from sextract.measurement.classify import load_network

# Where Debian's source-extractor puts its network.
SHIPPED = Path("/usr/share/source-extractor/default.nnw")


def write_network(path, layers, bias=None, scale=None, out=(0.0, 1.0)):
    """A .nnw file of these layers, each (neurons, inputs + 1)."""
    sizes = [layers[0].shape[1] - 1, *(len(m) for m in layers)]
    bias, scale = np.zeros(sizes[0]) if bias is None else bias, np.ones(sizes[0]) if scale is None else scale
    rows = [bias, scale, *(row for m in layers for row in m), [out[0]] * sizes[-1], [out[1]] * sizes[-1]]
    text = "\n".join(" ".join(repr(float(v)) for v in row) for row in rows)
    path.write_text(f"NNW\n# a comment\n{len(sizes)} {' '.join(map(str, sizes))}\n{text}\n")
    return str(path)


def scene_for(path, **sources):
    scene = synthetic_scene(count=6, starnnw_name=path, seeing_fwhm=1.5)
    for name, value in sources.items():
        scene.sources[name] = value
    return scene


def test_a_network_without_weights_says_half(tmp_path):
    path = write_network(tmp_path / "n.nnw", [np.zeros((1, 11))])
    found = scene_for(path).measure(["CLASS_STAR"])["CLASS_STAR"]
    assert found.dtype == np.float32 and (found == 0.5).all()


@pytest.mark.parametrize(
    "place, value",
    [
        (0, np.log10(40 / 2.25)),
        (1, np.log10(30 / 1.5)),
        (2, np.log10(35 / 2.25)),
        (8, np.log10(0.01)),
        (9, np.log10(1.5)),
    ],
)
def test_what_the_inputs_are(tmp_path, place, value):
    weights = np.zeros((1, 11))
    weights[0, place] = 1.0
    scene = scene_for(write_network(tmp_path / "n.nnw", [weights]), iso=[40, 35, 30, 25, 20, 10, 5, 0], peak=30.0)
    found = scene.measure(["CLASS_STAR"])["CLASS_STAR"]
    assert found == pytest.approx(1 / (1 + np.exp(-value)), rel=1e-6)


def test_no_peak(tmp_path):
    weights = np.zeros((1, 11))
    weights[0, 1] = 1.0
    scene = scene_for(write_network(tmp_path / "n.nnw", [weights]), peak=-1.0)
    assert scene.measure(["CLASS_STAR"])["CLASS_STAR"] == pytest.approx(1 / (1 + np.e), rel=1e-6)


def test_equals_the_twin(tmp_path):
    rng = np.random.default_rng(3)
    layers = [rng.normal(0, 1, (7, 11)), rng.normal(0, 1, (4, 8)), rng.normal(0, 1, (1, 5))]
    bias, scale = rng.normal(0, 1, 10), rng.uniform(0.5, 2, 10)
    path = write_network(tmp_path / "n.nnw", layers, bias, scale, (0.1, 1.5))
    iso = [40, 35, 30, 25, 20, 10, 5, 1]
    found = scene_for(path, iso=iso, peak=30.0).measure(["CLASS_STAR"])["CLASS_STAR"]
    areas = np.log10(np.array(iso) / 2.25)
    values = np.array([areas[0], np.log10(20), *areas[1:], np.log10(1.5)]) * scale + bias
    for m in layers:
        values = 1 / (1 + np.exp(-(m[:, :-1] @ values + m[:, -1])))
    assert found == pytest.approx((values[0] - 0.1) / 1.5, rel=1e-6)


def test_errors_name_the_keyword(tmp_path):
    with pytest.raises(ConfigError, match="STARNNW_NAME"):
        load_network("")
    with pytest.raises(ConfigError, match="STARNNW_NAME"):
        load_network(str(tmp_path / "missing.nnw"))
    with pytest.raises(ConfigError, match=r"STARNNW_NAME.*takes 3 inputs"):
        load_network(write_network(tmp_path / "small.nnw", [np.zeros((1, 4))]))
    (tmp_path / "no.nnw").write_text("CONV\n1 2 3\n")
    with pytest.raises(InputError, match="STARNNW_NAME"):
        load_network(str(tmp_path / "no.nnw"))


def test_equal_to_sextractor(tmp_path):
    if not SHIPPED.exists():
        pytest.skip("source-extractor's own network isn't installed")
    image, _ = gaussian_image(13, (200, 200), 40, noise=2.0)
    fits.writeto(tmp_path / "im.fits", image + 50)
    photometry = PhotometrySettings(starnnw_name=str(SHIPPED), seeing_fwhm=4.0)
    columns = ["CLASS_STAR", *(f"ISO{k}" for k in range(8))]
    scene = sextractor_scene(tmp_path, tmp_path / "im.fits", columns, photometry, STARNNW_NAME=SHIPPED)
    if scene is None:
        pytest.skip("source-extractor isn't installed")
    scene.sources["iso"] = np.column_stack([scene.table[f"ISO{k}"] for k in range(8)])
    found = scene.measure(["CLASS_STAR"])["CLASS_STAR"]
    assert len(found) > 20 and np.ptp(found) > 0.3
    assert np.abs(found - scene.table["CLASS_STAR"]).max() < 1e-5
