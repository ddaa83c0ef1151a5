package nfs_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/internal/testkit/ganesha"
	"github.com/cowl-disk/cowl/nfs"
)

// TestGanesha: files of nfs-ganesha in each version of the protocol.
func TestGanesha(t *testing.T) {
	if !testkit.WithHosts(t, "127.0.0.1 localhost\n") {
		return
	}
	s := ganesha.Start(t, t.TempDir(), "Squash = No_Root_Squash;")
	for _, version := range []string{"3", "4.1", "4.2", "4", ""} {
		t.Run("version "+version, func(t *testing.T) {
			dir := s.Dir
			if version != "3" && version != "" {
				dir = "/export"
			}
			c, err := nfs.Mount(t.Context(), nfs.Config{Host: "127.0.0.1", Version: version}, dir)
			if err != nil {
				t.Fatalf("%v\n%s", err, s.Log())
			}
			defer c.Close(t.Context())
			if want := map[string]string{"": "3", "4": "4.2"}[version]; want != "" && c.Version() != want || want == "" && c.Version() != version {
				t.Errorf("version %s", c.Version())
			}
			name := "file" + version
			f, _, made, err := c.Create(t.Context(), name, 0o600)
			if err != nil || !made {
				t.Fatal(made, err)
			}
			want := make([]byte, 5<<20+3)
			_, _ = rand.Read(want)
			if err := f.WriteAt(t.Context(), want, 1<<20+1); err != nil {
				t.Fatal(err)
			}
			if err := f.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
			a, err := f.Attr(t.Context())
			if err != nil || a.Size != 6<<20+4 || !a.Regular {
				t.Fatal(a, err)
			}
			onDisk, err := os.ReadFile(filepath.Join(s.Dir, name))
			if err != nil || !bytes.Equal(onDisk[1<<20+1:], want) {
				t.Fatal("another content", err)
			}
			got := make([]byte, 7<<20)
			n, err := f.ReadAt(t.Context(), got, 5)
			if err != io.EOF || !bytes.Equal(got[:n], onDisk[5:]) {
				t.Fatal(n, err)
			}
			if c.Version() == "4.2" {
				holes(t, f)
			}
			if err := f.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := c.Remove(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// holes looks at a file that begins with a hole of 1 MiB, and makes another one.
func holes(t *testing.T, f *nfs.File) {
	t.Helper()
	if next, eof, err := f.NextData(t.Context(), 0); err != nil || eof || next != 1<<20 {
		t.Errorf("data at %d (%v, %v)", next, eof, err)
	}
	if err := f.Deallocate(t.Context(), 2<<20, 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if next, _, err := f.NextHole(t.Context(), 1<<20); err != nil || next != 2<<20 {
		t.Errorf("a hole at %d (%v)", next, err)
	}
	b := make([]byte, 1<<20)
	if _, err := f.ReadAt(t.Context(), b, 2<<20); err != nil || !bytes.Equal(b, make([]byte, len(b))) {
		t.Errorf("no zeroes (%v)", err)
	}
}

// TestGaneshaFaults: a server that is killed and restarted while a file is written and
// read, rights that are missing, and answers that are changed.
func TestGaneshaFaults(t *testing.T) {
	if !testkit.WithHosts(t, "127.0.0.1 localhost\n") {
		return
	}
	s := ganesha.Start(t, t.TempDir(), "Squash = Root_Squash;")
	if err := os.Chmod(s.Dir, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ version, dir string }{{"3", s.Dir}, {"4", "/export"}} {
		if c.version == "4" && !testkit.Long() {
			continue // a restarted server of version 4 waits for its clients
		}
		t.Run("restart "+c.version, func(t *testing.T) { restarted(t, s, c.version, c.dir) })
		t.Run("rights "+c.version, func(t *testing.T) { refused(t, s, c.version, c.dir) })
	}
	t.Run("full", func(t *testing.T) { full(t, s) })
	t.Run("mutated 4", func(t *testing.T) {
		m := mutate(t, fmt.Sprintf("127.0.0.1:%d", s.Port))
		for seed := range uint64(testkit.Count(20)) {
			hostile(t, m, nfs.Config{Host: "127.0.0.1", NFSPort: m.port(), Version: "4", UID: 1000, GID: 1000}, "/export", seed)
		}
	})
}

func restarted(t *testing.T, s *ganesha.Server, version, dir string) {
	c, err := nfs.Mount(t.Context(), nfs.Config{Host: "127.0.0.1", Version: version, UID: 1000, GID: 1000}, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	f, _, _, err := c.Create(t.Context(), "restarted"+version, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 24<<20)
	_, _ = rand.Read(want)
	const step = 1 << 20
	for off := 0; off < len(want); off += step {
		if off == 8*step {
			s.Kill()
			s.Run(t)
		}
		if err := f.WriteAt(t.Context(), want[off:off+step], int64(off)); err != nil {
			t.Fatalf("at %d: %v", off, err)
		}
	}
	if err := f.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := f.ReadAt(t.Context(), got[:len(got)/2], 0); err != nil {
		t.Fatal(err)
	}
	s.Kill()
	s.Run(t)
	if _, err := f.ReadAt(t.Context(), got[len(got)/2:], int64(len(got)/2)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("another content")
	}
	if err := f.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func refused(t *testing.T, s *ganesha.Server, version, dir string) {
	name := "secret" + version
	if err := os.WriteFile(filepath.Join(s.Dir, name), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for uid, want := range map[uint32]string{0: "squash root", 1000: "user 1000 asks, of group 0"} {
		c, err := nfs.Mount(t.Context(), nfs.Config{Host: "127.0.0.1", Version: version, UID: uid}, dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.Open(t.Context(), name, false); !errors.Is(err, syscall.EACCES) || !strings.Contains(err.Error(), want) {
			t.Errorf("user %d: %v", uid, err)
		}
		c.Close(t.Context())
	}
}

// full: the disk of the server is full, and then no longer.
func full(t *testing.T, s *ganesha.Server) {
	limit := func(size string) {
		t.Helper()
		if err := syscall.Mount("", s.Dir, "", syscall.MS_REMOUNT, "size="+size); err != nil {
			t.Skipf("the size of the file system cannot be changed: %v", err)
		}
	}
	c, err := nfs.Mount(t.Context(), nfs.Config{Host: "127.0.0.1", UID: 1000, GID: 1000}, s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	f, _, _, err := c.Create(t.Context(), "full", 0o600)
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("full"), 4<<20)
	limit("25M") // some of it is in use by files of other tests
	err = f.WriteAt(t.Context(), want, 0)
	for range 3 { // until there is no room for sure
		err = errors.Join(err, f.WriteAt(t.Context(), want, 16<<20))
	}
	if err = errors.Join(err, f.Sync(t.Context())); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v", err)
	}
	limit("90%")
	if err := errors.Join(f.Sync(t.Context()), f.WriteAt(t.Context(), want, 0), f.Sync(t.Context())); err != nil {
		t.Error(err)
	}
	got := make([]byte, len(want))
	if _, err := f.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("another content (%v)", err)
	}
	if err := f.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
