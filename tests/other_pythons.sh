#!/bin/sh
# Run the unit tests on every further Python that is there; say which are not.
# Usage: other_pythons.sh 3.12 3.13
set -eu
find_python() {
    for candidate in "$(command -v "python$1" || true)" "${HOME:-/root}"/.pyenv/versions/"$1".*/bin/python3; do
        if [ -x "$candidate" ] && "$candidate" -c 'import venv, sqlite3, ctypes' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
}
for version in "$@"; do
    python=$(find_python "$version")
    if [ -z "$python" ]; then
        echo "unit tests on Python $version: not run, there is no python$version here"
        continue
    fi
    venv=.venv-$version
    if [ ! -e "$venv/.dev" ] || [ pyproject.toml -nt "$venv/.dev" ]; then
        "$python" -m venv "$venv"
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
        touch "$venv/.dev"
    fi
    echo "unit tests on Python $version"
    "$venv/bin/python" -m pytest -q -n "${JOBS:-2}" tests/unit tests/property
done
