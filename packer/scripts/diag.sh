#!/bin/sh
# Print what explains a failed bake. builder cuts it out of Packer's output, one file per pair of marks.
# Runs as root in the machine, after the step that failed; nothing in here may fail it again.

part() {
    echo "BUILDER-DIAG begin $1"
    shift
    # The marks must stay on lines of their own, also after output without a last newline.
    timeout 60 "$@" 2>&1 </dev/null | tail -n 400
    echo
    echo "BUILDER-DIAG end"
}

part cloud-init-status.json cloud-init status --format json
part cloud-init-blame.txt cloud-init analyze blame
part cloud-init-output.log cat /var/log/cloud-init-output.log
part apt-term.log cat /var/log/apt/term.log
part dpkg.log tail -n 100 /var/log/dpkg.log
part journal.log journalctl --no-pager -b -p warning
part disk.txt df -h
part network.txt sh -c 'ip -brief address; ip route; cat /etc/resolv.conf'
exit 0
