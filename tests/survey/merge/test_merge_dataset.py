"""`sextract --merge` as users meet it: what is written, in what order, and what is refused."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from astropy.table import Table

from sextract.errors import ConfigError, InputError, LimitError, OutputError
from sextract.log import Reporter
from sextract.survey.merge import merging
from sextract.survey.merge.merging import Request, merge
from tests.scenes import Scene
from tests.survey.merge.surveys import change_outputs, files_of, rows_at, survey

pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: pip install 'sextract[merge]'")
pytest.importorskip("astropy_healpix", reason="astropy-healpix is not installed: pip install 'sextract[merge]'")

LIMIT = "512M"


def quiet():
    return Reporter("QUIET")


def merged(tmp_path, manifests, name="out.parquet", **options):
    """A merge; its folder."""
    options = {"mem_limit": LIMIT, **options}
    merge(Request(str(tmp_path / name), tuple(map(str, manifests)), **options), quiet())
    return tmp_path / name


def two_images(n=300, seed=1):
    """Two images with half of their sources in common, and a second extension."""
    rng = np.random.default_rng(seed)
    ra, dec = 10 + rng.uniform(0, 0.5, n), rng.uniform(-0.5, 0.5, n)
    half = n // 2
    shifted = rows_at(ra[half:], dec[half:] + 0.3 / 3600, FLAGS=4)
    return {1: [rows_at(ra, dec, FLUX_APER=[1, 2, 3])], 2: [shifted, rows_at(20 + ra[:9], dec[:9])]}


def test_what_is_written(tmp_path):
    folder = merged(tmp_path, [survey(tmp_path / "s", two_images())])
    table = pq.read_table(folder / "dataset")
    assert table.num_rows == 300 + 150 + 9
    names = ["_healpix_29", "IMAGE", "IMAGE_NUMBER", "EXT_NUMBER", "SOURCE_ID", "DUPLICATE", "PRIMARY_ID", "NUMBER"]
    assert table.schema.names[: len(names)] == names
    rows = table.to_pydict()
    assert set(rows["IMAGE"]) == {"night/1.fits", "night/2.fits"} and set(rows["EXT_NUMBER"]) == {1, 2}
    duplicate = np.array(rows["DUPLICATE"])
    assert duplicate.sum() == 150
    assert {rows["IMAGE"][k] for k in np.flatnonzero(duplicate)} == {"night/2.fits"}, "FLAGS 4 is worse than 0"
    primary = {i: k for k, i in enumerate(rows["SOURCE_ID"])}
    for k, i in enumerate(rows["PRIMARY_ID"]):
        assert not rows["DUPLICATE"][primary[i]]
        assert abs(rows["DELTA_J2000"][primary[i]] - rows["DELTA_J2000"][k]) < 0.31 / 3600
    assert rows["FLUX_APER"][rows["IMAGE"].index("night/1.fits")] == [1, 2, 3]
    field = table.schema.field("ALPHA_J2000")
    assert field.metadata[b"unit"] == b"deg"
    assert pq.read_schema(folder / "dataset" / "_common_metadata").names == pq.read_schema(next(folder.rglob("Npix*"))).names
    assert pq.read_metadata(folder / "dataset" / "_metadata").num_rows == table.num_rows
    assert "hats_nrows=459\n" in (folder / "hats.properties").read_text()


def test_rows_are_where_their_pixels_are(tmp_path, monkeypatch):
    monkeypatch.setattr(merging, "MOST_ROWS", 20)
    folder = merged(tmp_path, [survey(tmp_path / "s", two_images())])
    listed = {tuple(map(int, line.split(","))) for line in (folder / "partition_info.csv").read_text().split()[1:]}
    assert len(listed) > 20
    found = {}
    for file in folder.rglob("Npix=*.parquet"):
        order, group, number = map(int, re.search(r"Norder=(\d+)/Dir=(\d+)/Npix=(\d+)\.parquet$", str(file)).groups())
        assert group == number // 10000 * 10000
        part = pq.read_table(file, partitioning=None)
        keys, ids = part["_healpix_29"].to_numpy(), part["SOURCE_ID"].to_numpy()
        assert len(keys) <= 20 and (keys >> 2 * (29 - order) == number).all()
        assert (np.lexsort((ids, keys)) == np.arange(len(keys))).all()
        found[order, number] = part
    assert set(found) == listed
    whole = merged(tmp_path, [survey(tmp_path / "s", two_images())], "whole.parquet")
    one = pq.read_table(whole / "dataset").select(["SOURCE_ID", "PRIMARY_ID"]).to_pydict()
    many = {}
    for part in found.values():
        many.update(zip(part["SOURCE_ID"].to_pylist(), part["PRIMARY_ID"].to_pylist(), strict=True))
    assert many == dict(zip(one["SOURCE_ID"], one["PRIMARY_ID"], strict=True)), "duplicates depend on the partitions"


def test_the_same_bytes_whatever_the_order_and_the_limit(tmp_path):
    catalogues = two_images()
    expected = files_of(merged(tmp_path, [survey(tmp_path / "s", catalogues)], "survey.parquet"))
    again = merged(tmp_path, [survey(tmp_path / "s", catalogues, reverse=True)], "survey2.parquet", mem_limit="2G")
    parts = [survey(tmp_path / "s", {k: catalogues[k]}, manifest=f"{k}.manifest") for k in (2, 1)]
    shards = merged(tmp_path, parts, "survey3.parquet")
    for folder in (again, shards):
        found = files_of(folder)
        assert set(found) == set(expected)
        for name in expected:
            assert name.endswith("properties") or found[name] == expected[name], name


def test_rows_without_a_position_are_kept_apart(tmp_path, capsys):
    rows = rows_at([10.0, np.nan, 11.0], [0.0, 0.0, np.nan])
    manifest = survey(tmp_path / "s", {1: [rows], 2: [rows_at([np.nan], [np.nan])]})
    merge(Request(str(tmp_path / "o"), (str(manifest),), mem_limit=LIMIT), Reporter(stream=sys.stdout))
    assert "> WARNING: 3 of 4 rows have no position on the sky" in capsys.readouterr().out
    assert pq.read_table(tmp_path / "o" / "dataset").num_rows == 1
    lost = pq.read_table(tmp_path / "o" / "no_position.parquet").to_pydict()
    assert list(zip(lost["IMAGE_NUMBER"], lost["NUMBER"], strict=True)) == [(1, 2), (1, 3), (2, 1)]
    assert not any(lost["DUPLICATE"])


def test_images_that_are_not_done_are_named(tmp_path, capsys):
    states = {2: "failed", 3: "waiting", 4: "running"}
    manifest = survey(tmp_path / "s", {1: [rows_at([10.0], [0.0])]}, states=states)
    merge(Request(str(tmp_path / "o"), (str(manifest),), mem_limit=LIMIT), Reporter(stream=sys.stdout))
    said = capsys.readouterr().out
    assert "1 of 4 images failed, so without sources: night/2.fits" in said
    assert "2 of 4 images are not done yet, so without sources: night/3.fits, night/4.fits" in said
    quality = Table.read(tmp_path / "o" / "quality.fits")
    assert [s.strip() for s in quality["STATE"]] == ["done", "failed", "waiting", "running"]
    assert quality["ERROR"][1] == "it is truncated" and quality["EXT_NUMBER"].tolist() == [1, 0, 0, 0]
    with pytest.raises(InputError, match="none of the 1 images"):
        merged(tmp_path, [survey(tmp_path / "t", {}, states={1: "failed"})])


def test_images_of_surveys_that_were_numbered_apart(tmp_path):
    a = survey(tmp_path / "a", {1: [rows_at([10.0], [0.0])]})
    b = survey(tmp_path / "b", {1: [rows_at([10.0], [0.0])]})
    rows = pq.read_table(merged(tmp_path, [b, a]) / "dataset").to_pydict()
    assert sorted(rows["IMAGE_NUMBER"]) == [1, 2] and sum(rows["DUPLICATE"]) == 1
    with pytest.raises(ConfigError, match=r"night/1\.fits is in the manifests twice"):
        merged(tmp_path, [a, a], "c.parquet")


def test_a_survey_without_any_source(tmp_path):
    folder = merged(tmp_path, [survey(tmp_path / "s", {1: [rows_at([], [])]})])
    assert pq.read_schema(folder / "dataset" / "_common_metadata").names[0] == "_healpix_29"
    assert (folder / "partition_info.csv").read_text() == "Norder,Npix\n"


def renamed(rows, **names):
    return rows.astype([(names.get(name, name), *rest) for name, *rest in rows.dtype.descr])


def test_other_positions(tmp_path):
    rows = renamed(rows_at([10.0], [0.0]), ALPHA_J2000="X_WORLD", DELTA_J2000="Y_WORLD")
    folder = merged(tmp_path, [survey(tmp_path / "s", {1: [rows]})])
    assert "hats_col_ra=X_WORLD\nhats_col_dec=Y_WORLD\n" in (folder / "properties").read_text()


def test_what_is_refused(tmp_path):
    good = rows_at([10.0], [0.0])
    with pytest.raises(ConfigError, match=r"1\.cat\.fits has no position on the sky: add ALPHA_J2000 and DELTA_J2000"):
        merged(tmp_path, [survey(tmp_path / "a", {1: [renamed(good, ALPHA_J2000="A")]})])
    with pytest.raises(ConfigError, match=r"only the first has SNR; only the second has SNR_WIN"):
        merged(tmp_path, [survey(tmp_path / "b", {1: [good], 2: [renamed(good, SNR_WIN="SNR")]})])
    manifest = survey(tmp_path / "c", {1: [good]})
    change_outputs(manifest, 1, catalogue_type="ASCII")
    with pytest.raises(InputError, match=r"CATALOG_TYPE ASCII can't be merged"):
        merged(tmp_path, [manifest])
    other = survey(tmp_path / "d", {1: [good]})
    shutil.copy(survey(tmp_path / "e", {1: [rows_at([1.0, 2.0], [0, 0])]}).parent / "1.cat.fits", other.parent)
    with pytest.raises(InputError, match=r"has 2 rows, but its manifest says 1 rows.*--resume"):
        merged(tmp_path, [other])
    (other.parent / "1.cat.fits").unlink()
    with pytest.raises(InputError, match=r"can't read the catalogue .*1\.cat\.fits"):
        merged(tmp_path, [other])
    with pytest.raises(OutputError, match="no such file"):
        merged(tmp_path, [tmp_path / "none.manifest"])
    with pytest.raises(ConfigError, match="name the manifests"):
        merged(tmp_path, [])
    with pytest.raises(OutputError, match="its folder does not exist; choose another place with --merge"):
        merged(tmp_path, [survey(tmp_path / "f", {1: [good]})], "none/out.parquet")
    assert not [p for p in tmp_path.iterdir() if "out.parquet" in p.name]


def test_a_limit_that_is_too_small_names_the_smallest_that_works(tmp_path):
    manifest = survey(tmp_path / "s", two_images())
    with pytest.raises(LimitError, match=r"--mem-limit 64M is too small .* the smallest limit that works is (\d+)M"):
        merged(tmp_path, [manifest], mem_limit="64M")


def test_packages_that_are_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "astropy_healpix", None)
    with pytest.raises(ConfigError, match=r"pip install pyarrow astropy-healpix"):
        merged(tmp_path, [survey(tmp_path / "s", two_images())])


def test_only_an_earlier_data_set_is_replaced_and_only_if_asked(tmp_path):
    manifest = survey(tmp_path / "s", {1: [rows_at([10.0], [0.0])]})
    folder = merged(tmp_path, [manifest])
    with pytest.raises(ConfigError, match="add --overwrite"):
        merged(tmp_path, [manifest])
    survey(tmp_path / "s", two_images())
    merged(tmp_path, [manifest], overwrite=True)
    assert pq.read_table(folder / "dataset").num_rows == 459
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("all of it")
    with pytest.raises(ConfigError, match="is no data set of sextract"):
        merged(tmp_path, [manifest], "mine", overwrite=True)
    assert {p.name for p in tmp_path.iterdir()} == {"s", "out.parquet", "mine"}


def test_a_killed_merge_leaves_what_the_next_one_removes(tmp_path):
    manifest = survey(tmp_path / "s", two_images())
    # It stops itself in the middle of the files, as a kill would find it.
    code = (
        "import os, signal, sys\n"
        "from sextract.survey.merge import dataset, merging\n"
        "from sextract.log import Reporter\n"
        "merging.MOST_ROWS = 20\n"
        "dataset.DataSet.finish = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        "merging.merge(merging.Request('out.parquet', (sys.argv[1],)), Reporter('QUIET'))\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(p) for p in sys.path if p])}
    done = subprocess.run([sys.executable, "-c", code, str(manifest)], cwd=tmp_path, env=env, timeout=120)
    assert done.returncode == -signal.SIGKILL
    left = [p.name for p in tmp_path.iterdir() if p.name != "s"]
    assert len(left) == 1 and re.fullmatch(r"\.out\.parquet\.\d+-0\.part", left[0])
    merged(tmp_path, [manifest])
    assert {p.name for p in tmp_path.iterdir()} == {"s", "out.parquet"}


def test_a_disk_that_is_full_is_named(tmp_path):
    code = (
        "import resource, signal\n"
        "import numpy as np\n"
        "from sextract.errors import OutputError\n"
        "from sextract.survey.merge.dataset import ADDED, KEY, DataSet, Field, batch, schema_of\n"
        "from sextract.survey.merge.sky import Pixel\n"
        "fields = [Field('A', 'f8')]\n"
        "values = {f.name: np.arange(100000).astype(f.dtype) for f in (*fields, *ADDED, Field(KEY, 'i8'))}\n"
        "values['IMAGE'] = ['a.fits'] * 100000\n"
        "schema = schema_of(fields, 6)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "try:\n"
        "    with DataSet('out.parquet', False) as output:\n"
        "        output.write(Pixel(0, 4, 100000), schema, iter([batch(schema, values)] * 3))\n"
        "except OutputError as exc:\n"
        "    print(exc)\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(p) for p in sys.path if p])}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, timeout=120, capture_output=True, text=True)
    assert re.match(r"can't write .*Npix=4\.parquet: it grows beyond the largest file .*--merge$", done.stdout), done
    assert not done.stderr and not list(tmp_path.iterdir())


def test_hats_takes_it_for_its_own(tmp_path, monkeypatch):
    validation = pytest.importorskip("hats.io.validation", reason="the hats package is not installed")
    monkeypatch.setattr(merging, "MOST_ROWS", 50)
    assert validation.is_valid_catalog(merged(tmp_path, [survey(tmp_path / "s", two_images())]), strict=True)


FWHM, SCALE, TILE, STEP = 3.0, 0.3, 400, 300
PARAMETERS = """NUMBER\nX_IMAGE\nY_IMAGE\nALPHA_J2000\nDELTA_J2000\nFLUX_AUTO\nFLUXERR_AUTO\nFLUX_APER(2)\nA_IMAGE
B_IMAGE\nFWHM_IMAGE\nSNR_WIN\nFLAGS\n"""


@pytest.fixture(scope="module")
def mosaic(tmp_path_factory):
    """A field, and four images cut out of it that overlap by a quarter, as one survey in each format."""
    folder = tmp_path_factory.mktemp("mosaic")
    scene = Scene(700, 700, seed=3)
    rng = np.random.default_rng(7)
    # Apart from each other and from the edges of the field, so that each is one object in every image that has it whole.
    grid = np.stack(np.meshgrid(np.arange(40, 680, 36), np.arange(40, 680, 36)), axis=-1).reshape(-1, 2)
    for x, y in grid + rng.uniform(-8, 8, grid.shape):
        scene.star(x, y, 10 ** rng.uniform(3.3, 4.6), FWHM)
    pixels = scene.pixels()
    cd = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 0.0, "CRVAL2": 60.0}
    cd |= {"CD1_1": -SCALE / 3600, "CD2_2": SCALE / 3600}
    from astropy.io import fits

    def write(name, x0, y0, size):
        header = fits.Header([*cd.items(), ("CRPIX1", 350.0 - x0), ("CRPIX2", 350.0 - y0)])
        fits.writeto(folder / name, pixels[y0 : y0 + size, x0 : x0 + size], header)

    write("whole.fits", 0, 0, 700)
    for k in range(4):
        write(f"tile{k}.fits", k % 2 * STEP, k // 2 * STEP, TILE)
    (folder / "p.param").write_text(PARAMETERS)
    for kind, suffix in (("FITS_1.0", "fits"), ("FITS_LDAC", "ldac"), ("ASCII_HEAD", "cat")):
        for images, name in ((["whole.fits"], "whole"), ([f"tile{k}.fits" for k in range(4)], "tiles")):
            command = [sys.executable, "-m", "sextract", "--batch", *images, "-o", f"{kind}-{name}/{{stem}}.{suffix}"]
            command += ["-CATALOG_TYPE", kind, "-PARAMETERS_NAME", "p.param", "-PHOT_APERTURES", "5,10", "-MAG_ZEROPOINT", "25"]
            subprocess.run([*command, "--workers", "0", "--mem-limit", "512M"], cwd=folder, check=True, capture_output=True)
    return folder


def manifest_of(mosaic, kind, name):
    return mosaic / f"{kind}-{name}" / "sextract.manifest"


def test_primaries_of_overlapping_images_are_the_sources_of_the_field(mosaic, tmp_path):
    tiles = pq.read_table(merged(tmp_path, [manifest_of(mosaic, "FITS_1.0", "tiles")], "t") / "dataset").to_pydict()
    whole = pq.read_table(merged(tmp_path, [manifest_of(mosaic, "FITS_1.0", "whole")], "w") / "dataset").to_pydict()
    primary = ~np.array(tiles["DUPLICATE"])
    # The overlaps hold about 27 % of the field's sources twice or more.
    assert (~primary).sum() > 0.2 * len(whole["NUMBER"])
    # Stars cut by an image's edge have their centre elsewhere, more than the radius, or aren't found: 1 in 50 at most.
    assert abs(primary.sum() - len(whole["NUMBER"])) <= 0.02 * len(whole["NUMBER"])
    # Those that aren't cut are the field's to a tenth of a pixel.
    clean = primary & (np.array(tiles["FLAGS"]) < 8)
    cosine = np.cos(np.radians(60))
    found = np.stack([np.array(tiles["ALPHA_J2000"])[clean], np.array(tiles["DELTA_J2000"])[clean]], axis=1)
    true = np.stack([whole["ALPHA_J2000"], whole["DELTA_J2000"]], axis=1)
    step = found[:, None] - true[None]
    step[..., 0] = (step[..., 0] + 180) % 360 - 180
    apart = np.hypot(step[..., 0] * cosine, step[..., 1]).min(axis=1) * 3600 / SCALE
    assert (apart < 0.1).mean() > 0.98
    nearest = np.hypot(step[..., 0] * cosine, step[..., 1]).argmin(axis=1)
    assert len(np.unique(nearest)) == clean.sum(), "one was kept twice"


def test_formats_give_the_same(mosaic, tmp_path):
    tables = [
        pq.read_table(merged(tmp_path, [manifest_of(mosaic, kind, "tiles")], kind) / "dataset").sort_by("SOURCE_ID").to_pydict()
        for kind in ("FITS_1.0", "FITS_LDAC", "ASCII_HEAD")
    ]
    assert tables[0] == tables[1]
    assert list(tables[2]) == list(tables[0])
    assert tables[2]["SOURCE_ID"] == tables[0]["SOURCE_ID"] and tables[2]["DUPLICATE"] == tables[0]["DUPLICATE"]
    for name in ("ALPHA_J2000", "FLUX_APER", "FLAGS"):
        np.testing.assert_allclose(tables[2][name], tables[0][name], rtol=1e-4)


def test_quality_of_a_known_field(mosaic, tmp_path):
    folder = merged(tmp_path, [manifest_of(mosaic, "FITS_1.0", "tiles")])
    quality = Table.read(folder / "quality.fits")
    assert [name.strip() for name in quality["IMAGE"]] == [f"tile{k}.fits" for k in range(4)]
    assert str(quality["SEEING"].unit) == "arcsec"
    np.testing.assert_allclose(quality["SEEING"], FWHM * SCALE, rtol=0.05)
    np.testing.assert_allclose(quality["BACKGROUND"], 100.0, rtol=0.01)
    noise = 5.0 * np.sqrt(4 * np.pi) * FWHM / 2.3548
    np.testing.assert_allclose(quality["DEPTH"], 25 - 2.5 * np.log10(5 * noise), atol=0.07)
    np.testing.assert_allclose(quality["WIDTH"], TILE * SCALE / 3600, rtol=1e-3)
    # The second tile's centre is to the east of west: x grows towards smaller right ascension.
    np.testing.assert_allclose(np.diff(quality["DEC"])[1], STEP * SCALE / 3600, rtol=1e-3)
    assert (quality["ROWS"] > 100).all() and (quality["UNFLAGGED"] > 0.8).all() and (quality["SECONDS"] > 0).all()


def test_on_the_command_line(cli, tmp_path):
    manifest = survey(tmp_path / "s", two_images())
    done = cli("--merge", "out.parquet", manifest, "--merge-radius", "0.1", "--mem-limit", LIMIT, cwd=tmp_path, watched=True)
    assert done.code == 0 and done.made == {"out.parquet"}
    assert "459 rows of 2 images in" in done.err and "459 primaries, 0 duplicates" in done.err
    assert done.peak <= 512 << 20
    refused = cli("--merge", "out.parquet", manifest, cwd=tmp_path)
    assert refused.code == 2 and "add --overwrite" in refused.err
    assert cli("--merge", "out2.parquet", manifest, "--merge-radius", "far").code == 2
    assert "has no effect on --merge" in cli("--merge", "out2.parquet", manifest, "-DETECT_THRESH", "3").err


@pytest.mark.slow
def test_many_rows_within_the_smallest_limit(cli, tmp_path):
    rng = np.random.default_rng(1)
    n = 60_000
    catalogues = {}
    for k in range(1, 21):
        rows = rows_at((k % 5) * 0.2 + rng.uniform(0, 0.25, n), (k // 5) * 0.2 + rng.uniform(0, 0.25, n))
        catalogues[k] = [rows]
    manifest = survey(tmp_path / "s", catalogues)
    refused = cli("--merge", "out.parquet", manifest, "--mem-limit", "32M", cwd=tmp_path)
    assert refused.code == 5
    least = int(re.search(r"smallest limit that works is (\d+)M", refused.err).group(1))
    done = cli("--merge", "out.parquet", manifest, "--mem-limit", f"{least}M", cwd=tmp_path, watched=True, timeout=600)
    assert done.code == 0, done.err
    assert done.peak <= least << 20
