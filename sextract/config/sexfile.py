"""The text of ``.sex``, ``.param``, ``.conv`` and ``.nnw`` files turned into records.

It knows syntax alone.  What a keyword may be is in ``keywords.py``, which columns exist is the measurement door's
knowledge, and where a file is looked for is in ``resolve.py``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sextract.config.settings import Requested
from sextract.errors import ConfigError, InputError

# SExtractor's largest kernel.
MAX_TAPS = 1024

# A configuration file is text of a few kB; what is far larger is some other file given by mistake.
MAX_BYTES = 1 << 20

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_MEMBER = re.compile(r"""("[^"]*"|'[^']*'|[^\s,;"']+)|([,;])""")
_ASSIGNMENT = re.compile(r"\s*([^\s=]+)\s*=?\s*(.*?)\s*$", re.DOTALL)
_PARAMETER = re.compile(r"(\w+)\s*(?:[(\[]([^)\]]*)[)\]])?\s*(.*)")


class Assignment(NamedTuple):
    """One setting: keyword in capitals, the members of its value, and where it stands (for messages)."""

    keyword: str
    members: tuple[str, ...]
    where: str


class Kernel(NamedTuple):
    """A detection filter: taps float32 (rows, columns) as applied, and whether the file said NORM."""

    taps: NDArray[np.float32]
    normed: bool


class Network(NamedTuple):
    """The neural network of CLASS_STAR.

    Attributes
    ----------
    in_bias, in_scale : float64 arrays (inputs,)
        An input enters as x · scale + bias.
    layers : tuple of float64 arrays (neurons, inputs + 1)
        Weights of each layer's neurons, their bias last.
    out_bias, out_scale : float64 arrays (outputs,)
        An output leaves as (n − bias) / scale.
    """

    in_bias: NDArray[np.float64]
    in_scale: NDArray[np.float64]
    layers: tuple[NDArray[np.float64], ...]
    out_bias: NDArray[np.float64]
    out_scale: NDArray[np.float64]


def read_text(path: str | os.PathLike[str], keyword: str) -> str:
    """Text of a configuration file; what isn't ASCII in it (comments, mostly) is kept as it can be.

    Raises
    ------
    ConfigError
        It can't be read or isn't text; the message names `keyword`.
    """
    try:
        if Path(path).stat().st_size > MAX_BYTES:
            raise ConfigError(f"{keyword}: {path} is too large for a configuration file")
        raw = Path(path).read_bytes()
    except OSError as exc:
        raise ConfigError(f"{keyword}: can't read {path}: {exc.strerror or exc}") from exc
    if b"\0" in raw:
        raise ConfigError(f"{keyword}: {path} is not a text file")
    return raw.decode("utf-8-sig", errors="replace")


def expand(text: str, environ: Mapping[str, str], where: str) -> str:
    """`text` with $VAR and ${VAR} replaced.

    Raises
    ------
    ConfigError
        There is no such variable.
    """

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if name not in environ:
            raise ConfigError(f"the environment variable {name} is not set ({where})")
        return environ[name]

    return _VARIABLE.sub(value, text)


def split_members(text: str, where: str) -> tuple[str, ...]:
    """Members of a value: separated by commas, semicolons or blanks; quotes keep blanks.

    Raises
    ------
    ConfigError
        A comma with nothing after or before it: there are no continuation lines.
    """
    members: list[str] = []
    comma = True
    for found in _MEMBER.finditer(text):
        if found[2]:
            if comma:
                raise ConfigError(f"a comma with nothing before it in {text!r} ({where})")
            comma = True
        else:
            members.append(found[1].strip("\"'") if found[1][0] in "\"'" else found[1])
            comma = False
    if comma and members:
        raise ConfigError(f"a comma with nothing after it in {text!r}; a value can't go on in a next line ({where})")
    return tuple(members)


def parse_sex(text: str, name: str, environ: Mapping[str, str] | None = None) -> list[Assignment]:
    """Settings of a ``.sex`` file, in order.

    Parameters
    ----------
    text : str
    name : str
        The file's name, for messages.
    environ : mapping, optional
        Environment for $VAR; the process's own if not given.

    Raises
    ------
    ConfigError
        A dangling comma, an unset variable.
    """
    environ = os.environ if environ is None else environ
    settings = []
    for number, line in _lines(text):
        where = f"{name}, line {number}"
        found = _ASSIGNMENT.fullmatch(line)
        if found is None or found[1] == "":
            continue
        value = expand(found[2], environ, where)
        settings.append(Assignment(found[1].upper(), split_members(value, where), where))
    return settings


def parse_param(text: str, name: str) -> tuple[list[Requested], list[str]]:
    """Columns asked for by a ``.param`` file, and what is odd in it.

    A name may be followed by ``(n)`` or ``(n,m)`` (square brackets too).  A name that comes twice is one column at its
    first place, with the last dimensions.

    Raises
    ------
    ConfigError
        Dimensions that aren't one or two positive numbers, or no column at all.
    """
    columns: dict[str, Requested] = {}
    odd = []
    for number, line in _lines(text):
        where = f"{name}, line {number}"
        found = _PARAMETER.fullmatch(line)
        if found is None:
            raise ConfigError(f"{line!r} is not a column ({where})")
        column, dims, rest = found[1], found[2], found[3]
        if rest.startswith(("(", "[", ",", ";")):
            raise ConfigError(f"{line!r}: one column a line, as NAME, NAME(n) or NAME(n,m) ({where})")
        if rest:
            odd.append(f"{rest!r} after {column} is ignored ({where})")
        if column in columns:
            odd.append(f"{column} comes twice ({where})")
        columns[column] = Requested(column, _dims(dims, line, where))
    if not columns:
        raise ConfigError(f"PARAMETERS_NAME: {name} names no column")
    return list(columns.values()), odd


