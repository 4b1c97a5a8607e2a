"""Names that the doors of other rooms know: columns, catalogue formats, check-images, kinds of reports.

The only file of ``config`` that looks ahead in the order of rooms: a name can only be checked against what registered.
It imports those rooms when it is asked, and takes nothing but names and `records.Column`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sextract.records import Column


def built_columns() -> dict[str, Column]:
    """Every column that some measurement fills."""
    from sextract.measurement.measure import MEASUREMENTS

    return {column.name: column for name in MEASUREMENTS for column in MEASUREMENTS.get(name).columns}


def report_suffixes() -> tuple[str, ...]:
    """Suffixes of the files that a report can be."""
    from sextract.report import SUFFIXES

    return SUFFIXES


def offered(keyword: str) -> frozenset[str]:
    """Values that a keyword may have because something registered under that name; empty for most keywords."""
    if keyword == "CATALOG_TYPE":
        from sextract.catalogue.writer import CATALOGUES

        return frozenset(CATALOGUES)
    if keyword == "CHECKIMAGE_TYPE":
        from sextract.checkimage.checkimage import CHECKIMAGES

        return frozenset(CHECKIMAGES)
    return frozenset()
