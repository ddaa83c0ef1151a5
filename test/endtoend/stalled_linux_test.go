package endtoend

import (
	"bytes"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/internal/testkit/ganesha"
	"github.com/cowl-disk/cowl/internal/testkit/sheepd"
	"github.com/cowl-disk/cowl/internal/testkit/sshd"
	"github.com/cowl-disk/cowl/internal/testkit/tgt"
)

// gate passes connections on to a server until a number of bytes has gone through it, in both directions and of all
// connections together. From then on the server answers no more: connections are taken, and nothing comes.
type gate struct {
	address       string // where it listens
	limit, passed atomic.Int64
	shut          chan struct{} // closed when something is not passed on
	once          sync.Once
}

// stall lets nothing more pass.
func (g *gate) stall() { g.limit.Store(-1) }

// newGate starts a gate before the server at target, for the length of the test.
func newGate(t *testing.T, target string, limit int64) *gate {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	g := &gate{address: l.Addr().String(), shut: make(chan struct{})}
	g.limit.Store(limit)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			s, err := net.Dial("tcp", target)
			if err != nil {
				c.Close()
				continue
			}
			t.Cleanup(func() { s.Close() })
			go g.pass(s, c)
			go g.pass(c, s)
		}
	}()
	return g
}

// pass moves what comes from one connection to the other one, and its end.
func (g *gate) pass(to, from net.Conn) {
	p := make([]byte, 32<<10)
	for {
		n, err := from.Read(p)
		if n > 0 && g.passed.Add(int64(n)) > g.limit.Load() {
			g.once.Do(func() { close(g.shut) })
			return
		}
		if _, failed := to.Write(p[:n]); err != nil || failed != nil {
			to.(*net.TCPConn).CloseWrite()
			return
		}
	}
}

func (g *gate) port() string { _, port, _ := net.SplitHostPort(g.address); return port }

// farServer is a server that has two images, "raw" and "qcow2", and waits for no client.
type farServer struct {
	name     string
	address  string
	readOnly bool
	url      func(g *gate, file string) string // of an image, by way of a gate
	fill     func(dir string)                  // puts the files raw and qcow2 of a folder there
}

