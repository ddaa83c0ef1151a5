//go:build unix

package differential

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit/sheepd"
)

// TestSheepdog: QEMU has lost its driver with version 6.1. What ours says is compared with the words
// of that one.
func TestSheepdog(t *testing.T) {
	tools := needCLI(t)
	dir := t.TempDir()
	cluster := sheepd.NewCluster(sheepd.Config{Locks: true, Trim: true, Shift: 20})
	address := cluster.Start(t).Address
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	unix := sheepd.NewCluster(sheepd.Config{Network: "unix", Old: true})
	socket := unix.Start(t).Address
	disk := make([]byte, 3<<20)
	_, _ = rand.Read(disk)
	clear(disk[1<<20 : 2<<20])
	if err := os.WriteFile(filepath.Join(dir, "disk"), disk, 0o644); err != nil {
		t.Fatal(err)
	}
	info := func(name, size string, used string) string {
		return fmt.Sprintf("image: %s\nfile format: raw\nvirtual size: %s\ndisk size: %s\nChild node '/file':\n    filename: %[1]s\n    protocol type: sheepdog\n    file length: %[2]s\n    disk size: %[3]s\n", name, size, used)
	}
	const three = "3 MiB (3145728 bytes)"
	base := "sheepdog://" + address + "/"
	failed := func(name, why string) string { return "qemu-img: Could not open '" + name + "': " + why + "\n" }
	for _, l := range []struct {
		args           string // U is the URL of the cluster
		code           int
		stdout, stderr string
	}{
		{"create -q Udisk 3M", 0, "", ""},
		{"create Udisk 3M", 1, "Formatting 'Udisk', fmt=raw size=3145728\n", "qemu-img: Udisk: VDI exists already, disk\n"},
		{"info Udisk", 0, info("Udisk", three, "0 B"), ""},
		{"convert -n -f raw -O raw disk Udisk", 0, "", ""},
		{"info Udisk", 0, info("Udisk", three, "2 MiB"), ""},
		{"info sheepdog+tcp://A/disk", 0, info("Udisk", three, "2 MiB"), ""},
		{"info sheepdog:A:disk", 0, info("Udisk", three, "2 MiB"), ""},
		{"info --image-opts driver=raw,file.driver=sheepdog,file.server.type=inet,file.server.host=H,file.server.port=P,file.vdi=disk", 0, info("Udisk", three, "2 MiB"), ""},
		{"info json:{\"driver\":\"sheepdog\",\"server\":{\"type\":\"inet\",\"host\":\"H\",\"port\":\"P\"},\"vdi\":\"disk\"}", 0, "image: Udisk\nfile format: sheepdog\nvirtual size: " + three + "\ndisk size: 2 MiB\n", ""},
		{"compare -f raw disk Udisk", 0, "Images are identical.\n", ""},
		{"map --output=json -f raw Udisk", 0, `[{ "start": 0, "length": 1048576, "depth": 0, "present": true, "zero": false, "data": true, "compressed": false, "offset": 0},
{ "start": 1048576, "length": 1048576, "depth": 0, "present": true, "zero": true, "data": false, "compressed": false},
{ "start": 2097152, "length": 1048576, "depth": 0, "present": true, "zero": false, "data": true, "compressed": false, "offset": 2097152}]
`, ""},
		{"snapshot -c one -f raw Udisk", 0, "", ""},
		{"snapshot -c two -f raw Udisk", 0, "", ""},
		{"snapshot -c x -f raw Udisk#one", 1, "", "qemu-img: Could not create snapshot 'x': Invalid argument\n"},
		{"create -q -b Udisk#one Uclone", 0, "", ""},
		{"create -q -o backing_file=Udisk#2,object_size=1M Uclone2 4M", 0, "", ""},
		{"create -q -o backing_file=Udisk#2,object_size=2M Uclone3 4M", 1, "", "qemu-img: Uclone3: A clone has objects of the size that its base has: 2^20 bytes, not 2^21\n"},
		{"create -q -b Udisk Uclone3", 1, "", "qemu-img: Uclone3: cannot clone from a non snapshot vdi\n"},
		{"create -q -o backing_file=disk Uclone3 1M", 1, "", "*"},
		{"compare -f raw disk Uclone", 0, "Images are identical.\n", ""},
		{"compare -f raw disk Uclone2", 0, "Warning: Image size mismatch!\nImages are identical.\n", ""},
		{"create -q -f qcow2 Uq 20M", 0, "", ""},
		{"check Uq", 0, "No errors were found on the image.\nImage end offset: 262144\n", ""},
		{"resize -q -f raw Uclone 5M", 0, "", ""},
		{"info Uclone", 0, info("Uclone", "5 MiB (5242880 bytes)", "2 MiB"), ""},
		{"resize -q --shrink -f raw Uclone 1M", 1, "", "qemu-img: shrinking is not supported\n"},
		{"resize -q -f raw Uclone 9T", 1, "", "qemu-img: too big image size\n"},
		{"snapshot -d two -f raw Udisk", 0, "", ""},
		{"snapshot -d two -f raw Udisk", 1, "", "qemu-img: Could not delete snapshot 'two': snapshot not found\n"},
		{"snapshot -a three -f raw Udisk", 1, "", "qemu-img: Could not apply snapshot 'three': Failed to load snapshot: No such file or directory\n"},
		{"info Udisk#two", 1, "", failed("Udisk#two", "cannot get vdi info, Failed to find the requested tag, disk 0 two")},
		{"info Udisk#7", 1, "", failed("Udisk#7", "cannot get vdi info, Failed to find the requested tag, disk 7 ")},
		{"info Unone", 1, "", failed("Unone", "cannot get vdi info, No vdi found, none 0 ")},
		{"info Udisk#0", 1, "", failed("Udisk#0", "'0' is not a valid snapshot ID")},
		{"info Udisk?x=1", 1, "", failed("Udisk?x=1", "unexpected query parameters")},
		{"info U", 1, "", failed("U", "missing file path in URI")},
		{"info sheepdog+unix:///disk", 1, "", failed("sheepdog+unix:///disk", "URI scheme sheepdog+unix requires query parameter 'socket'")},
		{"info --image-opts driver=sheepdog,server.type=inet,server.host=H,server.port=P", 1, "", failed("driver=sheepdog,server.type=inet,server.host=H,server.port=P", "Parameter 'vdi' is missing")},
		{"create -q -o redundancy=3 Ur 1M", 0, "", ""},
		{"create -q -o redundancy=4:2 Ur2 1M", 0, "", ""},
		{"create -q -o redundancy=3:2 Ur3 1M", 1, "", "qemu-img: Ur3: Invalid redundancy mode\n"},
		{"create -q -o redundancy=32 Ur3 1M", 1, "", "qemu-img: Ur3: Invalid redundancy mode\n"},
		{"create -q -o object_size=3M Ur3 1M", 1, "", "qemu-img: Ur3: Invalid object_size. obect_size needs to be power of 2 and be limited from 2^20 to 2^31\n"},
		{"create -q -o preallocation=falloc Ur3 1M", 1, "", "qemu-img: Ur3: Preallocation mode not supported for Sheepdog\n"},
		{"create -q Ur3 2T", 1, "", "qemu-img: Ur3: An image is too large. The maximum image size is 1024GB\n"},
		{"create -q -o preallocation=full,object_size=8M Ufull 3M", 0, "", ""},
		{"info Ufull", 0, info("Ufull", three, "8 MiB"), ""},
		{"convert -f raw -O raw disk sheepdog+unix:///d?socket=S", 0, "", ""},
		{"info sheepdog+unix:///d?socket=S", 0, info("sheepdog+unix:///d?socket=S", three, "4 MiB"), ""},
		{"compare -f raw disk sheepdog+unix:///d?socket=S", 0, "Images are identical.\n", ""},
		{"dd -f raw -O raw bs=1M count=1 if=Udisk of=Udd", 0, "", ""},
		{"measure -f raw -O qcow2 Udisk", 0, "required size: 2424832\nfully allocated size: 3473408\n", ""},
	} {
		full := func(s string) string {
			return strings.NewReplacer("U", base, "A", address, "H", host, "P", port, "S", socket).Replace(s)
		}
		var args []string
		for _, a := range strings.Fields(l.args) {
			// Only names have placeholders.
			if strings.ContainsAny(a, "UAHPS") && (strings.HasPrefix(a, "U") || strings.Contains(a, "sheepdog") || strings.Contains(a, "=U")) {
				a = full(a)
			}
			args = append(args, a)
		}
		want := func(s string) string {
			for _, name := range []string{"'Ud", "'Un", "'Uc", "'U'", ": Ud", ": Uc", ": Ur", ": Uf", "sheepdog+unix:///d?socket=S", "server.host=H,server.port=P"} {
				s = strings.ReplaceAll(s, name, full(name))
			}
			return s
		}
		o := runIn(t, dir, tools.ours, args...)
		if o.code != l.code || o.stdout != want(l.stdout) || l.stderr != "*" && o.stderr != want(l.stderr) || l.stderr == "*" && o.stderr == "" {
			t.Errorf("%v:\n%+v\nwant %d\n%s%s", args, o, l.code, want(l.stdout), want(l.stderr))
		}
	}
	for name, want := range map[string][2]byte{"r": {3, 0}, "r2": {6, 2<<4 + 2}} {
		if v := cluster.Look(name, 0, ""); v == nil || v.Copies != want[0] || v.Policy != want[1] {
			t.Errorf("%s: %+v", name, v)
		}
	}
	if n := cluster.Locks(); n > 0 {
		t.Errorf("%d locks are held", n)
	}
}

