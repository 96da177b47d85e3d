# The machine under QEMU. Staged only for `--target qemu`.

variable "disk" {
  type        = string
  description = "The disk to start from: an overlay on the verified base image, made by builder."
}

variable "output_directory" {
  type        = string
  description = "Where Packer puts the baked disk; must not exist yet."
}

variable "seed_files" {
  type        = list(string)
  description = "user-data, meta-data, network-config and vendor-data of the bake (cloud-init NoCloud)."
}

variable "accelerator" {
  type        = string
  default     = "tcg"
  description = "kvm where the processor backs it, tcg (software emulation) elsewhere."
}

variable "cpu" {
  type        = string
  default     = "max"
  description = "Processor model; `max` works with both accelerators."
}

variable "disk_cache" {
  type        = string
  default     = "unsafe"
  description = "No flush reaches the host's disk during the bake; a bake that dies is thrown away anyhow."
}

variable "ssh_port" {
  type        = number
  description = "Port of loopback that Packer connects to: builder's own, which answers as soon as the machine does."
}

variable "forwarded_port" {
  type        = number
  description = "Port of loopback that QEMU forwards to the machine's SSH."
}

variable "serial_log" {
  type        = string
  description = "The serial console; outside output_directory, which Packer deletes after a failure."
}

source "qemu" "relay" {
  # builder checked the base's digest and laid a fresh overlay on it, so Packer copies 200 kB.
  iso_url            = var.disk
  iso_checksum       = "none"
  disk_image         = true
  skip_resize_disk   = true
  skip_compaction    = true
  format             = "qcow2"
  disk_interface     = "virtio"
  disk_cache         = var.disk_cache
  disk_discard       = "unmap"
  disk_detect_zeroes = "unmap"
  output_directory   = var.output_directory
  vm_name            = "${var.name}.qcow2"

  accelerator = var.accelerator
  cpus        = var.cpus
  memory      = var.memory_mib
  headless    = true
  disable_vnc = true
  # Nothing is typed at the console; a negative wait is Packer's way to say none (0 means 10 s).
  boot_wait = "-1s"
  # -machine and -netdev replace Packer's own: without graphics, firmware and boot loader write to the serial
  # console, so that "No bootable device" can be seen; and SSH is offered on this host's loopback only.
  # -cpu rather than cpu_model, which 1.6.6 does not know.
  qemuargs = [
    ["-machine", "type=pc,accel=${var.accelerator},graphics=off"],
    ["-cpu", var.cpu],
    ["-serial", "file:${var.serial_log}"],
    ["-netdev", "user,id=user.0,hostfwd=tcp:127.0.0.1:${var.forwarded_port}-:22"],
  ]

  cd_files = var.seed_files
  cd_label = "cidata"

  communicator           = "ssh"
  skip_nat_mapping       = true
  ssh_host               = "127.0.0.1"
  ssh_port               = var.ssh_port
  ssh_username           = var.ssh_username
  ssh_private_key_file   = var.ssh_private_key_file
  ssh_timeout            = var.ssh_timeout
  ssh_handshake_attempts = 1000

  # Removes the bake user too, so it must outlive the session that starts it.
  shutdown_command = "sudo systemd-run --quiet --collect sh ${local.dir}/scripts/finish.sh ${local.dir} poweroff"
  shutdown_timeout = "3m"
}