// into returns what copies the images to a folder.
func into(t *testing.T, folder string) func(string) {
	return func(dir string) {
		t.Helper()
		for _, name := range []string{"raw", "qcow2"} {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err == nil {
				err = os.WriteFile(filepath.Join(folder, name), b, 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

func farSSH(t *testing.T) farServer {
	s := sshd.Start(t, "")
	t.Setenv("HOME", s.Home)
	t.Setenv("SSH_AUTH_SOCK", "")
	dir := t.TempDir()
	return farServer{name: "ssh", address: fmt.Sprintf("127.0.0.1:%d", s.Port), fill: into(t, dir),
		url: func(g *gate, file string) string {
			return "ssh://" + g.address + dir + "/" + file + "?host_key_check=no&timeout=0"
		}}
}

func farHTTP(t *testing.T) farServer {
	dir := t.TempDir()
	s := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(s.CloseClientConnections)
	return farServer{name: "http", address: s.Listener.Addr().String(), readOnly: true, fill: into(t, dir),
		url: func(g *gate, file string) string {
			return `json:{"driver":"` + file + `","file":{"driver":"http","timeout":6000,"url":"http://` + g.address + "/" + file + `"}}`
		}}
}

// unitSize is that of the units of farISCSI: the images and some room.
const unitSize = 12 << 20

func farISCSI(t *testing.T) farServer {
	dir := t.TempDir()
	path := map[string]string{"raw": filepath.Join(dir, "raw"), "qcow2": filepath.Join(dir, "qcow2")}
	for _, name := range path {
		if err := os.WriteFile(name, make([]byte, unitSize), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s := tgt.Start(t, tgt.Unit{Number: 1, Path: path["raw"]}, tgt.Unit{Number: 2, Path: path["qcow2"]})
	return farServer{name: "iscsi", address: s.Address,
		fill: func(from string) {
			for name, unit := range path {
				b, err := os.ReadFile(filepath.Join(from, name))
				if err != nil {
					t.Fatal(err)
				}
				// The server has the file open.
				if err := os.WriteFile(unit, append(b, make([]byte, unitSize-len(b))...), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		},
		url: func(g *gate, file string) string {
			return "iscsi://" + g.address + "/" + tgt.Name + map[string]string{"raw": "/1", "qcow2": "/2"}[file]
		}}
}

func farNFS(t *testing.T, s *ganesha.Server, version string) farServer {
	dir := map[string]string{"3": s.Dir, "4": "/export"}[version]
	return farServer{name: "nfs" + version, address: fmt.Sprintf("127.0.0.1:%d", s.Port), fill: into(t, s.Dir),
		url: func(g *gate, file string) string {
			return "nfs://127.0.0.1" + dir + "/" + file + "?version=" + version + "&timeout=600&nfsport=" + g.port()
		}}
}

func farSheepdog(t *testing.T) farServer {
	s := sheepd.NewCluster(sheepd.Config{Shift: 20}).Start(t)
	host, port, err := net.SplitHostPort(s.Address)
	if err != nil {
		t.Fatal(err)
	}
	return farServer{name: "sheepdog", address: s.Address,
		fill: func(dir string) {
			for _, name := range []string{"raw", "qcow2"} {
				to := "sheepdog://" + net.JoinHostPort(host, port) + "/" + name
				if _, _, code := testkit.Try(t, program, "info", to); code != 0 {
					cowl(t, "create", "-q", "-f", "raw", to, fmt.Sprint(unitSize))
				}
				cowl(t, "convert", "-n", "-f", "raw", "-O", "raw", filepath.Join(dir, name), to)
			}
		},
		url: func(g *gate, file string) string {
			return `json:{"driver":"` + file + `","file":{"driver":"sheepdog","vdi":"` + file + `","timeout":0,"server":{"type":"inet","host":"127.0.0.1","port":"` + g.port() + `"}}}`
		}}
}

// stalledCommand is a command line: RAW and QCOW2 are images on the server, DIR is a folder that has both, and
// overlays of them. It is run without -short, or only among long tests.
type stalledCommand struct {
	line         string
	writes, long bool
	not          []string // the servers whose disks cannot do it
}

var stalledCommands = []stalledCommand{
	{line: "info QCOW2", long: true},
	{line: "check QCOW2", long: true},
	{line: "map -f raw RAW", long: true},
	{line: "map QCOW2", long: true},
	{line: "compare -F raw QCOW2 DIR/raw", long: true},
	{line: "checksum -f raw RAW", long: true},
	{line: "measure -f raw -O qcow2 RAW", long: true},
	{line: "bench -f raw -c 4000 RAW", long: true},
	{line: "convert -O raw QCOW2 DIR/out"},
	{line: "convert -c -O qcow2 QCOW2 DIR/out", long: true},
	{line: "convert --for aws -f raw RAW DIR/out", long: true},
	{line: "dd -f raw if=RAW of=DIR/out", long: true},
	{line: "create -f qcow2 -b QCOW2 -F qcow2 DIR/new", long: true},
	{line: "rebase -f qcow2 -b QCOW2 -F qcow2 DIR/overlay", long: true},
	{line: "io -r -f raw -c 'read 0 8M' RAW", long: true},
	{line: "io -f raw -c 'write 0 8M' -c flush RAW", writes: true},
	{line: "io -f raw -c 'aio_write 0 8M' -c aio_flush RAW", writes: true, long: true},
	{line: "bench -f raw -w -c 2000 RAW", writes: true, long: true},
	{line: "commit DIR/far", writes: true},
	{line: "snapshot -c x QCOW2", writes: true, long: true},
	{line: "resize -f raw --shrink RAW 9M", writes: true, long: true, not: []string{"iscsi", "sheepdog"}},
	{line: "resize QCOW2 9M", writes: true, long: true},
	{line: "convert -n -f raw -O raw DIR/raw RAW", writes: true},
	{line: "convert -n -f raw -O qcow2 DIR/raw QCOW2", writes: true, long: true},
	{line: "amend -f qcow2 -o lazy_refcounts=on QCOW2", writes: true, long: true},
	{line: "bitmap --add QCOW2 b", writes: true, long: true},
	{line: "rebase -u -f qcow2 -b DIR/raw -F raw QCOW2", writes: true, long: true},
	{line: "check -r all QCOW2", writes: true, long: true},
}

// TestStalledServer: SIGINT ends every command, wherever in its work the server of its image stops to answer. How
// long that takes is told by -v.
func TestStalledServer(t *testing.T) {
	for name, start := range map[string]func(*testing.T) farServer{"ssh": farSSH, "http": farHTTP, "iscsi": farISCSI, "sheepdog": farSheepdog} {
		t.Run(name, func(t *testing.T) { stalledServer(t, start(t)) })
	}
}

// TestStalledNFS is TestStalledServer with a server of NFS.
func TestStalledNFS(t *testing.T) {
	if !testkit.WithHosts(t, "127.0.0.1 localhost\n") {
		return
	}
	s := ganesha.Start(t, t.TempDir(), "Squash = No_Root_Squash;")
	for _, version := range []string{"3", "4"} {
		stalledServer(t, farNFS(t, s, version))
	}
}

func stalledServer(t *testing.T, s farServer) {
	defer testkit.HeedSignals()()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	randomFile(t, at("raw"), 8<<20)
	cowl(t, "convert", "-f", "raw", "-O", "qcow2", at("raw"), at("qcow2"))
	cowl(t, "create", "-q", "-f", "qcow2", "-b", at("qcow2"), "-F", "qcow2", at("overlay"))
	parts := []float64{0.6}
	if testkit.Long() {
		parts = []float64{0, 0.3, 0.6, 0.98}
	}
	for _, c := range stalledCommands {
		if c.writes && s.readOnly || slices.Contains(c.not, s.name) || c.long && !testkit.Long() {
			continue
		}
		// How much goes over the network in all.
		g := newGate(t, s.address, math.MaxInt64)
		if out, err := stalledRun(t, s, c, dir, g).CombinedOutput(); err != nil {
			t.Errorf("%s: %s: %v\n%s", s.name, c.line, err, out)
			continue
		}
		total := float64(g.passed.Load())
		for _, part := range parts {
			g := newGate(t, s.address, int64(part*total))
			interruptStalled(t, stalledRun(t, s, c, dir, g), g, part > 0.9, fmt.Sprintf("%s: %s, %.1f %%", s.name, c.line, 100*part))
		}
	}
}

// stalledRun makes all images anew and returns a run of a command that has not been started.
func stalledRun(t *testing.T, s farServer, c stalledCommand, dir string, g *gate) *exec.Cmd {
	t.Helper()
	s.fill(dir)
	raw := s.url(g, "raw")
	at := func(name string) string { return filepath.Join(dir, name) }
	if strings.Contains(c.line, "DIR/far") {
		cowl(t, "convert", "-f", "raw", "-O", "qcow2", at("raw"), at("far"))
		cowl(t, "rebase", "-u", "-f", "qcow2", "-b", raw, "-F", "raw", at("far"))
	}
	line := strings.NewReplacer("RAW", "'"+raw+"'", "QCOW2", "'"+s.url(g, "qcow2")+"'", "DIR", dir).Replace(c.line)
	return exec.Command("sh", "-c", "exec "+program+" "+line)
}

// interruptStalled runs a command, interrupts it when the server has stopped to answer, and wants it to end by itself
// and without success. With early, it may be over before that, as it may ask for a little less than the last time.
func interruptStalled(t *testing.T, cmd *exec.Cmd, g *gate, early bool, name string) {
	t.Helper()
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	select {
	case <-ended:
		if !early {
			t.Errorf("%s: over before: %v %q", name, cmd.ProcessState, text.String())
		}
		return
	case <-g.shut:
	}
	time.Sleep(100 * time.Millisecond) // for what it does beside; nothing depends on it
	select {
	case <-ended:
		if early {
			return // the last that it was told was not needed
		}
		t.Errorf("%s: it does not wait for the server: %v %q", name, cmd.ProcessState, text.String())
		return
	default:
	}
	began := time.Now()
	_ = cmd.Process.Signal(os.Interrupt)
	wantEnd(t, cmd, ended, name)
	t.Logf("%s: %.2f s, %v %q", name, time.Since(began).Seconds(), cmd.ProcessState, text.String())
	if cmd.ProcessState.Success() || text.Len() == 0 {
		t.Errorf("%s: %v %q; want a failure that is told", name, cmd.ProcessState, text.String())
	}
}

// wantEnd waits for the end of a program. One that does not end tells where it is.
func wantEnd(t *testing.T, cmd *exec.Cmd, ended <-chan struct{}, name string) {
	t.Helper()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		_ = cmd.Process.Signal(syscall.SIGQUIT)
		<-ended
		t.Fatalf("%s: it does not end\n%s", name, cmd.Stderr)
	}
}
