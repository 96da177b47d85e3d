//go:build tools

// Package tools pins the linter that `make dashboard-linter` builds; it is a module of its own, so that Packer's
// dependencies in ../go.mod stay what they are.
package tools

import (
	_ "github.com/grafana/dashboard-linter"
)
