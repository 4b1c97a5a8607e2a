"""Areas and widths above a local background: a plain Python twin, giants in pieces, and what CLEAN merged."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scene_cutter import Scene, synthetic_scene

from sextract.config.settings import PhotometrySettings
from sextract.measurement import local as family
from sextract.measurement.recount import own_boxes, recount, width
from sextract.records import BAD


def scene() -> Scene:
    made = synthetic_scene(seed=5, count=40)
    made.frame = made.frame._replace(analysis_threshold=2.0, saturation=400.0)
    made.sources["thresh"], made.sources["bkg"] = 2.0, 30.0
    return made


def twin(made: Scene, i: int, local: float) -> tuple[list[int], float]:
    """ISO0 to ISO7 and FWHM of a source."""
    s = made.sources[i]
    own = [(y, x, float(made.pixels[y, x])) for y, x in np.argwhere(made.labels == made.ids[i])]
    peak, threshold = max(v for _, _, v in own) - local, float(s["thresh"]) - local
    levels = [0.0] * 8
    if peak > 0 and threshold > 0:
        levels = [threshold * (peak / threshold) ** (k / 8) for k in range(8)]
    areas = [0] * 8
    for _, _, v in own:
        for k in range(8):
            if v <= levels[k]:
                break
            areas[k] += 1
    fit = [
        ((x - s["x"]) ** 2 + (y - s["y"]) ** 2, v - local)
        for y, x, v in own
        if v - local > max(peak / 5, threshold) and v + float(s["bkg"]) < made.frame.saturation
    ]
    n, sr, sl, srr, srl = (sum(v * v * f for f, v in g) for g in zip(*[
        ((1.0, v), (r, v), (math.log(v), v), (r * r, v), (r * math.log(v), v)) for r, v in fit
    ], strict=True)) if fit else (0.0,) * 5  # fmt: skip
    det = n * srr - sr * sr
    if abs(det) == 0:
        return areas, 0.0
    slope = max(-(n * srl - sr * sl) / det, 1 / (13 * float(s["a"]) * float(s["b"])))
    fwhm = 1.6651 / math.sqrt(slope)
    return areas, fwhm - 1 / (4 * fwhm)


def corrections(made: Scene) -> np.ndarray:
    """A local background for each source: of both signs, some beyond the threshold."""
    return np.random.default_rng(2).uniform(-3.0, 2.5, len(made.sources)).astype(np.float32)


@pytest.mark.parametrize("mask_type", ["CORRECT", "NONE"])
def test_twin(mask_type: str) -> None:
    made = scene()
    local = corrections(made)
    batch = made.batch([], photometry=PhotometrySettings(mask_type=mask_type))
    recount(batch, local, np.arange(len(batch)))
    assert (local > 2).any()
    for i in range(len(batch)):
        areas, fwhm = twin(made, i, float(local[i]))
        assert batch.sources["iso"][i].tolist() == areas
        assert batch.sources["fwhm"][i] == pytest.approx(fwhm, rel=2e-6)


def test_only_those_asked_for() -> None:
    made = scene()
    batch = made.batch([])
    recount(batch, corrections(made), np.array([3, 7]))
    others = np.setdiff1d(np.arange(len(batch)), [3, 7])
    np.testing.assert_array_equal(batch.sources[others], made.sources[others])
    assert (batch.sources["fwhm"][[3, 7]] != made.sources["fwhm"][[3, 7]]).all()


@pytest.mark.parametrize("arena_px", [1200, 600])
def test_same_bits_in_pieces(arena_px: int) -> None:
    made = scene()
    truth = made.batch([])
    recount(truth, corrections(made), np.arange(len(truth)))
    batch = made.batch([], arena_px=arena_px)
    recount(batch, corrections(made), np.arange(len(batch)))
    np.testing.assert_array_equal(batch.sources, truth.sources)


def test_a_source_without_pixels_stays() -> None:
    made = scene()
    made.labels[made.labels == made.ids[0]] = 0
    batch = made.batch([])
    recount(batch, corrections(made), np.arange(3))
    assert batch.sources[0] == made.sources[0]


def test_boxes_are_those_before_clean() -> None:
    made = scene()
    boxes = family.boxes(made.sources)
    np.testing.assert_array_equal(own_boxes(made.batch([])), boxes)
    made.sources["npix"][4] += 9
    made.sources["xmax"][4] += 20
    np.testing.assert_array_equal(own_boxes(made.batch([])), boxes)


def test_no_fit_is_no_width() -> None:
    assert width(np.zeros((2, 5)), np.ones(2)).tolist() == [0.0, 0.0]


def test_bad_pixels_are_no_peak() -> None:
    made = scene()
    made.pixels[made.labels == made.ids[1]] = BAD
    batch = made.batch([])
    recount(batch, corrections(made), np.arange(3))
    assert batch.sources[1] == made.sources[1]
