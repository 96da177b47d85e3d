package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/smtp"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

type clientFlags struct {
	address, name, ca, user, passwordFile string
	sessions, messages, size              int
	reset                                 bool
}

func parseClient(args []string) (clientFlags, error) {
	var c clientFlags
	flags := flag.NewFlagSet("client", flag.ContinueOnError)
	flags.StringVar(&c.address, "address", "", "host:port of the provider")
	flags.StringVar(&c.name, "name", "", "host name in its certificate")
	flags.StringVar(&c.ca, "ca", "", "certificate authority, PEM")
	flags.StringVar(&c.user, "user", "bench", "user name")
	flags.StringVar(&c.passwordFile, "password-file", "", "file that holds the password")
	flags.IntVar(&c.sessions, "sessions", 20, "sessions that are kept open")
	flags.IntVar(&c.messages, "messages", 1000, "messages in all")
	flags.IntVar(&c.size, "size", 4096, "bytes of each message")
	flags.BoolVar(&c.reset, "reset", false, "send RSET before each message and wait for its reply, as Postfix does")
	return c, flags.Parse(args)
}

// runClient opens the sessions first, then measures only the sending.
func runClient(args []string) error {
	c, err := parseClient(args)
	if err != nil {
		return err
	}
	password, err := os.ReadFile(c.passwordFile)
	if err != nil {
		return err
	}
	pem, err := os.ReadFile(c.ca)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return errors.New("no certificate in " + c.ca)
	}
	config := &tls.Config{RootCAs: roots, ServerName: c.name}
	clients := make([]*smtp.Client, c.sessions)
	for i := range clients {
		if clients[i], err = connect(c, config, string(password)); err != nil {
			return err
		}
	}
	body := "Subject: bench\r\n\r\n" + strings.Repeat(strings.Repeat("x", 70)+"\r\n", c.size/72+1)
	started := time.Now()
	if err := sendAll(clients, c, body); err != nil {
		return err
	}
	seconds := time.Since(started).Seconds()
	for _, client := range clients {
		_ = client.Quit()
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"messages": c.messages, "seconds": seconds, "per_second": float64(c.messages) / seconds, "sessions": c.sessions,
	})
}

func connect(c clientFlags, config *tls.Config, password string) (*smtp.Client, error) {
	conn, err := net.Dial("tcp", c.address)
	if err != nil {
		return nil, err
	}
	client, err := smtp.NewClient(conn, c.name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.address, err)
	}
	if err := client.StartTLS(config); err != nil {
		return nil, err
	}
	return client, client.Auth(smtp.PlainAuth("", c.user, password, c.name))
}

// send hands over one message in two round trips: MAIL, RCPT and DATA in one go (RFC 2920), then the text.
// With reset it takes a third one, which Postfix spends on each message of a session that it uses again.
func send(client *smtp.Client, reset bool, body string) error {
	if reset {
		if err := client.Reset(); err != nil {
			return err
		}
	}
	text := client.Text
	if err := text.PrintfLine("MAIL FROM:<bench@example.com>\r\nRCPT TO:<to@example.net>\r\nDATA"); err != nil {
		return err
	}
	for _, want := range []int{250, 250, 354} {
		if _, _, err := text.ReadResponse(want); err != nil {
			return err
		}
	}
	writer := text.DotWriter()
	if _, err := writer.Write([]byte(body)); err != nil {
		return err
	}
	if err := writer.Close(); err != nil {
		return err
	}
	_, _, err := text.ReadResponse(250)
	return err
}

func sendAll(clients []*smtp.Client, c clientFlags, body string) error {
	var left atomic.Int64
	left.Store(int64(c.messages))
	var group sync.WaitGroup
	failures := make(chan error, len(clients))
	for _, client := range clients {
		group.Add(1)
		go func() {
			defer group.Done()
			for left.Add(-1) >= 0 {
				if err := send(client, c.reset, body); err != nil {
					failures <- err
					return
				}
			}
		}()
	}
	group.Wait()
	close(failures)
	return <-failures
}
