"""What every catalogue format must do: a format's test inherits `CatalogueWriterContract`.

It provides ``catalog_type`` and `read`, an independent reader of the format.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sextract.catalogue.writer import (
    CatalogueWriter,
    ExtensionFacts,
    OutputColumn,
    Resumable,
    RunFacts,
    open_writer,
    row_dtype,
)
from sextract.config.settings import Settings
from sextract.errors import OutputError
from sextract.records import Column, Frame

COLUMNS = (
    OutputColumn(Column("NUMBER", "i4", "", "I10", "Running object number")),
    OutputColumn(Column("FLUX_APER", "f4", "count", "G12.7", "Flux vector"), (3,)),
    OutputColumn(Column("DELTA_J2000", "f8", "deg", "F11.7", "Declination")),
    OutputColumn(Column("VIGNET", "f4", "count", "G12.7", "Pixel data around detection"), (4, 2)),
    OutputColumn(Column("FLAGS", "i2", "", "I3", "Extraction flags")),
)
HEADER = "".join(
    card.ljust(80)
    for card in (
        "SIMPLE  =                    T",
        "BITPIX  =                  -32",
        "NAXIS   =                    2",
        "NAXIS1  =                  100",
        "NAXIS2  =                   90",
        "EXTNAME = 'CCD7    '",
        "",
        "COMMENT made by hand",
        "END",
    )
)


def make_rows(n: int, seed: int = 1) -> np.ndarray[Any, Any]:
    """Rows with distinct values everywhere."""
    rng = np.random.default_rng(seed)
    rows = np.zeros(n, row_dtype(COLUMNS))
    rows["NUMBER"] = np.arange(1, n + 1)
    for name in ("FLUX_APER", "VIGNET"):
        rows[name] = rng.normal(1e3, 1e3, rows[name].shape)
    rows["DELTA_J2000"] = rng.uniform(-90, 90, n)
    rows["FLAGS"] = rng.integers(0, 64, n)
    return rows


def frame(number: int = 1) -> Frame:
    """An image extension."""
    return Frame(100, 90, number, background=12.5, rms=2.0, threshold=3.0, analysis_threshold=3.5, header=HEADER)


class CatalogueWriterContract:
    """Tests of one format; override ``catalog_type`` and `read`."""

    catalog_type: str

    def read(self, path: Path) -> list[np.ndarray[Any, Any]]:
        """Rows of each extension, or all in one where the format doesn't tell them apart."""
        raise NotImplementedError

    def open(self, path: Path | str, extensions: int = 1, **settings: Any) -> CatalogueWriter:
        run = RunFacts(file_name="dir/a.fits", extensions=extensions, settings=Settings(**settings))
        return open_writer(self.catalog_type, str(path), COLUMNS, run)

    def write(self, path: Path, *blocks: np.ndarray[Any, Any]) -> bytes:
        """A catalogue of one extension; its bytes."""
        with self.open(path) as writer:
            writer.begin_extension(frame())
            for block in blocks:
                writer.write(block)
            writer.end_extension(ExtensionFacts(detected=99, extracted=sum(map(len, blocks))))
        return path.read_bytes()

    def same(self, got: np.ndarray[Any, Any], rows: np.ndarray[Any, Any]) -> None:
        """Equal as far as the format keeps digits."""
        assert len(got) == len(rows)
        for name in row_dtype(COLUMNS).names or ():
            np.testing.assert_allclose(got[name], rows[name], rtol=6e-7, atol=6e-8)

    def test_rows_come_back(self, tmp_path: Path) -> None:
        rows = make_rows(1500)
        self.write(tmp_path / "a.cat", rows)
        (got,) = self.read(tmp_path / "a.cat")
        self.same(got, rows)

    def test_blocks_make_no_difference(self, tmp_path: Path) -> None:
        rows = make_rows(1500)
        whole = self.write(tmp_path / "a.cat", rows)
        split = self.write(tmp_path / "b.cat", rows[:1], rows[1:1], rows[1:700], rows[700:])
        assert whole == split

    def test_strided_rows(self, tmp_path: Path) -> None:
        rows = make_rows(600)
        assert self.write(tmp_path / "a.cat", rows[::2]) == self.write(tmp_path / "b.cat", rows[::2].copy())

    def test_no_rows(self, tmp_path: Path) -> None:
        self.write(tmp_path / "a.cat")
        assert sum(map(len, self.read(tmp_path / "a.cat"))) == 0

    def test_extensions_in_order_even_empty_ones(self, tmp_path: Path) -> None:
        blocks = [make_rows(5), make_rows(0), make_rows(7, seed=2)]
        with self.open(tmp_path / "a.cat", extensions=3) as writer:
            for i, block in enumerate(blocks, 1):
                writer.begin_extension(frame(i))
                writer.write(block)
                writer.end_extension(ExtensionFacts(detected=i, extracted=len(block)))
        got = self.read(tmp_path / "a.cat")
        if len(got) == 1:
            blocks = [np.concatenate(blocks)]
        for some, block in zip(got, blocks, strict=True):
            self.same(some, block)

    def test_resumed_anywhere_it_has_the_same_bytes(self, tmp_path: Path) -> None:
        blocks = [make_rows(5), make_rows(3, seed=2), make_rows(0), make_rows(7, seed=3)]
        steps: list[Callable[[CatalogueWriter], None]] = []
        for number in (1, 2):
            steps.append(lambda w, number=number: w.begin_extension(frame(number)))  # type: ignore[misc]
            steps += [lambda w, block=block: w.write(block) for block in blocks]  # type: ignore[misc]
            steps.append(lambda w, number=number: w.end_extension(ExtensionFacts(detected=9 + number, extracted=15)))  # type: ignore[misc]
        path, kept = tmp_path / "a.cat", str(tmp_path / "kept")
        with self.open(path, extensions=2) as writer:
            if not isinstance(writer, Resumable):
                writer.close()
                pytest.skip(f"{self.catalog_type} can't be resumed")
            for step in steps:
                step(writer)
        whole = path.read_bytes()
        for saved_at, killed_at in ((k, min(k + 3, len(steps))) for k in range(len(steps) + 1)):
            first = self.open(path, extensions=2)
            assert isinstance(first, Resumable)
            file = first.output()
            assert file is not None
            file.keep(kept)
            for step in steps[:saved_at]:
                step(first)
            saved, length = json.dumps(first.save()), file.size
            for step in steps[saved_at:killed_at]:
                step(first)
            first.abort()
            inside = saved_at % (len(blocks) + 2)
            with self.open(path, extensions=2) as second:
                assert isinstance(second, Resumable)
                mine = second.output()
                assert mine is not None
                mine.adopt(kept, length)
                second.restore(json.loads(saved), frame(1 + saved_at // (len(blocks) + 2)) if inside else None)
                for step in steps[saved_at:]:
                    step(second)
            assert path.read_bytes() == whole
            assert not os.path.exists(kept)

    def test_nothing_before_close_and_nothing_beside_it_after(self, tmp_path: Path) -> None:
        path = tmp_path / "a.cat"
        writer = self.open(path)
        writer.begin_extension(frame())
        writer.write(make_rows(10))
        assert not path.exists()
        writer.end_extension(ExtensionFacts())
        writer.close()
        writer.close()
        writer.abort()
        assert [p.name for p in tmp_path.iterdir()] == ["a.cat"]

    def test_an_older_catalogue_stays_until_close(self, tmp_path: Path) -> None:
        path = tmp_path / "a.cat"
        path.write_text("old")
        with pytest.raises(ZeroDivisionError), self.open(path) as writer:
            writer.begin_extension(frame())
            writer.write(make_rows(10))
            raise ZeroDivisionError
        assert path.read_text() == "old"
        assert [p.name for p in tmp_path.iterdir()] == ["a.cat"]
        assert self.write(path, make_rows(3)) != b"old"

    def test_a_link_stays_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        link = tmp_path / "a.cat"
        link.symlink_to(tmp_path / "real" / "b.cat")
        self.write(link, make_rows(3))
        assert link.is_symlink() and (tmp_path / "real" / "b.cat").is_file()

    def test_wrong_layout_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(TypeError), self.open(tmp_path / "a.cat") as writer:
            writer.begin_extension(frame())
            writer.write(np.zeros(3, [("NUMBER", "i8")]))
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("bad", ["missing/a.cat", "file/a.cat", "."])
    def test_a_bad_destination_is_refused_at_once(self, tmp_path: Path, bad: str) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputError, match="CATALOG_NAME"):
            self.open(tmp_path / bad)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_folder_without_permission(self, tmp_path: Path) -> None:
        (tmp_path / "shut").mkdir(mode=0o500)
        with pytest.raises(OutputError, match="permission"):
            self.open(tmp_path / "shut" / "a.cat")

    def test_a_full_disk_names_file_and_option(self) -> None:
        with pytest.raises(OutputError, match=r"/dev/full.*no space.*CATALOG_NAME"), self.open("/dev/full") as writer:
            writer.begin_extension(frame())
            writer.write(make_rows(10))

    def test_a_device_is_written_and_stays(self) -> None:
        with self.open("/dev/null") as writer:
            writer.begin_extension(frame())
            writer.write(make_rows(10))
            writer.end_extension(ExtensionFacts())
        assert Path("/dev/null").is_char_device()

    def test_another_process_can_go_on(self, tmp_path: Path) -> None:
        rows = make_rows(2000)
        writer = self.open(tmp_path / "a.cat")
        writer.begin_extension(frame())
        writer.write(rows[:900])
        other = pickle.loads(pickle.dumps(writer))
        other.write(rows[900:])
        other.end_extension(ExtensionFacts(detected=99, extracted=2000))
        other.close()
        writer.abort()
        assert (tmp_path / "a.cat").read_bytes() == self.write(tmp_path / "b.cat", rows)
