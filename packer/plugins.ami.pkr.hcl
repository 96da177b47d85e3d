# Staged only for Packer 1.7 and newer: 1.6.6 has its plugins built in and refuses this block.

packer {
  required_plugins {
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = ">= 1.2.6"
    }
  }
}
