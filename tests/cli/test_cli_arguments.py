"""How the command line is split, and what it answers before any pixel is read."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import sextract
from sextract.cli import main, only_image, parse_tile_shape, split_arguments
from sextract.config.dump import dump_columns, dump_configuration
from sextract.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_public_face():
    assert sextract.__all__ == ["Settings", "__version__", "extract"]
    assert all(hasattr(sextract, name) for name in sextract.__all__)


def test_importing_the_command_line_stays_light():
    code = "import sextract.cli, sys; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"numpy", "astropy", "scipy", "tqdm", "fitsio", "multiprocessing"} & set(run.stdout.split())


def test_keywords_and_options_mix():
    line = "-c a.sex im.fits -BACK_SIZE 64,32 --mem-limit 512M -detect_thresh 2 --strict -o out.fits"
    rest, keywords = split_arguments(line.split())
    assert " ".join(rest) == "-c a.sex im.fits --mem-limit 512M --strict -o out.fits"
    assert keywords == [("BACK_SIZE", "64,32"), ("DETECT_THRESH", "2")]


def test_values_may_begin_with_a_dash():
    rest, keywords = split_arguments(
        ["-BACK_VALUE", "-5", "-CHECKIMAGE_TYPE", "-BACKGROUND", "-ASSOCSELEC_TYPE", "-MATCHED"]
    )
    assert rest == []
    assert keywords == [("BACK_VALUE", "-5"), ("CHECKIMAGE_TYPE", "-BACKGROUND"), ("ASSOCSELEC_TYPE", "-MATCHED")]


def test_what_follows_an_option_is_its_value():
    assert split_arguments(["-c", "-GAIN"]) == (["-c", "-GAIN"], [])
    assert split_arguments(["--mem-limit=1G", "-o"]) == (["--mem-limit=1G", "-o"], [])


def test_options_whose_value_is_optional_do_not_eat_the_image():
    assert split_arguments(["--sextractor-bugs", "im.fits"]) == (["--sextractor-bugs=all", "im.fits"], [])
    assert split_arguments(["--estimate", "im.fits"]) == (["--estimate=text", "im.fits"], [])
    assert split_arguments(["--estimate=json", "im.fits"]) == (["--estimate=json", "im.fits"], [])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-BACK_SZE", "64"], "-BACK_SZE is neither an option nor a keyword .did you mean BACK_SIZE"),
        (["-x"], "-x is neither"),
        (["-FILTER", "-GAIN", "3"], "-FILTER has no value .before -GAIN"),
        (["-FILTER", "--strict"], "-FILTER has no value"),
        (["-FILTER"], "-FILTER has no value"),
    ],
)
def test_wrong_keywords(words, said):
    with pytest.raises(ConfigError, match=said):
        split_arguments(words)


def test_one_image_or_a_batch(here):
    assert only_image(["a"], False) == "a"
    assert only_image(["a", "b", "c"], False) is None
    assert only_image(["a"], True) is None
    assert only_image(["a", "b"], True) is None
    assert only_image(["@list.txt"], False) is None
    (here / "@odd.fits").touch()
    assert only_image(["@odd.fits"], False) == "@odd.fits"


def test_two_images_name_both_spellings():
    with pytest.raises(ConfigError, match=r"write a,b\).*write --batch a b"):
        only_image(["a", "b"], False)


def test_pairs_are_not_built_but_names_with_commas_are_taken(here):
    with pytest.raises(ConfigError, match=r"a\.fits,b\.fits: detection and measurement .* not built"):
        only_image(["a.fits,b.fits"], False)
    (here / "c,d.fits").touch()
    assert only_image(["c,d.fits"], False) == "c,d.fits"
    assert only_image(["a.fits[SCI,1]"], False) == "a.fits[SCI,1]"


def test_no_image():
    with pytest.raises(ConfigError, match="no image"):
        only_image([], True)


def test_tile_shapes():
    whole = parse_tile_shape("whole")[0]
    assert whole > 10**9
    assert parse_tile_shape("512x300") == (512, 300)
    assert parse_tile_shape("97") == (97, whole)
    assert parse_tile_shape("wholex64") == (whole, 64)
    for text in ("0", "1x2x3", "x5", "axb", "-3"):
        with pytest.raises(ConfigError, match="--tile-shape"):
            parse_tile_shape(text)


@pytest.mark.parametrize(
    ("words", "out"),
    [
        ([], "sextract IMAGE [-c FILE.sex]"),
        (["-h"], "--mem-limit SIZE"),
        (["--help"], "-KEYWORD VALUE"),
        (["-v"], f"sextract {sextract.__version__}\n"),
        (["--version"], f"sextract {sextract.__version__}\n"),
    ],
)
def test_it_answers_on_stdout(cli, words, out):
    done = cli(*words)
    assert (done.code, done.err) == (0, "")
    assert out in done.out


def test_dumps(capsys):
    for option, text in (("-d", dump_configuration(False)), ("-dd", dump_configuration(True)), ("-dp", dump_columns())):
        assert main([option]) == 0
        seen = capsys.readouterr()
        assert (seen.out, seen.err) == (text, "")


def test_a_reader_that_leaves_is_no_traceback():
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stdout:
        run = subprocess.run(
            [sys.executable, "-m", "sextract", "-dp"],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            cwd=ROOT,
        )
    assert run.returncode == 1
    assert run.stderr == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["im.fits", "-FOO", "1"], "-FOO is neither"),
        (["im.fits", "--nope"], "unrecognized arguments: --nope"),
        (["im.fits", "--mem-limit"], "expected one argument"),
        (["im.fits", "--mem-limit", "little"], "--mem-limit 'little' is not a size"),
        (["im.fits", "--workers", "-1"], "--workers"),
        (["im.fits", "--workers", "many"], "--workers 'many'"),
        (["im.fits", "--tile-shape", "no"], "--tile-shape 'no'"),
        (["im.fits", "--provenance", "some"], "--provenance"),
        (["im.fits", "-c", "none.sex"], "-c: can't read none.sex"),
        (["im.fits", "-PARAMETERS_NAME", "none.param"], "PARAMETERS_NAME: there is no file none.param"),
        (
            ["im.fits", "-FILTER_NAME", "cols.param", "-PARAMETERS_NAME", "cols.param"],
            "FILTER_NAME: cols.param is not a",
        ),
        (["im.fits", "-PARAMETERS_NAME", "bad.param"], "unknown: NUMBR .did you mean NUMBER"),
        (["im.fits", "-DETECT_MINAREA", "0"], "DETECT_MINAREA is 0, out of its range"),
        (["im.fits", "-PHOT_APERTURES", "5,", "10"], "comma with nothing after it"),
        (["a.fits", "b.fits"], "two images"),
        (["a.fits,b.fits"], "not built yet"),
        (
            ["--batch", "a.fits", "b.fits", "-CATALOG_NAME", "x.cat"],
            "CATALOG_NAME x.cat would be written for a.fits and for",
        ),
        (["--batch", "a.fits", "a.fits"], "would be written for a.fits and for image 2, which is the same"),
        (["--batch", "a.fits", "n/a.fits"], "CATALOG_NAME a.cat.fits would be written for a.fits and for n/a.fits"),
        (["a.fits", "b.fits", "c.fits", "-c", "empty.sex"], "put {stem}, {folder} or {number} in the name"),
        (["--batch"], "no image"),
        (["@none.txt"], "can't read the list of images none.txt"),
        (["a.fits", "b.fits", "c.fits", "--shard", "3/2"], "--shard '3/2' is not K/N"),
        (["a.fits", "b.fits", "c.fits", "--engine", "punch-cards"], "--engine punch-cards is not known; choose one of"),
        (["im.fits", "--strict", "-c", "odd.sex"], "PSFDISPLAY_TYPE is not a keyword"),
    ],
)
def test_wrong_usage_is_code_2_and_one_line(here, capsys, words, said):
    (here / "cols.param").write_text("NUMBER\n")
    (here / "bad.param").write_text("NUMBR\n")
    (here / "empty.sex").write_text("")
    (here / "odd.sex").write_text("PSFDISPLAY_TYPE SPLIT\n")
    before = sorted(here.iterdir())
    assert main(words) == 2
    seen = capsys.readouterr()
    errors = [line for line in seen.err.splitlines() if line.startswith("> *ERROR*: ")]
    assert len(errors) == 1
    assert said.replace(" .did", " (did") in errors[0]
    assert "Traceback" not in seen.err
    assert seen.out == ""
    assert sorted(here.iterdir()) == before


def test_quiet_prints_errors_only(here, capsys):
    (here / "cols.param").write_text("NUMBER\n")
    words = ["im.fits", "-VERBOSE_TYPE", "QUIET", "-PARAMETERS_NAME", "cols.param", "-FILTER_NAME", "none"]
    assert main(words) == 2
    assert capsys.readouterr().err == "> *ERROR*: FILTER_NAME: there is no file none, neither here nor in the package\n"


def test_images_that_are_missing(here, capsys):
    pytest.importorskip("sextract.pipeline", reason="there is no pipeline to look for them")
    (here / "cols.param").write_text("NUMBER\n")
    words = ["-PARAMETERS_NAME", "cols.param", "--workers", "0"]
    assert main(["none.fits", *words]) == 3
    assert "none.fits" in capsys.readouterr().err
    assert main(["--batch", "none.fits", "nor.fits", *words]) == 10
    said = capsys.readouterr().err
    assert "2 of 2 images failed" in said
    assert "> *ERROR*: none.fits, nor.fits: can't open the image: No such file or directory" in said
    assert sorted(p.name for p in here.iterdir()) == ["cols.param", "sextract.manifest"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_signals_end_with_75(here, number):
    # The list of images is a pipe that nobody writes to: the run waits in it until the signal comes.
    os.mkfifo(here / "list")
    writer = os.open(here / "list", os.O_RDWR)
    run = subprocess.Popen(
        [sys.executable, "-m", "sextract", f"@{here / 'list'}"], stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    deadline = time.monotonic() + 10
    while "SIGUSR1" not in caught(run.pid) and time.monotonic() < deadline:
        os.sched_yield()
    run.send_signal(number)
    _, err = run.communicate(timeout=20)
    os.close(writer)
    assert run.returncode == 75
    assert err.startswith(f"> *ERROR*: stopped by {number.name}")
    assert err.count("\n") == 1


def caught(pid):
    """Names of the signals that a process handles."""
    with open(f"/proc/{pid}/status") as status:
        mask = next(int(line.split()[1], 16) for line in status if line.startswith("SigCgt"))
    return {s.name for s in signal.Signals if mask >> (s - 1) & 1}
