#!/usr/bin/env bash
# Install the packages of apt.txt that are missing (`make setup`); quiet when none is.
set -euo pipefail
cd "$(dirname "$0")"

if ! command -v apt-get >/dev/null; then
    echo "This machine has no apt-get: install what requirements/apt.txt lists, then see \`builder doctor\`" >&2
    exit 0
fi

missing=()
while read -r package; do
    state=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing+=("$package")
done < <(grep -vE '^[[:space:]]*(#|$)' apt.txt)
# A base image is built from the mirror that apt knows, and apt knows it from its lists.
lists=(/var/lib/apt/lists/*Release)
if [ ${#missing[@]} -eq 0 ] && [ -e "${lists[0]}" ]; then
    exit 0
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "error: packages are missing and this is neither root nor a machine with sudo" >&2
        echo >&2
        echo "hint: As root, run \`apt-get install --no-install-recommends ${missing[*]}\`" >&2
        exit 1
    fi
    as_root=(sudo)
fi

echo "Installing with apt: ${missing[*]:-nothing but its lists}" >&2
# A restart of services is nobody's wish here: neither Postfix nor sshd is started (invoke-rc.d asks
# policy-rc.d, see /usr/share/doc/init-system-helpers/README.policy-rc.d.gz), and Postfix gets no
# configuration. A policy-rc.d that is there stays as it is.
# shellcheck disable=SC2016  # expanded by the inner shell
exec "${as_root[@]}" bash -euo pipefail -c '
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
log=$(mktemp)
made=
trap "rm -f $log \$made" EXIT
if [ ! -e $policy ]; then
    made=$policy
    printf "#!/bin/sh\nexit 101\n" >$policy
    chmod 0755 $policy
fi
case " $* " in
    *" postfix "*) echo "postfix postfix/main_mailer_type select No configuration" | debconf-set-selections ;;
esac
apt=(apt-get --quiet --quiet -o Acquire::Retries=3 -o Acquire::http::Timeout=30 -o Acquire::https::Timeout=30
     -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0)
for attempt in 1 2 3; do
    if timeout 300 "${apt[@]}" update >"$log" 2>&1; then
        [ $# -gt 0 ] || exit 0
        timeout 1200 "${apt[@]}" install --yes --no-install-recommends "$@" >"$log" 2>&1 && exit 0
    fi
    tail -n 30 "$log"
    echo "apt-get did not succeed (attempt $attempt of 3)"
    sleep $((attempt * 5))
done
exit 1
' install-apt "${missing[@]}" </dev/null >&2
