//go:build linux

package linux

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cowl-disk/cowl/guestagent"
	"github.com/cowl-disk/cowl/guestagent/qmp"
)

// fakeKernel does what its functions say, and nothing else.
type fakeKernel struct {
	Kernel
	freeze func(dir string) error
	thaw   func(dir string) error
	space  error
}

func (k *fakeKernel) Freeze(dir string) error { return k.freeze(dir) }
func (k *fakeKernel) Thaw(dir string) error   { return k.thaw(dir) }
func (k *fakeKernel) Space(string) (used, total, privileged uint64, err error) {
	return 1, 2, 3, k.space
}

// tree makes a test tree of files; "-> x" makes a link.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch target, link := strings.CutPrefix(text, "-> "); {
		case link:
			err = os.Symlink(target, p)
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(p, 0o755)
		default:
			err = os.WriteFile(p, []byte(text), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

const pci = "sys/devices/pci0000:00/0000:00:05.0/0000:01:02.3/"

func diskTree(t *testing.T) string {
	return tree(t, map[string]string{
		"proc/self/mountinfo": "20 1 8:1 / / rw - ext4 /dev/root rw\n21 20 0:5 / /proc rw - proc proc rw\n" +
			"22 20 8:1 /x /bind rw - ext4 /dev/root rw\n23 20 252:0 / /a\\040b rw shared:1 - xfs /dev/dm-0 rw\n24 20 9:9 / /gone rw - ext4 /dev/md9 rw\n25 20 0:44 / /over rw - overlay over rw\n",
		"sys/dev/block/8:1":         "-> ../../devices/pci0000:00/0000:00:05.0/0000:01:02.3/ata2/host1/target1:0:0/1:0:0:0/block/sda/sda1",
		"sys/dev/block/252:0":       "-> ../../devices/virtual/block/dm-0",
		pci + "driver":              "-> ../../../../bus/pci/drivers/ahci",
		"sys/bus/pci/drivers/ahci/": "",
		pci + "ata1/":               "",
		pci + "ata2/host1/target1:0:0/1:0:0:0/block/sda/sda1/uevent":     "DEVNAME=sda1\nDEVTYPE=partition\n",
		pci + "ata2/host1/target1:0:0/1:0:0:0/block/sda/sda1/partition":  "1\n",
		pci + "ata2/host1/target1:0:0/1:0:0:0/block/sda/sda1/dev":        "8:1\n",
		pci + "ata2/host1/target1:0:0/1:0:0:0/block/sda/device/vpd_pg80": "\x00\x80\x00\x06SER123",
		"sys/devices/virtual/block/dm-0/slaves/sda1":                     "-> ../../../../pci0000:00/0000:00:05.0/0000:01:02.3/ata2/host1/target1:0:0/1:0:0:0/block/sda/sda1",
		"bind/": "", "a b/": "", "gone/": "",
	})
}

// TestFSInfo describes file systems of a tree: bind mounts once, the disk below a
// device mapper, SATA units, serial numbers without udev; what is broken is left out.
func TestFSInfo(t *testing.T) {
	s := &System{Root: diskTree(t), Kernel: &fakeKernel{}}
	list, err := s.fsinfo(context.Background(), guestagent.None{})
	if err != nil {
		t.Fatal(err)
	}
	got := string(qmp.Marshal(nil, list))
	const disk = `{"serial": "SER123", "bus-type": "sata", "bus": 0, "unit": 1, "pci-controller": {"bus": 1, "slot": 2, "domain": 0, "function": 3}, "dev": "/dev/sda1", "target": 0}`
	const space = `"total-bytes": 2, "total-bytes-privileged": 3, `
	want := `[{"name": "9:9", ` + space + `"mountpoint": "/gone", "disk": [], "used-bytes": 1, "type": "ext4"}, ` +
		`{"name": "dm-0", ` + space + `"mountpoint": "/a b", "disk": [` + disk + `], "used-bytes": 1, "type": "xfs"}, ` +
		`{"name": "sda1", ` + space + `"mountpoint": "/", "disk": [` + disk + `], "used-bytes": 1, "type": "ext4"}]`
	if got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	s.Kernel = &fakeKernel{space: unix.EACCES}
	if list, err := s.fsinfo(context.Background(), guestagent.None{}); err != nil || len(list) != 3 || list[0].Used != nil {
		t.Errorf("%v %v", list, err)
	}
}

// TestFreezeOrder freezes what was mounted last first, and ignores what cannot be
// frozen.
func TestFreezeOrder(t *testing.T) {
	root := diskTree(t)
	var order []string
	s := &System{Root: root, Kernel: &fakeKernel{freeze: func(dir string) error {
		order = append(order, strings.TrimPrefix(dir, root))
		if strings.HasSuffix(dir, "gone") {
			return unix.EOPNOTSUPP
		}
		return nil
	}}}
	freeze, err := s.Prepare(true, nil)
	if err != nil {
		t.Fatal(err)
	}
	n, err := freeze(context.Background())
	if n != 2 || err != nil || strings.Join(order, ",") != "/gone,/a b," {
		t.Errorf("%d %v %q", n, err, order)
	}
}

// TestFreezeHangs gives up a file system that the kernel does not freeze in time, and
// thaws it when it is frozen after all.
func TestFreezeHangs(t *testing.T) {
	release, thawed := make(chan struct{}), make(chan string, 1)
	s := &System{Root: diskTree(t), Kernel: &fakeKernel{
		freeze: func(string) error { <-release; return nil },
		thaw:   func(dir string) error { thawed <- dir; return nil },
	}}
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	err := s.freezeOne(ctx, "/gone")
	if err == nil || !strings.Contains(err.Error(), "took longer than the time limit") {
		t.Errorf("%v", err)
	}
	close(release)
	if dir := <-thawed; !strings.HasSuffix(dir, "/gone") {
		t.Errorf("thawed %s", dir)
	}
}

// TestShadow sets a password in a tree, and refuses a link.
func TestShadow(t *testing.T) {
	root := tree(t, map[string]string{"etc/shadow": "root:*:1::\nu:!:1:0:99999\n"})
	s := &System{Root: root}
	set := func(user, password string, crypted bool) error {
		return s.editShadow(user, password, crypted)
	}
	if err := set("u", "$6$x", true); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(root, "etc/shadow")
	data, err := os.ReadFile(name)
	if err != nil || !strings.HasPrefix(string(data), "root:*:1::\nu:$6$x:") || !strings.HasSuffix(string(data), ":0:99999\n") {
		t.Errorf("%q %v", data, err)
	}
	if st, err := os.Stat(name); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st, err)
	}
	if err := set("nobody", "x", false); err == nil {
		t.Error("an unknown user has a password")
	}
	if err := errors.Join(os.Rename(name, name+"2"), os.Symlink(name+"2", name)); err != nil {
		t.Fatal(err)
	}
	if err := set("u", "y", true); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a link was followed: %v", err)
	}
}

// TestRoutes reads flags and metrics without their sign.
func TestRoutes(t *testing.T) {
	s := &System{Root: tree(t, map[string]string{
		"proc/net/route":      "Iface\tDestination\neth0\t000200C0\t00000000\t0001\t0\t0\t4294967295\t00FFFFFF\t0\t0\t0\n",
		"proc/net/ipv6_route": "00000000000000000000000000000001 80 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000002 00000000 80200001       lo\n",
	})}
	list, err := s.routes(context.Background(), guestagent.None{})
	if err != nil || len(list) != 2 || list[0].Metric != 4294967295 || *list[0].Mask != "255.255.255.0" || *list[1].Flags != 0x80200001 || list[1].Destination != "::1" {
		t.Errorf("%s %v", qmp.Marshal(nil, list), err)
	}
}
