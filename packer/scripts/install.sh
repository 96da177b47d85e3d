#!/bin/sh
# Install the packages of the image. Runs in the build VM, as root.
#
#   install.sh early DIR    started by the bake's user data as soon as the network is up, beside the rest of the boot
#   install.sh DIR          run by Packer: waits for the early one, or does the work where there was none
#
# DIR holds packages.txt. The outcome is in DIR/install.rc, what apt and dpkg said in DIR/install.log.
set -eu

early=no
if [ "$1" = early ]; then
    early=yes
    shift
fi
dir=$1
export DEBIAN_FRONTEND=noninteractive LC_ALL=C

# 15 minutes: the longest that a slow mirror and software emulation have needed, times three.
deadline=900

apt_get() {
    # Retries: a mirror behind a load balancer fails now and then, and cloud-init's own `packages:` never tries twice.
    # Languages and Recommends: nothing in a relay reads them, and both cost bake time.
    apt-get -y -q \
        -o Acquire::Retries=5 -o Acquire::http::Timeout=30 -o Acquire::Languages=none \
        -o APT::Install-Recommends=false -o APT::Install-Suggests=false \
        -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 \
        -o DPkg::Path="$PATH" -o Dpkg::Options::=--force-unsafe-io -o Dpkg::Options::=--force-confold "$@"
}

# Files that apt and dpkg read; nothing here starts a program, because each costs half a second under emulation.
prepare() {
    # Nothing that is installed may start: it would cost time, and a Postfix that has run leaves state in its queue.
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
    cat >/etc/dpkg/dpkg.cfg.d/relay-image <<'CFG'
# No manual pages and translations in a relay image; licences stay.
path-exclude=/usr/share/man/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/doc/*
path-include=/usr/share/doc/*/copyright
# boto3 knows 300 services; the agent uses these. The others are 60 MB.
path-exclude=/usr/lib/python3/dist-packages/botocore/data/*/*
path-include=/usr/lib/python3/dist-packages/botocore/data/autoscaling/*
path-include=/usr/lib/python3/dist-packages/botocore/data/cloudwatch/*
path-include=/usr/lib/python3/dist-packages/botocore/data/secretsmanager/*
path-include=/usr/lib/python3/dist-packages/botocore/data/ses/*
path-include=/usr/lib/python3/dist-packages/botocore/data/sts/*
CFG
    rm -f /var/lib/man-db/auto-update
}

# Beside the download: nothing else may take dpkg's lock, and Postfix must not ask for, or write, a main.cf.
quieten() {
    systemctl --no-block stop apt-daily.timer apt-daily-upgrade.timer apt-daily.service apt-daily-upgrade.service \
        unattended-upgrades.service man-db.timer 2>/dev/null || :
    echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections
    # What postfix and ssl-cert would create with Perl programs, one second each.
    for group in ssl-cert postfix postdrop; do
        getent group "$group" >/dev/null || groupadd --system "$group"
    done
    getent passwd postfix >/dev/null ||
        useradd --system --gid postfix --home-dir /var/spool/postfix --no-create-home --shell /usr/sbin/nologin postfix
}

install_packages() {
    prepare
    quieten &
    apt_get update
    wait
    shim
    compile_aws &
    # shellcheck disable=SC2046  # one package a word
    set -- $(grep -v '^#' "$dir/packages.txt")
    # A failure is worth a second look at the lists: a package that the mirror has just replaced gives 404.
    apt_get install "$@" || { apt_get update && apt_get install "$@"; }
    : >"$dir/apt.done"
    rm -f /usr/sbin/policy-rc.d
    wait
}

# Compile what the agent loads of the AWS library, as soon as it is unpacked: dpkg keeps one processor busy, this the
# other. Nothing depends on it: configure.sh loads the same, and fails where it cannot.
compile_aws() {
    waited=0
    while [ ! -e /usr/lib/python3/dist-packages/boto3/session.py ]; do
        if [ -e "$dir/apt.done" ] || [ "$waited" -ge "$deadline" ]; then return 0; fi
        sleep 1
        waited=$((waited + 1))
    done
    python3 -c "
import boto3
for service in ('secretsmanager', 'sts'):
    boto3.client(service, 'us-east-1', aws_access_key_id='-', aws_secret_access_key='-')" 2>/dev/null || :
}

# Programs that packages' scripts call and that an image has no use for: each is a Perl or Python start or a reload of
# systemd, together most of the installation under software emulation. They are found first on PATH and do nothing;
# apt gives dpkg a PATH of its own unless DPkg::Path says otherwise.
#   py3compile           nine of ten modules are never loaded; configure.sh loads what the agent needs, which compiles it
#   systemctl, deb-…     nothing starts here, and configure.sh enables what shall start at boot
#   make-ssl-cert        of ssl-cert, which postfix depends on: a key in an image is everybody's
#   dpkg-maintscript-…   does nothing for a package that is new here; only tzdata asks 32 times
shim() {
    mkdir -p "$dir/shims"
    for program in py3compile py3clean make-ssl-cert \
        systemctl deb-systemd-helper deb-systemd-invoke invoke-rc.d update-rc.d; do
        ln -sf /bin/true "$dir/shims/$program"
    done
    cat >"$dir/shims/dpkg-maintscript-helper" <<'SH'
#!/bin/sh
# The last argument of a maintainer script is the version that was there before: deb-postinst(5), deb-preinst(5).
for last; do :; done
case $last in '' | install) exit 0 ;; esac
exec /usr/bin/dpkg-maintscript-helper "$@"
SH
    chmod 755 "$dir/shims/dpkg-maintscript-helper"
    PATH=$dir/shims:$PATH
    export PATH
}

run_and_record() {
    umask 022
    mkdir -p "$dir"
    rc=0
    (set -e; install_packages) >"$dir/install.log" 2>&1 || rc=$?
    echo "$rc" >"$dir/install.rc.new"
    mv "$dir/install.rc.new" "$dir/install.rc"
}

if [ "$early" = yes ]; then
    run_and_record
    exit 0
fi

if [ -e "$dir/install.started" ]; then
    waited=0
    while [ ! -e "$dir/install.rc" ]; do
        if [ "$waited" -ge "$deadline" ]; then
            echo "install: packages were not installed within $deadline s; last lines of the log:" >&2
            tail -n 30 "$dir/install.log" >&2
            exit 1
        fi
        sleep 1
        waited=$((waited + 1))
    done
else
    run_and_record
fi

rc=$(cat "$dir/install.rc")
if [ "$rc" -ne 0 ]; then
    echo "install: apt-get failed with exit code $rc; last lines of its log:" >&2
    tail -n 30 "$dir/install.log" >&2
    exit 1
fi
missing=0
while read -r package; do
    case $package in '' | '#'*) continue ;; esac
    if ! dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii'; then
        echo "install: package $package is not installed" >&2
        missing=1
    fi
done <"$dir/packages.txt"
exit "$missing"
