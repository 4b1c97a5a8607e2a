"""Images by address: over ``http`` and ``https`` by ranged requests, from object stores by addresses that fsspec signs.

Plain FITS is read where it lies, only the bytes that are needed (``handle.py``).  What a library must read from a file
(tile-compressed and gzipped images), what a server gives as a whole only, and what no address can be signed for is copied
to a nameless scratch file first.  Choosing among the images of a file is ``source.py``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np

from sextract.config.locations import WEB, scheme_of, shown
from sextract.errors import InputError
from sextract.reading.fits import BLOCK, walk
from sextract.reading.handle import FileHandle
from sextract.reading.remote import store
from sextract.reading.remote.handle import CHEAP_GAP_BYTES, RemoteHandle
from sextract.reading.scratch import ScratchFile, filled
from sextract.reading.source import SNIFFED, Hdu, choose, opener_of, settles
from sextract.reading.spec import Spec

PIECE_BYTES = 64 * 1024


def open_remote(asked: Spec, scratch_dir: str, limit_bytes: int, say: Callable[[str], None]) -> list[Hdu]:
    """HDUs of an object, up to the one that is asked for by number or name.

    Parameters
    ----------
    asked : Spec
        Its path is an address.
    scratch_dir, limit_bytes, say
        See `open_images`.

    Raises
    ------
    InputError
        It is missing or damaged, access is refused, or the server can't be reached.
    OutputError
        A scratch file that is needed can't be written.
    LimitError
        There is no room to sign the address.
    """
    name, url = shown(asked.path), asked.path
    if scheme_of(url) not in WEB:
        (url,) = store.sign([asked.path], limit_bytes)
        if not url:
            say(f"{name}: no address can be signed for it, it is copied to a scratch file")
            return _open_copy(filled(name, scratch_dir, "copying", partial(_copy_by_fsspec, asked.path)), name, scratch_dir)
    handle = RemoteHandle(url, name)
    if handle.size == 0:
        raise InputError(f"{name}: the file is empty")
    if not handle.ranged:
        say(f"{name}: the server gives it as a whole only, it is copied to a scratch file")
        return _open_copy(filled(name, scratch_dir, "copying", partial(_copy_whole, handle)), name, scratch_dir)
    first = np.zeros(min(SNIFFED, handle.size), np.uint8)
    handle.read(0, first)
    if opener_of(first.tobytes(), name).name != "fits":
        say(f"{name}: packed, so it is copied to a scratch file ({handle.size / 2**20:.0f} MiB)")
        fill = partial(_copy_parts, handle, [(0, handle.size)])
        return _open_copy(filled(name, scratch_dir, "copying", fill), name, scratch_dir)
    hdus = _listed(handle, asked)
    chosen = choose(hdus, asked._replace(path=name))
    if any(hdus[k].compressed for k in chosen):
        parts = list(_parts(hdus, chosen))
        say(
            f"{name}: compressed in tiles, so it is copied to a scratch file "
            f"({sum(end - start for start, end in parts) / 2**20:.0f} MiB)"
        )
        copied = FileHandle(name, kept=filled(name, scratch_dir, "copying", partial(_copy_parts, handle, parts)))
        hdus = _listed(copied, asked)
    handle.close()
    return hdus


def opening_bytes(url: str) -> int:
    """What all processes hold while an address is opened."""
    return 0 if scheme_of(url) in WEB else store.SIGNING_BYTES


def state_of(url: str) -> str:
    """What tells one state of an object from another, by a request for its first bytes: size, ETag and date.

    Parameters
    ----------
    url : str
        Without brackets; what is no ``https`` is signed first.

    Raises
    ------
    InputError
        As `open_remote`.
    """
    handle = RemoteHandle(url if scheme_of(url) in WEB else store.sign([url])[0], shown(url))
    handle.close()
    return " ".join(map(str, handle.identity))


def _listed(handle: RemoteHandle | FileHandle, asked: Spec) -> list[Hdu]:
    """HDUs, as far as they can matter."""
    hdus: list[Hdu] = []
    for hdu in walk(handle):
        hdus.append(hdu)
        if settles(len(hdus) - 1, hdu, asked):
            break
    return hdus


def _parts(hdus: list[Hdu], chosen: Iterable[int]) -> Iterable[tuple[int, int]]:
    """Ranges of bytes that hold all headers and the data of the chosen HDUs, neighbours joined."""
    start = end = place = 0
    for k, hdu in enumerate(hdus):
        behind = hdu.data_offset + -(-hdu.data_size // BLOCK) * BLOCK
        if place > end + CHEAP_GAP_BYTES:
            yield start, end
            start = place
        end = behind if k in chosen else hdu.data_offset
        place = behind
    yield start, end


def _copy_parts(handle: RemoteHandle, parts: Iterable[tuple[int, int]], file: ScratchFile) -> None:
    """Ranges of an object, each where it is in the object; holes between them."""
    piece = np.empty(PIECE_BYTES, np.uint8)
    for start, end in parts:
        file.seek(start)
        handle.expect(start, min(end, handle.size) - start)
        for at in range(start, end, PIECE_BYTES):
            file.write(piece.data[: handle.read(at, piece[: end - at])])
    file.finish(handle.size)
    handle.close()


def _copy_whole(handle: RemoteHandle, file: ScratchFile) -> None:
    file.finish(handle.pour(partial(file.seek, 0), file.write, np.empty(PIECE_BYTES, np.uint8)))
    handle.close()


def _copy_by_fsspec(url: str, file: ScratchFile) -> None:
    file.finish(store.copy(url, file.fd))


def _open_copy(fd: int, name: str, scratch_dir: str) -> list[Hdu]:
    """HDUs of a whole copy, whatever its format."""
    copied = FileHandle(name, kept=fd)
    first = np.zeros(SNIFFED, np.uint8)
    opener = opener_of(first[: copied.read(0, first)].tobytes(), name)
    if opener.open_handle is None:
        raise InputError(f"{name}: the format {opener.name} is read from local files only: copy it to one")
    return opener.open_handle(copied, scratch_dir)
