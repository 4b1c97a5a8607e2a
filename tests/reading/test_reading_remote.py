"""Images on servers and in object stores: the contract, how little is asked for, and what happens when something fails."""

from __future__ import annotations

import gzip
import os
import pickle
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from sextract.errors import InputError, LimitError
from sextract.reading import open_images
from sextract.reading.remote import handle as remote_handle
from sextract.reading.remote import http as remote_http
from sextract.reading.remote import state_of, store
from sextract.records import BAD, Box
from tests.contracts.image_source import ImageSourceContract
from tests.object_server import SIGNATURE, Served
from tests.object_store import credentials, object_store, put

SCALING = {"BSCALE": 0.1, "BZERO": 5.3, "BLANK": 7}


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy of the machine, no waiting between tries."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(remote_handle, "PAUSES_S", (0.0, 0.0))


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("served")) as served:
        yield served


@pytest.fixture
def server(serving: Served) -> Served:
    """A server whose log begins here."""
    serving.forget()
    return serving


@pytest.fixture
def folder(serving: Served) -> Path:
    """What it serves, empty."""
    for path in serving.folder.iterdir():
        path.unlink()
    return serving.folder


@pytest.fixture
def mosaic(folder: Path, tools) -> Path:
    """An empty primary and three images of 400 kB."""
    path = folder / "mosaic.fits"
    parts = [tools.header_bytes(tools.structure(8, ()))]
    for k in (1, 2, 3):
        pixels = np.arange(200_000).reshape(400, 500) % 1000 + k
        parts.append(tools.hdu_bytes(pixels, 16, [tools.card("EXTNAME", f"CCD{k}")], extension=True))
    path.write_bytes(b"".join(parts))
    return path


class Scene(ImageSourceContract):
    @pytest.fixture
    def stored(self):
        stored = np.random.default_rng(11).integers(0, 9000, (61, 83)).astype("i2")
        stored[30:33, 40:44] = 7
        return stored

    @pytest.fixture
    def truth(self, stored):
        value = stored.astype("f4") * np.float32(0.1) + np.float32(5.3)
        return np.where(stored == 7, np.float32(BAD), value)

    @pytest.fixture
    def image(self, stored, folder, tools) -> Path:
        path = folder / "a.fits"
        path.write_bytes(tools.hdu_bytes(stored, 16, [tools.card(*c) for c in SCALING.items()]))
        return path


class TestHttp(Scene):
    @pytest.fixture(params=["plain", "dated", "broken", "busy", "moved"])
    def source(self, image, server, request):
        return open_images(server.url(request.param, image.name))[0]


class TestWhole(Scene):
    @pytest.fixture
    def source(self, image, server, tmp_path):
        return open_images(server.url("whole", image.name), scratch_dir=str(tmp_path))[0]


class TestCompressed(Scene):
    @pytest.fixture
    def source(self, stored, folder, server, tmp_path):
        path = folder / "a.fits.fz"
        packed = fits.CompImageHDU(stored, compression_type="RICE_1", tile_shape=(16, 32))
        fits.HDUList([fits.PrimaryHDU(), packed]).writeto(path)
        with fits.open(path, "update", disable_image_compression=True) as hdus:
            hdus[1].header.update(SCALING)
        return open_images(server.url("plain", path.name), scratch_dir=str(tmp_path))[0]


def test_one_extension_costs_its_bytes_and_headers(server, mosaic, tools):
    (source,) = open_images(server.url("plain", "mosaic.fits[CCD2]"))
    assert (source.info.hdu, source.info.extname, source.info.remote) == (2, "CCD2", True)
    headers = server.requests()
    assert len(headers) == 2
    assert all(r.nbytes <= remote_handle.WINDOW_BYTES for r in headers)
    pixels, _ = tools.read_all(source)
    np.testing.assert_array_equal(pixels, np.arange(200_000).reshape(400, 500) % 1000 + 2)
    (whole,) = server.requests()[2:]
    assert (whole.first, whole.nbytes) == (source.info.data_offset, source.info.data_size)
    np.testing.assert_array_equal(pixels, tools.read_all(open_images(f"{mosaic}[CCD2]")[0])[0])
    assert len(open_images(server.url("plain", "mosaic.fits"))) == 3


