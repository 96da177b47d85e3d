#!/bin/sh
# The last thing that runs in the build VM: remove the way in, then (with `poweroff`) switch it off. As root, detached
# from the SSH session that started it, because it ends that session.
set -u
dir=$1

rm -f /etc/sudoers.d/90-cloud-init-users /etc/sudoers.d/bake
# Overwritten before they are removed: what is freed stays in the image until its whole cluster is.
shred --iterations=0 --zero --remove /etc/ssh/ssh_host_*_key 2>/dev/null
rm -f /etc/ssh/ssh_host_* /etc/ssh/sshd_config.d/50-cloud-init.conf
if id bake >/dev/null 2>&1; then
    pkill -KILL -u bake 2>/dev/null
    userdel --force --remove bake 2>/dev/null
fi
rm -rf /home/bake /var/mail/bake /var/lib/systemd/linger/bake
rm -f /etc/passwd- /etc/shadow- /etc/group- /etc/gshadow- /etc/subuid- /etc/subgid-
: >/var/log/wtmp
: >/var/log/btmp
: >/var/log/lastlog
# journald goes on in memory; with its file only removed it begins another one before the machine is off.
journalctl --relinquish-var 2>/dev/null
rm -rf "$dir" /tmp/packer-* /var/tmp/relay-bake* /var/log/journal/*
if [ "${2:-}" = poweroff ]; then
    # Freed blocks are given back, so that they need not be stored; then a shutdown that does not wait for services.
    fstrim --all 2>/dev/null
    rm -f /var/lib/systemd/random-seed
    sync
    systemctl poweroff --force
fi
