"""The parsers of .sex, .param, .conv and .nnw text."""

import numpy as np
import pytest

from sextract.config.settings import Requested
from sextract.config.sexfile import parse_conv, parse_nnw, parse_param, parse_sex, read_text
from sextract.errors import ConfigError, InputError


def values(text, **environ):
    return [(s.keyword, s.members) for s in parse_sex(text, "a.sex", environ)]


@pytest.mark.parametrize(
    "line",
    [
        "PHOT_APERTURES 5,10",
        "PHOT_APERTURES = 5,10",
        "PHOT_APERTURES=5, 10",
        "PHOT_APERTURES= 5;10",
        "PHOT_APERTURES 5 10",
        "phot_apertures\t5 , 10 # diameters",
        "  PHOT_APERTURES 5,10# none",
        'PHOT_APERTURES "5" 10\r',
    ],
)
def test_one_setting_written_in_many_ways(line):
    assert values(line) == [("PHOT_APERTURES", ("5", "10"))]


def test_comments_and_blank_lines_hold_nothing():
    assert values("# CATALOG_NAME a\n\n   # b\n\t\n") == []


def test_order_and_line_numbers_are_kept():
    found = parse_sex("GAIN 1\n#\nGAIN 2\n", "my.sex", {})
    assert [s.members for s in found] == [("1",), ("2",)]
    assert found[1].where == "my.sex, line 3"


def test_a_keyword_without_value_has_no_members():
    assert values("FILTER_THRESH   # none") == [("FILTER_THRESH", ())]


def test_quotes_keep_blanks_and_hashes():
    assert values('CATALOG_NAME "my cat#1.fits"') == [("CATALOG_NAME", ("my cat#1.fits",))]


def test_variables_are_expanded():
    assert values("FILTER_NAME $DIR/${NAME}.conv", DIR="/a", NAME="b") == [("FILTER_NAME", ("/a/b.conv",))]
    assert values("PHOT_APERTURES $AP", AP="5,10") == [("PHOT_APERTURES", ("5", "10"))]


def test_a_variable_in_a_comment_is_not_looked_up():
    assert values("GAIN 1 # $NOPE") == [("GAIN", ("1",))]


def test_an_unset_variable_is_an_error():
    with pytest.raises(ConfigError, match=r"NOPE is not set \(a.sex, line 2\)"):
        values("\nGAIN $NOPE")


@pytest.mark.parametrize("value", ["5,10,", "5, # then\n10", "5;", "5,,10", ",5"])
def test_a_dangling_comma_is_an_error(value):
    with pytest.raises(ConfigError, match=r"comma with nothing .*line 1"):
        values(f"PHOT_APERTURES {value}")


def test_columns_with_and_without_dimensions():
    text = "NUMBER\n#X_IMAGE\n  FLUX_APER(3)  # three\nVIGNET(25,31)\nFLUX_RADIUS[2]\nMAG_APER( 2 )\n\n"
    columns, odd = parse_param(text, "a.param")
    assert columns == [
        Requested("NUMBER"),
        Requested("FLUX_APER", (3,)),
        Requested("VIGNET", (25, 31)),
        Requested("FLUX_RADIUS", (2,)),
        Requested("MAG_APER", (2,)),
    ]
    assert odd == []


def test_a_column_that_comes_twice_is_one_with_the_last_size():
    columns, odd = parse_param("FLUX_APER(1)\nNUMBER\nFLUX_APER(2)", "a.param")
    assert columns == [Requested("FLUX_APER", (2,)), Requested("NUMBER")]
    assert odd == ["FLUX_APER comes twice (a.param, line 3)"]


def test_words_after_a_column_are_told():
    columns, odd = parse_param("NUMBER running number\n", "a.param")
    assert columns == [Requested("NUMBER")]
    assert odd == ["'running number' after NUMBER is ignored (a.param, line 1)"]


@pytest.mark.parametrize(
    "line", ["VIGNET(0)", "VIGNET(2,3,4)", "VIGNET()", "VIGNET(a)", "VIGNET(3", "X_IMAGE,Y_IMAGE", "!"]
)
def test_what_is_no_column_is_refused(line):
    with pytest.raises(ConfigError, match=r"a\.param, line 1"):
        parse_param(line, "a.param")


def test_a_list_without_columns_is_refused():
    with pytest.raises(ConfigError, match=r"PARAMETERS_NAME: a.param names no column"):
        parse_param("# NUMBER\n", "a.param")


