"""docs/reference is what the registries say: pages are made by scripts/make_reference.py and committed."""

from __future__ import annotations

from pathlib import Path

import pytest

from sextract.checkimage.checkimage import CHECKIMAGES
from sextract.config.doors import built_columns
from tests.scenes import script

reference = script("make_reference")


@pytest.mark.parametrize("name", reference.PAGES)
def test_committed_pages_are_up_to_date(name: str) -> None:
    committed = (reference.FOLDER / name).read_text()
    assert committed == reference.PAGES[name](), "run scripts/make_reference.py and commit what it writes"


def test_no_page_is_left_over() -> None:
    assert {p.name for p in reference.FOLDER.iterdir()} == set(reference.PAGES)


def test_a_changed_page_is_noticed(tmp_path: Path) -> None:
    for name, make in reference.PAGES.items():
        (tmp_path / name).write_text(make())
    assert reference.outdated(tmp_path) == []
    (tmp_path / "flags.md").write_text("")
    (tmp_path / "columns.md").unlink()
    assert sorted(reference.outdated(tmp_path)) == ["columns.md", "flags.md"]


def test_everything_has_words() -> None:
    assert all(column.doc for column in built_columns().values())
    assert all(CHECKIMAGES.get(name).doc for name in CHECKIMAGES)
