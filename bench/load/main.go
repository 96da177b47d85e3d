// Command load is the other side of bench/throughput.py: a provider that is fast enough not to be the
// bottleneck, and a bare client that shows the ceiling.
//
//	load sink    accepts mail over STARTTLS with AUTH, counts it and throws it away
//	load client  keeps N authenticated TLS sessions open and sends as fast as the other side takes
//
// Both speak JSON on stdout. The sink's protocol is github.com/emersion/go-smtp, the client's net/smtp.
package main

import (
	"fmt"
	"os"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: load sink|client [flags]")
		os.Exit(2)
	}
	var err error
	switch os.Args[1] {
	case "sink":
		err = runSink(os.Args[2:])
	case "client":
		err = runClient(os.Args[2:])
	default:
		err = fmt.Errorf("unknown command %q: expected sink or client", os.Args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}
