"""From files and command line to Settings."""

import io
import pickle

import numpy as np
import pytest

from sextract.config.keywords import KEYWORDS
from sextract.config.outputs import stem_of
from sextract.config.resolve import SHARE, Options, check_columns, settings_from
from sextract.config.settings import Requested
from sextract.errors import ConfigError
from sextract.log import Reporter


@pytest.fixture
def make(tmp_path):
    """Settings for ``im.fits`` in a folder of its own, and the log."""
    (tmp_path / "cols.param").write_text("NUMBER\nX_IMAGE\nFLUX_APER(3)\n")

    def run(*keywords, sex=None, default=None, image="im.fits", columns="cols.param", **options):
        if sex is not None:
            (tmp_path / "my.sex").write_text(sex)
            options["config"] = "my.sex"
        if default is not None:
            (tmp_path / "default.sex").write_text(default)
        pairs = tuple(zip(keywords[::2], keywords[1::2], strict=True))
        pairs = (("PARAMETERS_NAME", columns), *pairs) if columns else pairs
        log = io.StringIO()
        settings = settings_from(image, Options(keywords=pairs, **options), Reporter(stream=log), tmp_path)
        return settings, log.getvalue()

    return run


def test_built_in_defaults_are_sextractors(make):
    s, _ = make(columns=None)
    assert (s.detection.minarea, s.detection.maxarea, s.detection.thresh_type) == (5, 0, "RELATIVE")
    assert s.detection.detect_thresh == s.detection.analysis_thresh == (1.5,)
    assert (s.deblending.nthresh, s.deblending.mincont) == (32, 0.005)
    assert (s.deblending.clean, s.deblending.clean_param) == (True, 1.0)
    assert (s.deblending.clean_reach_rows, s.deblending.max_footprint_px) == (1024, 1_000_000)
    b = s.background
    assert (b.type, b.value, b.size, b.filter_size, b.filter_thresh, b.pearson) == ("AUTO", 0, (64, 64), (3, 3), 0, 2.5)
    p = s.photometry
    assert (p.autoparams, p.petroparams, p.autoapers, p.fluxfrac) == ((2.5, 3.5), (2.0, 3.5), (0.0, 0.0), (0.5,))
    assert (p.satur_level, p.satur_key, p.mag_zeropoint) == (50000.0, "SATURATE", 0.0)
    assert (p.gain, p.gain_key, p.pixel_scale, p.seeing_fwhm) == (0.0, "GAIN", 1.0, 1.2)
    assert (p.mask_type, p.backphoto_type, p.backphoto_thick) == ("CORRECT", "GLOBAL", 24)
    assert s.output.checkimages == ()
    assert s.verbose == "NORMAL"


