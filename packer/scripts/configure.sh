#!/bin/sh
# Put the rendered files into the image and set up what starts at boot. Runs in the build VM, as root.
#
#   configure.sh DIR    DIR/root mirrors / of the image
set -eu
dir=$1
export LC_ALL=C

# Directories keep the mode that the distribution gave them; files have theirs from the payload.
tar -C "$dir/root" -cf - . | tar -C / -xf - --no-same-owner --no-overwrite-dir

# --- agent -------------------------------------------------------------------------------------------------------
# Load what it loads: that proves that it can, and leaves the modules compiled. Beside the rest of this script.
{
    python3 -m compileall -q /usr/lib/relay
    PYTHONPATH=/usr/lib/relay python3 -c "
import boto3, relay_agent
for service in ('secretsmanager', 'sts'):
    boto3.client(service, 'us-east-1', aws_access_key_id='-', aws_secret_access_key='-')"
} &
agent=$!

# --- Postfix -----------------------------------------------------------------------------------------------------
# Each release keeps its own master.cf; `edits` has one postconf call a line: `-M|-F|-P|-X… argument`.
[ -e /etc/postfix/master.cf ] || cp /usr/share/postfix/master.cf.dist /etc/postfix/master.cf
if [ -e /usr/lib/relay/master.cf.edits ]; then
    while IFS= read -r line; do
        case $line in '' | '#'*) continue ;; esac
        postconf "${line%% *}" "${line#* }"
    done </usr/lib/relay/master.cf.edits
fi
postfix check
# XOAUTH2, which no package brings: only in images that log in with OAuth.
if [ -e /usr/lib/relay/sasl/build.sh ]; then
    sh /usr/lib/relay/sasl/build.sh
fi

# --- firewall ----------------------------------------------------------------------------------------------------
if [ -e /etc/nftables.conf ] && command -v nft >/dev/null; then
    nft --check --file /etc/nftables.conf
fi

# --- what starts at boot -----------------------------------------------------------------------------------------
# --root: as files, without asking the running systemd to read them all again.
systemctl --root=/ enable --quiet relay-agent.service nftables.service postfix.service
# What a relay has no use for and what makes a boot longer: package housekeeping belongs to the next bake. The signer has
# a unit of its own, which the agent starts.
for unit in apt-daily.timer apt-daily-upgrade.timer unattended-upgrades.service man-db.timer dpkg-db-backup.timer \
    e2scrub_reap.service e2scrub_all.timer motd-news.timer update-notifier-download.timer \
    update-notifier-motd.timer ua-timer.timer ubuntu-advantage.service apport.service \
    snapd.seeded.service snapd.service snapd.socket pollinate.service multipathd.service multipathd.socket \
    ModemManager.service fwupd-refresh.timer lvm2-monitor.service opendkim.service; do
    if [ -e "/lib/systemd/system/$unit" ]; then
        ln -sf /dev/null "/etc/systemd/system/$unit"
    fi
done

# --- boot loader -------------------------------------------------------------------------------------------------
# The menu waits for nobody. grub.cfg itself is edited too: running update-grub takes half a minute under emulation.
if [ -d /etc/default/grub.d ] || [ -e /etc/default/grub ]; then
    install -d /etc/default/grub.d
    printf 'GRUB_TIMEOUT=0\nGRUB_RECORDFAIL_TIMEOUT=0\nGRUB_HIDDEN_TIMEOUT=0\n' >/etc/default/grub.d/90-relay.cfg
fi
if [ -e /boot/grub/grub.cfg ]; then
    sed -i -E 's/^([[:space:]]*set timeout=)[0-9]+/\10/' /boot/grub/grub.cfg
fi

wait "$agent"
