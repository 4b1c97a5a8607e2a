"""Runs of one image that are killed, all processes at once, and resumed: the bytes of a run that nobody disturbed."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import CommandLine
from tests.faults.harness import CHECKS, EVERYTHING, SECONDS, Started
from tests.giants import scenes
from tests.memory_watch import Watch
from tests.scenes import field

LIMIT = ("--mem-limit", "160M", "--workers", "2", "--tile-shape", "32")
# Other limits, workers and tiles than those of the run that was killed; none of its rows of tiles is one of theirs.
OTHERS = (
    ("--mem-limit", "200M", "--workers", "2", "--tile-shape", "27x100"),
    ("--mem-limit", "120M", "--workers", "1", "--tile-shape", "50"),
    ("--mem-limit", "120M", "--workers", "0", "--tile-shape", "21x300"),
    LIMIT,
)
NEAR = ("-CLEAN_REACH", "40")

Outputs = dict[str, bytes]


def outputs(folder: Path) -> Outputs:
    """Bytes of all files of a folder; nothing else may be there but scratch."""
    return {name: (folder / name).read_bytes() for name in sorted(os.listdir(folder)) if name != ".scratch"}


class Disturbed:
    """A folder in which one run is killed again and again.

    Parameters
    ----------
    folder, image : Path
    options : sequence of str
        What stays the same.
    """

    def __init__(self, folder: Path, image: Path, options: Sequence[str] = ()) -> None:
        self.folder, self.image, self.options = folder, image, options
        self.state = folder / "out.fits.checkpoint" / "state"
        self.said = ""

    def version(self) -> tuple[int, int] | None:
        """What tells one checkpoint from the next."""
        with suppress(FileNotFoundError):
            status = self.state.stat()
            return status.st_ino, status.st_mtime_ns
        return None

    def start(self, *more: str) -> Started:
        """The command line."""
        return Started(self.folder, self.image, "-o", "out.fits", *self.options, *more)

    def kill(self, *more: str, when: Callable[[Started], bool]) -> bool:
        """Kill all processes of a run at some moment; False if it ended before."""
        with self.start("--checkpoint", "1", "--resume", *more) as run:
            alive = when(run)
            if alive:
                with suppress(ProcessLookupError):
                    os.killpg(run.pid, signal.SIGKILL)
            code = run.finish()
            assert code in (0, -signal.SIGKILL), run.err
            self.said += run.err
        return code != 0

    def after(self, count: int) -> Callable[[Started], bool]:
        """When that many checkpoints have been seen."""

        def come(run: Started) -> bool:
            last = self.version()
            for _ in range(count):
                if not run.wait_for(lambda last=last: self.version() not in (None, last)):  # type: ignore[misc]
                    return False
                last = self.version()
            return True

        return come

    def while_writing(self, run: Started) -> bool:
        """When the second checkpoint is being written."""
        return self.after(1)(run) and run.wait_for(self.state.with_name("state.new").exists)

    def finish(self, *more: str) -> Outputs:
        """Have a run end in peace; the outputs."""
        with self.start("--checkpoint", "1", "--resume", *more) as run:
            assert run.finish() == 0, run.err
            self.said += run.err
        return outputs(self.folder)


def undisturbed(folder: Path, image: Path, options: Sequence[str]) -> Outputs:
    """Outputs of a run without checkpoints."""
    with Started(folder, image, "-o", "out.fits", *options) as run:
        assert run.finish() == 0, run.err
    return outputs(folder)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of twenty rows of tiles."""
    return field(tmp_path_factory.mktemp("plain") / "plain.fits", (640, 300), 200).path


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, plain: Path) -> Outputs:
    """What comes of it."""
    return undisturbed(tmp_path_factory.mktemp("calm"), plain, ())


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of two images, with a trail over both."""
    return field(tmp_path_factory.mktemp("stack") / "stack.fits", (500, 400), 220, extensions=2, trail=True).path


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Check-images of all kinds, sky positions, a source's reach that is some rows of tiles."""
    columns = tmp_path_factory.mktemp("columns") / "sky.param"
    names = "NUMBER ID_PARENT EXT_NUMBER X_IMAGE Y_IMAGE ALPHA_J2000 DELTA_J2000 FLUX_AUTO FLUX_APER MAG_ISO FLAGS VIGNET(9,9)"
    columns.write_text("\n".join(names.split()) + "\n")
    return (*EVERYTHING, "-PARAMETERS_NAME", str(columns), *NEAR)


@pytest.fixture(scope="module")
def calm_stack(tmp_path_factory: pytest.TempPathFactory, stack: Path, options: tuple[str, ...]) -> Outputs:
    """What comes of it."""
    found = undisturbed(tmp_path_factory.mktemp("calm"), stack, options)
    assert len(found) == 1 + len(CHECKS)
    return found


def test_killed_at_checkpoints_and_resumed_with_other_resources(
    tmp_path: Path, stack: Path, options: tuple[str, ...], calm_stack: Outputs
) -> None:
    run = Disturbed(tmp_path / "run", stack, options)
    assert run.kill(*LIMIT, when=run.after(2))
    for other in OTHERS[:3]:
        run.kill(*other, when=run.after(2))
    assert run.finish(*OTHERS[1]) == calm_stack
    assert run.said.count("Resumed from the checkpoint") >= 3


