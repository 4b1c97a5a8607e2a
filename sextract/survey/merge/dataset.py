"""The data set as files: Parquet by HEALPix pixel, as the HATS convention has it.

    NAME/dataset/Norder=k/Dir=d/Npix=n.parquet      rows of a pixel, sorted by _healpix_29
    NAME/dataset/_common_metadata, _metadata        their columns, and where their pieces are
    NAME/partition_info.csv, hats.properties        pixels and facts (properties: the same for older readers)
    NAME/quality.fits                               the table of images
    NAME/no_position.parquet                        rows without a position on the sky, if there are any

All of it is written into a hidden folder beside, which gets its name when it is whole.

References
----------
HATS: IVOA Note, Hierarchical Adaptive Tiling Scheme (astronomy-commons/hats).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import io
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sextract._version import __version__
from sextract.catalogue.output import OutputFile, explain
from sextract.errors import ConfigError
from sextract.survey.merge.catalogues import Field
from sextract.survey.merge.sky import ORDER, Pixel

OPTION = "--merge"
KEY = "_healpix_29"

# What rows have beside their catalogue's columns.
ADDED = (
    Field("IMAGE_NUMBER", "i4", (), "", "Number of the image"),
    Field("EXT_NUMBER", "i2", (), "", "FITS extension number"),
    Field("SOURCE_ID", "i8", (), "", "One for each row: image, extension, NUMBER"),
    Field("DUPLICATE", "?", (), "", "A better row of another image has the same object"),
    Field("PRIMARY_ID", "i8", (), "", "SOURCE_ID of the best row of the object"),
)
IMAGE = "IMAGE"

# Rows of a piece within a file that readers may take alone.
GROUP_BYTES, GROUP_ROWS = 8 << 20, 1 << 17

# Pieces of columns that _metadata may list; it is held in memory, here and by its readers, and may be left out.
_METADATA_CHUNKS = 100_000

_BUILDER = "sextract"
_STEM = 50
_EXCHANGE = 2
_AT_FDCWD = -100


def schema_of(fields: Sequence[Field], longest_name: int) -> Any:
    """Columns of the files.

    Parameters
    ----------
    fields : sequence of Field
        Of the catalogues.
    longest_name : int
        Bytes of the longest image name; astropy would look for it in all rows.
    """
    import pyarrow as pa

    def field(f: Field) -> Any:
        value = pa.from_numpy_dtype(np.dtype(f.dtype))
        about = {"unit": f.unit, "description": f.doc}
        if len(f.shape) > 1:
            about["shape"] = "x".join(map(str, f.shape))
        kept = {key: text for key, text in about.items() if text}
        return pa.field(f.name, pa.list_(value, f.count) if f.shape else value, metadata=kept or None)

    own = {f.name for f in fields}
    first = [pa.field(KEY, pa.int64(), metadata={"description": f"HEALPix pixel of order {ORDER}, nested"})]
    first.append(pa.field(IMAGE, pa.string(), metadata={"description": "Image, as the survey names it"}))
    added = [field(f) for f in ADDED if f.name not in own]
    return pa.schema([*first, *added, *map(field, fields)], metadata={f"table::len::{IMAGE}": str(longest_name)})


def group_rows(row_bytes: int) -> int:
    """Rows of a piece."""
    return min(GROUP_ROWS, max(1, GROUP_BYTES // row_bytes))


class DataSet:
    """A data set that is being written; it appears by `publish`.

    Parameters
    ----------
    path : str
    overwrite : bool
        An earlier one may be replaced.

    Raises
    ------
    ConfigError
        There is something of that name that may not be replaced.
    OutputError
        Its folder can't be written to.
    """

    def __init__(self, path: str, overwrite: bool) -> None:
        self.path = os.path.abspath(path)
        self._check(overwrite)
        folder, self.name = os.path.split(self.path)
        _sweep(folder, self.name)
        self._chunks: list[Any] = []
        self._too_many = 0
        try:
            self.folder, self._lock = _hidden(folder, self.name)
        except OSError as exc:
            raise explain(exc, path, OPTION) from exc

    def _check(self, overwrite: bool) -> None:
        if not os.path.lexists(self.path):
            return
        if not _is_ours(self.path):
            raise ConfigError(f"--merge {self.path} is there and is no data set of sextract: name another one, or remove it")
        if not overwrite:
            raise ConfigError(f"--merge {self.path} is there: name another one, or add --overwrite to have it replaced")

    @property
    def quality(self) -> str:
        """Where the table of images goes."""
        return os.path.join(self.folder, "quality.fits")

    def write(self, pixel: Pixel | None, schema: Any, groups: Iterator[Any]) -> None:
        """Write the rows of a pixel, or those without a position.

        Parameters
        ----------
        pixel : Pixel or None
        schema : pyarrow.Schema
        groups : iterator of pyarrow.RecordBatch
        """
        import pyarrow.parquet as pq

        relative = "no_position.parquet"
        if pixel is not None:
            relative = f"Norder={pixel.order}/Dir={pixel.number // 10000 * 10000}/Npix={pixel.number}.parquet"
        target = os.path.join(self.folder, *([] if pixel is None else ["dataset"]), relative)
        about: list[Any] = []
        # Text repeats; numbers are packed better without a dictionary.
        how = {"compression": "zstd", "use_dictionary": [IMAGE], "metadata_collector": about}
        with self._file(target) as out, pq.ParquetWriter(out, schema, **how) as writer:
            for group in groups:
                writer.write_batch(group)
        if pixel is not None:
            self._collect(about[-1], relative)

    def _collect(self, about: Any, relative: str) -> None:
        self._too_many += about.num_row_groups * about.num_columns
        if self._too_many > _METADATA_CHUNKS:
            self._chunks.clear()
            return
        about.set_file_path(relative)
        self._chunks.append(about)

    def finish(self, schema: Any, pixels: Sequence[Pixel], columns: tuple[str, str], size: int) -> None:
        """Write what describes the whole.

        Parameters
        ----------
        schema : pyarrow.Schema
        pixels : sequence of Pixel
        columns : tuple of str
            Right ascension and declination.
        size : int
            Most rows that a pixel may have.
        """
        import pyarrow.parquet as pq

        folder = os.path.join(self.folder, "dataset")
        with self._file(os.path.join(folder, "_common_metadata")) as out:
            pq.write_metadata(schema, out)
        if self._chunks:
            with self._file(os.path.join(folder, "_metadata")) as out:
                whole = self._chunks[0]
                for each in self._chunks[1:]:
                    whole.append_row_groups(each)
                whole.write_metadata_file(out)
        by_order = sorted(pixels, key=lambda pixel: (pixel.order, pixel.number))
        lines = ["Norder,Npix", *(f"{pixel.order},{pixel.number}" for pixel in by_order)]
        self._text("partition_info.csv", lines)
        facts = {
            "obs_collection": os.path.splitext(self.name)[0] or self.name,
            "dataproduct_type": "source",
            "hats_nrows": sum(pixel.rows for pixel in pixels),
            "hats_col_ra": columns[0],
            "hats_col_dec": columns[1],
            "hats_col_healpix": KEY,
            "hats_col_healpix_order": ORDER,
            "hats_npix_suffix": ".parquet",
            "hats_max_rows": size,
            "moc_sky_fraction": f"{sum(4.0**-pixel.order for pixel in pixels) / 12:.8g}",
            "hats_builder": f"{_BUILDER} {__version__}",
            "hats_version": "v1.0",
        }
        for name in ("hats.properties", "properties"):
            self._text(name, ["#HATS catalog", *(f"{key}={value}" for key, value in facts.items())])

    def _text(self, name: str, lines: Sequence[str]) -> None:
        with self._file(os.path.join(self.folder, name)) as out:
            out.write("".join(f"{line}\n" for line in lines).encode())

    @contextlib.contextmanager
    def _file(self, target: str) -> Iterator[_Sink]:
        try:
            os.makedirs(os.path.dirname(target), exist_ok=True)
        except OSError as exc:
            raise explain(exc, target, OPTION) from exc
        output = OutputFile(target, OPTION, seekable=False)
        sink = _Sink(output)
        try:
            yield sink
            output.commit()
        except BaseException:
            # Arrow's own words say nothing of the disk, nor of a signal.
            if sink.failed is not None:
                raise sink.failed from None
            raise
        finally:
            output.abort()

    def publish(self) -> None:
        """Give it its name, in place of what has it."""
        try:
            os.chmod(self.folder, 0o777 & ~_umask())
            if os.path.lexists(self.path):
                self._check(overwrite=True)
                _exchange(self.folder, self.path)
            else:
                os.rename(self.folder, self.path)
                self.folder = ""
        except OSError as exc:
            raise explain(exc, self.path, OPTION) from exc

    def close(self) -> None:
        """Remove what wasn't published, or what was replaced."""
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)

    def __enter__(self) -> DataSet:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class _Sink(io.RawIOBase):
    """An `OutputFile` as something that others write to.

    Attributes
    ----------
    failed : BaseException or None
        What stopped a write; what is written after that goes nowhere.
    """

    def __init__(self, output: OutputFile) -> None:
        self._output = output
        self.failed: BaseException | None = None

    def writable(self) -> bool:
        """Yes."""
        return True

    def write(self, data: Any) -> int:
        """Append."""
        if self.failed is None:
            try:
                self._output.append(bytes(data))
            except BaseException as exc:
                self.failed = exc
                raise
        return len(data)

    def tell(self) -> int:
        """How much was written."""
        return self._output.appended


