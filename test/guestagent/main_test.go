//go:build linux

// Package guestagent tests the guest agent beside QEMU's: the same requests, command
// lines and guests.
package guestagent

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// ours is our agent, built by TestMain.
var ours string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "cowl-agent")
	if err != nil {
		panic(err)
	}
	ours = filepath.Join(dir, "qemu-ga")
	if err := testkit.Build(ours, "./cmd/cowl-agent", "-ldflags", "-s -w"); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// theirs returns QEMU's agent, or skips the test.
func theirs(t testing.TB) string { return testkit.Tool(t, "qemu-ga") }

// limit is the time after which something has gone wrong.
const limit = time.Minute

// agent is a running agent.
type agent struct {
	t    testing.TB
	dir  string
	cmd  *exec.Cmd
	conn net.Conn
	err  *bytes.Buffer
}

// start runs an agent on a Unix socket in a folder of its own and connects to it.
func start(t testing.TB, program string, args ...string) *agent {
	t.Helper()
	a := &agent{t: t, dir: t.TempDir(), err: &bytes.Buffer{}}
	a.cmd = exec.Command(program, append([]string{"-m", "unix-listen", "-p", a.socket(), "-t", a.dir}, args...)...)
	a.cmd.Dir = a.dir
	a.cmd.Stderr = a.err
	a.cmd.Env = append(os.Environ(), "LC_ALL=C")
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.stop)
	a.connect()
	return a
}

func (a *agent) socket() string { return filepath.Join(a.dir, "socket") }

// connect connects a client in the place of the one before.
func (a *agent) connect() {
	a.t.Helper()
	if a.conn != nil {
		a.conn.Close()
	}
	for end := time.Now().Add(limit); ; {
		c, err := net.Dial("unix", a.socket())
		if err == nil {
			a.conn = c
			return
		}
		if time.Now().After(end) || !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, os.ErrNotExist) {
			a.t.Fatalf("%v; %s", err, a.err)
		}
		<-time.After(2 * time.Millisecond)
	}
}

func (a *agent) stop() {
	if a.conn != nil {
		a.conn.Close()
	}
	if a.cmd.ProcessState == nil {
		_ = a.cmd.Process.Kill()
		_ = a.cmd.Wait()
	}
}

// token ends what an agent answers to a request: it is asked for after each.
const token = `{"execute":"guest-sync-delimited","arguments":{"id":4711}}`

// resync brings the reader to a known state whatever it was in the middle of.
const resync = "\xff\n" + token

var tokenReply = []byte("\xff{\"return\": 4711}\n")

// ask sends bytes in pieces of a size and returns all that is answered to them, and to
// the bytes that bring the reader to a known state after them.
func (a *agent) ask(request string, piece int) string {
	a.t.Helper()
	out, err := a.try(request, piece)
	if err != nil {
		a.t.Fatalf("%.200q: %v; %s", request, err, a.err)
	}
	return out
}

func (a *agent) try(request string, piece int) (string, error) {
	if err := a.conn.SetDeadline(time.Now().Add(limit)); err != nil {
		return "", err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	sent := make(chan error, 1)
	go func() {
		data := []byte(request)
		for len(data) > 0 && ctx.Err() == nil {
			n := len(data)
			if piece > 0 {
				n = min(n, piece)
			}
			if _, err := a.conn.Write(data[:n]); err != nil {
				sent <- err
				return
			}
			data = data[n:]
		}
		_, err := io.WriteString(a.conn, resync)
		sent <- err
	}()
	var got []byte
	buf := make([]byte, 64<<10)
	for !bytes.HasSuffix(got, tokenReply) {
		n, err := a.conn.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil {
			return string(got), err
		}
	}
	return string(got), <-sent
}

func decode(t testing.TB, s string) string {
	t.Helper()
	data, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
