"""Gzipped files: the same pixels, nothing left behind, other processes, and a scratch folder that is not memory."""

from __future__ import annotations

import gzip
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from sextract.config.machine import memory_filesystem
from sextract.errors import InputError, OutputError
from sextract.reading import open_images

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def image(write, tools) -> str:
    data = tools.hdu_bytes(np.arange(60 * 70).reshape(60, 70), 16)
    data += tools.hdu_bytes(np.ones((5, 5)), -32, [tools.card("EXTNAME", "SCI")], extension=True)
    # Two members, as concatenated files have.
    return write(gzip.compress(data[:3000]) + gzip.compress(data[3000:]), "image.fits.gz")


def test_pixels_and_info(image, tools, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    first, second = open_images(image, scratch_dir=str(scratch))
    assert not list(scratch.iterdir())
    np.testing.assert_array_equal(tools.read_all(first)[0], np.arange(4200).reshape(60, 70))
    assert tools.read_all(second)[0].sum() == 25
    assert (first.info.path, second.info.ext_number) == (image, 2)
    assert open_images(image + "[SCI]", scratch_dir=str(scratch))[0].info.hdu == 1


def test_the_scratch_file_goes_with_its_sources(image, tools, tmp_path):
    before = set(os.listdir("/proc/self/fd"))
    sources = open_images(image, scratch_dir=str(tmp_path))
    tools.read_all(sources[0])
    sources[0].close()
    tools.read_all(sources[1])
    del sources
    assert set(os.listdir("/proc/self/fd")) <= before


def test_a_fork_and_a_stranger_can_read(image, tools, tmp_path):
    (source, _) = open_images(image, scratch_dir=str(tmp_path))
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if tools.read_all(source)[0][59, 69] == 4199 else 2
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    again = pickle.loads(pickle.dumps(source))
    assert tools.read_all(again)[0][59, 69] == 4199
    del again
    code = (
        "import pickle, sys, numpy as np; from sextract.records import Box; "
        "s = pickle.load(sys.stdin.buffer); o = np.zeros((1, 1), 'f4'); "
        "s.read_into(Box(59, 69, 60, 70), o, np.zeros(64, 'u1')); print(o[0, 0])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, input=pickle.dumps(source), capture_output=True)
    assert done.stdout.strip() == b"4199.0", done.stderr
    assert tools.read_all(source)[0][59, 69] == 4199


def test_compressed_inside_gzip(tmp_path, tools):
    data = np.arange(2000).reshape(40, 50).astype("i2")
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(data)]).writeto(tmp_path / "a.fits.fz")
    (tmp_path / "a.fits.fz.gz").write_bytes(gzip.compress((tmp_path / "a.fits.fz").read_bytes()))
    (source,) = open_images(str(tmp_path / "a.fits.fz.gz"), scratch_dir=str(tmp_path))
    np.testing.assert_array_equal(tools.read_all(source)[0], data)
    (copy,) = [pickle.loads(pickle.dumps(source))]
    np.testing.assert_array_equal(tools.read_all(copy)[0], data)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda b: b[:-200], "gzip data are damaged"),
        (lambda b: b[:60] + bytes(50) + b[110:], "gzip data are damaged"),
        (lambda b: b[:5], "gzip data are damaged"),
        (lambda b: gzip.compress(b"no image"), "what is packed in it is not a FITS file"),
        (lambda b: gzip.compress(b""), "what is packed in it is not a FITS file"),
        (lambda b: gzip.compress(gzip.decompress(b)[:4000]), r"\[0\]: the file is cut short"),
    ],
)
def test_damage(image, tmp_path, change, match):
    path = Path(image)
    path.write_bytes(change(path.read_bytes()))
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(InputError, match=match):
        open_images(image, scratch_dir=str(tmp_path))
    assert len(os.listdir("/proc/self/fd")) == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_scratch_folder_is_named(image, tmp_path):
    with pytest.raises(OutputError, match=r"no/such: No such file.*--scratch"):
        open_images(image, scratch_dir=str(tmp_path / "no/such"))


@pytest.mark.skipif(memory_filesystem("/dev/shm") != "tmpfs", reason="no tmpfs at /dev/shm")
def test_memory_is_no_scratch_unless_asked_for(image, tools, monkeypatch):
    monkeypatch.setenv("TMPDIR", "/dev/shm")
    with pytest.raises(InputError, match=r"/dev/shm would fill memory \(a tmpfs\).*--scratch"):
        open_images(image)
    (source, _) = open_images(image, scratch_dir="/dev/shm")
    assert tools.read_all(source)[0][0, 1] == 1


def test_tmpdir_is_the_default(image, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    with pytest.raises(OutputError, match="nowhere"):
        open_images(image)
