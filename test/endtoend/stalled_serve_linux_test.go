package endtoend

import (
	"bytes"
	"context"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/nbd/client"
)

// shownFar is a disk of a server that "cowl mount" shows.
type shownFar struct {
	t      *testing.T
	g      *gate
	dir    string // where it is mounted
	cmd    *exec.Cmd
	ended  chan struct{}
	stderr bytes.Buffer
}

// showFar starts "cowl mount" with args for the raw image of s. Whatever becomes of it, nothing is mounted at the end.
func showFar(t *testing.T, s farServer, args ...string) *shownFar {
	t.Helper()
	m := &shownFar{t: t, g: newGate(t, s.address, math.MaxInt64), dir: t.TempDir(), ended: make(chan struct{})}
	m.cmd = exec.Command(program, append(append([]string{"mount", "-f", "raw"}, args...), s.url(m.g, "raw"), m.dir)...)
	m.cmd.Stderr = &m.stderr
	out, err := m.cmd.StdoutPipe()
	if err == nil {
		err = m.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = m.cmd.Process.Kill()
		_ = syscall.Unmount(m.dir, syscall.MNT_DETACH)
		<-m.ended
	})
	_, err = out.Read(make([]byte, 4096))
	go func() {
		defer close(m.ended)
		_, _ = io.Copy(io.Discard, out)
		_ = m.cmd.Wait()
	}()
	if err != nil {
		<-m.ended
		t.Fatalf("%v: %s", err, &m.stderr)
	}
	return m
}

func (m *shownFar) disk() string { return filepath.Join(m.dir, "disk") }

// program starts a program that has the disk open as its standard input or output, and returns what tells its end.
func (m *shownFar) program(flag int, name string, args ...string) (ended chan error) {
	m.t.Helper()
	f, err := os.OpenFile(m.disk(), flag, 0)
	if err != nil {
		m.t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command(name, args...)
	if flag == os.O_RDONLY {
		cmd.Stdin = f
	} else {
		cmd.Stdout = f
	}
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	ended = make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	return ended
}

// mounted says whether something is mounted in the folder.
func (m *shownFar) mounted() bool {
	m.t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		m.t.Fatal(err)
	}
	return strings.Contains(string(b), " "+m.dir+" ")
}

// end sends a signal and waits for the end of the command, which leaves nothing mounted.
func (m *shownFar) end(sig os.Signal, name, says string) {
	m.t.Helper()
	began := time.Now()
	_ = m.cmd.Process.Signal(sig)
	wantEnd(m.t, m.cmd, m.ended, name)
	m.t.Logf("%s: %.2f s, %v %q", name, time.Since(began).Seconds(), m.cmd.ProcessState, &m.stderr)
	if !strings.Contains(m.stderr.String(), says) {
		m.t.Errorf("%s: %q", name, &m.stderr)
	}
	if m.mounted() {
		m.t.Errorf("%s: something is mounted still", name)
	}
}

// mountableFar is a server of two images, where disks can be shown.
func mountableFar(t *testing.T) farServer {
	t.Helper()
	testkit.Root(t)
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("no FUSE here: ", err)
	}
	buildMounter(t)
	s := farSSH(t)
	dir := t.TempDir()
	randomFile(t, filepath.Join(dir, "raw"), 8<<20)
	randomFile(t, filepath.Join(dir, "qcow2"), 8<<20)
	s.fill(dir)
	return s
}

// TestStalledMount: a disk of a server that has stopped to answer is shown no longer once the command is told to end,
// whoever uses it.
func TestStalledMount(t *testing.T) {
	s := mountableFar(t)
	defer testkit.HeedSignals()()
	const lost = "Interrupted; no answer in time: what was written last may be lost\n"

	m := showFar(t, s)
	m.g.stall()
	reader := m.program(os.O_RDONLY, "cat")
	m.end(os.Interrupt, "a reader", "Interrupted; no answer in time\n")
	if err := <-reader; err == nil {
		t.Error("the reader has all")
	}

	m = showFar(t, s, "-w")
	m.g.stall()
	writer := m.program(os.O_WRONLY, "dd", "if=/dev/zero", "bs=64k", "count=4", "conv=fsync")
	m.end(os.Interrupt, "a writer", lost)
	if err := <-writer; err == nil {
		t.Error("the writer has written")
	}

	m = showFar(t, s, "-w")
	if err := <-m.program(os.O_WRONLY, "dd", "if=/dev/zero", "bs=64k", "count=4"); err != nil {
		t.Error(err)
	}
	m.g.stall()
	m.end(os.Interrupt, "nobody", lost)

	// Who asks politely waits, until he does not any more.
	m = showFar(t, s)
	m.g.stall()
	reader = m.program(os.O_RDONLY, "cat")
	_ = m.cmd.Process.Signal(syscall.SIGTERM)
	for m.mounted() {
		time.Sleep(time.Millisecond)
	}
	select {
	case <-m.ended:
		t.Errorf("the first signal ended it: %s", &m.stderr)
	default:
	}
	m.end(os.Interrupt, "two signals", "is in use; the command ends when no program uses it any more, or at a second signal\n")
	<-reader

	if testkit.Long() { // 45 s
		m = showFar(t, s, "-w")
		m.g.stall()
		writer = m.program(os.O_WRONLY, "dd", "if=/dev/zero", "bs=64k", "count=4", "conv=fsync")
		m.end(syscall.SIGTERM, "a writer, with time", lost)
		if err := <-writer; err == nil {
			t.Error("the writer has written")
		}
	}
}

