#!/usr/bin/env bash
# Pin runtime.txt and dev.txt from pyproject.toml with hashes, naming no package host (`make lock`).
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v uv >/dev/null; then
    echo "error: \`uv\` is not installed; it is needed to pin the dependencies" >&2
    echo >&2
    echo "hint: Run \`pip install uv\`" >&2
    exit 1
fi
compile=(uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header
         --no-emit-index-url --no-emit-find-links pyproject.toml)
"${compile[@]}" --output-file requirements/runtime.txt
"${compile[@]}" --group dev --output-file requirements/dev.txt
