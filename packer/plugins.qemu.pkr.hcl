# Staged only for Packer 1.7 and newer: 1.6.6 has its plugins built in and refuses this block.

packer {
  required_plugins {
    qemu = {
      source  = "github.com/hashicorp/qemu"
      version = ">= 1.0.10"
    }
  }
}
