//go:build tools

package main

// Pins the proxy that adds the round trip; bench/throughput.py builds it beside `load`.
import _ "github.com/Shopify/toxiproxy/v2/cmd/server"
