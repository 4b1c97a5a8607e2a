"""The table of keywords, sizes, and the check of one value."""

import pytest

from sextract.catalogue.writer import CATALOGUES, no_catalogue
from sextract.config.doors import offered
from sextract.config.keywords import KEYWORDS, OURS, nearest, parse_size, parse_value
from sextract.config.parameters import PARAMETERS
from sextract.config.sexfile import split_members
from sextract.errors import ConfigError


def test_all_of_sextractors_keywords_are_there():
    assert len([k for k in KEYWORDS.values() if k.section != OURS]) == 74
    assert len(PARAMETERS) == len(set(PARAMETERS)) == 428


@pytest.mark.parametrize("name", sorted(KEYWORDS))
def test_every_default_is_a_legal_value(name):
    key = KEYWORDS[name]
    parse_value(key, split_members(key.default, name))
    assert key.doc
    assert not key.matters_with or key.matters_with in KEYWORDS
    assert set(key.built_choices.split()) <= set(key.choices.split())


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512M", 512 << 20),
        ("1.5G", 3 << 29),
        ("0.5GiB", 1 << 29),
        ("64mb", 64 << 20),
        ("1e9", 10**9),
        (" 100000 ", 100000),
        ("2 G", 2 << 30),
        ("1T", 1 << 40),
        ("10k", 10240),
        ("5B", 5),
    ],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "0", "-5M", "1.2.3G", "5X", "five", "512MM", "nan"])
def test_what_is_no_size(text):
    with pytest.raises(ConfigError, match=r"--mem-limit .* is not a size"):
        parse_size(text)


def test_values_get_their_kind():
    assert parse_value(KEYWORDS["DETECT_MINAREA"], ["7"]) == 7
    assert parse_value(KEYWORDS["DETECT_MINAREA"], ["5.7"]) == 5
    assert parse_value(KEYWORDS["GAIN"], ["1e3"]) == 1000.0
    assert [parse_value(KEYWORDS["CLEAN"], [t]) for t in ("Y", "n", "Yes", "NO")] == [True, False, True, False]
    assert parse_value(KEYWORDS["MASK_TYPE"], ["blank"]) == "BLANK"
    assert parse_value(KEYWORDS["BACK_SIZE"], ["64", "32"]) == (64, 32)
    assert parse_value(KEYWORDS["CHECKIMAGE_TYPE"], ["-background", "OBJECTS"]) == ("-BACKGROUND", "OBJECTS")
    assert parse_value(KEYWORDS["FILTER_THRESH"], []) == ()
    assert parse_value(KEYWORDS["CATALOG_NAME"], ["a.cat", "name"]) == "a.cat"


@pytest.mark.parametrize(
    ("name", "members", "said"),
    [
        ("DETECT_MINAREA", ["0"], "out of its range 1 to 1e"),
        ("DETECT_MINAREA", ["abc"], "not a number"),
        ("DETECT_MINAREA", [], "has no value"),
        ("DETECT_MINAREA", ["nan"], "out of its range"),
        ("DEBLEND_NTHRESH", ["65"], "out of its range 1 to 64"),
        ("CLEAN", ["true"], "must be Y or N"),
        ("MASK_TYPE", ["CORECT"], "did you mean CORRECT"),
        ("BACK_SIZE", ["1", "2", "3"], "has 3 values, it takes 1 to 2"),
        ("PHOT_AUTOPARAMS", ["2.5"], "has 1 value, it takes 2"),
        ("PHOT_APERTURES", [], "has no value, it takes"),
        ("PHOT_FLUXFRAC", ["1.5"], "out of its range"),
        ("CATALOG_TYPE", ["FITS_TPX"], "not built yet; built are NONE, ASCII"),
        ("CHECKIMAGE_TYPE", ["MODELS"], "not built yet"),
        ("MEM_LIMIT", ["lots"], "'lots' is not a size"),
    ],
)
def test_wrong_values_name_the_keyword(name, members, said):
    with pytest.raises(ConfigError, match=rf"{name}.*{said}") as caught:
        parse_value(KEYWORDS[name], members, "a.sex, line 3")
    if name != "MEM_LIMIT":
        assert "a.sex, line 3" in str(caught.value)


def test_nearest_names():
    assert nearest("DETECT_TRESH", KEYWORDS) == " (did you mean DETECT_THRESH or DETECT_TYPE?)"
    assert nearest("x_image", ["X_IMAGE"]) == " (did you mean X_IMAGE?)"
    assert nearest("QQQQ", KEYWORDS) == ""


def test_a_format_that_registered_may_be_chosen(monkeypatch):
    assert offered("CATALOG_TYPE") >= {"ASCII", "FITS_LDAC"}
    assert offered("CHECKIMAGE_TYPE") >= {"OBJECTS"}
    assert not offered("CLEAN")
    monkeypatch.setitem(CATALOGUES._entries, "PARQUET", no_catalogue)
    assert parse_value(KEYWORDS["CATALOG_TYPE"], ["parquet"]) == "PARQUET"
