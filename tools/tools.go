//go:build tools

// Package tools pins the programs that `make packer` builds; nothing here is compiled into anything else.
package tools

import (
	_ "github.com/hashicorp/packer"
	_ "github.com/hashicorp/packer-plugin-amazon"
)