def test_the_package_brings_columns_apertures_and_the_pyramid(make):
    s, log = make(columns=None)
    assert Requested("FLUX_APER", (3,)) in s.output.columns
    assert s.photometry.apertures == (5.0, 10.0, 20.0)
    assert dict(s.keywords)["PHOT_APERTURES"] == "5,10,20"
    pyramid = np.float32([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    np.testing.assert_array_equal(s.detection.kernel, pyramid)
    assert s.detection.kernel_name.endswith("default.conv")
    assert "default.param of the package" in log
    assert "default.conv of the package" in log
    assert "WARNING" not in log


def test_apertures_that_are_set_stay(make):
    s, log = make("PHOT_APERTURES", "7", columns=None)
    assert s.photometry.apertures == (7.0,)
    assert "PHOT_APERTURES has 1 values, too few for FLUX_APER, FLUXERR_APER, MAG_APER, MAGERR_APER" in log


def test_the_last_setting_wins_and_the_command_line_over_all(make):
    s, _ = make("GAIN", "4", sex="GAIN 1\nSATUR_LEVEL 1\nSATUR_LEVEL 2\nGAIN 3\n")
    assert (s.photometry.gain, s.photometry.satur_level) == (4.0, 2.0)


def test_default_sex_of_the_folder_is_read_and_named(make):
    s, log = make(default="DETECT_MINAREA 3\n")
    assert s.detection.minarea == 3
    assert "Configuration: default.sex (found in the current folder)" in log


def test_minus_c_comes_before_default_sex(make):
    s, log = make(default="DETECT_MINAREA 3\n", sex="GAIN 2\n")
    assert s.detection.minarea == 5
    assert "Configuration: my.sex\n" in log


def test_a_missing_configuration_file(make):
    with pytest.raises(ConfigError, match=r"-c: can't read .*none\.sex"):
        make(config="none.sex")


def test_files_of_the_folder_come_before_the_packages(make, tmp_path):
    (tmp_path / "default.conv").write_text("CONV NONORM\n1 2 3\n")
    s, log = make()
    np.testing.assert_array_equal(s.detection.kernel, [[1, 2, 3]])
    assert not s.detection.kernel_normed
    assert "default.conv of the package" not in log


def test_no_filter_looks_for_no_kernel(make):
    s, _ = make("FILTER", "N", "FILTER_NAME", "nowhere.conv")
    assert s.detection.kernel is None
    with pytest.raises(
        ConfigError, match=r"FILTER_NAME: there is no file nowhere.conv, neither here nor in the package"
    ):
        make("FILTER_NAME", "nowhere.conv")


@pytest.mark.parametrize(
    ("options", "sex", "keywords", "expected"),
    [
        ({}, None, (), ("im.cat.fits", "FITS_1.0")),
        ({}, "", (), ("test.cat", "ASCII_HEAD")),
        ({}, "CATALOG_NAME a.fits\n", (), ("a.fits", "ASCII_HEAD")),
        ({}, None, ("CATALOG_NAME", "a.cat"), ("a.cat", "ASCII_HEAD")),
        ({}, None, ("CATALOG_NAME", "a.fits"), ("a.fits", "FITS_1.0")),
        ({}, None, ("CATALOG_NAME", "STDOUT"), ("STDOUT", "ASCII_HEAD")),
        ({}, None, ("CATALOG_TYPE", "FITS_LDAC"), ("im.cat.fits", "FITS_LDAC")),
        ({}, "CATALOG_TYPE FITS_LDAC", ("CATALOG_NAME", "{stem}.x"), ("im.x", "FITS_LDAC")),
        ({"output": "o.fits"}, None, ("CATALOG_NAME", "a.cat"), ("o.fits", "FITS_1.0")),
        ({"output": "o/{stem}.cat"}, "CATALOG_NAME a.cat\n", (), ("o/im.cat", "ASCII_HEAD")),
    ],
)
def test_where_the_catalogue_goes(make, options, sex, keywords, expected):
    s, _ = make(*keywords, sex=sex, **options)
    assert (s.output.catalog_name, s.output.catalog_type) == expected
    assert (dict(s.keywords)["CATALOG_NAME"], dict(s.keywords)["CATALOG_TYPE"]) == expected


@pytest.mark.parametrize(
    ("image", "stem"),
    [
        ("a/b.fits", "b"),
        ("b.fits.fz[2]", "b"),
        ("b.c.fit[SCI,1]", "b.c"),
        ("b.FTS.gz", "b"),
        ("b", "b"),
        (".fits", "image"),
    ],
)
def test_stems(image, stem):
    assert stem_of(image) == stem


def test_fits_to_stdout_is_refused(make):
    with pytest.raises(ConfigError, match="CATALOG_NAME STDOUT takes CATALOG_TYPE ASCII"):
        make("CATALOG_NAME", "STDOUT", "CATALOG_TYPE", "FITS_1.0")


def test_check_images_pair_types_with_names(make):
    s, _ = make("CHECKIMAGE_TYPE", "SEGMENTATION,NONE,-BACKGROUND", "CHECKIMAGE_NAME", "{stem}.seg,b,c.fits")
    assert s.output.checkimages == (("SEGMENTATION", "im.seg"), ("-BACKGROUND", "c.fits"))
    with pytest.raises(ConfigError, match="CHECKIMAGE_TYPE has 2 members and CHECKIMAGE_NAME 1"):
        make("CHECKIMAGE_TYPE", "SEGMENTATION,NONE", "CHECKIMAGE_NAME", "a")


def test_outputs_may_not_overwrite_each_other_or_the_image(make, tmp_path):
    (tmp_path / "im.fits").touch()
    with pytest.raises(ConfigError, match=r"CHECKIMAGE_NAME .*a.fits would be written twice"):
        make("CATALOG_NAME", "a.fits", "CHECKIMAGE_TYPE", "OBJECTS", "CHECKIMAGE_NAME", "./a.fits")
    for image in ("im.fits", "im.fits[1]", "./im.fits"):
        with pytest.raises(ConfigError, match=r"CATALOG_NAME im.fits is the image itself"):
            make("CATALOG_NAME", "im.fits", image=image)


def test_no_catalogue_needs_no_columns(make):
    s, log = make("CATALOG_TYPE", "NONE", columns="none.param")
    assert s.output.columns == ()
    assert "nothing will be written" in log


def test_unknown_keywords_warn_in_a_file_and_stop_elsewhere(make):
    s, log = make(sex="PSFDISPLAY_TYPE SPLIT\nDETECT_MINARE 9\nGAIN 2\n")
    assert s.photometry.gain == 2.0
    assert "> WARNING: PSFDISPLAY_TYPE is not a keyword (my.sex, line 1); it is ignored" in log
    assert "DETECT_MINARE is not a keyword (did you mean DETECT_MINAREA" in log
    with pytest.raises(ConfigError, match=r"PSFDISPLAY_TYPE.*DETECT_MINARE"):
        make(sex="PSFDISPLAY_TYPE SPLIT\nDETECT_MINARE 9\n", strict=True)
    with pytest.raises(ConfigError, match="DETECT_MINARE is not a keyword"):
        make("DETECT_MINARE", "9")


def test_what_is_not_built_is_named_in_one_warning(make):
    text = "WEIGHT_TYPE MAP_RMS\nWEIGHT_IMAGE rms.fits\nWRITE_XML Y\nHEADER_SUFFIX .ahead\nPSF_NMAX 99\n"
    _, log = make(sex=text)
    warnings = [line for line in log.splitlines() if "WARNING" in line and "PHOT_APERTURES" not in line]
    assert warnings == [
        "> WARNING: not built yet, so without effect: WEIGHT_TYPE MAP_RMS, WEIGHT_IMAGE rms.fits, "
        "HEADER_SUFFIX .ahead, WRITE_XML Y, PSF_NMAX 99"
    ]


def test_defaults_of_what_is_not_built_are_no_reason_to_warn(make):
    text = "".join(f"{k.name} {k.default}\n" for k in KEYWORDS.values() if not k.built)
    text += "WEIGHT_TYPE NONE, NONE\nWEIGHT_IMAGE mine.fits\nWEIGHT_THRESH 0.1\nXML_NAME a.xml\n"
    _, log = make("PHOT_APERTURES", "1,2,3", sex=text)
    assert "WARNING" not in log


def test_memory_stacks_are_one_line(make):
    _, log = make(sex="MEMORY_PIXSTACK 9000000\nMEMORY_OBJSTACK lots\nNTHREADS 4\n")
    assert log.count("MEMORY_PIXSTACK") == 1
    assert "MEMORY_OBJSTACK, MEMORY_PIXSTACK, NTHREADS" in log


def test_oddities_that_cannot_be_restored_are_told(make):
    s, log = make(sextractor_bugs=frozenset({"all"}))
    assert s.sextractor_bugs == {"all"}
    assert "--sextractor-bugs is without effect" in log


def test_an_external_header_that_is_not_read_is_told(make, tmp_path):
    (tmp_path / "im.head").touch()
    assert "external header" in make()[1]
    assert "external header" in make(image="im.fits[2]")[1]


def test_wrong_columns_come_all_at_once(make, tmp_path):
    (tmp_path / "bad.param").write_text("NUMBER\nX_IMAG\nFLUX_PSF\nFOOBAR(2)\nMAG_MODEL\n")
    with pytest.raises(ConfigError) as caught:
        make(columns="bad.param")
    said = str(caught.value)
    assert said.startswith("PARAMETERS_NAME: ")
    assert "X_IMAG (did you mean X_IMAGE" in said
    assert "FOOBAR;" in said
    assert said.endswith("in SExtractor, but not built yet: FLUX_PSF, MAG_MODEL")


def test_columns_are_checked_by_what_is_built():
    check_columns([Requested("A"), Requested("B")], {"A", "B"}.__contains__, ["A", "B"], "p")
    with pytest.raises(ConfigError, match=r"p asks for columns .* unknown: FLUXY .did you mean FLUXX"):
        check_columns([Requested("FLUXY")], {"FLUXX"}.__contains__, ["FLUXX"], "p")


def test_a_size_on_a_scalar_is_told_and_dropped(make, tmp_path):
    (tmp_path / "s.param").write_text("X_IMAGE(3)\n")
    s, log = make(columns="s.param")
    assert s.output.columns == (Requested("X_IMAGE"),)
    assert "one value a source" in log


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        (("BACK_TYPE", "MANUAL", "BACK_VALUE", "10"), ("MANUAL", 10.0)),
        (("BACK_TYPE", "AUTO,MANUAL", "BACK_VALUE", "10,20"), ("MANUAL", 10.0)),
        (("BACK_TYPE", "AUTO"), ("AUTO", 0.0)),
    ],
)
def test_background_pairs_as_sextractor_takes_them_for_one_image(make, keywords, expected):
    b = make(*keywords)[0].background
    assert (b.type, b.value) == expected


