package endtoend

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/nbd/client"
	"github.com/cowl-disk/cowl/nbd/wire"
)

// nbdServers are QEMU's program and ours: what to run before its options.
func nbdServers(t *testing.T) map[string][]string {
	t.Helper()
	return map[string][]string{"original": {testkit.Tool(t, "qemu-nbd")}, "ours": {program, "nbd"}}
}

// killable is a server on a socket with a name that is killed and started again.
type killable struct {
	t    *testing.T
	argv []string
	cmd  *exec.Cmd
}

// start starts it. Clients wait for it by open-timeout and reconnect-delay.
func (k *killable) start() {
	k.t.Helper()
	k.cmd = exec.Command(k.argv[0], k.argv[1:]...)
	k.cmd.Stderr = os.Stderr
	if err := k.cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
}

func (k *killable) kill() {
	k.cmd.Process.Kill()
	k.cmd.Wait()
}

// TestNBDServerKilled kills a server twice while our convert writes to its export, and
// once while it reads from it: nothing is lost.
func TestNBDServerKilled(t *testing.T) {
	src := filepath.Join(t.TempDir(), "src.raw")
	randomFile(t, src, 32<<20)
	for name, server := range nbdServers(t) {
		for _, format := range []string{"raw", "qcow2"} {
			t.Run(name+" "+format, func(t *testing.T) {
				dir := t.TempDir()
				image, sock := filepath.Join(dir, "image"), nbdSocket(t)
				testkit.Run(t, "qemu-img", "create", "-q", "-f", format, image, "32M")
				k := &killable{t: t, argv: append(append([]string{}, server...), "-t", "-e", "0", "-f", format, "-k", sock, image)}
				k.start()
				t.Cleanup(func() { k.kill() })
				export := "driver=raw,file.driver=nbd,file.server.type=unix,file.server.path=" + sock + ",file.open-timeout=10,file.reconnect-delay=20"
				interrupted(t, k, 2, `"phase":"copy"`, program, "convert", "-n", "-r", "64M", "--progress=json", "--image-opts", "--target-image-opts", "driver=raw,file.filename="+src, export)
				out := filepath.Join(dir, "out.raw")
				interrupted(t, k, 1, `"phase":"copy"`, program, "convert", "-r", "64M", "--progress=json", "--image-opts", "-O", "raw", export, out)
				if name == "ours" {
					// The client of QEMU, which does not write again what was lost.
					theirs := filepath.Join(dir, "theirs.raw")
					interrupted(t, k, 2, "/100%", testkit.Tool(t, "qemu-img"), "convert", "-r", "64M", "-p", "--image-opts", "-O", "raw", export, theirs)
					testkit.Run(t, "cmp", src, theirs)
				}
				k.cmd.Process.Signal(syscall.SIGTERM)
				k.cmd.Wait()
				testkit.Run(t, "cmp", src, out)
				if _, errs, code := testkit.Try(t, "qemu-img", "compare", "-f", format, "-F", "raw", image, src); code != 0 {
					t.Errorf("compare: %d %s", code, errs)
				}
				if format == "qcow2" {
					if out, errs, code := testkit.Try(t, "qemu-img", "check", "-f", format, image); code != 0 && code != 3 {
						t.Errorf("check: %d %s%s", code, out, errs)
					}
				}
			})
		}
	}
}

// killed is a server that can be killed and started again.
type killed interface {
	kill()
	start()
}

// interrupted runs a conversion that shows its progress, in lines with a mark, and
// kills the server and starts it again some times on the way.
func interrupted(t *testing.T, k killed, times int, mark, converter string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, converter, args...)
	cmd.WaitDelay = time.Second
	var errs bytes.Buffer
	cmd.Stderr = &errs
	progress, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n := 0
	for {
		m, err := progress.Read(buf)
		if n < times && bytes.Contains(buf[:m], []byte(mark)) {
			n++
			k.kill()
			k.start()
		}
		if err != nil {
			break
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%q: %v: %s", args, err, errs.String())
	}
	if n < times {
		t.Errorf("%q was over before the server was killed", args)
	}
}

// serveProgram runs our server as a program on an activated socket.
func serveProgram(t *testing.T, args ...string) (sock string, stop func()) {
	t.Helper()
	return activate(t, program, append([]string{"nbd"}, args...)...)
}

// TestNBDClientKilled kills a client that writes; the server goes on, and the image
// is sound.
func TestNBDClientKilled(t *testing.T) {
	dir := t.TempDir()
	src, image := filepath.Join(dir, "src.raw"), filepath.Join(dir, "image.qcow2")
	randomFile(t, src, 32<<20)
	testkit.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", image, "32M")
	sock, stop := serveProgram(t, "-t", "-e", "0", "-f", "qcow2", image)
	for range 3 {
		cmd := exec.Command(program, "convert", "-n", "--progress=json", "-f", "raw", "-O", "raw", src, nbdURI(sock, ""))
		progress, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		progress.Read(make([]byte, 100))
		cmd.Process.Kill()
		cmd.Wait()
	}
	c := dialNBD(t, sock, client.Config{})
	exercise(t, c)
	c.Close()
	testkit.Run(t, program, "convert", "-n", "-f", "raw", "-O", "raw", src, nbdURI(sock, ""))
	stop()
	testkit.Run(t, "qemu-img", "check", "-q", "-f", "qcow2", image)
	testkit.Run(t, "qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", image, src)
}

