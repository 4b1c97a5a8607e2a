"""Many images in one call: the same catalogues as by single runs, whatever happens, and a manifest that tells of it."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from tests.faults.harness import Started, children, kill
from tests.scenes import field
from tests.survey.conftest import OPTIONS, catalogues, manifest, states

MIB = 1 << 20


def test_catalogues_are_those_of_single_runs(batch, calm, tmp_path):
    done = batch("-o", "out/", cwd=tmp_path)
    assert (done.code, done.out) == (0, "")
    assert catalogues(tmp_path / "out") == calm
    assert sorted(os.listdir(tmp_path / "out")) == sorted([*calm, "sextract.manifest"])
    survey = manifest(tmp_path / "out")
    assert [entry.number for entry in survey.images] == list(range(1, 9))
    assert survey.facts["folder"] == str(tmp_path)
    for entry in survey.images:
        with fits.open(tmp_path / entry.catalogue) as hdus:
            rows = sum(len(hdu.data) for hdu in hdus[1:])
            flags = np.concatenate([hdu.data["FLAGS"] for hdu in hdus[1:]])
        assert (entry.state, entry.rows, entry.attempts, entry.error) == ("done", rows, 1, "")
        assert entry.flags == str({str(b): n for b in (1, 2, 4, 8, 16) if (n := int((flags & b > 0).sum()))}).replace("'", '"')
        assert 0 < entry.peak_bytes <= entry.limit_bytes < 200 * MIB
        size, total = entry.files[entry.catalogue]
        assert (size, len(total)) == (len(calm[Path(entry.catalogue).name]), 64)
    assert [e.number for e in survey.extensions] == [1, 2, 3, 4, 5, 6, 7, 8, 8]
    for extension in survey.extensions:
        assert (extension.background, extension.rms) == pytest.approx((200, 10), rel=0.2)
    # Each image's lines stand together.
    blocks = done.err.split("Image ")[1:]
    assert [len(re.findall("^Background: ", block, re.MULTILINE)) for block in sorted(blocks)] == [1] * 7 + [2]


def test_one_process_does_all_if_asked_to(cli, night, calm, tmp_path):
    done = cli(*night, "-o", "out/", "--workers", "0", "--mem-limit", "200M", cwd=tmp_path)
    assert done.code == 0
    assert catalogues(tmp_path / "out") == calm


@pytest.mark.parametrize("limit", ["72M", "100M", "160M"])
def test_all_processes_together_keep_the_limit(cli, night, calm, tmp_path, limit):
    done = cli(*night, "-o", "out/", "--workers", "2", "--mem-limit", limit, cwd=tmp_path, watched=True)
    assert done.code == 0, done.err
    assert catalogues(tmp_path / "out") == calm
    assert 0 < done.peak <= int(limit[:-1]) * MIB


def test_names_are_made_of_templates(batch, calm, tmp_path, night):
    done = batch("-o", "{folder}/{number}-{stem}.cat.fits", "--manifest", "here.db", cwd=tmp_path)
    assert done.code == 0
    folder = tmp_path / night[0].parent.name
    assert sorted(catalogues(folder)) == sorted(f"{k}-n{k}.cat.fits" for k in range(1, 9))
    assert (folder / "3-n3.cat.fits").read_bytes() == calm["n3.cat.fits"]
    assert (tmp_path / "here.db").is_file()


def test_a_list_says_what_each_image_needs(cli, night, calm, tmp_path):
    (tmp_path / "bright.sex").write_text("DETECT_THRESH 20\nCATALOG_TYPE FITS_1.0\n")
    (tmp_path / "list.txt").write_text(f"{night[0]}\n{night[1]} - bright.sex\n{night[2]} DETECT_THRESH=20\n")
    done = cli("@list.txt", "-o", "out/", *OPTIONS, cwd=tmp_path)
    assert done.code == 0, done.err
    rows = {entry.image: entry.rows for entry in manifest(tmp_path / "out").images}
    assert catalogues(tmp_path / "out")["n1.cat.fits"] == calm["n1.cat.fits"]
    alone = cli(night[2], "-o", "n3.cat.fits", "-DETECT_THRESH", "20", *OPTIONS, cwd=tmp_path)
    assert alone.code == 0
    assert catalogues(tmp_path / "out")["n3.cat.fits"] == (tmp_path / "n3.cat.fits").read_bytes() != calm["n3.cat.fits"]
    assert 0 < rows[str(night[1])] < len(fits.getdata(tmp_path / "out/n3.cat.fits")) + 60
    # Each file is announced once.
    assert done.err.count("Configuration: ") == 2


def test_parts_make_the_whole(batch, calm, tmp_path):
    for part in (1, 2, 3):
        assert batch("-o", "out/", "--shard", f"{part}/3", cwd=tmp_path).code == 0
    assert catalogues(tmp_path / "out") == calm
    names = {f"sextract.{part}-of-3.manifest" for part in (1, 2, 3)}
    assert names <= set(os.listdir(tmp_path / "out"))


def test_one_bad_image_does_not_stop_the_others(batch, calm, night, tmp_path):
    bad = tmp_path / "bad.fits"
    bad.write_bytes(night[0].read_bytes()[:5000])
    images = [*night[:3], bad, tmp_path / "none.fits", *night[3:]]
    done = batch("-o", "out/", images=images, cwd=tmp_path)
    assert done.code == 10
    assert catalogues(tmp_path / "out") == calm
    last = [line for line in done.err.splitlines() if line.startswith("> *ERROR*")][-3:]
    assert last[0] == "> *ERROR*: 2 of 10 images failed"
    rows = sum(entry.rows or 0 for entry in manifest(tmp_path / "out").images)
    assert re.search(rf"^Survey: 8 images done, {rows} sources, [\d.]+ s$", done.err, re.MULTILINE)
    assert any(str(bad) in line and "cut short" in line for line in last[1:])
    assert any("none.fits" in line and "No such file" in line for line in last[1:])
    entries = manifest(tmp_path / "out").images
    assert [e.state for e in entries] == ["done"] * 3 + ["failed"] * 2 + ["done"] * 5
    assert [e.exit_code for e in entries] == [0] * 3 + [3] * 2 + [0] * 5
    assert "cut short" in entries[3].error
    # The bad ones are tried again, and only they.
    shutil.copy(night[0], bad)
    again = batch("-o", "out/", "--resume", images=images, cwd=tmp_path)
    assert again.code == 10
    assert "8 of them done before" in again.err
    assert states(tmp_path / "out") == ["done"] * 4 + ["failed"] + ["done"] * 5


def test_what_went_wrong_is_told_once_for_all_it_went_wrong_with(batch, night, tmp_path):
    (tmp_path / "out").mkdir()
    for k in range(7):
        (tmp_path / "out" / f"{night[k].stem}.cat.fits").mkdir()
    done = batch("-o", "out/", cwd=tmp_path)
    assert done.code == 10
    first, second = [line for line in done.err.splitlines() if line.startswith("> *ERROR*")][-2:]
    assert first == "> *ERROR*: 7 of 8 images failed"
    assert re.fullmatch(r"> \*ERROR\*: (\S+, ){4}\S+ and 2 more: .*\.cat\.fits.*folder.*", second)


def test_resuming_does_only_what_is_not_valid_any_more(batch, calm, night, tmp_path):
    images = [Path(shutil.copy(path, tmp_path)) for path in night]
    assert batch("-o", "out/", images=images, cwd=tmp_path).code == 0
    before = {e.number: e for e in manifest(tmp_path / "out").images}

    def redone(*words):
        done = batch("-o", "out/", "--resume", *words, images=images, cwd=tmp_path)
        assert done.code == 0, done.err
        now = {e.number: e for e in manifest(tmp_path / "out").images}
        changed = [k for k in now if now[k] != before[k]]
        before.update(now)
        assert catalogues(tmp_path / "out").keys() == calm.keys()
        return changed

    assert redone() == []
    # An image that was written again, a catalogue that is gone, one that was changed.
    os.utime(images[1])
    os.unlink(tmp_path / "out/n4.cat.fits")
    with open(tmp_path / "out/n6.cat.fits", "r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(b"!")
    assert redone() == [2, 4, 6]
    assert catalogues(tmp_path / "out") == calm
    # What can't change an answer changes nothing; what can, does.
    assert redone("--mem-limit", "150M", "--workers", "1") == []
    assert redone("-DETECT_THRESH", "2") == list(range(1, 9))
    assert redone() == list(range(1, 9))
    assert catalogues(tmp_path / "out") == calm
    # So do the contents of files that a configuration names.
    (tmp_path / "default.param").write_text("NUMBER\nX_IMAGE\nY_IMAGE\nFLAGS\n")
    assert redone() == list(range(1, 9))
    assert redone() == []


def test_check_images_are_outputs_too(batch, tmp_path):
    words = ("-CHECKIMAGE_TYPE", "SEGMENTATION,-BACKGROUND", "-CHECKIMAGE_NAME", "out/{stem}.seg.fits,out/{stem}.sub.fits")
    assert batch("-o", "out/", *words, cwd=tmp_path).code == 0
    whole = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.s*.fits")}
    assert len(whole) == 16
    os.unlink(tmp_path / "out/n5.sub.fits")
    done = batch("-o", "out/", *words, "--resume", cwd=tmp_path)
    assert "7 of them done before" in done.err
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.s*.fits")} == whole


def test_large_images_are_done_by_all_processes(batch, night, tmp_path):
    large = tmp_path / "large.fits"
    image = np.tile(fits.getdata(night[6]), (13, 13))
    fits.writeto(large, image.astype(np.float32))
    assert large.stat().st_size > 64 * MIB
    done = batch("-o", "out/", "-DETECT_THRESH", "10", images=[large, *night[:2]], cwd=tmp_path)
    assert done.code == 0
    workers = {Path(e.image).stem: e.workers for e in manifest(tmp_path / "out").images}
    assert workers == {"large": 2, "n1": 0, "n2": 0}
    # The small ones come first.
    assert re.findall(r"^Image (\d)", done.err, re.MULTILINE)[-1] == "1"


def test_an_image_that_needs_more_than_its_part_gets_all(cli, night, calm, tmp_path):
    # 72M leaves one process a part that holds no footprint of 10⁶ pixels with all of these images' borders.
    big = field(tmp_path / "wide.fits", (300, 6000), 40, seed=11).path
    alone = cli(big, "-o", "alone.fits", "--workers", "0", "--mem-limit", "100M", cwd=tmp_path)
    assert alone.code == 0, alone.err
    done = cli(big, *night[:3], "-o", "out/", "--workers", "1", "--mem-limit", "100M", cwd=tmp_path)
    assert done.code == 0, done.err
    assert (tmp_path / "out/wide.cat.fits").read_bytes() == (tmp_path / "alone.fits").read_bytes()


def runners(run: Started) -> list[int]:
    """Processes that do images."""
    return [pid for template in children(run.pid) for pid in children(template)]


@pytest.mark.parametrize("seed", range(3))
def test_killed_processes_cost_nothing_but_their_work(night, calm, tmp_path, seed):
    random = np.random.default_rng(seed)
    with Started(tmp_path / "run", *night, "-o", "out/", *OPTIONS) as run:
        for _ in range(5):
            assert run.wait_for(lambda: len(runners(run)) == 2) or run.ended()
            if found := runners(run):
                kill(found[int(random.integers(len(found)))])
        assert run.finish() == 0, run.err
    assert catalogues(run.folder / "out") == calm
    assert states(run.folder / "out") == ["done"] * 8


# A batch in which the same images come again.
NUMBERED = ("-o", "out/{number}.cat.fits", *OPTIONS)


@pytest.mark.parametrize("after", [0, 1, 5, 14])
def test_killed_surveys_go_on(long_night, tmp_path, after):
    images, calm = long_night
    folder = tmp_path / "run"
    with Started(folder, *images, *NUMBERED) as run:
        assert run.wait_for(lambda: len(list(folder.glob("out/*.cat.fits"))) >= after and bool(runners(run)))
        os.kill(run.pid, signal.SIGKILL)
        assert run.finish() == -signal.SIGKILL
    written = catalogues(folder / "out")
    assert written.items() <= calm.items()
    with Started(folder, *images, "--resume", *NUMBERED) as run:
        assert run.finish() == 0, run.err
    assert catalogues(folder / "out") == calm
    assert states(folder / "out") == ["done"] * len(images)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_survey_that_is_stopped_says_so_and_goes_on(long_night, tmp_path, number):
    images, calm = long_night
    folder = tmp_path / "run"
    with Started(folder, *images, *NUMBERED) as run:
        assert run.wait_for(lambda: len(list(folder.glob("out/*.cat.fits"))) >= 5)
        os.kill(run.pid, number)
        assert run.finish() == 75, run.err
    assert set(states(folder / "out")) == {"done", "waiting"}
    with Started(folder, *images, "--resume", *NUMBERED) as run:
        assert run.finish() == 0, run.err
    assert catalogues(folder / "out") == calm


def test_surveys_do_not_share_a_manifest(night, tmp_path):
    folder = tmp_path / "run"
    with Started(folder, *night, "-o", "out/", *OPTIONS) as run:
        run.wait_for(lambda: bool(runners(run)))
        same = ("--manifest", folder / "out/sextract.manifest")
        with Started(tmp_path / "other", *night, "-o", "out2/", *same, *OPTIONS) as other:
            other.finish()
        # Unless the first one had come to its end by then.
        if not run.ended():
            assert other.code == 4
            assert "another survey is writing to it" in other.err
        assert run.finish() == 0


def test_images_leave_no_descriptors_behind(night, tmp_path):
    """Each is done by all processes here, whose start takes some."""
    few = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))  # noqa: E731
    words = (*night * 3, "-o", "out/{number}.cat.fits", "--mem-limit", "72M", "--workers", "2")
    with Started(tmp_path / "run", *words, prepare=few) as run:
        assert run.finish() == 0, run.err
    assert states(tmp_path / "run" / "out") == ["done"] * 24
