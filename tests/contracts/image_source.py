"""What every image source must do, whatever its format: a reader's test inherits `ImageSourceContract`.

It provides ``source`` (two extra pixels or more on each side of 16) and ``truth``, the float32 pixels of it with
``records.BAD`` where they are bad.
"""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
from numpy.typing import NDArray

from sextract.reading import ImageSource
from sextract.records import BAD, Box


class ImageSourceContract:
    """Tests of one source; override the fixtures ``source`` and ``truth``."""

    @pytest.fixture
    def source(self) -> ImageSource:
        raise NotImplementedError

    @pytest.fixture
    def truth(self) -> NDArray[np.float32]:
        raise NotImplementedError

    @staticmethod
    def read(source: ImageSource, box: Box, scratch_bytes: int = 1 << 14) -> tuple[NDArray[np.float32], int]:
        """A box, read into rows that are longer than it, which must stay as they were beyond it."""
        h, w = box.shape
        out = np.full((h, w + 3), np.float32(-7))
        bad = source.read_into(box, out[:, :w], np.full(scratch_bytes, 255, np.uint8))
        assert (out[:, w:] == -7).all()
        return out[:, :w], bad

    def whole(self, source: ImageSource) -> Box:
        return Box(0, 0, source.info.height, source.info.width)

    def test_dropping_what_was_read_changes_nothing(self, source: ImageSource) -> None:
        before, _ = self.read(source, self.whole(source))
        source.drop_behind()
        after, _ = self.read(source, self.whole(source))
        assert before.tobytes() == after.tobytes()

    def test_facts(self, source, truth):
        info = source.info
        assert (info.height, info.width) == truth.shape
        assert min(truth.shape) > 17
        assert source.tile_rows == info.tile_rows >= 1
        assert info.ext_number >= 1
        assert len(info.header) % 80 == len(info.primary_header) % 80 == 0
        assert "\n" not in info.header + info.primary_header

    @pytest.mark.parametrize("scratch_bytes", [64, 1000, 1 << 20])
    def test_the_whole_image(self, source, truth, scratch_bytes):
        out, bad = self.read(source, self.whole(source), scratch_bytes)
        np.testing.assert_array_equal(out, truth)
        assert bad == np.count_nonzero(truth == np.float32(BAD))

    def test_any_box(self, source, truth):
        rng = np.random.default_rng(1)
        height, width = truth.shape
        for _ in range(40):
            y0, x0 = rng.integers(height), rng.integers(width)
            box = Box(int(y0), int(x0), int(rng.integers(y0, height)) + 1, int(rng.integers(x0, width)) + 1)
            out, bad = self.read(source, box, int(rng.integers(64, 4000)))
            part = truth[box.y0 : box.y1, box.x0 : box.x1]
            np.testing.assert_array_equal(out, part)
            assert bad == np.count_nonzero(part == np.float32(BAD))

    def test_what_is_expected_and_not_asked_for_changes_nothing(self, source, truth):
        height, width = truth.shape
        for box in (Box(0, 0, height, width), Box(3, 5, height - 2, width - 1)):
            for y in (*range(box.y0, box.y1), 7, 2):
                if y in (box.y0, 9):
                    source.expect(Box(y, box.x0, box.y1, box.x1))
                part = Box(y, box.x0, y + 1, box.x1)
                np.testing.assert_array_equal(self.read(source, part, 128)[0], truth[y : y + 1, box.x0 : box.x1])

    def test_a_pickle(self, source, truth):
        again = pickle.loads(pickle.dumps(source))
        assert again.info == source.info
        for each in (again, source, pickle.loads(pickle.dumps(source))):
            np.testing.assert_array_equal(self.read(each, self.whole(each))[0], truth)

    @pytest.mark.parametrize("before", [False, True])
    def test_a_fork(self, source, truth, before):
        if before:
            self.read(source, self.whole(source))
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = 0 if np.array_equal(self.read(source, self.whole(source))[0], truth) else 2
            finally:
                os._exit(status)
        out, _ = self.read(source, self.whole(source))
        assert os.waitpid(pid, 0)[1] == 0
        np.testing.assert_array_equal(out, truth)

    def test_closing_is_not_the_end(self, source, truth):
        source.close()
        np.testing.assert_array_equal(self.read(source, self.whole(source))[0], truth)
        source.close()
        source.close()

    def test_a_file_that_stays_as_it_is(self, source):
        self.read(source, self.whole(source))
        source.check_unchanged()
        source.close()
        source.check_unchanged()

    def test_raw_bytes(self, source):
        size = source.info.data_size
        whole, parts = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
        source.read_raw(0, whole)
        for at in range(0, size, 333):
            source.read_raw(at, parts[at : at + 333])
        np.testing.assert_array_equal(whole, parts)