def parse_conv(text: str, name: str) -> Kernel:
    """A detection filter: ``CONV NORM`` or ``CONV NONORM``, then a line of numbers for each row.

    NORM divides by the sum of absolute values: summed in double over the float32 taps, row by row, as SExtractor does.

    Raises
    ------
    ConfigError
        It isn't a kernel; the message names FILTER_NAME.
    """
    fail = f"FILTER_NAME: {name} is not a convolution kernel: "
    lines = _lines(text)
    number, head = next(lines, (1, ""))
    words = head.upper().split()
    if words[:1] != ["CONV"] or len(words) > 2 or words[1:] not in ([], ["NORM"], ["NONORM"]):
        retina = " (retina filters are not built yet)" if head.startswith("SIMPLE") else ""
        raise ConfigError(f"{fail}its first line must be CONV NORM or CONV NONORM{retina}")
    rows: list[list[float]] = []
    for number, line in lines:
        try:
            rows.append([float(word) for word in line.replace(",", " ").replace(";", " ").split()])
        except ValueError:
            raise ConfigError(f"{fail}line {number} holds something that is not a number") from None
        if len(rows[-1]) != len(rows[0]):
            raise ConfigError(f"{fail}line {number} has {len(rows[-1])} numbers, the first row has {len(rows[0])}")
        if len(rows) * len(rows[0]) > MAX_TAPS:
            raise ConfigError(f"{fail}it has more than {MAX_TAPS} taps")
    if not rows:
        raise ConfigError(f"{fail}it has no rows")
    with np.errstate(over="ignore"):
        taps = np.array(rows, np.float64).astype(np.float32)
    if not np.isfinite(taps).all():
        raise ConfigError(f"{fail}a tap is not a finite number")
    if not taps.any():
        raise ConfigError(f"{fail}all taps are zero")
    normed = words[1:] != ["NONORM"]
    if normed:
        total = 0.0
        for tap in taps.flat:
            total += abs(float(tap))
        taps = (taps.astype(np.float64) / total).astype(np.float32)
    return Kernel(taps, normed)


def parse_nnw(text: str, name: str) -> Network:
    """The network of CLASS_STAR: ``NNW``, the number and sizes of layers, then biases, scales and weights.

    Raises
    ------
    InputError
        It isn't such a file, or numbers are missing or left over; the message names STARNNW_NAME.
    """
    fail = f"STARNNW_NAME: {name} is not a neural network: "
    lines = list(_lines(text))
    if not lines or lines[0][1].split()[0] != "NNW":
        raise InputError(f"{fail}its first line must be NNW")
    try:
        numbers = [float(word) for _, line in lines[1:] for word in line.split()]
    except ValueError as exc:
        raise InputError(f"{fail}{exc}") from None
    nlayers = int(numbers[0]) if numbers else 0
    sizes = [int(n) for n in numbers[1 : nlayers + 1]]
    if nlayers < 2 or len(sizes) != nlayers or min(sizes) < 1:
        raise InputError(f"{fail}it must begin with the number and the sizes of its layers")
    shapes = [(b, a + 1) for a, b in pairwise(sizes)]
    values = np.array(numbers[nlayers + 1 :], np.float64)
    wanted = 2 * sizes[0] + sum(b * a for b, a in shapes) + 2 * sizes[-1]
    if len(values) != wanted:
        raise InputError(f"{fail}layers of {sizes} need {wanted} numbers, it has {len(values)}")
    parts = _cut(values, [(sizes[0],), (sizes[0],), *shapes, (sizes[-1],), (sizes[-1],)])
    if not parts[-1].all():
        raise InputError(f"{fail}an output scale is zero")
    return Network(parts[0], parts[1], tuple(parts[2:-2]), parts[-2], parts[-1])


def _cut(values: NDArray[np.float64], shapes: Sequence[tuple[int, ...]]) -> list[NDArray[np.float64]]:
    """Consecutive pieces of `values` in these shapes."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    return [piece.reshape(shape) for piece, shape in zip(np.split(values, ends[:-1]), shapes, strict=True)]


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines that hold something beside comments, with their numbers; a # in quotes is none."""
    for number, line in enumerate(text.splitlines(), 1):
        bare = re.sub(r"""("[^"]*"|'[^'#]*')|#.*""", lambda m: m[1] or "", line).strip()
        if bare:
            yield number, bare


def _dims(text: str | None, line: str, where: str) -> tuple[int, ...]:
    """The numbers in the brackets; none without brackets."""
    if text is None:
        return ()
    words = [word.strip() for word in text.split(",")]
    if not 1 <= len(words) <= 2 or not all(re.fullmatch(r"0*[1-9]\d{0,5}", word) for word in words):
        raise ConfigError(f"{line!r}: the size must be (n) or (n,m), each 1 to 999999 ({where})")
    return tuple(int(word) for word in words)
