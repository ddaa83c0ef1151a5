package http_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/http"
)

// ftpServer is an FTP server in this process with one file, /disk.
type ftpServer struct {
	net.Listener
	tls *tls.Config

	mu       sync.Mutex
	data     []byte
	modified string
	password string // "" for any
	most     int    // connections at most, 0 for any
	noSize   bool
	// fault is asked before n bytes of a transfer are sent: nil sends them, errCut ends
	// the transfer, errSilent sends nothing until the server ends.
	fault func(n int) error

	conns, transfers atomic.Int64
	end              chan struct{}
	running          sync.WaitGroup
}

var (
	errCut    = errors.New("cut")
	errSilent = errors.New("silent")
)

func newFTP(t *testing.T, data []byte, change func(*ftpServer)) *ftpServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &ftpServer{Listener: l, data: data, modified: "20260101000000", end: make(chan struct{})}
	if change != nil {
		change(s)
	}
	s.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.running.Go(func() { s.session(c) })
		}
	})
	t.Cleanup(func() { l.Close(); close(s.end); s.running.Wait() })
	return s
}

func (s *ftpServer) url() string {
	scheme := "ftp"
	if s.tls != nil {
		scheme = "ftps"
	}
	return scheme + "://" + s.Addr().String() + "/disk"
}

func (s *ftpServer) set(f func(*ftpServer)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

func (s *ftpServer) session(c net.Conn) {
	go func(c net.Conn) { <-s.end; c.Close() }(c)
	defer c.Close()
	n := s.conns.Add(1)
	defer s.conns.Add(-1)
	if s.tls != nil {
		c = tls.Server(c, s.tls)
	}
	say := func(format string, args ...any) { fmt.Fprintf(c, format+"\r\n", args...) }
	s.mu.Lock()
	most := s.most
	s.mu.Unlock()
	if most > 0 && n > int64(most) {
		say("421 too many connections")
		return
	}
	say("220 ready")
	var data net.Listener
	rest := int64(0)
	lines := bufio.NewScanner(c)
	for lines.Scan() {
		verb, arg, _ := strings.Cut(lines.Text(), " ")
		s.mu.Lock()
		disk, modified, password, noSize := s.data, s.modified, s.password, s.noSize
		s.mu.Unlock()
		switch verb {
		case "USER":
			say("331 password")
		case "PASS":
			if password != "" && arg != password {
				say("530 wrong")
			} else {
				say("230 in")
			}
		case "FEAT":
			say("211-\r\n MDTM\r\n SIZE\r\n211 end")
		case "TYPE", "OPTS", "PBSZ", "PROT":
			say("200 ok")
		case "SIZE":
			switch {
			case noSize:
				say("502 what")
			case arg != "disk":
				say("550 none")
			default:
				say("213 %d", len(disk))
			}
		case "MDTM":
			say("213 %s", modified)
		case "EPSV":
			if data != nil {
				data.Close()
			}
			data, _ = net.Listen("tcp", "127.0.0.1:0")
			say("229 passive (|||%d|)", data.Addr().(*net.TCPAddr).Port)
		case "REST":
			rest, _ = strconv.ParseInt(arg, 10, 64)
			say("350 go on")
		case "RETR":
			s.transfers.Add(1)
			say("150 here it comes")
			d, err := data.Accept()
			data.Close()
			if err != nil {
				return
			}
			if s.tls != nil {
				d = tls.Server(d, s.tls)
			}
			if s.send(d, disk[min(rest, int64(len(disk))):]) {
				say("226 done")
			} else {
				say("426 cut")
			}
			rest = 0
		case "QUIT":
			say("221 bye")
			return
		default:
			say("500 what")
		}
	}
}

// send sends data as far as faults and the client let it.
func (s *ftpServer) send(d net.Conn, data []byte) bool {
	defer d.Close()
	for len(data) > 0 {
		n := min(len(data), 64<<10)
		var fault error
		s.mu.Lock()
		if s.fault != nil {
			fault = s.fault(n)
		}
		s.mu.Unlock()
		switch fault {
		case errCut:
			return false
		case errSilent:
			<-s.end
			return false
		}
		if _, err := d.Write(data[:n]); err != nil {
			return false
		}
		data = data[n:]
	}
	return true
}

func tryFTP(ctx context.Context, url string, options opts.Dict, objects driver.Objects) (driver.Storage, error) {
	d := http.NewFTP()
	if strings.HasPrefix(url, "ftps") {
		d = http.NewFTPS()
	}
	o := opts.Dict{"url": url}
	for k, v := range options {
		o[k] = v
	}
	n, err := d.Open(ctx, &driver.OpenRequest{Name: url, Options: o, Env: &driver.Env{Objects: objects, Warn: func(string) {}}})
	if err != nil {
		return nil, err
	}
	return n.(driver.Storage), nil
}

func openFTP(t *testing.T, url string, options opts.Dict) driver.Storage {
	t.Helper()
	n, err := tryFTP(context.Background(), url, options, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close(context.Background()) })
	return n
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7 / 3 >> (i & 5))
	}
	return b
}

