#!/bin/sh
# Compile the SASL mechanism XOAUTH2 and put it where Postfix looks. Runs in the build VM, as root; the compiler and all
# that came with it are gone afterwards.
#
#   build.sh [DIR]    DIR: compile only, into that folder, with the compiler that is there
set -eu
here=$(dirname "$0")
export DEBIAN_FRONTEND=noninteractive LC_ALL=C

compile() {
    # Hardened as the distribution hardens its own.
    gcc -std=c11 -O2 -Wall -D_FORTIFY_SOURCE=2 -fstack-protector-strong -shared -fPIC -Wl,-z,relro,-z,now,-s \
        -o "$1/librelayxoauth2.so" "$here/xoauth2.c"
}

if [ $# -gt 0 ]; then
    compile "$1"
    exit
fi

# Names with their architecture, one a line.
installed() { dpkg-query --show --showformat '${db:Status-Abbrev}${binary:Package}\n' | sed -n 's/^ii //p' | sort; }
apt_get() {
    apt-get -y -q -o Acquire::Retries=5 -o Acquire::http::Timeout=30 -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 \
        -o APT::Install-Recommends=false -o Dpkg::Options::=--force-unsafe-io "$@"
}
before=$(mktemp)
installed >"$before"
apt_get install gcc libc6-dev libsasl2-dev
plugins=$(dirname "$(dpkg-query --listfiles libsasl2-modules | grep '/libplain\.so$')")
compile "$plugins"
# shellcheck disable=SC2046  # one package a word
apt_get purge $(installed | comm -13 "$before" -)
rm -f "$before"
# It is found by this name; one that cannot be loaded would only show when mail does not go out.
python3 -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1]).sasl_client_plug_init' "$plugins/librelayxoauth2.so"