def test_killed_while_a_checkpoint_is_written(
    tmp_path: Path, stack: Path, options: tuple[str, ...], calm_stack: Outputs
) -> None:
    run = Disturbed(tmp_path / "run", stack, options)
    for _ in range(3):
        run.kill(*LIMIT, when=run.while_writing)
    assert run.finish(*LIMIT) == calm_stack
    assert "isn't used" not in run.said


def test_checkpoints_change_no_byte_and_leave_nothing(
    tmp_path: Path, stack: Path, options: tuple[str, ...], calm_stack: Outputs
) -> None:
    run = Disturbed(tmp_path / "run", stack, options)
    elsewhere = tmp_path / "elsewhere"
    assert run.finish(*LIMIT, "--checkpoint-folder", str(elsewhere)) == calm_stack
    assert os.listdir(elsewhere) == []
    assert "begins anew" in run.said


def scene(kind: str, folder: Path) -> tuple[Path, tuple[str, ...]]:
    """An image on which something spans many rows of tiles, and its configuration."""
    made = {
        "crowd": lambda: scenes.crowd(400),
        "lace": lambda: scenes.noise(250),
        "trail": lambda: scenes.trail(500),
        "column": lambda: scenes.bleeding_star(400),
        "aperture": lambda: scenes.aperture(400),
        "nebula": lambda: scenes.nebula(400),
    }[kind]()
    return made.write(folder / f"{kind}.fits"), (*made.options, *NEAR, *EVERYTHING)


@pytest.mark.parametrize("kind", ["lace", "column", pytest.param("crowd", marks=pytest.mark.slow)])
def test_what_spans_many_rows_of_tiles(tmp_path: Path, kind: str) -> None:
    image, options = scene(kind, tmp_path)
    run = Disturbed(tmp_path / "run", image, options)
    assert run.kill(*LIMIT, when=run.after(4))
    run.kill(*OTHERS[0], when=run.after(3))
    assert run.finish(*LIMIT) == undisturbed(tmp_path / "calm", image, options)
    assert "Resumed" in run.said


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["crowd", "lace", "trail", "column", "aperture", "nebula", "stack"])
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_moments_again_and_again(
    tmp_path: Path, kind: str, seed: int, stack: Path, options: tuple[str, ...]
) -> None:
    image, mine = (stack, options) if kind == "stack" else scene(kind, tmp_path)
    calm = undisturbed(tmp_path / "calm", image, mine)
    rng, run, kills = random.Random(f"{kind}{seed}"), Disturbed(tmp_path / "run", image, mine), 0
    for _ in range(10):
        seconds = rng.uniform(0.3, 2.0)
        when = rng.choice((run.after(rng.randint(1, 4)), run.while_writing, lambda it, most=seconds: not it.ended(most)))
        # The first one is certain.
        when = when if kills else run.after(1)
        if not run.kill(*rng.choice(OTHERS), when=when):
            break
        kills += 1
    else:
        assert run.finish(*rng.choice(OTHERS)) == calm
    assert outputs(run.folder) == calm
    assert kills > 0


@pytest.mark.slow
def test_the_smallest_limit_holds_while_checkpoints_are_written_and_read(tmp_path: Path) -> None:
    image = field(tmp_path / "image.fits", 1500, 3000).path
    low = ("-DETECT_THRESH", "0.8", "-ANALYSIS_THRESH", "0.8", "-CLEAN_REACH", "700")
    limit = ("--mem-limit", "64M", "--workers", "1", "--tile-shape", "40")
    run = Disturbed(tmp_path / "run", image, low)
    assert run.kill(*limit, when=run.after(20))
    with run.start("--checkpoint", "1", "--resume", *limit) as last:
        with Watch(last.mark) as watch:
            assert last.ended(SECONDS)
        assert last.finish() == 0, last.err
    assert "Resumed" in last.err
    assert 0 < watch.peak <= 64 << 20
    assert outputs(run.folder) == undisturbed(tmp_path / "calm", image, low)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::astropy.wcs.FITSFixedWarning")
def test_rows_that_wait_for_sky_positions(tmp_path: Path, options: tuple[str, ...]) -> None:
    image, columns = field(tmp_path / "image.fits", 1024, 1200).path, options[-4:]
    # wcslib alone doesn't read a number with a small letter, so astropy is needed, for which a small limit has no room.
    data = image.read_bytes()
    image.write_bytes(data.replace(b"CRPIX1  =                512.5", b"CRPIX1  =            5.125d+02", 1))
    small = ("--mem-limit", "80M", "--workers", "1", "--tile-shape", "64")
    large = ("--mem-limit", "1G", "--workers", "1", "--tile-shape", "50")
    run = Disturbed(tmp_path / "run", image, columns)
    for some in (small, small, large, small):
        run.kill(*some, when=run.after(4))
    assert (run.folder / "out.fits.checkpoint" / "rows").stat().st_size > 0
    assert run.finish(*large) == undisturbed(tmp_path / "calm", image, columns)