// TestNBDHelp finds the server in the help of cowl, and not in that of qemu-img.
func TestNBDHelp(t *testing.T) {
	if out := cowl(t, "help"); !strings.Contains(out, "\n  nbd - Serve an image") {
		t.Errorf("%s", out)
	}
	if out := cowl(t, "help", "nbd"); !strings.HasPrefix(out, "Usage: cowl nbd ") {
		t.Errorf("%s", out)
	}
	link := filepath.Join(t.TempDir(), "qemu-img")
	if err := os.Symlink(program, link); err != nil {
		t.Fatal(err)
	}
	if out := testkit.Run(t, link, "--help"); strings.Contains(out, "  nbd - ") {
		t.Errorf("%s", out)
	}
}

// stuckClient connects, asks for many reads and does not read the answers, until it is
// let go.
func stuckClient(t *testing.T, sock string) (release func()) {
	t.Helper()
	c, err := net.Dial("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	b := []byte{0, 0, 0, 3} // fixed newstyle, no zeroes
	info := wire.InfoRequest{}.Append(nil)
	h := make([]byte, wire.OptionHeaderLen)
	wire.OptionHeader{Option: wire.OptGo, Length: uint32(len(info))}.Put(h)
	b = append(append(b, h...), info...)
	for i := range 200 {
		r := wire.Request{Type: wire.CmdRead, Cookie: uint64(i), Length: 1 << 20}
		one := make([]byte, wire.RequestLen)
		r.Put(one)
		b = append(b, one...)
	}
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	// A part of the answers: the server has begun.
	if _, err := io.ReadFull(c, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	return func() { c.Close() }
}

// TestNBDStuckClient has a client ask for much and read nothing: others are served.
func TestNBDStuckClient(t *testing.T) {
	image := filepath.Join(t.TempDir(), "image.raw")
	randomFile(t, image, 32<<20)
	sock, _ := serveProgram(t, "-t", "-e", "0", "-f", "raw", image)
	stuck := stuckClient(t, sock)
	defer stuck()
	c := dialNBD(t, sock, client.Config{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		exercise(t, c)
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("a client that does not read stops others")
	}
	testkit.Run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", nbdURI(sock, ""), image)
}

// TestNBDServerDiskFull fills the file system of a server.
func TestNBDServerDiskFull(t *testing.T) {
	full := testkit.Mount(t, "tmpfs", "16M")
	for _, format := range nbdFormats {
		image := filepath.Join(full, "image")
		testkit.Run(t, "qemu-img", "create", "-q", "-f", format, image, "64M")
		sock, stop := serveProgram(t, "-t", "-e", "0", "-f", format, image)
		c := dialNBD(t, sock, client.Config{})
		part := bytes.Repeat([]byte{7}, 1<<20)
		var good int64
		var err error
		for off := int64(0); off < 64<<20; off += 1 << 20 {
			if err = c.WriteAt(t.Context(), part, off, false); err != nil {
				break
			}
			good = off + 1<<20
		}
		var se *client.ServerError
		if !errors.As(err, &se) || se.Errno != wire.ENOSPC {
			t.Errorf("%s: %v after %d", format, err, good)
		}
		got := make([]byte, 1<<20)
		for off := int64(0); off < good; off += 1 << 20 {
			if err := c.ReadAt(t.Context(), got, off); err != nil || !bytes.Equal(got, part) {
				t.Errorf("%s: at %d: %v", format, off, err)
			}
		}
		c.Close()
		stop()
		if format == "qcow2" {
			if out, errs, code := testkit.Try(t, "qemu-img", "check", "-f", format, image); code != 0 && code != 3 {
				t.Errorf("check: %d %s%s", code, out, errs)
			}
		}
		os.Remove(image)
	}
}

// TestNBDBackingVanishes cuts the backing file of a served image short: reads of it
// fail or give zeroes, and the server goes on.
func TestNBDBackingVanishes(t *testing.T) {
	image := nbdImage(t, "qcow2")
	sock, stop := serveProgram(t, "-t", "-e", "0", "-f", "qcow2", image)
	base := filepath.Join(filepath.Dir(image), "base.qcow2")
	c := dialNBD(t, sock, client.Config{})
	p := make([]byte, 64<<10)
	if err := c.ReadAt(t.Context(), p, 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(base, 64<<10); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(base); err != nil {
		t.Fatal(err)
	}
	// What the answer is depends on what is cached.
	_ = c.ReadAt(t.Context(), p, 39<<20)
	if err := c.ReadAt(t.Context(), p, 1<<20); err != nil || p[0] != 1 {
		t.Errorf("what is in the image: %d, %v", p[0], err)
	}
	if err := errors.Join(c.WriteAt(t.Context(), p, 50<<20, true), c.Flush(t.Context())); err != nil {
		t.Error(err)
	}
	c.Close()
	dialNBD(t, sock, client.Config{}).Close()
	stop()
}
