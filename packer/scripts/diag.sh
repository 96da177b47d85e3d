#!/bin/sh
# Print what explains a failed bake, each file between two lines that builder cuts it out by. As root, in the build VM.
set -u
export LC_ALL=C

show() {
    name=$1
    shift
    echo "BUILDER-DIAG begin $name"
    # 200 kB of each: the bundle is read by a person.
    timeout 60 "$@" 2>&1 | tail -c 200000
    echo
    echo "BUILDER-DIAG end"
}

show cloud-init-status.json cloud-init status --format json
show cloud-init-status.txt cloud-init status --long
show cloud-init-blame.txt cloud-init analyze blame
show cloud-init-output.log cat /var/log/cloud-init-output.log
show install.log cat /run/relay-bake/install.log
show apt-term.log cat /var/log/apt/term.log
show boot-blame.txt systemd-analyze blame
show failed-units.txt systemctl list-units --failed --no-pager
show journal-warnings.txt journalctl --boot --priority warning --no-pager --lines 300
show disk.txt df -h
