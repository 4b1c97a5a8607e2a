"""The measurement contract, kept by the families that aren't photometry."""

from typing import ClassVar

import numpy as np
import pytest
from measurement_contract import MeasurementContract, contract_scene
from test_classify import write_network

from sextract.measurement.measure import MEASUREMENTS


def all_columns(family):
    return {c.name: () for c in MEASUREMENTS.get(family).columns}


class TestIdentifiers(MeasurementContract):
    family = "identifiers"
    columns = all_columns("identifiers")


class TestBackgroundColumns(MeasurementContract):
    family = "background_columns"
    columns = all_columns("background_columns")


class TestPositions(MeasurementContract):
    family = "positions"
    columns = all_columns("positions")


class TestShape(MeasurementContract):
    family = "shape"
    columns = all_columns("shape")


class TestPositionErrors(MeasurementContract):
    family = "position_errors"
    columns = all_columns("position_errors")


class TestWindowed(MeasurementContract):
    family = "windowed"
    columns = all_columns("windowed")
    photometry: ClassVar = {"gain": 2.0}


class TestWindowedBlank(MeasurementContract):
    family = "windowed"
    columns = all_columns("windowed")
    photometry: ClassVar = {"mask_type": "BLANK"}


class TestVignet(MeasurementContract):
    family = "vignet"
    columns: ClassVar = {"VIGNET": (17, 17)}


class TestClassify(MeasurementContract):
    family = "classify"
    columns = all_columns("classify")

    @pytest.fixture
    def scene(self, tmp_path):
        rng = np.random.default_rng(3)
        path = write_network(tmp_path / "n.nnw", [rng.normal(0, 1, (6, 11)), rng.normal(0, 1, (1, 7))])
        return contract_scene((("starnnw_name", path),))


class TestSky(MeasurementContract):
    family = "sky"
    columns = all_columns("sky")


class TestSkyPeak(MeasurementContract):
    family = "sky_peak"
    columns = all_columns("sky_peak")


class TestSkyWindowed(MeasurementContract):
    family = "sky_windowed"
    columns = all_columns("sky_windowed")