def test_rows_that_are_expected_come_in_one_request(server, mosaic):
    (source,) = open_images(server.url("plain", "mosaic.fits[1]"))
    server.forget()
    out, scratch = np.zeros((40, 100), np.float32), np.zeros(3000, np.uint8)
    source.expect(Box(10, 30, 370, 130))
    for y in range(10, 370, 40):
        source.read_into(Box(y, 30, y + 40, 130), out, scratch)
    (one,) = server.requests()
    assert one.nbytes == 359 * 1000 + 200
    # Farther down, farther up, and beyond what was expected.
    for y in (380, 20, 21):
        source.read_into(Box(y, 0, y + 1, 100), out[:1], scratch)
    assert [r.nbytes for r in server.requests()[1:]] == [200, 200, 200]


def test_no_thread_and_no_socket_is_left_by_headers(server, mosaic):
    before = set(os.listdir("/proc/self/fd"))
    open_images(server.url("plain", "mosaic.fits"))
    assert set(os.listdir("/proc/self/fd")) == before
    assert len(os.listdir("/proc/self/task")) == 1 or "fsspec" not in sys.modules


@pytest.mark.parametrize("kind", ["plain", "weak", "deaf", "dated"])
def test_an_object_that_is_replaced_is_noticed(server, mosaic, tools, kind):
    (source,) = open_images(server.url(kind, "mosaic.fits[1]"))
    tools.read_all(source)
    again = pickle.loads(pickle.dumps(source))
    source.check_unchanged()
    other = mosaic.with_name("other")
    other.write_bytes(mosaic.read_bytes())
    os.utime(other, (1e9, 1e9))
    os.replace(other, mosaic)
    for each in (source, again):
        with pytest.raises(InputError, match=r"mosaic\.fits: the object changed while it was being read"):
            tools.read_all(each)
        with pytest.raises(InputError, match="changed"):
            each.check_unchanged()


def test_an_object_of_another_size_is_noticed_without_tags(server, mosaic, tools):
    (source,) = open_images(server.url("bare", "mosaic.fits[1]"))
    os.truncate(mosaic, mosaic.stat().st_size - 2880)
    with pytest.raises(InputError, match="changed"):
        tools.read_all(source)


def test_an_object_that_is_removed_at_the_end_is_no_error(server, mosaic, tools):
    (source,) = open_images(server.url("plain", "mosaic.fits[1]"))
    tools.read_all(source)
    mosaic.unlink()
    source.check_unchanged()
    with pytest.raises(InputError, match="no such object"):
        tools.read_all(source)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("plain", r"no\.fits: there is no such object \(HTTP 404 Not Found\)"),
        ("down", r"no\.fits: can't open it: the connection broke, 3 times in a row"),
        ("private", r"no\.fits: access is refused \(HTTP 401 Unauthorized\); see the credentials"),
        ("signed", r"no\.fits: access is refused \(HTTP 403 Forbidden, AccessDenied\)"),
    ],
)
def test_what_fails_is_told(server, kind, message):
    with pytest.raises(InputError, match=message) as caught:
        open_images(server.url(kind, "no.fits"))
    assert "\n" not in str(caught.value)


def test_a_server_that_stops_answering(server, mosaic, tools, monkeypatch):
    monkeypatch.setattr(remote_http, "TIMEOUT_S", 1.0)
    (source,) = open_images(server.url("stalled", "mosaic.fits[1]"))
    assert tools.read_all(source)[0].sum() == tools.read_all(open_images(f"{mosaic}[1]")[0])[0].sum()


def test_the_state_of_an_object(server, mosaic):
    before = state_of(server.url("plain", "mosaic.fits"))
    assert before.startswith(f"{mosaic.stat().st_size} ")
    assert state_of(server.url("plain", "mosaic.fits")) == before
    os.utime(mosaic, (1e9, 1e9))
    assert state_of(server.url("plain", "mosaic.fits")) != before


@pytest.mark.parametrize("url", ["http://", "http://:80/a.fits", "http://a:b/a.fits", "http://" + 70 * "a" + "/a.fits"])
def test_what_is_no_address_is_told(url):
    with pytest.raises(InputError, match="this is no address of a server"):
        open_images(url)


def test_nobody_listens(mosaic, tmp_path):
    with Served(tmp_path) as other:
        shutil.copy(mosaic, tmp_path)
        url = other.url("plain", "mosaic.fits[1]")
        (source,) = open_images(url)
    with pytest.raises(InputError, match=r"can't read 400000 bytes at .*: Connection refused, 3 times in a row"):
        source.read_into(Box(0, 0, 400, 500), np.zeros((400, 500), np.float32), np.zeros(1 << 20, np.uint8))
    with pytest.raises(InputError, match="can't open it: Connection refused"):
        open_images(url)


