package main

import (
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// counters is what /stats answers; times are seconds since the Unix epoch, 0 for never.
type counters struct {
	sessions, auths, messages, bytes, open, openMost atomic.Int64
	first, last                                      atomic.Int64 // nanoseconds
}

func (c *counters) reset() {
	for _, v := range []*atomic.Int64{&c.sessions, &c.auths, &c.messages, &c.bytes, &c.openMost, &c.first, &c.last} {
		v.Store(0)
	}
}

func (c *counters) snapshot() map[string]any {
	return map[string]any{
		"sessions": c.sessions.Load(), "auths": c.auths.Load(), "messages": c.messages.Load(),
		"bytes": c.bytes.Load(), "sessions_at_once": c.openMost.Load(),
		"first": float64(c.first.Load()) / 1e9, "last": float64(c.last.Load()) / 1e9,
	}
}

// backend and session implement go-smtp's interfaces; a message counts when its final dot was read.
type backend struct {
	user, password string
	wait           time.Duration
	count          *counters
}

func (b *backend) NewSession(_ *smtp.Conn) (smtp.Session, error) {
	b.count.sessions.Add(1)
	open := b.count.open.Add(1)
	for {
		most := b.count.openMost.Load()
		if open <= most || b.count.openMost.CompareAndSwap(most, open) {
			break
		}
	}
	return &session{backend: b}, nil
}

type session struct {
	*backend
	authenticated bool
}

func (s *session) AuthMechanisms() []string { return []string{sasl.Plain} }

func (s *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		s.count.auths.Add(1)
		if user != s.user || password != s.password {
			return &smtp.SMTPError{Code: 535, EnhancedCode: smtp.EnhancedCode{5, 7, 8}, Message: "Authentication Credentials Invalid"}
		}
		s.authenticated = true
		return nil
	}), nil
}

func (s *session) Mail(string, *smtp.MailOptions) error {
	if !s.authenticated {
		return &smtp.SMTPError{Code: 530, EnhancedCode: smtp.EnhancedCode{5, 7, 0}, Message: "Authentication required"}
	}
	return nil
}

func (s *session) Rcpt(string, *smtp.RcptOptions) error { return nil }

func (s *session) Data(body io.Reader) error {
	n, err := io.Copy(io.Discard, body)
	if err != nil {
		return err
	}
	if s.wait > 0 {
		time.Sleep(s.wait)
	}
	now := time.Now().UnixNano()
	s.count.first.CompareAndSwap(0, now)
	s.count.last.Store(now)
	s.count.bytes.Add(n)
	s.count.messages.Add(1)
	return nil
}

func (s *session) Reset() {}

func (s *session) Logout() error {
	s.count.open.Add(-1)
	return nil
}

func runSink(args []string) error {
	flags := flag.NewFlagSet("sink", flag.ContinueOnError)
	cert := flags.String("cert", "", "certificate chain, PEM")
	key := flags.String("key", "", "private key, PEM")
	user := flags.String("user", "bench", "user name")
	passwordFile := flags.String("password-file", "", "file that holds the password")
	wait := flags.Duration("wait", 0, "time that accepting a message takes")
	if err := flags.Parse(args); err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(*cert, *key)
	if err != nil {
		return err
	}
	password, err := os.ReadFile(*passwordFile)
	if err != nil {
		return err
	}
	count := &counters{}
	server := smtp.NewServer(&backend{user: *user, password: string(password), wait: *wait, count: count})
	server.Domain = "sink.invalid"
	server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	server.ReadTimeout, server.WriteTimeout = 5*time.Minute, 5*time.Minute
	server.MaxMessageBytes = 64 << 20
	server.ErrorLog = log.New(io.Discard, "", 0)

	mail, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	control, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	http.HandleFunc("GET /stats", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(count.snapshot())
	})
	http.HandleFunc("POST /reset", func(w http.ResponseWriter, _ *http.Request) { count.reset() })
	go func() { _ = http.Serve(control, nil) }()
	fmt.Printf("{\"smtp\": %q, \"control\": %q}\n", mail.Addr(), control.Addr())
	return server.Serve(mail)
}
