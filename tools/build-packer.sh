#!/bin/sh
# Build the Packer and the amazon plugin that tools/go.mod pins into .tools/ (`make packer`): 8 minutes
# cold, seconds when Go's cache has them. Nothing outside .tools/ and Go's own caches is written.
set -eu

cd "$(dirname "$0")"
out=$(cd .. && pwd)/.tools
mkdir -p "$out/build" "$out/config"

version_of() { go list -mod=readonly -m -f '{{.Version}}' "$1"; }

stamp="$(version_of github.com/hashicorp/packer) $(version_of github.com/hashicorp/packer-plugin-amazon)"
if [ "$(cat "$out/stamp" 2>/dev/null || true)" = "$stamp" ]; then
    echo "$out/packer is up to date ($stamp)"
    exit 0
fi

# VersionPrerelease is empty in a release's source, so that the plugin reports a release version.
build() {
    echo "building $1 …"
    CGO_ENABLED=0 GOFLAGS='-mod=readonly -buildvcs=false' go build -trimpath -ldflags '-s -w' -o "$2" "$1"
}
build github.com/hashicorp/packer "$out/packer"
build github.com/hashicorp/packer-plugin-amazon "$out/build/packer-plugin-amazon"

# Folders of one's own: the user's ~/.config/packer is neither read nor written.
CHECKPOINT_DISABLE=1 PACKER_CONFIG_DIR="$out/config" PACKER_PLUGIN_PATH="$out/plugins" \
    "$out/packer" plugins install --path "$out/build/packer-plugin-amazon" github.com/hashicorp/amazon
rm -rf "${out:?}/build"
echo "$stamp" >"$out/stamp"
echo "$out/packer is ready; its plugins are in $out/plugins"