@pytest.mark.parametrize("content", [b"", b"no image at all", b"SIMPLE  =                    T"])
@pytest.mark.parametrize("kind", ["plain", "whole"])
def test_what_is_no_image_is_told_as_for_files(server, folder, tmp_path, content, kind):
    path = folder / "a.fits"
    path.write_bytes(content)
    with pytest.raises(InputError) as local:
        open_images(str(path))
    with pytest.raises(InputError) as caught:
        open_images(server.url(kind, "a.fits"), scratch_dir=str(tmp_path))
    assert str(caught.value) == str(local.value).replace(str(path), server.url(kind, "a.fits"))


def test_secrets_stay_out_of_messages(server, mosaic, tools):
    (source,) = open_images(server.url("signed", f"mosaic.fits?{SIGNATURE}[CCD1]"))
    assert source.info.path == server.url("signed", "mosaic.fits?…")
    assert source.info.spec == server.url("signed", "mosaic.fits?…[CCD1]")
    assert tools.read_all(source)[0][0, 0] == 1
    (source,) = open_images(server.url("private", "mosaic.fits[1]", "night:hush@"))
    assert source.info.path == server.url("private", "mosaic.fits")
    for url in (server.url("signed", "mosaic.fits?signature=wrong"), server.url("private", "mosaic.fits", "night:wrong@")):
        with pytest.raises(InputError) as caught:
            open_images(url)
        assert "wrong" not in str(caught.value)


def test_packed_objects_are_unpacked(server, mosaic, tools, tmp_path):
    (mosaic.parent / "mosaic.fits.gz").write_bytes(gzip.compress(mosaic.read_bytes()))
    said: list[str] = []
    images = open_images(server.url("plain", "mosaic.fits.gz"), scratch_dir=str(tmp_path), say=said.append)
    assert [tools.read_all(image)[0][0, 0] for image in images] == [1, 2, 3]
    assert said == [f"{server.url('plain', 'mosaic.fits.gz')}: packed, so it is copied to a scratch file (0 MiB)"]
    (mosaic.parent / "mosaic.fits.gz").write_bytes(gzip.compress(mosaic.read_bytes())[:-3000])
    with pytest.raises(InputError, match=r"mosaic\.fits\.gz: the gzip data are damaged"):
        open_images(server.url("broken", "mosaic.fits.gz"), scratch_dir=str(tmp_path))


def test_of_a_compressed_mosaic_one_extension_is_copied(server, folder, tools, tmp_path):
    noise = np.random.default_rng(1).integers(0, 9000, (3, 700, 800)).astype("i2")
    ccds = [fits.CompImageHDU(each, name=f"CCD{k}") for k, each in enumerate(noise)]
    fits.HDUList([fits.PrimaryHDU(), *ccds]).writeto(folder / "a.fits.fz")
    said: list[str] = []
    (source,) = open_images(server.url("plain", "a.fits.fz[CCD1]"), scratch_dir=str(tmp_path), say=said.append)
    (local,) = open_images(str(folder / "a.fits.fz[CCD1]"))
    assert source.info == local.info._replace(path=source.info.path, spec=source.info.spec, remote=True)
    np.testing.assert_array_equal(tools.read_all(source)[0], noise[1])
    assert "compressed in tiles" in said[0]
    size = (folder / "a.fits.fz").stat().st_size
    assert sum(r.nbytes for r in server.requests()) < size // 3 + 4 * remote_handle.WINDOW_BYTES


@pytest.mark.parametrize("kind", ["whole", "broken"])
def test_a_server_without_ranges_or_with_bad_cables(server, mosaic, tools, tmp_path, kind):
    said: list[str] = []
    for spec, value in (("mosaic.fits[3]", 3), ("mosaic.fits[CCD1]", 1)):
        (source,) = open_images(server.url(kind, spec), scratch_dir=str(tmp_path), say=said.append)
        assert tools.read_all(source)[0][0, 0] == value
    assert len(said) == 2 * (kind == "whole")


