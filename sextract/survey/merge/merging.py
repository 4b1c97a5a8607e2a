"""A merge: the catalogues of a survey, read twice, become a data set.

    read all catalogues: keys of positions to scratch, the table of images
    choose partitions by counting keys
    read all catalogues again: each row to its partition's stretch of scratch, and a record to compare it by
    sort the records of each partition
    for each partition: primaries and duplicates, then its file

Memory is that of a partition, whatever the number of images; what it takes is known before the first row is read.  Partitions
depend on rows alone, so that the same files come out under any limit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sextract.config.keywords import parse_size
from sextract.config.machine import default_mem_limit
from sextract.errors import ConfigError, InputError, LimitError, OutputError
from sextract.log import Reporter
from sextract.memory.gauge import proportional
from sextract.survey.merge.catalogues import Field, open_catalogue, row_dtype
from sextract.survey.merge.dataset import ADDED, IMAGE, KEY, OPTION, DataSet, batch, group_rows, schema_of
from sextract.survey.merge.duplicates import RECORD, SOURCE_BYTES, Records, Rule, describe, parts_of, source_ids
from sextract.survey.merge.images import Image, mergeable, read_images
from sextract.survey.merge.quality import FrameSummary, QualityTable
from sextract.survey.merge.scratch import Gathered, KeyFile, Sorted
from sextract.survey.merge.sky import NOWHERE, Keys, Pixel, keys_of, partition

RADIUS_ARCSEC = 1.0

# Positions, best first: ALPHA and DELTA of the barycentre are what most catalogues have.
POSITIONS = (("ALPHA_J2000", "DELTA_J2000"), ("ALPHA_SKY", "DELTA_SKY"), ("X_WORLD", "Y_WORLD"))

# What a partition may hold: readers take one at a time, and so does a merge.
MOST_ROWS, MOST_BYTES = 1_000_000, 64 << 20

# Memory beside base and partition: pieces of catalogues and their keys, the writer's buffers for a group of rows, the heap.
_PIECES_BYTES, _GROUPS, _HEAP_BYTES = 24 << 20, 5, 16 << 20
# Records around a partition that there is room for, as a part of its own.
_AROUND = 0.25
_MIB = 1 << 20


class Request(NamedTuple):
    """What is to be merged, as the command line has it.

    Attributes
    ----------
    output : str
    manifests : tuple of str
    radius_arcsec : float
    mem_limit, scratch : str or None
    overwrite : bool
    """

    output: str
    manifests: tuple[str, ...]
    radius_arcsec: float = RADIUS_ARCSEC
    mem_limit: str | None = None
    scratch: str | None = None
    overwrite: bool = False


def merge(request: Request, reporter: Reporter) -> None:
    """Merge the catalogues of a survey.

    Raises
    ------
    ConfigError
        A package is missing, catalogues have no or different columns, or the output may not be replaced.
    InputError
        A catalogue can't be read, or isn't what the manifest says.
    LimitError
        The memory limit is too small.
    OutputError
        The data set, or scratch, can't be written.
    """
    _load_libraries()
    if not request.manifests:
        raise ConfigError("--merge: name the manifests of the survey, as in sextract --merge survey.parquet sextract.manifest")
    images = read_images(request.manifests, reporter)
    with ExitStack() as stack:
        output = stack.enter_context(DataSet(request.output, request.overwrite))
        _Merge(request, images, output, stack, reporter).run()
        output.publish()
    reporter.info(f"Written: {request.output}")


def _load_libraries() -> None:
    """Import what isn't in every installation, so that it is part of the base that is measured."""
    try:
        import astropy_healpix
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError as exc:
        raise ConfigError(
            f"--merge needs pyarrow and astropy-healpix ({exc}): install them with pip install 'sextract[merge]', "
            f"or pip install pyarrow astropy-healpix"
        ) from exc
    # One thread, and an allocator that the process knows already.
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    pa.set_memory_pool(pa.system_memory_pool())
    assert astropy_healpix and pyarrow.parquet


