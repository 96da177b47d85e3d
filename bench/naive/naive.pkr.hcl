# The bake that one would write first: cloud-init installs the packages, Packer keeps its defaults. bench/bake.py
# measures ours against it, from the same base to the same content.

variable "base" {
  type = string
}

variable "base_sha256" {
  type = string
}

variable "output_directory" {
  type = string
}

variable "accelerator" {
  type = string
}

source "qemu" "naive" {
  iso_url          = var.base
  iso_checksum     = "sha256:${var.base_sha256}"
  disk_image       = true
  format           = "qcow2"
  output_directory = var.output_directory
  accelerator      = var.accelerator
  cpus             = 2
  memory           = 2048
  headless         = true
  # Without `-cpu max` today's distributions do not start under emulation.
  qemuargs = [["-cpu", "max"]]

  cd_files = ["seed/user-data", "seed/meta-data", "seed/network-config", "seed/vendor-data"]
  cd_label = "cidata"

  ssh_username           = "bake"
  ssh_private_key_file   = "id_ed25519"
  ssh_timeout            = "30m"
  ssh_handshake_attempts = 1000
  shutdown_command       = "sudo shutdown -P now"
}

build {
  sources = ["source.qemu.naive"]

  provisioner "shell" {
    inline = ["cloud-init status --wait"]
  }
  provisioner "file" {
    source      = "payload.tar"
    destination = "/tmp/payload.tar"
  }
  provisioner "shell" {
    inline = [
      "sudo mkdir -p /opt/bake",
      "sudo tar -C /opt/bake -xf /tmp/payload.tar",
      "sudo sh /opt/bake/scripts/configure.sh /opt/bake",
      "sudo rm -rf /opt/bake /tmp/payload.tar",
      "sudo apt-get clean",
      "sudo cloud-init clean --logs --seed",
      "sudo rm -f /etc/ssh/ssh_host_*",
    ]
  }
}