// TestSheepdogFaults: the server is killed in the middle of a copy and started again, and it stalls.
func TestSheepdogFaults(t *testing.T) {
	tools := needCLI(t)
	dir := t.TempDir()
	var requests atomic.Int64
	stop := make(chan struct{})
	var stall atomic.Bool
	cluster := sheepd.NewCluster(sheepd.Config{Locks: true, Shift: 20, Intercept: func(r *sheepd.Request) sheepd.Action {
		switch n := requests.Add(1); {
		case stall.Load() && r.Op < 0x10 && n > 20:
			return sheepd.Action{Do: sheepd.Forget}
		case n == 30:
			close(stop)
		}
		return sheepd.Action{}
	}})
	disk := make([]byte, 40<<20)
	_, _ = rand.Read(disk)
	if err := os.WriteFile(filepath.Join(dir, "disk"), disk, 0o644); err != nil {
		t.Fatal(err)
	}
	s := cluster.Start(t)
	name := "sheepdog://" + s.Address + "/disk"
	restarted := make(chan *sheepd.Server)
	go func() {
		<-stop
		s.Stop()
		restarted <- cluster.StartAt(t, s.Address)
	}()
	if o := runWithin(t, time.Minute, dir, nil, tools.ours, "convert", "-f", "raw", "-O", "raw", "disk", name); o.code != 0 || o.stderr != "" {
		t.Errorf("%+v", o)
	}
	<-restarted
	if n := cluster.Locks(); n > 0 {
		t.Errorf("%d locks are held", n)
	}
	if o := runWithin(t, time.Minute, dir, nil, tools.ours, "convert", "-f", "raw", "-O", "raw", name, "back"); o.code != 0 || o.stderr != "" {
		t.Errorf("%+v", o)
	}
	if back, err := os.ReadFile(filepath.Join(dir, "back")); err != nil || !bytes.Equal(back, disk) {
		t.Errorf("another disk (%v)", err)
	}
	stall.Store(true)
	requests.Store(31)
	host, port, _ := net.SplitHostPort(s.Address)
	o := runWithin(t, time.Minute, dir, nil, tools.ours, "convert", "--image-opts", "-O", "raw",
		"driver=sheepdog,vdi=disk,timeout=1,reconnect-delay=1,server.type=inet,server.host="+host+",server.port="+port, "back")
	if o.code != 1 || strings.Count(o.stderr, "\n") != 1 || !strings.Contains(o.stderr, "does not answer in time") {
		t.Errorf("%+v", o)
	}
	if n := cluster.Locks(); n > 0 {
		t.Errorf("%d locks are held after a stall", n)
	}
}
