"""CLASS_STAR: SExtractor's star/galaxy index, by the network that STARNNW_NAME names.

The network itself is the user's file (``config.sexfile`` reads its text), its inputs are the isophotal areas and the
peak; the arithmetic is in ``_classify.pyx``.
"""

from __future__ import annotations

import numpy as np

from sextract.config.sexfile import Network, parse_nnw, read_text
from sextract.errors import ConfigError
from sextract.measurement import _classify
from sextract.measurement.measure import Array, Batch, measurement
from sextract.records import Column

# Eight areas, the peak and the seeing.
INPUTS = 10

COLUMNS = (Column("CLASS_STAR", "f4", "", "F6.3", "S/G classifier output", "src.class.starGalaxy"),)


def load_network(name: str) -> Network:
    """The network of a file.

    Raises
    ------
    ConfigError
        There is no such file, it can't be read, or its network doesn't take the ten inputs.
    InputError
        It isn't a network.
    """
    if not name:
        raise ConfigError("CLASS_STAR needs SExtractor's network file: set STARNNW_NAME to it, or drop CLASS_STAR")
    network = parse_nnw(read_text(name, "STARNNW_NAME"), name)
    if len(network.in_bias) != INPUTS:
        raise ConfigError(f"STARNNW_NAME: {name} takes {len(network.in_bias)} inputs, CLASS_STAR has {INPUTS}")
    return network


def stellarity(network: Network, values: Array) -> Array:
    """First output of the network for inputs (n, 10), float64 (n,)."""
    values = np.ascontiguousarray(values * network.in_scale + network.in_bias)
    for weights in network.layers:
        out = np.empty((len(values), len(weights)))
        _classify.layer(values, np.ascontiguousarray(weights), out)
        values = out
    return np.asarray((values[:, 0] - network.out_bias[0]) / network.out_scale[0])


@measurement("classify", columns=COLUMNS, needs=("local",))
def classify(batch: Batch) -> None:
    """Fill CLASS_STAR: float32, from 0 (galaxy) to 1 (star)."""
    s, photometry = batch.sources, batch.settings.photometry
    network = load_network(photometry.starnnw_name)
    values = batch.scratch((INPUTS,))
    _classify.inputs(
        np.ascontiguousarray(s["iso"]),
        s["peak"] - s["dbkg"],
        batch.frame.analysis_threshold,
        photometry.seeing_fwhm / batch.frame.pixel_scale,
        photometry.seeing_fwhm,
        values,
    )
    batch["CLASS_STAR"] = stellarity(network, values).astype(np.float32)
