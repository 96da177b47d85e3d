#!/bin/sh
# Generalise the image: nothing of this build VM may be in a VM that is launched from it. As root, last but one.
#
# finish.sh removes what is still needed to get out: the bake user and the host keys. Each line here has an assertion
# in builder/hygiene.py, which reads the finished image from outside.
set -eu
dir=$1
export LC_ALL=C

# --- did cloud-init really do what it was told? -------------------------------------------------------------------
# Its exit code hides errors on Ubuntu 20.04 and 22.04 (LP #2048522) and is 2 for mere warnings on 24.04, so the JSON
# decides; before 22.4 there is none. Asked for before its state is removed, and once: each call takes four seconds
# under software emulation.
version=$(dpkg-query -W -f '${Version}' cloud-init)
since() { dpkg --compare-versions "$version" ge "$1"; }
mkdir -p "$dir/diag"
if since 22.4; then
    status=$dir/diag/cloud-init-status.json
    timeout 600 cloud-init status --wait --format json >"$status" 2>/dev/null || :
else
    status=$dir/diag/cloud-init-status.txt
    timeout 600 cloud-init status --wait --long >"$status" 2>&1 || :
fi
python3 "$dir/scripts/cloud_init_result.py" "$status"

# --- packages ----------------------------------------------------------------------------------------------------
dpkg-query -W -f '${Package}\t${Version}\t${Architecture}\t${Source}\n' >"$dir/diag/packages.tsv"
apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/debconf/*-old /var/lib/dpkg/*-old
rm -f /etc/apt/apt.conf.d/90*proxy* /usr/sbin/policy-rc.d

# --- who this machine was ----------------------------------------------------------------------------------------
# `cloud-init clean` knows its own state; the flags came one by one (22.1 --seed, 22.3 --machine-id, 23.4 --configs).
set -- --logs
if since 22.1; then set -- "$@" --seed; fi
if since 22.3; then set -- "$@" --machine-id; fi
# All but ssh_config: the bake's own connection needs sshd's settings until the end.
if since 23.4; then set -- "$@" --configs network --configs fstab; fi
cloud-init clean "$@" || cloud-init clean --logs
rm -rf /var/lib/cloud/seed /var/lib/cloud/instance /var/lib/cloud/instances /var/lib/cloud/data /run/cloud-init/instance-data*
rm -f /etc/netplan/50-cloud-init.yaml /etc/network/interfaces.d/50-cloud-init* /etc/udev/rules.d/70-persistent-net.rules
shred --iterations=0 --zero --remove /etc/ssl/private/ssl-cert-snakeoil.key 2>/dev/null || :
rm -f /etc/ssl/certs/ssl-cert-snakeoil.pem
: >/etc/machine-id
rm -f /var/lib/dbus/machine-id /etc/hostname /etc/mailname
rm -f /var/lib/systemd/random-seed /var/lib/systemd/credential.secret /boot/grub/grubenv.new
rm -rf /var/lib/dhcp/* /var/lib/NetworkManager/* /run/systemd/netif/leases/* /var/lib/systemd/timers/* /var/lib/systemd/timesync/*

# --- what happened here ------------------------------------------------------------------------------------------
rm -rf /var/log/journal/* /var/log/installer /var/log/apt/* /var/log/unattended-upgrades /var/crash/* /var/lib/systemd/coredump/*
find /var/log -type f ! -path '/var/log/journal/*' -exec truncate --size 0 {} +
rm -f /var/log/*.gz /var/log/*.1 /var/log/cloud-init*.log
for home in /root /home/*; do
    rm -f "$home/.bash_history" "$home/.python_history" "$home/.lesshst" "$home/.viminfo" "$home/.wget-hsts"
    rm -rf "$home/.cache"
done
rm -f /root/.ssh/authorized_keys
find /tmp /var/tmp -mindepth 1 -maxdepth 1 ! -name 'systemd-private-*' ! -name 'relay-bake*' ! -name 'packer-*' \
    -exec rm -rf {} +

# --- mail --------------------------------------------------------------------------------------------------------
# Not one message, and no credential: maps live on tmpfs only.
for queue in active bounce corrupt defer deferred flush hold incoming maildrop saved trace; do
    rm -rf "/var/spool/postfix/${queue:?}"/*
done
rm -rf /var/lib/postfix/* /var/mail/* /etc/relay/boot.json /var/lib/relay
rm -f /etc/postfix/sasl_passwd /etc/postfix/sasl_passwd.* /etc/postfix/main.cf.proto /etc/postfix/master.cf.proto
# `postfix start` takes the marker away and leaves out, once, the checks that configure.sh has made: half of its time.
: >/var/spool/postfix/quick-start
