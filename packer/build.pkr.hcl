# The steps of a bake, the same on both targets. Scripts travel in the payload: each file that Packer uploads
# and each command that it runs by itself costs a session, half a second under software emulation.

locals {
  # A tmpfs: nothing that is put there can end up in the image.
  dir = "/run/relay-bake"
}

build {
  # builder stages the source of one target only, and keeps only that one here.
  sources = ["source.qemu.relay", "source.amazon-ebs.relay"]

  provisioner "file" {
    source      = var.payload
    destination = "/tmp/payload.tar"
    max_retries = 2
  }

  # `BUILDER-PHASE` lines tell builder what is going on; what stands between `BUILDER-DIAG` lines becomes a file.
  provisioner "shell" {
    inline = [
      "set -e",
      # Packer prints the two streams in no fixed order: an error could come before the phase that it belongs to.
      "exec 2>&1",
      "dir=${local.dir}",
      "trap 'code=$?; [ $code -eq 0 ] || sh $dir/scripts/diag.sh; exit $code' EXIT",
      "mkdir -p $dir",
      "mv /tmp/payload.tar $dir/payload.tar",
      "tar -C $dir -xf $dir/payload.tar",
      "for phase in install configure seal; do",
      "  echo BUILDER-PHASE $phase",
      "  sh $dir/scripts/$phase.sh $dir",
      "done",
      "for file in packages.tsv cloud-init-status.json cloud-init-status.txt; do",
      # Which of the two there is depends on the release.
      "  [ -e $dir/diag/$file ] || continue",
      "  echo BUILDER-DIAG begin $file",
      "  cat $dir/diag/$file",
      "  echo",
      "  echo BUILDER-DIAG end",
      "done",
    ]
    # One sudo for all of it: each takes a second under software emulation.
    execute_command = "sudo sh {{ .Path }}"
    remote_path     = "/tmp/packer-bake.sh"
    skip_clean      = true
    timeout         = "45m"
  }

  # Under QEMU the shutdown command does this. Here Packer stops the instance, once finish.sh is through.
  provisioner "shell" {
    only              = ["amazon-ebs.relay"]
    inline            = ["sudo systemd-run --quiet --collect sh ${local.dir}/scripts/finish.sh ${local.dir}"]
    remote_path       = "/tmp/packer-finish.sh"
    expect_disconnect = true
    skip_clean        = true
  }
  provisioner "shell-local" {
    only   = ["amazon-ebs.relay"]
    inline = ["sleep ${var.settle_seconds}"]
  }

  post-processor "manifest" {
    output = var.manifest
  }
}
