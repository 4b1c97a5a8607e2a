"""`extract`: a run from Python, in a process tree of its own that the memory limit covers; the table is the caller's.

It starts the command line and reads its catalogue back, so both give the same rows.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sextract.errors import ConfigError, InputError, Interrupted, LimitError, OutputError, SextractError

if TYPE_CHECKING:
    from astropy.table import Table

ERRORS = {e.exit_code: e for e in (SextractError, ConfigError, InputError, OutputError, LimitError, Interrupted)}

# How long a run that is told to stop may clean up, seconds, before it is killed.
PATIENCE_SECONDS = 10.0

# The command line of this very package, wherever it was imported from.
_START = f"""import sys
sys.path.append({str(Path(__file__).resolve().parent.parent)!r})
from sextract.cli import main
sys.exit(main())"""

_log = logging.getLogger("sextract")


def extract(
    path: str | os.PathLike[str],
    config: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    *,
    mem_limit: str | int | None = None,
    workers: int | None = None,
    columns: Sequence[str] | None = None,
) -> Table:
    """Find and measure the sources of an image.

    Parameters
    ----------
    path : path
        FITS image, or one extension of it: ``image.fits[SCI]``.
    config : mapping or path, optional
        Keywords and their values (a list where a keyword takes several, True and False for Y and N), or the path of a
        configuration file.  As on the command line, ``default.sex`` of the current folder is read if no file is given.
    mem_limit : str or int, optional
        Most memory of all processes of the run: ``"512M"``, or bytes.  Default: from the machine.
    workers : int, optional
        Worker processes; 0 for none beside the run's own.  Default: one a CPU.
    columns : sequence of str, optional
        Columns as in a ``.param`` file: ``["X_IMAGE", "FLUX_APER(3)"]``.  Default: PARAMETERS_NAME.

    Returns
    -------
    astropy.table.Table
        One row a source.  Of a file with several images the tables follow each other, with EXT_NUMBER as a column.
        Numbers and flags are the catalogue's; failed measurements are NaN.

    Raises
    ------
    SextractError
        What the run ended with: ConfigError, InputError, OutputError, LimitError, Interrupted.

    Notes
    -----
    The run's log goes to the logger ``sextract``: lines at INFO, warnings at WARNING.
    """
    with tempfile.TemporaryDirectory(prefix="sextract-") as folder:
        catalogue = Path(folder) / "catalogue.fits"
        command = [sys.executable, "-c", _START, os.fspath(path), *_arguments(config)]
        if columns is not None:
            wanted = Path(folder) / "columns.param"
            wanted.write_text("\n".join(columns) + "\n")
            command += ["-PARAMETERS_NAME", str(wanted)]
        command += ["-o", str(catalogue), "-CATALOG_TYPE", "FITS_1.0", "-VERBOSE_TYPE", "NORMAL"]
        if mem_limit is not None:
            command += ["--mem-limit", str(mem_limit)]
        if workers is not None:
            command += ["--workers", str(workers)]
        _run(command)
        return _read(catalogue)


def _arguments(config: Mapping[str, Any] | str | os.PathLike[str] | None) -> list[str]:
    """A configuration as arguments of the command line."""
    if config is None:
        return []
    if not isinstance(config, Mapping):
        return ["-c", os.fspath(config)]
    words = []
    for name, value in config.items():
        words += [f"-{name}", _text(value)]
    return words


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "Y" if value else "N"
    if isinstance(value, (list, tuple)):
        return ",".join(_text(member) for member in value)
    return str(value)


def _run(command: Sequence[str]) -> None:
    """Run it; its log to the logger, its failure to an exception."""
    last = ""
    null = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=null, stdout=null, stderr=subprocess.PIPE, text=True, errors="replace") as run:
        assert run.stderr is not None
        try:
            for line in run.stderr:
                last = _relay(line.rstrip("\n")) or last
            code = run.wait()
        except BaseException:
            run.terminate()
            try:
                run.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                run.kill()
            raise
    if code:
        said = last or (f"the run was killed by signal {-code}" if code < 0 else f"the run ended with code {code}")
        raise ERRORS.get(code, SextractError)(said)


def _relay(line: str) -> str:
    """Log a line of the run; the text if it is an error."""
    if line.startswith("> *ERROR*: "):
        return line.removeprefix("> *ERROR*: ")
    if line.startswith("> WARNING: "):
        _log.warning(line.removeprefix("> WARNING: "))
    elif line:
        _log.info(line)
    return ""


def _read(catalogue: Path) -> Table:
    """The tables of a FITS_1.0 catalogue as one."""
    from astropy.io import fits
    from astropy.table import Column, Table, vstack
    from astropy.units import UnitsWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnitsWarning)
        with fits.open(catalogue, memmap=False) as hdus:
            tables = [Table.read(hdu) for hdu in hdus[1:]]
    if len(tables) == 1:
        return tables[0]
    for number, table in enumerate(tables, 1):
        if "EXT_NUMBER" not in table.colnames:
            table.add_column(Column([number] * len(table), "EXT_NUMBER", dtype="i2"), 0)
    return vstack(tables, metadata_conflicts="silent")