def test_a_proxy_of_the_environment_is_used(server, mosaic, tools, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://localhost:{server.port}")
    (source,) = open_images("http://nowhere.invalid/plain/mosaic.fits[CCD2]")
    assert tools.read_all(source)[0][0, 0] == 2
    assert server.requests()[0].path == "http://nowhere.invalid/plain/mosaic.fits"


def test_encrypted(folder, mosaic, tools, tmp_path, monkeypatch):
    certificate = tmp_path / "certificate.pem"
    certificate.write_bytes(made_certificate())
    with Served(folder, certificate) as server:
        with pytest.raises(InputError, match=r"its certificate is not trusted .*SSL_CERT_FILE"):
            open_images(server.url("plain", "mosaic.fits"))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        (source,) = open_images(server.url("plain", "mosaic.fits[2]"))
        again = pickle.loads(pickle.dumps(source))
        for each in (source, again):
            assert tools.read_all(each)[0][0, 0] == 2


def made_certificate() -> bytes:
    """Key and certificate of localhost, of nobody's authority."""
    x509 = pytest.importorskip("cryptography.x509")
    import datetime

    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.fixture(scope="module")
def objects() -> Iterator[str]:
    """Address of an object store."""
    with object_store() as address:
        yield address


@pytest.fixture
def bucket(objects: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket that the environment has the keys of."""
    for name, value in credentials(objects).items():
        monkeypatch.setenv(name, value)
    put(objects, "night")
    return "night"


class TestObjectStore(Scene):
    @pytest.fixture
    def source(self, image, bucket, objects):
        put(objects, f"{bucket}/2026/a%20b.fits", image.read_bytes())
        return open_images(f"s3://{bucket}/2026/a b.fits")[0]


def test_an_object_store(bucket, objects, mosaic, tools):
    put(objects, f"{bucket}/m.fits", mosaic.read_bytes())
    (source,) = open_images(f"s3://{bucket}/m.fits[CCD3]")
    assert (source.info.path, source.info.spec) == (f"s3://{bucket}/m.fits", f"s3://{bucket}/m.fits[CCD3]")
    np.testing.assert_array_equal(tools.read_all(source)[0], tools.read_all(open_images(f"{mosaic}[CCD3]")[0])[0])
    source.check_unchanged()
    put(objects, f"{bucket}/m.fits", mosaic.read_bytes()[::-1])
    with pytest.raises(InputError, match=r"s3://night/m\.fits: the object changed"):
        source.check_unchanged()
    with pytest.raises(InputError, match="the object changed"):
        tools.read_all(source)
    with pytest.raises(InputError, match=r"s3://night/no\.fits: there is no such object"):
        open_images(f"s3://{bucket}/no.fits")
    with pytest.raises(LimitError, match=r"--mem-limit 64M is too small to open s3://night/m\.fits.*works is 96M"):
        open_images(f"s3://{bucket}/m.fits", limit_bytes=64 << 20)
    first, second = store.sign([f"s3://{bucket}/m.fits"] * 2)
    assert first.startswith(f"{objects}/{bucket}/m.fits?") and second.startswith(objects)


def test_an_object_for_anybody(bucket, objects, mosaic, tools, monkeypatch, tmp_path):
    put(objects, f"{bucket}/hidden.fits", mosaic.read_bytes())
    put(objects, f"{bucket}/m.fits", mosaic.read_bytes(), **{"x-amz-acl": "public-read"})
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"s3://night/hidden\.fits: access is refused .*see the credentials"):
        open_images(f"s3://{bucket}/hidden.fits")
    (source,) = open_images(f"s3://{bucket}/m.fits[1]")
    assert tools.read_all(source)[0][0, 0] == 1


def test_other_file_systems_of_fsspec_are_copied(mosaic, tools, tmp_path):
    pytest.importorskip("fsspec")
    said: list[str] = []
    (source,) = open_images(f"local://{mosaic}[CCD2]", scratch_dir=str(tmp_path), say=said.append)
    assert tools.read_all(source)[0][0, 0] == 2
    assert said == [f"local://{mosaic}: no address can be signed for it, it is copied to a scratch file"]
    for url, message in (
        (f"local://{mosaic}.no", "there is no such object"),
        (f"local://{mosaic.parent}", "is a folder"),
        ("nothing://a/b.fits", "fsspec knows no nothing://"),
        ("memory://a.fits", "known to the process alone"),
    ):
        with pytest.raises(InputError, match=message):
            open_images(url, scratch_dir=str(tmp_path))


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    (tmp_path / "fsspec.py").write_text("raise ImportError('No module named fsspec')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(InputError, match=r"s3:// needs fsspec and s3fs: pip install 'sextract\[remote\]'"):
        open_images("s3://night/a.fits")


def test_a_file_by_its_address_is_a_file(mosaic, tools):
    (source,) = open_images(f"file://{mosaic}[CCD2]")
    assert (source.info.path, source.info.remote) == (str(mosaic), False)
