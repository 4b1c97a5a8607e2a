"""The command line on images that lie on a server or in an object store: as on files, byte for byte."""

from __future__ import annotations

import json
import os
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from astropy.io import fits

from tests.conftest import CommandLine
from tests.faults.harness import Started
from tests.object_server import SIGNATURE, Served
from tests.object_store import credentials, objects, put
from tests.scenes import Scene, script

__all__ = ["objects"]

MIB = 1 << 20
LIMIT = ("--mem-limit", "128M")
OUTPUTS = ("-o", "out.fits", "-CHECKIMAGE_TYPE", "SEGMENTATION", "-CHECKIMAGE_NAME", "seg.fits")
CELESTIAL = {
    "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRPIX1": 350.0, "CRPIX2": 300.0, "CRVAL1": 150.0, "CRVAL2": 2.0,
    "CD1_1": -7e-5, "CD2_2": 7e-5, "CD1_2": 0.0, "CD2_1": 0.0, "GAIN": 2.0, "DATASUM": "2503531142",
}  # fmt: skip

# The command line, but once, when the first tile is to be scanned, something happens.
PROGRAM = """
    import os, signal, sys
    from sextract.__main__ import main
    from sextract.pipeline.stages import Stages

    what, path, other = sys.argv[1:4]
    scan = Stages.scan

    def wrapped(self, payload):
        try:
            os.close(os.open("done", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return scan(self, payload)
        if what == "replaced":
            os.replace(other, path)
        if what == "killed":
            # In the middle of an answer.
            self.image.expect(self.tiles.tile(0, 0))
            self.image.read_into(self.tiles.tile(0, 0)._replace(y1=1), self.floats[: self.tiles.columns][None], self.reading)
            os.kill(os.getpid(), signal.SIGKILL)
        return scan(self, payload)

    Stages.scan = wrapped
    sys.argv[1:] = sys.argv[4:]
    sys.exit(main())
"""


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """A server that has ``field.fits``."""
    folder = tmp_path / "served"
    folder.mkdir()
    Scene(600, 700, seed=5).scatter(150, margin=5).write(folder / "field.fits", header=CELESTIAL)
    with Served(folder) as served:
        yield served


def outputs(folder: Path) -> list[bytes]:
    """What a run wrote."""
    return [(folder / name).read_bytes() for name in ("out.fits", "seg.fits")]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["plain", "whole", "broken"])
def test_the_bytes_of_a_file(cli: CommandLine, server: Served, tmp_path: Path, kind: str, workers: int) -> None:
    options = (*OUTPUTS, *LIMIT, "--workers", workers)
    for image, name in ((server.folder / "field.fits", "local"), (server.url(kind, "field.fits"), "remote")):
        (tmp_path / name).mkdir()
        run = cli(image, *options, cwd=tmp_path / name, watched=True)
        assert run.code == 0, run.err
        assert run.samples and run.peak <= 128 * MIB
    assert outputs(tmp_path / "remote") == outputs(tmp_path / "local")


@pytest.mark.parametrize("workers", [0, 2])
def test_the_bytes_of_a_file_from_an_object_store(
    cli: CommandLine, server: Served, objects: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    for name, value in credentials(objects).items():
        monkeypatch.setenv(name, value)
    put(objects, "night/2026/field.fits", (server.folder / "field.fits").read_bytes())
    for image, name in ((server.folder / "field.fits", "local"), ("s3://night/2026/field.fits", "remote")):
        (tmp_path / name).mkdir()
        run = cli(f"{image}[0]", *OUTPUTS, *LIMIT, "--workers", workers, cwd=tmp_path / name, watched=True)
        assert run.code == 0, run.err
        assert run.samples and run.peak <= 128 * MIB
    assert outputs(tmp_path / "remote") == outputs(tmp_path / "local")
    run = cli("s3://night/2026/field.fits", "--mem-limit", "80M")
    assert (run.code, run.made) == (5, frozenset())
    assert "too small to open s3://night/2026/field.fits" in run.err


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "workers"), [("256M", 2), ("256M", 0), ("96M", 1)])
def test_a_large_image_is_fetched_twice_within_the_limit(
    cli: CommandLine, server: Served, tmp_path: Path, limit: str, workers: int
) -> None:
    large = server.folder / "large.fits"
    script("make_field").main([str(large), "--size", "4096", "--sources", "7500"])
    for image, name in ((large, "local"), (server.url("plain", large.name), "remote")):
        (tmp_path / name).mkdir()
        run = cli(image, "-o", "out.fits", "--mem-limit", limit, "--workers", workers, cwd=tmp_path / name, watched=True)
        assert run.code == 0, run.err
        assert run.peak <= int(limit[:-1]) * MIB
    assert (tmp_path / "remote/out.fits").read_bytes() == (tmp_path / "local/out.fits").read_bytes()
    requests = server.requests()
    if limit == "256M":
        assert sum(r.nbytes for r in requests) <= 2.1 * large.stat().st_size
        assert len(requests) < 60


