# Sourced by demo and test: finds a Python, makes or enters the virtual environment, installs the package from the checkout.
# Sets `root` (the checkout) and `python` (the environment's interpreter).

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)

fail() {
    printf '%s: %s\n' "$(basename -- "$0")" "$1" >&2
    exit 1
}

# Prints a Python that is new enough; fails if there is none.
find_python() {
    for name in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11 python; do
        if command -v "$name" >/dev/null 2>&1 &&
            "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    return 1
}

# Enters the active virtual environment, or the checkout's .venv, which it makes.
enter_environment() {
    if [ -n "${VIRTUAL_ENV:-}" ] && [ -x "$VIRTUAL_ENV/bin/python" ]; then
        python=$VIRTUAL_ENV/bin/python
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
            fail "the active virtual environment $VIRTUAL_ENV has a Python older than 3.11; deactivate it first"
    else
        python=$root/.venv/bin/python
        if ! "$python" -m pip --version >/dev/null 2>&1; then
            base=$(find_python) || fail "Python 3.11 or newer is needed, and none was found; set PYTHON to one"
            "$base" -c 'import ensurepip, venv' 2>/dev/null ||
                fail "$base can't make virtual environments; on Debian and Ubuntu: apt-get install python3-venv"
            rm -rf "$root/.venv"
            "$base" -m venv "$root/.venv" || fail "could not make the virtual environment $root/.venv"
        fi
    fi
    include=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')
    [ -f "$include/Python.h" ] ||
        fail "Python's header files are missing ($include/Python.h); on Debian and Ubuntu: apt-get install python3-dev"
    command -v "${CC:-cc}" >/dev/null 2>&1 || command -v gcc >/dev/null 2>&1 ||
        fail "a C compiler is needed; on Debian and Ubuntu: apt-get install gcc libc6-dev"
}

# Installs the checkout in place, kernels compiled beside their sources; $1 is an extra such as [test], or empty.
install_package() {
    printf 'installing sextract%s into %s\n' "$1" "${python%/bin/python}" >&2
    (cd "$root" && "$python" -m pip install --quiet --disable-pip-version-check --editable ".$1") ||
        fail "the installation failed; the lines above say why"
}
