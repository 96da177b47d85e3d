#!/bin/sh
# Build the linter for Grafana dashboards that tools/dashboard-linter/go.mod pins into .tools/bin (`make
# dashboard-linter`): 5 minutes cold, seconds when Go's cache has it. It is pinned to a commit, with its checksum in go.sum.
set -eu

cd "$(dirname "$0")/dashboard-linter"
out=$(cd ../.. && pwd)/.tools
if ! command -v go >/dev/null; then
    echo "error: this machine has no Go, which builds dashboard-linter" >&2
    echo >&2
    echo "hint: Install Go 1.26 or newer (https://go.dev/doc/install) and run this again" >&2
    exit 1
fi
mkdir -p "$out/bin"
CGO_ENABLED=0 GOFLAGS='-mod=readonly -buildvcs=false' \
    go build -trimpath -ldflags '-s -w' -o "$out/bin/dashboard-linter" github.com/grafana/dashboard-linter
echo "$out/bin/dashboard-linter is ready"