def disturbed(folder: Path, server: Served, what: str, workers: int) -> Started:
    """A finished run to which something happened."""
    folder.mkdir()
    (folder / "program.py").write_text(textwrap.dedent(PROGRAM))
    files = [server.folder / name for name in ("field.fits", "other.fits")]
    arguments = (what, *files, server.url("plain", "field.fits"), *OUTPUTS, *LIMIT, "--workers", workers)
    with Started(folder, *arguments, program=["program.py"]) as run:
        run.finish()
    (folder / "done").unlink()
    return run


def test_a_killed_worker_costs_a_request(cli: CommandLine, server: Served, tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    assert cli(server.folder / "field.fits", *OUTPUTS, *LIMIT, cwd=tmp_path / "local").code == 0
    run = disturbed(tmp_path / "killed", server, "killed", 2)
    assert run.code == 0, run.err
    assert outputs(tmp_path / "killed") == outputs(tmp_path / "local")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_object_that_is_replaced_in_the_midst(server: Served, tmp_path: Path, workers: int) -> None:
    shutil.copy(server.folder / "field.fits", server.folder / "other.fits")
    run = disturbed(tmp_path / "replaced", server, "replaced", workers)
    run.assert_stopped(3, "field.fits")
    assert "the object changed while it was being read" in run.errors()[0]


def test_names_come_from_the_path_and_secrets_stay(cli: CommandLine, server: Served) -> None:
    signed = server.url("signed", f"field.fits?{SIGNATURE}")
    shutil.copy(server.folder / "field.fits", server.folder / "night 2,b.fits")
    other = server.url("private", "night%202,b.fits[0]", "night:hush@")
    run = cli("--batch", signed, other, "-o", "{stem}.cat", *LIMIT, "--workers", "1", "-VERBOSE_TYPE", "FULL")
    assert run.code == 0, run.err
    assert run.made == {"field.cat", "night 2,b.cat", "sextract.manifest"}
    assert "hush" not in run.err
    run = cli("--estimate=json", signed, *LIMIT)
    assert json.loads(run.out)["image"] == server.url("signed", "field.fits?…")
    run = cli(server.url("signed", "field.fits?signature=hush2"), *LIMIT)
    assert (run.code, run.made) == (3, frozenset())
    assert "access is refused (HTTP 403 Forbidden, AccessDenied)" in run.err and "hush" not in run.err
    run = cli(f"{signed},{signed}")
    assert run.code == 2 and "two images" in run.err and "hush" not in run.err


def test_a_survey_of_objects_is_signed_once_and_goes_on(
    cli: CommandLine, objects: str, server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in credentials(objects).items():
        monkeypatch.setenv(name, value)
    put(objects, "survey")
    names = [f"s3://survey/n{k}.fits" for k in range(4)]
    for name in names[:3]:
        put(objects, name.removeprefix("s3://"), (server.folder / "field.fits").read_bytes())
    options = ("-o", "out/", "--mem-limit", "200M", "--workers", "2")
    assert cli(server.folder / "field.fits", "-o", "local.fits", *LIMIT, cwd=tmp_path).code == 0
    # The last one isn't there.
    assert cli(*names, *options, cwd=tmp_path).code == 10
    for k in range(3):
        assert table_of(tmp_path / f"out/n{k}.cat.fits") == table_of(tmp_path / "local.fits")
    assert b"X-Amz-Signature" not in (tmp_path / "out/sextract.manifest").read_bytes()
    put(objects, "survey/n3.fits", (server.folder / "field.fits").read_bytes())
    put(objects, "survey/n1.fits", (server.folder / "field.fits").read_bytes() + bytes(2880))
    done = cli(*names, *options, "--resume", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "2 of them done before" in done.err


def table_of(path: Path) -> bytes:
    """Data of the table of a catalogue."""
    with fits.open(path) as hdus:
        return bytes(hdus[1].data.tobytes())