def test_norm_divides_by_the_sum_of_absolute_values():
    kernel = parse_conv("CONV NORM\n# hat\n-1 2 -1\n 0 4 0\n", "k")
    assert kernel.normed
    assert kernel.taps.dtype == np.float32
    np.testing.assert_array_equal(kernel.taps, np.array([[-1, 2, -1], [0, 4, 0]], "f4") / np.float32(8))


def test_the_norm_is_summed_in_double_over_float32_taps():
    rows = [[0.1, 0.7, -0.3], [0.9, 1.1, 0.2], [1.3, -0.6, 0.4]]
    kernel = parse_conv("CONV NORM\n" + "\n".join(" ".join(map(str, r)) for r in rows), "k")
    taps = np.float32(rows)
    total = 0.0
    for tap in taps.ravel().tolist():
        total += abs(tap)
    expected = [[float(t) / total for t in row] for row in taps.tolist()]
    np.testing.assert_array_equal(kernel.taps, np.float32(expected))


def test_nonorm_keeps_the_taps_and_commas_separate():
    kernel = parse_conv("CONV NONORM # raw\n1,2\n3,4 # last\n5 6\n", "k")
    assert not kernel.normed
    np.testing.assert_array_equal(kernel.taps, [[1, 2], [3, 4], [5, 6]])


def test_conv_alone_normalises():
    assert parse_conv("CONV\n1 1\n", "k").normed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "first line must be CONV"),
        ("1 2 1\n", "first line must be CONV"),
        ("CONV FOO\n1\n", "first line must be CONV"),
        ("SIMPLE  =  T", "retina"),
        ("CONV NORM\n", "no rows"),
        ("CONV NORM\n1 2\n1\n", "line 3 has 1 numbers, the first row has 2"),
        ("CONV NORM\n1 a\n", "line 2 holds something that is not a number"),
        ("CONV NORM\n1 nan\n", "not a finite"),
        ("CONV NORM\n1 1e60\n", "not a finite"),
        ("CONV NORM\n0 0\n", "all taps are zero"),
        ("CONV NORM\n" + "1 " * 1025, "more than 1024 taps"),
        ("CONV NORM\n" + ("1 " * 32 + "\n") * 33, "more than 1024 taps"),
    ],
)
def test_what_is_no_kernel_names_filter_name(text, said):
    with pytest.raises(ConfigError, match=rf"FILTER_NAME: my.conv is not .*{said}"):
        parse_conv(text, "my.conv")


def test_the_largest_kernel_is_taken():
    assert parse_conv("CONV NORM\n" + ("1 " * 32 + "\n") * 32, "k").taps.shape == (32, 32)


NETWORK = "NNW\n# 2 inputs, 3 neurons, 1 output\n3 2 3 1\n1 2\n3 4\n" + "1 2 3\n4 5 6\n7 8 9\n" + "1 2 3 4\n0.5\n2\n"


def test_a_network_is_cut_into_its_layers():
    net = parse_nnw(NETWORK, "a.nnw")
    np.testing.assert_array_equal(net.in_bias, [1, 2])
    np.testing.assert_array_equal(net.in_scale, [3, 4])
    assert [layer.shape for layer in net.layers] == [(3, 3), (1, 4)]
    np.testing.assert_array_equal(net.layers[0][1], [4, 5, 6])
    np.testing.assert_array_equal(net.layers[1], [[1, 2, 3, 4]])
    assert (net.out_bias.tolist(), net.out_scale.tolist()) == ([0.5], [2.0])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "first line"),
        ("CONV\n1", "first line"),
        ("NNW\n", "number and the sizes"),
        ("NNW\n3 2 3", "number and the sizes"),
        (NETWORK + " 1", "need 19 numbers, it has 20"),
        (NETWORK.replace("0.5", ""), "need 19 numbers, it has 18"),
        (NETWORK.replace("0.5", "x"), "could not convert"),
        (NETWORK.replace("\n2\n", "\n0\n"), "output scale is zero"),
    ],
)
def test_what_is_no_network_names_starnnw_name(text, said):
    with pytest.raises(InputError, match=rf"STARNNW_NAME: a.nnw is not .*{said}"):
        parse_nnw(text, "a.nnw")


def test_files_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "b").write_bytes(b"CONV\0NORM")
    (tmp_path / "big").write_bytes(b" " * (2 << 20))
    (tmp_path / "latin").write_bytes("GAIN 1 # \xe9".encode("latin-1"))
    for name, said in (("b", "not a text file"), ("big", "too large"), ("none", "can't read"), (".", "can't read")):
        with pytest.raises(ConfigError, match=rf"FILTER_NAME: .*{said}"):
            read_text(tmp_path / name, "FILTER_NAME")
    assert parse_sex(read_text(tmp_path / "latin", "-c"), "latin")[0].members == ("1",)
