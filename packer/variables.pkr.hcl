# What both targets share. Values come from `run.auto.pkrvars.json`, which builder writes for each run.
# The language is kept to what Packer 1.6.6 understands; newer ones accept all of it.

packer {
  required_version = ">= 1.6.6"
}

variable "name" {
  type        = string
  description = "Name of the image."
}

variable "cpus" {
  type        = number
  default     = 2
  description = "Virtual processors of the machine that is baked; QEMU only."
}

variable "memory_mib" {
  type        = number
  default     = 2048
  description = "Memory of the machine that is baked; QEMU only."
}

variable "ssh_username" {
  type        = string
  default     = "bake"
  description = "The user that the bake's cloud-config creates: key only, with sudo. Sealing deletes it."
}

variable "ssh_private_key_file" {
  type        = string
  description = "The key of this run; its public half is in the bake's cloud-config."
}

variable "ssh_timeout" {
  type        = string
  default     = "15m"
  description = "How long to wait for SSH. Software emulation on a busy machine takes minutes."
}

variable "payload" {
  type        = string
  description = "A tar archive: root/ (files of the image), packages.txt, install.json, scripts/."
}

variable "manifest" {
  type        = string
  description = "Where Packer writes what it made; a new path for each run."
}

variable "settle_seconds" {
  type        = number
  default     = 10
  description = "How long finish.sh has before Packer stops the instance, EC2 only; it needs one second."
}
