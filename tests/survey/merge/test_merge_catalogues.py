"""Catalogues as they are read to be merged: text ones, whose extensions and types stand elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from sextract.errors import InputError
from sextract.survey.merge import catalogues
from sextract.survey.merge.catalogues import Field, open_catalogue

HEAD = """#   1 NUMBER                 Running object number
#   2 FLUX_APER              Flux vector within fixed circular aperture(s)             [count]
#   4 ALPHA_J2000            Right ascension of barycenter (J2000)                     [deg]
#   5 MINE                   Of a measurement that is not installed
"""
LINES = ["1 1.5 2.5 10.25 7", "2 nan -2 11 8", "1 3 4 12 9", "1 5 6 13 inf"]


def read(path, rows, kind="ASCII_HEAD"):
    with open_catalogue(str(path), kind, rows) as catalogue:
        return catalogue.fields, [(k, piece.copy()) for k, piece in catalogue.pieces()]


def write(path, lines):
    path.write_text(HEAD + "".join(f"{line}\n" for line in lines))
    return path


def test_columns_and_rows_of_a_text(tmp_path):
    fields, pieces = read(write(tmp_path / "a.cat", LINES), [2, 0, 1, 1])
    assert fields[0].dtype == "i4" and fields[0].name == "NUMBER" and fields[0].unit == ""
    assert fields[1] == Field("FLUX_APER", "f4", (2,), "count", "Flux vector within fixed circular aperture(s)")
    assert (fields[2].dtype, fields[2].unit, fields[3].dtype) == ("f8", "deg", "f8")
    assert [(k, piece["NUMBER"].tolist()) for k, piece in pieces] == [(0, [1, 2]), (2, [1]), (3, [1])]
    np.testing.assert_array_equal(pieces[0][1]["FLUX_APER"], [[1.5, 2.5], [np.nan, -2]])
    assert pieces[2][1]["MINE"][0] == np.inf


def test_pieces_of_any_size_give_the_same(tmp_path, monkeypatch):
    path = write(tmp_path / "a.cat", LINES)
    whole = read(path, [3, 1])[1]
    monkeypatch.setattr(catalogues, "PIECE_BYTES", 1)
    single = read(path, [3, 1])[1]
    assert [k for k, _ in single] == [0, 0, 0, 1]
    assert np.concatenate([p for _, p in single]).tobytes() == np.concatenate([p for _, p in whole]).tobytes()


@pytest.mark.parametrize(
    ("lines", "what"),
    [(LINES[:3], "fewer or shorter lines"), ([*LINES[:3], "1 2"], "fewer or shorter lines"), ([*LINES, "1"], "more lines")],
)
def test_other_rows_than_the_manifest_says(lines, what, tmp_path):
    with pytest.raises(InputError, match=f"a.cat has {what}, but its manifest says 2 \\+ 2 rows: .*--resume"):
        read(write(tmp_path / "a.cat", lines), [2, 2])


def test_what_is_no_catalogue(tmp_path):
    (tmp_path / "a.cat").write_text("1 2 3\n")
    with pytest.raises(InputError, match="no line names its columns"):
        read(tmp_path / "a.cat", [1])
    (tmp_path / "a.cat").write_text("# made by hand\n1 2 3\n")
    with pytest.raises(InputError, match="its line '# made by hand' names no column"):
        read(tmp_path / "a.cat", [1])
    with pytest.raises(InputError, match="can't read the catalogue"):
        read(tmp_path / "none.cat", [1])
    (tmp_path / "a.fits").write_bytes(b"SIMPLE")
    with pytest.raises(InputError, match=r"can't read the catalogue .*a\.fits"):
        read(tmp_path / "a.fits", [1], "FITS_1.0")