def killed(folder: Path, image: Path, *options: str) -> Disturbed:
    """A run that was killed in the middle."""
    run = Disturbed(folder, image, options)
    assert run.kill(*LIMIT, when=run.after(4))
    return run


def test_another_configuration_begins_anew(tmp_path: Path, plain: Path, calm: Outputs) -> None:
    run = killed(tmp_path / "run", plain)
    run.options = other = ("-DETECT_THRESH", "3")
    assert run.finish(*LIMIT) == undisturbed(tmp_path / "calm", plain, other)
    assert "isn't used, it was taken with another configuration" in run.said


def test_another_image_begins_anew(tmp_path: Path) -> None:
    image = field(tmp_path / "image.fits", 400, 200, seed=1).path
    run = killed(tmp_path / "run", image)
    field(image, 400, 200, seed=2)
    assert run.finish(*LIMIT) == undisturbed(tmp_path / "calm", image, ())
    assert "isn't used, the image has changed since" in run.said


def test_a_damaged_checkpoint_begins_anew(tmp_path: Path, plain: Path, calm: Outputs) -> None:
    run = killed(tmp_path / "run", plain)
    whole = run.state.read_bytes()
    run.state.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    assert run.finish(*LIMIT) == calm
    assert "its sum is wrong" in run.said


def test_an_output_in_progress_that_was_cut_begins_anew(tmp_path: Path, plain: Path, calm: Outputs) -> None:
    run = killed(tmp_path / "run", plain)
    os.truncate(run.state.with_name("catalogue"), 10)
    assert run.finish(*LIMIT) == calm
    assert "is missing or cut" in run.said


def test_without_resume_it_begins_anew_and_says_so(tmp_path: Path, plain: Path, calm: Outputs) -> None:
    run = killed(tmp_path / "run", plain)
    with run.start(*LIMIT, "--checkpoint", "8") as again:
        assert again.finish() == 0, again.err
    assert "is given up" in again.err
    assert outputs(run.folder) == calm


def test_resume_alone_goes_on_as_before(tmp_path: Path, plain: Path, calm: Outputs) -> None:
    run = killed(tmp_path / "run", plain)
    with run.start(*LIMIT, "--resume", "-VERBOSE_TYPE", "FULL") as again:
        assert again.finish() == 0, again.err
    assert "Resumed" in again.err and "Checkpoint of" in again.err
    assert outputs(run.folder) == calm


def test_resume_without_a_checkpoint_begins_anew_and_says_so(tmp_path: Path, small: Path) -> None:
    with Started(tmp_path / "run", small, "-o", "out.fits", *LIMIT, "--resume") as run:
        assert run.finish() == 0, run.err
    assert "Nothing to resume" in run.err
    assert list(run.outputs()) == ["out.fits"]


def test_a_signal_leaves_the_checkpoint(tmp_path: Path, plain: Path, calm: Outputs) -> None:
    run = Disturbed(tmp_path / "run", plain)
    with run.start("--checkpoint", "1", *LIMIT) as stopped:
        assert run.after(2)(stopped)
        os.kill(stopped.pid, signal.SIGTERM)
        assert stopped.finish() == 75
    assert "--resume goes on from there" in stopped.err
    assert not (run.folder / "out.fits").exists()
    assert run.finish(*LIMIT) == calm
    assert "Resumed" in run.said


def test_a_second_run_with_the_same_checkpoint_is_refused(tmp_path: Path, plain: Path, calm: Outputs) -> None:
    run = Disturbed(tmp_path / "run", plain)
    with run.start("--checkpoint", "1", *LIMIT) as first:
        assert run.after(1)(first)
        os.kill(first.pid, signal.SIGSTOP)
        with Started(tmp_path / "run", plain, "-o", "out.fits", "--checkpoint", "1", "--resume", *LIMIT) as second:
            assert second.finish() == 2
        os.kill(first.pid, signal.SIGCONT)
        assert first.finish() == 0, first.err
    assert "another run is using the checkpoint" in second.err


def test_a_disk_that_is_full_costs_a_checkpoint_and_not_the_run(
    tmp_path: Path, plain: Path, calm: Outputs, mounts: Callable[[str], list[str]]
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    command = ("--checkpoint", "2", "--checkpoint-folder", str(full), *LIMIT)
    wrap = mounts(f"mount -t tmpfs -o size=16k none {full}")
    with Started(tmp_path / "run", plain, "-o", "out.fits", *command, wrap=wrap) as run:
        assert run.finish() == 0, run.err
    assert "no checkpoint could be written" in run.err and "No space left" in run.err
    assert outputs(run.folder) == calm


@pytest.mark.parametrize("output", [("-o", "STDOUT"), ("-o", "/dev/null", "-CATALOG_TYPE", "ASCII")], ids=("stdout", "device"))
def test_what_has_no_name_cannot_be_checkpointed(cli: CommandLine, small: Path, output: tuple[str, ...]) -> None:
    done = cli(small, *output, "--checkpoint", "4")
    assert done.code == 2 and done.out == "" and "can't be checkpointed" in done.err and not done.made