def batch(schema: Any, columns: dict[str, NDArray[Any] | Any]) -> Any:
    """Rows as Arrow has them: (n, …) arrays by column name, or Arrow arrays."""
    import pyarrow as pa

    arrays = []
    for field in schema:
        values = columns[field.name]
        if isinstance(values, np.ndarray) and values.ndim > 1:
            flat = pa.array(np.ascontiguousarray(values).reshape(-1))
            values = pa.FixedSizeListArray.from_arrays(flat, field.type.list_size)
        elif isinstance(values, np.ndarray):
            values = pa.array(np.ascontiguousarray(values), type=field.type)
        arrays.append(values)
    return pa.record_batch(arrays, schema=schema)


def _is_ours(path: str) -> bool:
    """Whether something is a data set that was made here."""
    try:
        with open(os.path.join(path, "hats.properties"), encoding="utf-8") as file:
            return f"hats_builder={_BUILDER} " in file.read(1 << 16)
    except (OSError, UnicodeDecodeError):
        return False


def _hidden(folder: str, name: str) -> tuple[str, int]:
    """A folder for what isn't whole yet, locked while its run lives."""
    for attempt in range(1000):
        path = os.path.join(folder, f".{name[:_STEM]}.{os.getpid()}-{attempt}.part")
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            continue
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return path, fd
    raise FileExistsError(f"too many unfinished ones of {name}")


def _sweep(folder: str, name: str) -> None:
    """Remove what killed runs have left of this name."""
    pattern = re.compile(re.escape(f".{name[:_STEM]}.") + r"\d+-\d+\.part")
    with contextlib.suppress(OSError):
        for entry in os.listdir(folder):
            if pattern.fullmatch(entry):
                with contextlib.suppress(OSError):
                    _remove_unlocked(os.path.join(folder, entry))


def _remove_unlocked(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(fd)


def _exchange(new: str, old: str) -> None:
    """Swap two folders at once; file systems that can't have a moment without either."""
    libc = ctypes.CDLL(None, use_errno=True)
    swap = getattr(libc, "renameat2", None)
    if swap is not None and swap(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), _EXCHANGE) == 0:
        return
    aside = f"{new[: -len('.part')]}-old.part"
    os.rename(old, aside)
    os.rename(new, old)
    os.rename(aside, new)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