// TestUsedMount: a disk of a server that answers is there for the programs that use it until they are done, though the
// command was interrupted long before.
func TestUsedMount(t *testing.T) {
	s := mountableFar(t)
	defer testkit.HeedSignals()()
	m := showFar(t, s, "-w")
	f, err := os.OpenFile(m.disk(), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_ = m.cmd.Process.Signal(os.Interrupt)
	for m.mounted() {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(1500 * time.Millisecond) // longer than it has patience with servers
	want := bytes.Repeat([]byte("used"), 1<<16)
	if _, err := f.WriteAt(want, 1<<20); err != nil {
		t.Errorf("%v: %s", err, &m.stderr)
	}
	f.Close()
	wantEnd(t, m.cmd, m.ended, "used")
	back := filepath.Join(t.TempDir(), "back")
	cowl(t, "convert", "-f", "raw", "-O", "raw", s.url(newGate(t, s.address, math.MaxInt64), "raw"), back)
	if got, err := os.ReadFile(back); err != nil || !bytes.Equal(got[1<<20:][:len(want)], want) {
		t.Errorf("other data, %v", err)
	}
}

// TestStalledNBD: a server of a disk whose own server has stopped to answer ends when it is interrupted, with requests
// of a client under way or with what is not flushed.
func TestStalledNBD(t *testing.T) {
	s := farSSH(t)
	dir := t.TempDir()
	randomFile(t, filepath.Join(dir, "raw"), 8<<20)
	randomFile(t, filepath.Join(dir, "qcow2"), 8<<20)
	s.fill(dir)
	defer testkit.HeedSignals()()
	serve := func(args ...string) (*gate, *client.Conn, *exec.Cmd, chan struct{}) {
		g, sock := newGate(t, s.address, math.MaxInt64), nbdSocket(t)
		cmd := exec.Command(program, append(append([]string{"nbd", "-t", "-f", "raw", "-k", sock, "--pid-file", sock + ".pid"}, args...), s.url(g, "raw"))...)
		cmd.Stderr = new(bytes.Buffer)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() { defer close(ended); _ = cmd.Wait() }()
		t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
		for { // until it serves
			if _, err := os.Stat(sock + ".pid"); err == nil {
				break
			}
			select {
			case <-ended:
				t.Fatal(cmd.Stderr)
			case <-time.After(time.Millisecond):
			}
		}
		return g, dialNBD(t, sock, client.Config{}), cmd, ended
	}
	end := func(name string, sig os.Signal, cmd *exec.Cmd, ended chan struct{}, says string) {
		began := time.Now()
		_ = cmd.Process.Signal(sig)
		wantEnd(t, cmd, ended, name)
		text := cmd.Stderr.(*bytes.Buffer).String()
		t.Logf("%s: %.2f s, %v %q", name, time.Since(began).Seconds(), cmd.ProcessState, text)
		if text != says {
			t.Errorf("%s: %q", name, text)
		}
	}
	read := func(c *client.Conn) chan error {
		done := make(chan error, 1)
		go func() { done <- c.ReadAt(context.Background(), make([]byte, 1<<20), 0) }()
		return done
	}

	g, c, cmd, ended := serve("-r")
	g.stall()
	reading := read(c)
	<-g.shut
	end("a reader", os.Interrupt, cmd, ended, "")
	if err := <-reading; err == nil {
		t.Error("the reader has all")
	}

	g, c, cmd, ended = serve()
	if err := c.WriteAt(t.Context(), make([]byte, 1<<20), 0, false); err != nil {
		t.Error(err)
	}
	g.stall()
	end("what is not flushed", os.Interrupt, cmd, ended, "cowl nbd: Interrupted; no answer in time: what clients wrote last may be lost\n")

	g, c, cmd, ended = serve()
	g.stall()
	reading = read(c)
	<-g.shut
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-ended:
		t.Error("the first signal ended it")
	case <-time.After(100 * time.Millisecond):
	}
	end("two signals", os.Interrupt, cmd, ended, "")
	<-reading

	if testkit.Long() { // 45 s
		g, c, cmd, ended = serve()
		if err := c.WriteAt(t.Context(), make([]byte, 1<<20), 0, false); err != nil {
			t.Error(err)
		}
		g.stall()
		end("what is not flushed, with time", syscall.SIGTERM, cmd, ended, "cowl nbd: Interrupted; no answer in time: what clients wrote last may be lost\n")
	}
}