// certificate returns the TLS of a server for 127.0.0.1, and a file of its certificate.
func certificate(t *testing.T) (*tls.Config, string) {
	t.Helper()
	web := httptest.NewTLSServer(nil)
	t.Cleanup(web.Close)
	file := t.TempDir() + "/ca.pem"
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw}), 0o644); err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: web.TLS.Certificates}, file
}

// TestFTP reads in order over one transfer, at random over others, also over TLS.
func TestFTP(t *testing.T) {
	data := pattern(5<<20 + 123)
	config, ca := certificate(t)
	for _, c := range []struct {
		name    string
		tls     *tls.Config
		options opts.Dict
	}{{"ftp", nil, nil}, {"ftps", config, opts.Dict{"cacert": ca}}, {"unverified", config, opts.Dict{"sslverify": "off"}}} {
		t.Run(c.name, func(t *testing.T) {
			s := newFTP(t, data, func(s *ftpServer) { s.tls = c.tls })
			n := openFTP(t, s.url(), c.options)
			ctx := context.Background()
			if n.Size() != int64(len(data)) {
				t.Fatalf("size %d", n.Size())
			}
			var got []byte
			for off := int64(0); off < n.Size(); off += 1 << 20 {
				p := make([]byte, min(1<<20, n.Size()-off))
				if _, err := n.ReadAt(ctx, p, off); err != nil {
					t.Fatal(err)
				}
				got = append(got, p...)
			}
			if !bytes.Equal(got, data) {
				t.Error("another disk")
			}
			if tr := s.transfers.Load(); tr != 1 {
				t.Errorf("%d transfers for reading in order", tr)
			}
			var wg sync.WaitGroup
			for i := range 16 {
				wg.Go(func() {
					off := int64(i * 7919 * 41 % (4 << 20))
					p := make([]byte, []int{100, 600 << 10}[i%2])
					if _, err := n.ReadAt(ctx, p, off); err != nil || !bytes.Equal(p, data[off:off+int64(len(p))]) {
						t.Errorf("offset %d: %v", off, err)
					}
				})
			}
			wg.Wait()
			if p := make([]byte, 1000); true {
				if m, err := n.ReadAt(ctx, p, n.Size()-10); m != 10 || err != io.EOF || !bytes.Equal(p[:10], data[len(data)-10:]) {
					t.Errorf("at the end: %d, %v", m, err)
				}
			}
		})
	}
	s := newFTP(t, data, func(s *ftpServer) { s.tls = config })
	if _, err := tryFTP(context.Background(), s.url(), nil, nil); err == nil || !strings.Contains(err.Error(), "server certificate verification failed") {
		t.Errorf("a certificate of nobody: %v", err)
	}
}

