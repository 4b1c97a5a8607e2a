"""Lists of images: lines, quotes, numbers, parts."""

from __future__ import annotations

import pytest

from sextract.config.resolve import Options
from sextract.errors import ConfigError
from sextract.survey.items import Item, list_items, shard_of


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_words_and_lists_are_numbered_in_order(here):
    (here / "night.txt").write_text(
        "# image weight configuration\n"
        "a.fits\n\n"
        "'with blanks.fits[SCI]' - deep.sex   # and why\n"
        "b.fits - - DETECT_THRESH=3 filter=N\n"
        "c.fits GAIN=2.5\n"
    )
    assert list_items(["first.fits", "@night.txt", "last.fits"]) == [
        Item(1, "first.fits"),
        Item(2, "a.fits"),
        Item(3, "with blanks.fits[SCI]", "deep.sex"),
        Item(4, "b.fits", "", (("DETECT_THRESH", "3"), ("FILTER", "N"))),
        Item(5, "c.fits", "", (("GAIN", "2.5"),)),
        Item(6, "last.fits"),
    ]


def test_a_file_that_begins_with_an_at_sign_is_an_image(here):
    (here / "@odd.fits").touch()
    assert list_items(["@odd.fits"]) == [Item(1, "@odd.fits")]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a.fits b.fits c.sex d", "line 2: 4 words"),
        ("with blanks in it.fits", "a name with blanks is quoted"),
        ("a.fits weight.fits", "weight maps are not built yet; write - in place of weight.fits"),
        ("a.fits - - DETECT_TRESH=3", "DETECT_TRESH is not a keyword .did you mean DETECT_THRESH"),
        ("it's.fits", "line 2: no closing quotation"),
    ],
)
def test_wrong_lines_are_named(here, line, said):
    (here / "night.txt").write_text(f"good.fits\n{line}\n")
    with pytest.raises(ConfigError, match=said):
        list_items(["@night.txt"])


def test_a_list_that_is_not_there(here):
    with pytest.raises(ConfigError, match=r"can't read the list of images none\.txt"):
        list_items(["@none.txt"])


def test_a_line_stands_above_the_command_line():
    common = Options(config="all.sex", keywords=(("GAIN", "1"),), mem_limit="1G")
    assert Item(1, "a.fits").options(common) is common
    own = Item(1, "a.fits", "deep.sex", (("GAIN", "2"),)).options(common)
    assert (own.config, own.keywords, own.mem_limit) == ("deep.sex", (("GAIN", "1"), ("GAIN", "2")), "1G")


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 20])
def test_parts_hold_each_image_once(parts):
    items = [Item(k, f"{k}.fits") for k in range(1, 13)]
    shards = [shard_of(items, part, parts) for part in range(1, parts + 1)]
    assert sorted(item for shard in shards for item in shard) == items
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    assert all(shard == sorted(shard) for shard in shards)
