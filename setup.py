"""Builds every Cython kernel found in the package; all other metadata is in pyproject.toml.

Set SEXTRACT_ONLY=<substring> to rebuild only the modules whose path contains it.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

# The last flags win, so that a site's CFLAGS can't change the arithmetic: the same bytes everywhere.
# No debug symbols: they take a third of the compiler's time.
FLAGS = ["-O3", "-g0", "-fno-fast-math", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]

# What all kernels share of Cython's own code is one module, compiled once: a tenth of the time that copies take.
SHARED = "sextract._cython"

only = os.environ.get("SEXTRACT_ONLY", "")
extensions = [
    Extension(str(path.with_suffix("")).replace(os.sep, "."), [str(path)], extra_compile_args=FLAGS)
    for path in sorted(Path("sextract").rglob("*.pyx"))
    if only in str(path)
]
extensions.append(Extension(SHARED, [SHARED.replace(".", os.sep) + ".c"], extra_compile_args=FLAGS))
directives = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "embedsignature": True,
}
setup(
    ext_modules=cythonize(extensions, compiler_directives=directives, include_path=["."], shared_utility_qualified_name=SHARED),
    options={"build_ext": {"parallel": len(os.sched_getaffinity(0))}},
)