// TestFTPFaults: lost transfers are resumed, silence ends, changes are errors.
func TestFTPFaults(t *testing.T) {
	data := pattern(3 << 20)
	ctx := context.Background()
	read := func(n driver.Storage) error {
		p := make([]byte, len(data))
		_, err := n.ReadAt(ctx, p, 0)
		if err == nil && !bytes.Equal(p, data) {
			return errors.New("other bytes")
		}
		return err
	}
	once := func(after int, err error) func(int) error {
		sent := 0
		return func(n int) error {
			if sent += n; sent > after && err != nil {
				now := err
				err = nil
				return now
			}
			return nil
		}
	}
	for name, fault := range map[string]error{"cut": errCut, "silent": errSilent} {
		s := newFTP(t, data, func(s *ftpServer) { s.fault = once(1<<20, fault) })
		if err := read(openFTP(t, s.url(), opts.Dict{"timeout": 1})); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := newFTP(t, data, func(s *ftpServer) { s.fault = once(1<<20, errCut) })
	n := openFTP(t, s.url(), nil)
	s.set(func(s *ftpServer) { s.modified = "20260202000000" })
	if err := read(n); err == nil || !strings.Contains(err.Error(), "changed while it was read") {
		t.Errorf("a file that changed: %v", err)
	}

	s = newFTP(t, data, nil)
	n = openFTP(t, s.url(), opts.Dict{"timeout": 0})
	cancelled, cancel := context.WithCancel(ctx)
	s.set(func(s *ftpServer) { s.fault = func(int) error { cancel(); return errSilent } })
	if _, err := n.ReadAt(cancelled, make([]byte, len(data)), 0); !errors.Is(err, context.Canceled) {
		t.Errorf("a read that was cancelled: %v", err)
	}

	s = newFTP(t, data, func(s *ftpServer) { s.most = 1 })
	n = openFTP(t, s.url(), nil)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := read(n); err != nil {
				t.Errorf("one connection only: %v", err)
			}
		})
	}
	wg.Wait()
}

// TestFTPRefusals: what cannot be opened, and why.
func TestFTPRefusals(t *testing.T) {
	s := newFTP(t, pattern(1000), func(s *ftpServer) { s.password = "secret-pass" })
	secrets := driver.Secrets{"pw": "secret-pass"}
	user := strings.Replace(s.url(), "://", "://joe:secret-pass@", 1)
	for _, c := range []struct {
		url     string
		options opts.Dict
		want    string
	}{
		{s.url(), nil, "access denied: 530"},
		{user, nil, ""},
		{s.url(), opts.Dict{"username": "joe", "password-secret": "pw"}, ""},
		{strings.Replace(user, "/disk", "/none", 1), nil, "the file does not exist"},
		{strings.Replace(user, "/disk", "/disk;type=i", 1), nil, ""},
		{strings.Replace(user, "/disk", "/disk;type=a", 1), nil, "disks are binary"},
		{strings.Replace(user, "/disk", "/a%0d%0aDELE%20disk", 1), nil, "characters that FTP cannot send"},
		{strings.Replace(user, "/disk", "/", 1), nil, "names no file"},
		{"ftp://127.0.0.1:1/disk", nil, "failed to connect to 127.0.0.1 port 1"},
	} {
		n, err := tryFTP(context.Background(), c.url, c.options, secrets)
		if err == nil {
			if name := n.(driver.Named).Filename(); strings.Contains(name, "secret-pass") {
				t.Errorf("the name %s", name)
			}
			_ = n.Close(context.Background())
		}
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret-pass")) {
			t.Errorf("%s %v: %v, want %q", c.url, c.options, err, c.want)
		}
	}
	s = newFTP(t, nil, func(s *ftpServer) { s.noSize = true })
	if _, err := tryFTP(context.Background(), s.url(), nil, nil); !errors.Is(err, driver.ErrUnsupported) {
		t.Errorf("no SIZE: %v", err)
	}
	s = newFTP(t, nil, nil)
	if n := openFTP(t, s.url(), nil); n.Size() != 0 {
		t.Errorf("empty: %d bytes", n.Size())
	}
}
