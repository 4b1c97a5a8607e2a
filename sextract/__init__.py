"""Astronomical source extraction that keeps a memory limit, with SExtractor-compatible catalogues."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sextract._version import __version__

if TYPE_CHECKING:
    from sextract.api import extract
    from sextract.config.settings import Settings

__all__ = ["Settings", "__version__", "extract"]


def __getattr__(name: str) -> Any:
    """Import on first use: the command line sets up its process before numpy starts threads."""
    if name == "extract":
        from sextract.api import extract

        return extract
    if name == "Settings":
        from sextract.config.settings import Settings

        return Settings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
