package ceph

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// Cluster is a running cluster, with a pool that is called "rbd".
type Cluster struct {
	// Conf is its configuration file.
	Conf string

	dir  string
	mon  *process
	osd  *process
	uuid string
}

// process is a server of the cluster.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

// Start starts a cluster, which Stop ends, in dir, a folder of its own. Its programs end with this process, too.
func Start(dir string) (c *Cluster, err error) {
	c = &Cluster{dir: dir, Conf: filepath.Join(dir, "ceph.conf")}
	for try := 0; ; try++ { // another program may take a port in between
		if err = c.start(); err == nil {
			return c, nil
		}
		c.Stop()
		if try == 3 {
			return nil, err
		}
		for _, name := range []string{"mon", "osd"} {
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				return nil, err
			}
		}
	}
}

// Need skips a test where the programs are missing.
func Need(t testing.TB) {
	t.Helper()
	for _, name := range []string{"ceph-mon", "ceph-osd", "ceph", "rbd", "monmaptool", "ceph-authtool"} {
		testkit.Tool(t, name)
	}
}

// The texts of the configuration and of the identifiers, which only have to differ between clusters of one machine.
const config = `[global]
fsid = %[1]s
mon host = [v2:127.0.0.1:%[2]d/0,v1:127.0.0.1:%[3]d/0]
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms bind ipv6 = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd crush chooseleaf type = 0
osd crush update on start = false
mon allow pool size one = true
mon data avail crit = 1
mon data avail warn = 1
mon pg warn min per osd = 0
osd max object name len = 256
osd max object namespace len = 64
run dir = %[4]s
admin socket = %[4]s/$cluster-$name.asok
log file = %[4]s/$name.log
pid file = %[4]s/$name.pid
[mon.a]
mon data = %[4]s/mon
[osd]
osd data = %[4]s/osd
osd journal = %[4]s/osd/journal
osd objectstore = memstore
memstore device bytes = 4294967296
osd class load list = *
osd class default list = *
`

func (c *Cluster) start() error {
	fsid, err := uuid()
	if err != nil {
		return err
	}
	if c.uuid, err = uuid(); err != nil {
		return err
	}
	var ports [2]int
	for i := range ports {
		if ports[i], err = freePort(); err != nil {
			return err
		}
	}
	text := fmt.Sprintf(config, fsid, ports[0], ports[1], c.dir)
	keyring, monmap := filepath.Join(c.dir, "keyring"), filepath.Join(c.dir, "monmap")
	for _, name := range []string{"mon", "osd"} {
		if err := os.MkdirAll(filepath.Join(c.dir, name), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(c.Conf, []byte(text), 0o644); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"monmaptool", "--create", "--clobber", "--fsid", fsid, "--addv", "a", fmt.Sprintf("[v2:127.0.0.1:%d,v1:127.0.0.1:%d]", ports[0], ports[1]), monmap},
		{"ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *"},
		{"ceph-authtool", keyring, "--gen-key", "-n", "client.admin", "--cap", "mon", "allow *", "--cap", "osd", "allow *"},
		{"ceph-mon", "-c", c.Conf, "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring},
	} {
		if err := run(args...); err != nil {
			return err
		}
	}
	if c.mon, err = start("ceph-mon", "-c", c.Conf, "-i", "a", "-f"); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"ceph", "-c", c.Conf, "--connect-timeout", "60", "osd", "new", c.uuid},
		{"ceph-osd", "-c", c.Conf, "-i", "0", "--mkfs", "--osd-uuid", c.uuid},
		{"ceph", "-c", c.Conf, "osd", "crush", "add", "0", "1.0", "root=default"},
	} {
		if err := run(args...); err != nil {
			return err
		}
	}
	if c.osd, err = start("ceph-osd", "-c", c.Conf, "-i", "0", "-f"); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"ceph", "-c", c.Conf, "osd", "pool", "create", "rbd", "8"},
		{"ceph", "-c", c.Conf, "osd", "pool", "application", "enable", "rbd", "rbd"},
	} {
		if err := run(args...); err != nil {
			return err
		}
	}
	return nil
}

// uuid returns an identifier that the system makes.
func uuid() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/uuid")
	return strings.TrimSpace(string(b)), err
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// run runs a program to its end.
func run(args ...string) error {
	cmd := exec.Command(args[0], args[1:]...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// start starts a server.
func start(name string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(name, args...), ended: make(chan struct{})}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { defer close(p.ended); _ = p.cmd.Wait() }()
	return p, nil
}

// Stop ends the cluster, with all that it holds.
func (c *Cluster) Stop() {
	for _, p := range []*process{c.osd, c.mon} {
		if p != nil {
			_ = p.cmd.Process.Kill()
			<-p.ended
		}
	}
	c.osd, c.mon = nil, nil
}

// Pause stops the store, which holds the objects: requests wait until it goes on.
func (c *Cluster) Pause(t testing.TB) { t.Helper(); testkit.Stop(t, c.osd.cmd.Process) }

// Continue lets the store go on after Pause.
func (c *Cluster) Continue(t testing.TB) { c.signal(t, syscall.SIGCONT) }

func (c *Cluster) signal(t testing.TB, s os.Signal) {
	t.Helper()
	if err := c.osd.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// Name is the file name of an image in the pool, with settings ("rbd_cache=false").
func (c *Cluster) Name(image string, settings ...string) string {
	return strings.Join(append([]string{"rbd:rbd/" + image + ":conf=" + c.Conf}, settings...), ":")
}

// RBD runs Ceph's own program for images, and returns what it prints.
func (c *Cluster) RBD(t testing.TB, args ...string) string {
	t.Helper()
	return testkit.Run(t, "rbd", append([]string{"-c", c.Conf}, args...)...)
}