def test_sizes_are_width_and_height(make):
    b = make("BACK_SIZE", "32,64", "BACK_FILTERSIZE", "5")[0].background
    assert (b.size, b.filter_size) == ((32, 64), (5, 5))


def test_relative_thresholds_are_above_zero(make):
    with pytest.raises(ConfigError, match="ANALYSIS_THRESH is 0 sigma"):
        make("ANALYSIS_THRESH", "0")
    assert make("DETECT_THRESH", "24.5,30")[0].detection.detect_thresh == (24.5, 30.0)


def test_resources_by_option_keyword_and_machine(make):
    s, log = make(mem_limit="300M", workers=0, scratch_dir="tmp", tile_shape=(97, 300))
    r = s.resources
    assert (r.mem_limit_bytes, r.workers, r.scratch_dir, r.tile_shape) == (300 << 20, 0, "tmp", (97, 300))
    assert "Memory limit: 300 MiB (--mem-limit); workers: 0 (--workers)" in log
    s, log = make(sex="MEM_LIMIT 1G\nWORKERS 3\nSCRATCH_DIR /s\n")
    assert (s.resources.mem_limit_bytes, s.resources.workers, s.resources.scratch_dir) == (1 << 30, 3, "/s")
    assert "(MEM_LIMIT)" in log
    s, _ = make()
    assert s.resources.mem_limit_bytes > 0
    assert s.resources.workers >= 1


