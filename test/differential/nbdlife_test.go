//go:build unix

package differential

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/nbd/client"
	"github.com/cowl-disk/cowl/nbd/tlscreds"
)

// nbdProcess is a server in the foreground that was handed a listening socket.
type nbdProcess struct {
	t    *testing.T
	cmd  *exec.Cmd
	sock string
	log  bytes.Buffer
	gone chan struct{}
}

// startNBD starts a server with fds listening sockets handed over. It is killed with
// the test.
func startNBD(t *testing.T, dir, program string, fds int, args ...string) *nbdProcess {
	t.Helper()
	p := &nbdProcess{t: t, sock: filepath.Join(t.TempDir(), "s"), gone: make(chan struct{})}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: p.sock, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	defer l.Close()
	p.cmd = exec.Command("sh", append([]string{"-c", fmt.Sprintf(`LISTEN_PID=$$ LISTEN_FDS=%d exec "$0" "$@"`, fds), program}, args...)...)
	p.cmd.Dir = dir
	for range fds {
		p.cmd.ExtraFiles = append(p.cmd.ExtraFiles, f)
	}
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.cmd.Wait()
		close(p.gone)
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.gone
	})
	return p
}

// ended waits for the end and returns the exit code.
func (p *nbdProcess) ended() int {
	p.t.Helper()
	select {
	case <-p.gone:
	case <-time.After(time.Minute):
		_ = p.cmd.Process.Signal(syscall.SIGQUIT) // ours tells what each goroutine waits for
		select {
		case <-p.gone:
		case <-time.After(time.Minute):
		}
		p.t.Fatalf("%s does not end: %s", p.cmd.Args[3], p.log.String())
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *nbdProcess) dial(t *testing.T) *client.Conn { return p.dialTLS(t, nil) }

func (p *nbdProcess) dialTLS(t *testing.T, creds *tls.Config) *client.Conn {
	t.Helper()
	c, err := client.Dial(t.Context(), client.Config{Network: "unix", Address: p.sock, HandshakeTimeout: time.Minute, TLS: creds})
	if err != nil {
		t.Fatalf("%v; %s", err, p.log.String())
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// each runs a test with QEMU's server and with ours.
func each(t *testing.T, f func(t *testing.T, program string)) {
	theirs, ours := nbdPrograms(t)
	if !testkit.Race { // of QEMU there is nothing to be detected
		t.Run("original", func(t *testing.T) { f(t, theirs) })
	}
	t.Run("ours", func(t *testing.T) { f(t, ours) })
}

// TestQemuNBDSignals ends servers while clients write: what was answered is in the
// image, which is sound, and the exit code is 0.
func TestQemuNBDSignals(t *testing.T) {
	tools := needCLI(t)
	dirs := makeTLSDirs(t)
	creds, err := tlscreds.Client(&driver.TLSCreds{Type: "x509", Dir: dirs.client, VerifyPeer: true}, nil, "localhost")
	if err != nil {
		t.Fatal(err)
	}
	each(t, func(t *testing.T, program string) {
		// Whoever ignores a signal, as nohup does, has its children ignore it.
		defer testkit.HeedSignals()()
		for k, sig := range []os.Signal{syscall.SIGTERM, os.Interrupt, syscall.SIGHUP, syscall.SIGTERM} {
			var tlsArgs []string
			var tlsConfig *tls.Config
			if k == 3 {
				tlsArgs = []string{"--object", "tls-creds-x509,id=t,endpoint=server,verify-peer=on,dir=" + dirs.server, "--tls-creds", "t"}
				tlsConfig = creds
			}
			dir := t.TempDir()
			image := filepath.Join(dir, "disk.qcow2")
			testkit.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", image, "48M")
			testkit.Run(t, "qemu-img", "bitmap", "--add", image, "b")
			p := startNBD(t, dir, program, 1, append(tlsArgs, "-t", "-f", "qcow2", image)...)
			c := p.dialTLS(t, tlsConfig)
			const part = 64 << 10
			var mu sync.Mutex
			var answered []int64
			var wg sync.WaitGroup
			enough := make(chan struct{})
			for w := range 8 {
				wg.Go(func() {
					for i := int64(w); i < 768; i += 8 {
						if c.WriteAt(context.Background(), bytes.Repeat([]byte{byte(i%251 + 1)}, part), i*part, false) != nil {
							return
						}
						mu.Lock()
						answered = append(answered, i)
						if len(answered) == 40 {
							close(enough)
						}
						mu.Unlock()
					}
				})
			}
			select {
			case <-enough:
			case <-time.After(time.Minute):
				t.Fatal("the server does not answer")
			}
			p.cmd.Process.Signal(sig)
			if code := p.ended(); code != 0 {
				t.Errorf("%v: exit code %d: %s", sig, code, p.log.String())
			}
			c.Close()
			wg.Wait()
			testkit.Run(t, tools.img, "check", "-q", "-f", "qcow2", image)
			if info := testkit.Run(t, tools.img, "info", image); strings.Contains(info, "in-use") || strings.Contains(info, "inconsistent") {
				t.Errorf("%v: the bitmap was not saved: %s", sig, info)
			}
			raw := filepath.Join(dir, "raw")
			testkit.Run(t, tools.ours, "convert", "-O", "raw", image, raw)
			data, err := os.ReadFile(raw)
			if err != nil {
				t.Fatal(err)
			}
			for _, i := range answered {
				if b := data[i*part : (i+1)*part]; bytes.Count(b, []byte{byte(i%251 + 1)}) != part {
					t.Errorf("%v: write %d was answered and is not in the image", sig, i)
				}
			}
		}
	})
}

// TestQemuNBDClients counts them: without -t the last one ends the server, and -e
// says how many are served at a time.
func TestQemuNBDClients(t *testing.T) {
	dir := fixtures(t, needCLI(t))
	each(t, func(t *testing.T, program string) {
		p := startNBD(t, dir, program, 1, "-e", "2", "-f", "raw", "raw.img")
		a, b := p.dial(t), p.dial(t)
		third := make(chan *client.Conn, 1)
		go func() {
			c, err := client.Dial(context.Background(), client.Config{Network: "unix", Address: p.sock, HandshakeTimeout: time.Minute})
			if err != nil {
				t.Errorf("third client: %v", err)
			}
			third <- c
		}()
		for range 20 {
			if err := errors.Join(a.ReadAt(t.Context(), make([]byte, 4096), 0), b.ReadAt(t.Context(), make([]byte, 4096), 0)); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case <-third:
			t.Error("three clients are served")
		case <-time.After(50 * time.Millisecond):
		}
		a.Close()
		c := <-third
		if c == nil {
			return
		}
		b.Close()
		if err := c.ReadAt(t.Context(), make([]byte, 4096), 0); err != nil {
			t.Errorf("the last client: %v", err)
		}
		c.Close()
		if code := p.ended(); code != 0 {
			t.Errorf("exit code %d: %s", code, p.log.String())
		}
	})
}

// TestQemuNBDActivation has servers use a socket that they were handed, and refuse
// what does not go together with that.
func TestQemuNBDActivation(t *testing.T) {
	theirs, ours := nbdPrograms(t)
	dir := fixtures(t, needCLI(t))
	for _, c := range []struct {
		fds  int
		args string
	}{{1, ""}, {1, "-t"}, {1, "--fork"}, {1, "-p 10809"}, {1, "-b ::1"}, {1, "-k /nosock"}, {1, "-c /dev/nbd0"}, {1, "--fork -p 10809"}, {1, "--fork -b ::1"}, {1, "--fork -k /nosock"}, {2, ""}, {2, "--fork"}} {
		var said [2]string
		for i, program := range []string{theirs, ours} {
			p := startNBD(t, dir, program, c.fds, append(strings.Fields(c.args), "-f", "raw", "-r", "raw.img")...)
			refused := c.fds > 1 || strings.ContainsAny(strings.TrimPrefix(c.args, "--fork"), "pbkc")
			if refused {
				said[i] = fmt.Sprint(p.ended(), p.log.String())
				continue
			}
			conn := p.dial(t)
			if err := conn.ReadAt(t.Context(), make([]byte, 4096), 0); err != nil {
				t.Errorf("%s: %v", c.args, err)
			}
			conn.Close()
			if c.args == "-t" {
				p.dial(t).Close()
				p.cmd.Process.Signal(syscall.SIGTERM)
			}
			said[i] = fmt.Sprint(p.ended(), p.log.String())
		}
		if said[0] != said[1] {
			t.Errorf("%d %s:\noriginal: %s\nours:     %s", c.fds, c.args, said[0], said[1])
		}
	}
}

// TestQemuNBDFork serves over TCP of both families from the background; the file
// with the number of the process is there when the command returns, and so is the
// server.
func TestQemuNBDFork(t *testing.T) {
	dir := fixtures(t, needCLI(t))
	each(t, func(t *testing.T, program string) {
		for _, host := range []string{"127.0.0.1", "::1"} {
			l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
			if err != nil {
				t.Logf("%s: %v", host, err)
				continue
			}
			_, port, _ := net.SplitHostPort(l.Addr().String())
			l.Close()
			pidFile := filepath.Join(t.TempDir(), "pid")
			if o := runNBD(t, dir, program, "--fork", "--pid-file", pidFile, "-b", host, "-p", port, "-f", "raw", "-r", "raw.img"); o != (outcome{}) {
				t.Fatalf("%+v", o)
			}
			text, err := os.ReadFile(pidFile)
			if err != nil {
				t.Fatal(err)
			}
			pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { syscall.Kill(pid, syscall.SIGKILL) })
			c, err := client.Dial(t.Context(), client.Config{Network: "tcp", Address: net.JoinHostPort(host, port)})
			if err != nil {
				t.Fatal(err)
			}
			if err := c.ReadAt(t.Context(), make([]byte, 4096), 0); err != nil {
				t.Error(err)
			}
			c.Close()
			for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
				if ended(pid) {
					break
				}
				if time.Now().After(end) {
					t.Fatal("the server outlives its last client")
				}
			}
		}
	})
}

// TestQemuNBDOverlay writes to an overlay (-s): the image stays as it is, and nothing
// is left.
func TestQemuNBDOverlay(t *testing.T) {
	tools := needCLI(t)
	each(t, func(t *testing.T, program string) {
		dir := fixtures(t, tools)
		tmp := t.TempDir()
		t.Setenv("TMPDIR", tmp)
		for _, name := range []string{"raw.img", "top.qcow2"} {
			format := "raw"
			if strings.HasSuffix(name, "qcow2") {
				format = "qcow2"
			}
			before := testkit.Run(t, "sha256sum", filepath.Join(dir, name))
			p := startNBD(t, dir, program, 1, "-s", "-f", format, name)
			c := p.dial(t)
			want := bytes.Repeat([]byte{0x5a}, 300<<10)
			got := make([]byte, len(want))
			if err := errors.Join(c.WriteAt(t.Context(), want, 4096, true), c.Flush(t.Context()), c.ReadAt(t.Context(), got, 4096)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %v", name, err)
			}
			c.Close()
			if code := p.ended(); code != 0 {
				t.Errorf("exit code %d: %s", code, p.log.String())
			}
			if after := testkit.Run(t, "sha256sum", filepath.Join(dir, name)); after != before {
				t.Errorf("%s has changed", name)
			}
			if left, _ := os.ReadDir(tmp); len(left) > 0 {
				t.Errorf("%v is left", left)
			}
		}
	})
}

// TestQemuNBDLocks has a second server open an image that is served.
func TestQemuNBDLocks(t *testing.T) {
	theirs, ours := nbdPrograms(t)
	dir := fixtures(t, needCLI(t))
	sock := filepath.Join(t.TempDir(), "s")
	for _, first := range []string{"", "-r"} {
		var said [2][]outcome
		for i, program := range []string{theirs, ours} {
			p := startNBD(t, dir, program, 1, strings.Fields("-t "+first+" -f qcow2 a.qcow2")...)
			p.dial(t).Close()
			for _, second := range []string{theirs, ours} {
				said[i] = append(said[i], runNBD(t, dir, second, "-k", sock, "-f", "qcow2", "a.qcow2"))
				if first == "" {
					said[i] = append(said[i], runNBD(t, dir, second, "-k", sock, "-r", "-f", "qcow2", "a.qcow2"))
				} else {
					_, stop := nbdServe(t, dir, second, "-r", "-f", "qcow2", "a.qcow2")
					stop()
				}
			}
			p.cmd.Process.Signal(syscall.SIGTERM)
			p.ended()
		}
		for k, o := range append(said[0], said[1]...) {
			if want := said[0][k%len(said[0])%(len(said[0])/2)]; o != want || o.code != 1 {
				t.Errorf("%q %d: %+v, want %+v", first, k, o, want)
			}
		}
	}
}
