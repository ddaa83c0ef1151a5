package differential

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/internal/testkit/ganesha"
	"github.com/cowl-disk/cowl/internal/testkit/sshd"
	"github.com/cowl-disk/cowl/internal/testkit/tgt"
)

// guestDisk makes a disk with a file system and files, as a guest has it.
func guestDisk(t *testing.T, path string) {
	t.Helper()
	mke2fs := testkit.Tool(t, "mke2fs")
	size, files := int64(24<<20), 6
	if testkit.Long() {
		size, files = 256<<20, 60
	}
	root := t.TempDir()
	r := rand.New(rand.NewPCG(5, 5))
	for i := range files {
		dir := filepath.Join(root, fmt.Sprint(i%7))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		p := make([]byte, 1<<20+r.IntN(1<<20))
		for k := 0; k+8 <= len(p); k += 8 {
			p[k] = byte(r.Uint32())
			p[k+3] = byte(i)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("file", i)), p, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	testkit.Run(t, mke2fs, "-q", "-t", "ext4", "-d", root, path)
}

func digest(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// cutter passes connections on to a server and cuts each after some bytes.
func cutter(t *testing.T, to string, seed uint64) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(seed, 9))
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			limit := 1<<20 + r.Int64N(24<<20)
			running.Go(func() {
				defer c.Close()
				up, err := net.Dial("tcp", to)
				if err != nil {
					return
				}
				defer up.Close()
				var both sync.WaitGroup
				pass := func(dst, src net.Conn) {
					_, _ = io.CopyN(dst, src, limit)
					src.Close()
					dst.Close()
				}
				both.Go(func() { pass(up, c) })
				both.Go(func() { pass(c, up) })
				both.Wait()
			})
		}
	})
	t.Cleanup(func() { l.Close(); running.Wait() })
	return l.Addr().String()
}

// remote is a place on another machine for disks.
type remote struct {
	address string
	read    func(address string) string // what holds a copy of the disk
	write   func(address string) string // where one can be written; nil: nowhere
	args    []string                    // of a convert that writes
	written string                      // the file of it on the server
}

// copies converts the disk both ways, and then with connections that are cut.
func (x remote) copies(t *testing.T, program, dir, disk string) {
	want := digest(t, disk)
	back := filepath.Join(dir, "back")
	convert := func(args ...string) outcome {
		t.Helper()
		return runWithin(t, 2*time.Minute, dir, nil, program, append([]string{"convert", "-O", "raw", "-f", "raw"}, args...)...)
	}
	if o := convert(x.read(x.address), back); o.code != 0 || o.stderr != "" {
		t.Fatalf("reading: %+v", o)
	}
	if digest(t, back) != want {
		t.Fatal("another disk was read")
	}
	if x.write != nil {
		if o := convert(append(x.args, disk, x.write(x.address))...); o.code != 0 || o.stderr != "" {
			t.Fatalf("writing: %+v", o)
		}
		if digest(t, x.written) != want {
			t.Fatal("another disk was written")
		}
	}
	// The copy is right, or fails with one line.
	ended := func(what, path string, o outcome) {
		t.Helper()
		switch {
		case o.code == 0 && digest(t, path) != want:
			t.Errorf("%s: another disk, and no error", what)
		case o.code != 0 && (o.code != 1 || strings.Count(o.stderr, "\n") != 1):
			t.Errorf("%s: %+v", what, o)
		}
		t.Logf("%s with cuts: %d %s", what, o.code, o.stderr)
	}
	for seed := range uint64(testkit.Count(1)) {
		address := cutter(t, x.address, seed)
		ended("reading", back, convert(x.read(address), back))
		if x.write != nil {
			ended("writing", x.written, convert(append(x.args, disk, x.write(address))...))
		}
	}
}

// TestRemoteGuest copies a guest's disk to other machines and back.
func TestRemoteGuest(t *testing.T) {
	tools := needCLI(t)
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk")
	guestDisk(t, disk)
	other := filepath.Join(dir, "other")
	t.Run("ssh", func(t *testing.T) {
		s := sshd.Start(t, "")
		t.Setenv("HOME", s.Home)
		t.Setenv("SSH_AUTH_SOCK", "")
		name := func(path string) func(string) string {
			return func(address string) string { return "ssh://" + address + path + "?host_key_check=no" }
		}
		remote{address: fmt.Sprintf("127.0.0.1:%d", s.Port), read: name(disk), write: name(other), written: other}.copies(t, tools.ours, dir, disk)
	})
	t.Run("http", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: http.FileServer(http.Dir(dir))}
		var running sync.WaitGroup
		running.Go(func() { _ = s.Serve(l) })
		t.Cleanup(func() { s.Close(); running.Wait() })
		remote{address: l.Addr().String(), read: func(address string) string { return "http://" + address + "/disk" }}.copies(t, tools.ours, dir, disk)
	})
	t.Run("iscsi", func(t *testing.T) {
		unit := filepath.Join(dir, "unit")
		st, err := os.Stat(disk)
		if err == nil {
			err = os.WriteFile(unit, nil, 0o644)
		}
		if err == nil {
			err = os.Truncate(unit, st.Size())
		}
		if err != nil {
			t.Fatal(err)
		}
		s := tgt.Start(t, tgt.Unit{Number: 1, Path: disk, ReadOnly: true}, tgt.Unit{Number: 2, Path: unit, Thin: true})
		name := func(number int) func(string) string {
			return func(address string) string { return fmt.Sprintf("iscsi://%s/%s/%d", address, tgt.Name, number) }
		}
		remote{address: s.Address, read: name(1), write: name(2), args: []string{"-n"}, written: unit}.copies(t, tools.ours, dir, disk)
	})
}

// TestRemoteGuestNFS is TestRemoteGuest for NFS, whose servers need a network of their own.
func TestRemoteGuestNFS(t *testing.T) {
	tools := needCLI(t)
	if !testkit.WithHosts(t, "127.0.0.1 localhost\n") {
		return
	}
	s := ganesha.Start(t, t.TempDir(), "Squash = No_Root_Squash;")
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk")
	guestDisk(t, disk)
	testkit.Run(t, "cp", disk, filepath.Join(s.Dir, "disk"))
	for _, version := range []string{"3", "4"} {
		name := func(file string) func(string) string {
			return func(address string) string {
				_, port, _ := net.SplitHostPort(address)
				if version == "3" { // the port mapper and mounting are not cut
					return "nfs://127.0.0.1" + s.Dir + "/" + file + "?version=3&nfsport=" + port
				}
				return "nfs://127.0.0.1/export/" + file + "?version=4&nfsport=" + port
			}
		}
		t.Run(version, func(t *testing.T) {
			file := "written" + version
			remote{address: fmt.Sprintf("127.0.0.1:%d", s.Port), read: name("disk"), write: name(file), written: filepath.Join(s.Dir, file)}.copies(t, tools.ours, dir, disk)
		})
	}
}