def test_what_is_counted_and_reported(make):
    r = make()[0].resources
    assert (r.account, r.mem_report) == ("pss", ())
    r = make(account="rss", mem_report=("a.json", "{stem}.HTML"))[0].resources
    assert (r.account, r.mem_report) == ("rss", ("a.json", "im.HTML"))
    sex = "MEM_ACCOUNT rss\nMEM_REPORT a.csv,b.png\n"
    r = make(sex=sex)[0].resources
    assert (r.account, r.mem_report) == ("rss", ("a.csv", "b.png"))
    r = make(sex=sex, account="pss", mem_report=("c.csv",))[0].resources
    assert (r.account, r.mem_report) == ("pss", ("c.csv",))
    with pytest.raises(ConfigError, match=r"--mem-report c\.txt: the name must end in \.html"):
        make(mem_report=("c.txt",))
    with pytest.raises(ConfigError, match="MEM_ACCOUNT is 'USS'"):
        make("MEM_ACCOUNT", "uss")


def test_the_effective_configuration_holds_no_resources(make):
    one, _ = make(mem_limit="300M", workers=1)
    two, _ = make("MEMORY_BUFSIZE", "99", "VERBOSE_TYPE", "FULL", sex=None, mem_limit="2G", workers=7)
    assert one.keywords == two.keywords
    names = [name for name, _ in one.keywords]
    assert "DETECT_THRESH" in names
    assert not {"MEM_LIMIT", "WORKERS", "MEMORY_PIXSTACK", "VERBOSE_TYPE", "SCRATCH_DIR"} & set(names)
    assert not {"MEM_ACCOUNT", "MEM_REPORT"} & set(names)


def test_the_network_is_looked_for_only_with_class_star(make, tmp_path):
    assert make()[0].photometry.starnnw_name == "default.nnw"
    (tmp_path / "star.param").write_text("CLASS_STAR\n")
    with pytest.raises(ConfigError, match=r"STARNNW_NAME: there is no file default\.nnw.*CLASS_STAR needs"):
        make(columns="star.param")
    (tmp_path / "default.nnw").write_text("NNW\n")
    assert make(columns="star.param")[0].photometry.starnnw_name == str(tmp_path / "default.nnw")


def test_verbosity_is_known_before_anything_is_said(make):
    assert make("VERBOSE_TYPE", "QUIET", sex="FOO 1\n")[1] == ""


def test_settings_cross_processes(make):
    s, _ = make()
    again = pickle.loads(pickle.dumps(s))
    assert again.output == s.output
    assert again.keywords == s.keywords
    np.testing.assert_array_equal(again.detection.kernel, s.detection.kernel)


def test_every_keyword_that_changes_answers_is_in_the_record(make):
    s, _ = make()
    assert [n for n, _ in s.keywords] == [k.name for k in KEYWORDS.values() if not k.role]
    assert SHARE.is_dir()
