"""A survey in a folder of its own, done undisturbed or by a job script, and what came of it."""

from __future__ import annotations

import shlex
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from tests.conftest import environment

OPTIONS = ("-DETECT_THRESH", "2", "-PARAMETERS_NAME", "default.param", "-CATALOG_TYPE", "FITS_LDAC")


class Survey:
    """Images in a list, and two folders: `calm` for undisturbed catalogues, `night` for those of jobs.

    Parameters
    ----------
    folder : Path
    images : sequence of Path
    times : int
        How often each image is in the list.
    """

    def __init__(self, folder: Path, images: Sequence[Path], times: int = 12) -> None:
        self.folder = folder / "my survey"
        self.folder.mkdir()
        self.count = len(images) * times
        (self.folder / "night.txt").write_text("".join(f"{shlex.quote(str(image))}\n" for image in [*images] * times))
        (folder / "scratch").mkdir()
        self.env = environment("", folder / "scratch")

    def sextract(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run the command line in the folder."""
        command = [sys.executable, "-m", "sextract", *map(str, arguments)]
        done = subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done

    def do_calmly(self) -> dict[str, bytes]:
        """Do it here, undisturbed; its catalogues."""
        self.sextract("@night.txt", "-o", "calm/{number}.cat", "--workers", 1, *OPTIONS)
        return self.catalogues("calm")

    def script(self, system: str, *arguments: object) -> Path:
        """A job script for it."""
        words = ("--job-script", system, "@night.txt", "-o", "night/{number}.cat", *OPTIONS)
        path = self.folder / f"{system}.job"
        path.write_text(self.sextract(*words, *arguments).stdout)
        return path

    def catalogues(self, folder: str = "night") -> dict[str, bytes]:
        """Name and bytes of all catalogues of a folder."""
        return {path.name: path.read_bytes() for path in sorted((self.folder / folder).glob("*.cat"))}

    def done(self, part: int = 1, parts: int = 1) -> int:
        """How many catalogues of a part jobs have written; every parts-th image is of it."""
        return sum((self.folder / "night" / f"{number}.cat").exists() for number in range(part, self.count + 1, parts))

    def states(self) -> Counter[str]:
        """State of all images in the manifests of jobs."""
        found: Counter[str] = Counter()
        for path in (self.folder / "night").glob("*.manifest"):
            with closing(sqlite3.connect(path)) as manifest:
                found.update(state for (state,) in manifest.execute("SELECT state FROM images"))
        return found

    def logs(self) -> list[str]:
        """Logs of jobs, by their names."""
        return [path.read_text() for path in sorted(self.folder.glob("sextract-*.log"))]
