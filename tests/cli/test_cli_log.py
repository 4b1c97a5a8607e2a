"""Lines and progress."""

import io

from sextract.cli import _bug
from sextract.log import LINE_SECONDS, Reporter


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_lines_follow_verbose_type():
    said = {}
    for verbose in ("QUIET", "NORMAL", "EXTRA_WARNINGS", "FULL"):
        stream = io.StringIO()
        r = Reporter(verbose, stream)
        r.info("i")
        r.detail("d")
        r.warning("w")
        r.error("e")
        said[verbose] = stream.getvalue().splitlines()
    assert said["QUIET"] == ["> *ERROR*: e"]
    assert said["NORMAL"] == said["EXTRA_WARNINGS"] == ["i", "> WARNING: w", "> *ERROR*: e"]
    assert said["FULL"] == ["i", "d", "> WARNING: w", "> *ERROR*: e"]


def test_a_batch_log_gets_a_line_now_and_then():
    clock, stream = Clock(), io.StringIO()
    with Reporter("NORMAL", stream, clock).progress(100, "Scan", "rows") as bar:
        for _ in range(50):
            clock.now += LINE_SECONDS / 10
            bar.advance(1)
    assert stream.getvalue().splitlines() == [
        f"Scan: {10 * i} % in {10 * i} s, about {100 - 10 * i} s left" for i in range(1, 6)
    ]
    assert "\x1b" not in stream.getvalue() and "\r" not in stream.getvalue()


def test_quiet_shows_no_progress():
    clock, stream = Clock(), Terminal()
    with Reporter("QUIET", stream, clock).progress(2) as bar:
        clock.now += 100
        bar.advance(1)
    assert stream.getvalue() == ""


def test_a_terminal_gets_a_bar_and_lines_above_it():
    import threading

    stream = Terminal()
    reporter = Reporter("NORMAL", stream)
    before = threading.active_count()
    with reporter.progress(4, "Scan", "rows") as bar:
        bar.advance(4)
        reporter.info("Objects: 3")
        assert threading.active_count() == before
    reporter.info("done")
    text = stream.getvalue()
    assert "Scan" in text
    assert "Objects: 3\n" in text
    assert text.endswith("done\n")


def test_a_closed_stderr_loses_nothing_but_lines():
    stream = io.StringIO()
    stream.close()
    Reporter("NORMAL", stream).info("x")


def test_what_nobody_foresaw_is_one_line_and_a_traceback_on_request():
    for verbose, lines in (("NORMAL", 1), ("QUIET", 1), ("FULL", 5)):
        stream = io.StringIO()
        try:
            {}["two\nlines"]
        except KeyError as exc:
            assert _bug(exc, Reporter(verbose, stream)) == 1
        said = stream.getvalue().splitlines()
        assert said[-1].startswith("> *ERROR*: KeyError: ")
        assert "this is a bug" in said[-1]
        assert len(said) >= lines
        assert ("Traceback" in stream.getvalue()) == (verbose == "FULL")