class _Merge:
    """One merge on its way."""

    def __init__(
        self, request: Request, images: Sequence[Image], output: DataSet, stack: ExitStack, reporter: Reporter
    ) -> None:
        self._request, self._images, self._output = request, images, output
        self._stack, self._reporter = stack, reporter
        self._folder = request.scratch or ""
        self._sources = [image for image in images if mergeable(image)]
        self._names = {image.number: image.entry.image for image in self._sources}
        self._fields: tuple[Field, ...] = ()
        self._position = POSITIONS[0]

    def run(self) -> None:
        """All of it."""
        self._find_columns()
        self._dtype = row_dtype(self._fields)
        most_rows = max(1, min(MOST_ROWS, MOST_BYTES // max(self._dtype.itemsize, 1)))
        self._rows = sum(sum(image.rows) for image in self._sources)
        room = self._check_limit(min(most_rows, self._rows))
        keys = KeyFile(self._folder)
        self._stack.callback(keys.close)
        with self._reporter.progress(4 * self._rows, "merging", "row") as self._progress:
            self._survey(keys)
            pixels = partition(keys.pieces, most_rows)
            self._gather(keys, pixels)
            rule = Rule(self._request.radius_arcsec, self._records.within, room)
            self._write(pixels, rule, most_rows)

    def _find_columns(self) -> None:
        """The columns, which must be the same everywhere."""
        first = ""
        for image in [image for image in self._sources if sum(image.rows)] or self._sources[:1]:
            with open_catalogue(image.catalogue, image.entry.catalogue_type, image.rows) as catalogue:
                if not first:
                    first, self._fields = catalogue.path, catalogue.fields
                elif row_dtype(catalogue.fields) != row_dtype(self._fields):
                    raise ConfigError(_difference(catalogue.path, catalogue.fields, first, self._fields))
        names = {field.name for field in self._fields}
        found = next((pair for pair in POSITIONS if names.issuperset(pair)), None)
        if found is None:
            raise ConfigError(
                f"{first} has no position on the sky: add ALPHA_J2000 and DELTA_J2000 to the .param file "
                f"(PARAMETERS_NAME) and run the survey again"
            )
        if taken := names & {KEY, IMAGE, *(f.name for f in ADDED if f.name != "EXT_NUMBER")}:
            raise ConfigError(f"{first} has columns that a merge adds: {', '.join(sorted(taken))}")
        self._position = found

    def _check_limit(self, most_rows: int) -> int:
        """Refuse a limit that is too small; bytes that there are for sources compared at once."""
        text = self._request.mem_limit
        limit = parse_size(text) if text is not None else default_mem_limit().value
        base = proportional(os.getpid()) or 0
        row = self._dtype.itemsize
        compared = int(most_rows * (1 + _AROUND)) * SOURCE_BYTES
        written = most_rows * (row + RECORD.itemsize + 24) + _GROUPS * group_rows(row) * row
        fixed = base + _PIECES_BYTES + _HEAP_BYTES
        least = fixed + max(compared, written)
        if limit < least:
            raise LimitError(
                f"--mem-limit {text or f'{limit // _MIB}M'} is too small to merge {self._rows} rows of {row} bytes: "
                f"the smallest limit that works is {-(-least // _MIB)}M"
            )
        return limit - fixed

    def _survey(self, keys: KeyFile) -> None:
        """Read all catalogues for their keys and for what they tell of their images."""
        try:
            table = QualityTable(self._output.quality, self._images)
            for image in self._images:
                table.add(image, self._look_at(image, keys) if mergeable(image) else ())
            table.close()
        except OSError as exc:
            raise OutputError(f"can't write {self._output.quality}: {exc}; choose another place with {OPTION}") from exc

    def _look_at(self, image: Image, keys: KeyFile) -> list[FrameSummary]:
        summaries = [FrameSummary(extension, self._position) for extension in image.extensions]
        for extension, rows in self._pieces(image):
            keys.append(keys_of(*(rows[name].astype(np.float64) for name in self._position)))
            summaries[extension].add(rows)
        return summaries

    def _pieces(self, image: Image) -> Iterator[tuple[int, NDArray[Any]]]:
        """Rows of a catalogue, with the extension that they are of, from 0."""
        if not sum(image.rows):
            return
        with open_catalogue(image.catalogue, image.entry.catalogue_type, image.rows) as catalogue:
            if catalogue.dtype != self._dtype:
                raise InputError(f"{image.catalogue} was changed while it was being read")
            for extension, rows in catalogue.pieces():
                self._progress.advance(len(rows))
                yield extension, rows

    def _gather(self, keys: KeyFile, pixels: Sequence[Pixel]) -> None:
        """Read all catalogues again, each row to its partition; those without a position come last."""
        counts = [pixel.rows for pixel in pixels]
        nowhere = self._rows - sum(counts)
        self._wide = Gathered(self._folder, self._dtype, [*counts, nowhere])
        self._stack.callback(self._wide.close)
        self._records = Sorted(self._folder, counts)
        self._stack.callback(self._records.close)
        # Without a position there is nothing to compare; which source it is must be known.
        self._lost = Gathered(self._folder, np.dtype("i8"), [nowhere])
        self._stack.callback(self._lost.close)
        if nowhere:
            kept = "they go to no_position.parquet"
            self._reporter.warning(f"{nowhere} of {self._rows} rows have no position on the sky: {kept}")
        firsts = np.array([pixel.first for pixel in pixels], np.int64)
        filled = np.zeros(len(pixels) + 1, np.int64)
        numbered = any(field.name == "NUMBER" for field in self._fields)
        done = 0
        for image in self._sources:
            seen = [0] * len(image.rows)
            for extension, rows in self._pieces(image):
                own = keys.read(done, len(rows))
                numbers = rows["NUMBER"] if numbered else np.arange(1, len(rows) + 1) + seen[extension]
                records = self._describe(image, extension, rows, own, numbers)
                where = np.where(own == NOWHERE, len(pixels), np.searchsorted(firsts, own, side="right") - 1)
                self._sort_out(rows, records, where, filled)
                done += len(rows)
                seen[extension] += len(rows)

    def _describe(
        self, image: Image, extension: int, rows: NDArray[Any], keys: Keys, numbers: NDArray[Any]
    ) -> Records:
        """What rows are compared by."""
        records = np.zeros(len(rows), RECORD)
        records["key"] = keys
        records["id"] = source_ids(image.number, image.extensions[extension].extension, numbers)
        lon, lat = (np.radians(rows[name].astype(np.float64)) for name in self._position)
        records["x"], records["y"], records["z"] = np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)
        describe(rows, image.frame(extension), records)
        return records

    def _sort_out(self, rows: NDArray[Any], records: Records, where: NDArray[Any], filled: NDArray[np.int64]) -> None:
        """Write rows and their records to the stretches of their partitions."""
        order = np.argsort(where, kind="stable")
        rows, records, where = rows[order], records[order], where[order]
        begins = np.flatnonzero(np.diff(where, prepend=-1))
        for begin, end in zip(begins, [*begins[1:], len(where)], strict=True):
            k = int(where[begin])
            first = int(filled[k])
            filled[k] += end - begin
            self._wide.write(k, first, rows[begin:end])
            if k == len(filled) - 1:
                self._lost.write(0, first, np.ascontiguousarray(records["id"][begin:end]))
            else:
                records["slot"][begin:end] = np.arange(first, first + end - begin)
                self._records.write(k, first, records[begin:end])

    def _write(self, pixels: Sequence[Pixel], rule: Rule, most_rows: int) -> None:
        """Decide on each partition, and write its file."""
        longest = max((len(name.encode()) for name in self._names.values()), default=0)
        self._schema = schema_of(self._fields, longest)
        for k, pixel in enumerate(pixels):
            self._records.sort(k)
            self._progress.advance(pixel.rows)
        duplicates = 0
        for k, pixel in enumerate(pixels):
            own = self._records.read(k)
            primaries = rule.primaries(pixel, own)
            slots, keys, ids = (np.array(own[name]) for name in ("slot", "key", "id"))
            del own
            duplicates += int(np.count_nonzero(primaries != ids))
            self._output.write(pixel, self._schema, self._groups(self._wide.read(k), slots, keys, ids, primaries))
            self._progress.advance(pixel.rows)
        if self._lost.rows(0):
            self._output.write(None, self._schema, self._lost_groups())
        self._output.finish(self._schema, pixels, self._position, most_rows)
        placed = sum(pixel.rows for pixel in pixels)
        self._reporter.info(
            f"{placed} rows of {len(self._sources)} images in {len(pixels)} partitions: "
            f"{placed - duplicates} primaries, {duplicates} duplicates"
        )

    def _groups(self, wide: NDArray[Any], slots: NDArray[Any], keys: Keys, ids: Keys, primaries: Keys) -> Iterator[Any]:
        """Rows of a partition in order, piece by piece."""
        size = group_rows(self._dtype.itemsize)
        for first in range(0, len(ids), size):
            part = slice(first, first + size)
            yield self._batch(wide[slots[part]], keys[part], ids[part], primaries[part])

    def _lost_groups(self) -> Iterator[Any]:
        """Rows without a position, in the order of images."""
        size, k = group_rows(self._dtype.itemsize), len(self._wide.starts) - 2
        for first in range(0, self._lost.rows(0), size):
            n = min(size, self._lost.rows(0) - first)
            ids = self._lost.read(0, first, n)
            yield self._batch(self._wide.read(k, first, n), np.full(n, NOWHERE, np.int64), ids, ids)

    def _batch(self, rows: NDArray[Any], keys: Keys, ids: Keys, primaries: Keys) -> Any:
        import pyarrow as pa

        images, extensions = parts_of(ids)
        used, which = np.unique(images, return_inverse=True)
        names = pa.array([self._names[int(number)] for number in used], pa.string())
        columns: dict[str, Any] = {
            KEY: keys,
            IMAGE: pa.DictionaryArray.from_arrays(pa.array(which.astype(np.int32)), names).cast(pa.string()),
            "IMAGE_NUMBER": images.astype(np.int32),
            "EXT_NUMBER": extensions.astype(np.int16),
            "SOURCE_ID": ids,
            "DUPLICATE": primaries != ids,
            "PRIMARY_ID": primaries,
        }
        columns.update((name, rows[name]) for name in self._dtype.names or ())
        return batch(self._schema, columns)


def _difference(path: str, fields: Sequence[Field], other: str, others: Sequence[Field]) -> str:
    """What tells the columns of two catalogues apart."""
    here, there = ({f.name: (f.dtype, f.shape) for f in some} for some in (fields, others))
    parts = []
    if only := [name for name in here if name not in there]:
        parts.append(f"only the first has {', '.join(only)}")
    if only := [name for name in there if name not in here]:
        parts.append(f"only the second has {', '.join(only)}")
    if differ := [name for name in here if name in there and here[name] != there[name]]:
        parts.append(f"{', '.join(differ)} differ in type or length")
    return (
        f"{path} and {other} have different columns ({'; '.join(parts) or 'in another order'}): catalogues of one data set are "
        f"made with the same .param file (PARAMETERS_NAME)"
    )
