package ssh_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/pkg/sftp"
	xssh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/ssh"
)

// newKey makes a private key.
func newKey(t testing.TB) (ed25519.PrivateKey, xssh.Signer) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := xssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return key, s
}

// sshServer is a server in this process.
type sshServer struct {
	net.Listener
	host   xssh.Signer
	home   string // of the client
	config *xssh.ServerConfig
	// serve runs SFTP; nil: with the files of this machine.
	serve     func(io.ReadWriteCloser)
	subsystem string // that there is: sftp

	mu     sync.Mutex
	passed int // connections, on to other servers
}

// newServer starts a server that takes the key of home, whose .ssh is that of the client.
func newServer(t testing.TB, change func(*sshServer)) *sshServer {
	t.Helper()
	s := &sshServer{home: t.TempDir(), config: &xssh.ServerConfig{}, subsystem: "sftp"}
	_, s.host = newKey(t)
	private, client := newKey(t)
	if err := os.Mkdir(s.dotSSH(""), 0o700); err != nil {
		t.Fatal(err)
	}
	s.writeKey(t, "id_ed25519", private, "")
	s.config.PublicKeyCallback = func(_ xssh.ConnMetadata, key xssh.PublicKey) (*xssh.Permissions, error) {
		if !bytes.Equal(key.Marshal(), client.PublicKey().Marshal()) {
			return nil, errors.New("another key")
		}
		return nil, nil
	}
	if change != nil {
		change(s)
	}
	s.config.AddHostKey(s.host)
	var err error
	if s.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	s.write(t, "known_hosts", knownhosts.Line([]string{s.Addr().String()}, s.host.PublicKey())+"\n")
	if home, ok := t.(interface{ Setenv(string, string) }); ok {
		home.Setenv("HOME", s.home)
		home.Setenv("SSH_AUTH_SOCK", "")
	}
	var running sync.WaitGroup
	conns := map[net.Conn]bool{}
	running.Go(func() {
		for {
			c, err := s.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			conns[c] = true
			s.mu.Unlock()
			running.Go(func() { s.connection(c) })
		}
	})
	t.Cleanup(func() {
		s.Close()
		s.mu.Lock()
		for c := range conns {
			c.Close()
		}
		s.mu.Unlock()
		running.Wait()
	})
	return s
}

func (s *sshServer) dotSSH(name string) string { return filepath.Join(s.home, ".ssh", name) }

func (s *sshServer) write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(s.dotSSH(name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// writeKey writes a private key, encrypted with a passphrase if that is not "".
func (s *sshServer) writeKey(t testing.TB, name string, key ed25519.PrivateKey, passphrase string) {
	t.Helper()
	block, err := xssh.MarshalPrivateKey(key, "")
	if passphrase != "" {
		block, err = xssh.MarshalPrivateKeyWithPassphrase(key, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, name, string(pem.EncodeToMemory(block)))
}

func (s *sshServer) port() string { return strconv.Itoa(s.Addr().(*net.TCPAddr).Port) }

// url names a file of the server.
func (s *sshServer) url(path string) string { return "ssh://" + s.Addr().String() + path }

func (s *sshServer) connection(c net.Conn) {
	defer c.Close()
	conn, channels, requests, err := xssh.NewServerConn(c, s.config)
	if err != nil {
		return
	}
	defer conn.Close()
	go xssh.DiscardRequests(requests)
	var running sync.WaitGroup
	defer running.Wait()
	for nc := range channels {
		switch nc.ChannelType() {
		case "direct-tcpip":
			running.Go(func() { s.pass(nc) })
		case "session":
			running.Go(func() { s.session(nc) })
		default:
			_ = nc.Reject(xssh.UnknownChannelType, "")
		}
	}
}

// pass connects to another server for the client.
func (s *sshServer) pass(nc xssh.NewChannel) {
	var to struct {
		Host   string
		Port   uint32
		Origin string
		From   uint32
	}
	if xssh.Unmarshal(nc.ExtraData(), &to) != nil {
		_ = nc.Reject(xssh.ConnectionFailed, "")
		return
	}
	c, err := net.Dial("tcp", net.JoinHostPort(to.Host, fmt.Sprint(to.Port)))
	if err != nil {
		_ = nc.Reject(xssh.ConnectionFailed, err.Error())
		return
	}
	defer c.Close()
	ch, requests, err := nc.Accept()
	if err != nil {
		return
	}
	s.mu.Lock()
	s.passed++
	s.mu.Unlock()
	go xssh.DiscardRequests(requests)
	go func() { _, _ = io.Copy(c, ch); c.Close() }()
	_, _ = io.Copy(ch, c)
	ch.Close()
}

func (s *sshServer) session(nc xssh.NewChannel) {
	ch, requests, err := nc.Accept()
	if err != nil {
		return
	}
	defer ch.Close()
	for r := range requests {
		ok := r.Type == "subsystem" && string(r.Payload[4:]) == s.subsystem
		_ = r.Reply(ok, nil)
		if !ok {
			continue
		}
		go xssh.DiscardRequests(requests)
		if s.serve != nil {
			s.serve(ch)
			return
		}
		server, err := sftp.NewServer(ch)
		if err == nil {
			_ = server.Serve()
		}
		return
	}
}

// openOptions are what tests choose when they open a disk.
type openOptions struct {
	write   bool
	options opts.Dict
	objects driver.Objects
	warn    func(string)
}

// tryOpen opens a disk by its name and further options.
func tryOpen(ctx context.Context, name string, o openOptions) (driver.Storage, error) {
	d := ssh.New()
	given, err := d.(driver.FilenameParser).ParseFilename(name)
	if err != nil {
		return nil, err
	}
	for k, v := range o.options {
		given[k] = v
	}
	if o.warn == nil {
		o.warn = func(string) {}
	}
	n, err := d.Open(ctx, &driver.OpenRequest{Name: name, Options: given, Access: driver.Access{Write: o.write},
		Env: &driver.Env{Objects: o.objects, Warn: o.warn}})
	if err != nil {
		return nil, err
	}
	return n.(driver.Storage), nil
}

// open opens a disk, which is closed when the test ends.
func open(t testing.TB, name string, o openOptions) driver.Storage {
	t.Helper()
	n, err := tryOpen(context.Background(), name, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close(context.Background()) })
	return n
}

// newFile writes n random bytes.
func newFile(t testing.TB, n int) (path string, data []byte) {
	t.Helper()
	data = make([]byte, n)
	_, _ = rand.Read(data)
	path = filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path, data
}
