#!/usr/bin/env bash
# Put promtool into .tools/bin: it checks the alert rules and the metrics page. Only this one program is taken out of
# the distribution's package, so that no Prometheus is installed or started on this machine.
set -euo pipefail
cd "$(dirname "$0")/.."
target=$PWD/.tools/bin/promtool

if [ -x "$target" ] || command -v promtool >/dev/null; then
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "error: this machine has neither promtool nor apt-get" >&2
    echo >&2
    echo "hint: Install Prometheus' promtool by hand and run this again" >&2
    exit 1
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 0755 "$folder"
(cd "$folder" && apt-get --quiet --quiet -o Acquire::Retries=3 -o APT::Sandbox::User=root download prometheus)
dpkg-deb --fsys-tarfile "$folder"/prometheus_*.deb | tar -x -C "$folder" ./usr/bin/promtool
mkdir -p "$(dirname "$target")"
install -m 0755 "$folder/usr/bin/promtool" "$target"
