#!/usr/bin/env bash
# Make the virtual environment DIR with the pinned dependencies of dev.txt and the project itself.
#
#   make-venv.sh DIR    PYTHON names another interpreter
set -euo pipefail
venv=$1
cd "$(dirname "$0")/.."

is_new_enough() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
        if command -v "$candidate" >/dev/null && is_new_enough "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    echo "error: no Python 3.11 or newer with venv was found; python3 is $(python3 --version 2>&1 || true)" >&2
    echo >&2
    echo "hint: On Debian 12, Ubuntu 24.04 or newer run \`apt-get install python3-venv\`; elsewhere install" >&2
    echo "      Python 3.11 or newer and run \`make PYTHON=/path/to/python3.11 setup\`" >&2
    return 1
}

# An interpreter that was upgraded away leaves a dead link behind.
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    echo "Making $venv with $("$python" --version)" >&2
    rm -rf "$venv"
    "$python" -m venv "$venv"
fi

pip=("$venv/bin/python" -m pip --quiet --disable-pip-version-check --no-input --retries 5 --timeout 60)
echo "Installing what requirements/dev.txt pins" >&2
"${pip[@]}" install --require-hashes --requirement requirements/dev.txt
"${pip[@]}" install --no-deps --no-build-isolation --no-index --editable .
