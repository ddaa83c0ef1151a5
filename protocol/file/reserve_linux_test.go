package file

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// TestReservedWritesLeaveTheSameFile: with and without reservations, the same
// writes leave the same bytes, length and holes.
func TestReservedWritesLeaveTheSameFile(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	rnd := rand.New(rand.NewPCG(8, 8))
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(rnd.Uint32())
	}
	type write struct{ off, n int64 }
	writes := []write{
		{0, reserveMin}, {1 << 20, 1 << 20}, {3<<20 + 4096, 100 << 10}, {5<<20 + 1, reserveMin}, {6<<20 - 513, 200_001},
		{1<<20 + 512<<10, 1 << 20}, // half of it is there
		{9 << 20, 4096},            // too short
		{16<<20 - 100_000, 100_000},
		{16<<20 - 10, 1 << 20}, // goes beyond the end
		{20<<20 + 7, 300_000},  // begins beyond the end
	}
	var names [2]string
	var length, room [2]int64
	for i := range names {
		names[i] = sparseFile(t, filepath.Join(dir, string(rune('a'+i))), 16<<20)
		n, err := openNode(names[i], driver.Access{Write: true}, driver.Cache{})
		if err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			n.ExpectNewData()
			var st unix.Statfs_t
			if err := unix.Fstatfs(int(n.fd), &st); err != nil {
				t.Fatal(err)
			}
			if ext4 := int64(st.Type) == unix.EXT4_SUPER_MAGIC; n.reserve.Load() != ext4 {
				t.Fatalf("reserves: %v; on ext4: %v", n.reserve.Load(), ext4)
			}
		}
		for _, w := range writes {
			if m, err := n.WriteAt(ctx, data[:w.n], w.off); int64(m) != w.n || err != nil {
				t.Fatal(m, err)
			}
		}
		if err := n.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		used, err := driver.DiskUsage(ctx, n)
		if err != nil {
			t.Fatal(err)
		}
		length[i], room[i] = n.Size(), used
		if err := n.Close(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if length[0] != length[1] || room[0] != room[1] {
		t.Fatalf("length %d, room %d; with reservations %d, %d", length[0], room[0], length[1], room[1])
	}
	plain, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	reserved, err := os.ReadFile(names[1])
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(plain, reserved) {
		t.Fatal("the files differ")
	}
}

// TestNoReservation: what goes around the page cache or cannot be written is left
// alone.
func TestNoReservation(t *testing.T) {
	name := sparseFile(t, filepath.Join(t.TempDir(), "f"), 1<<20)
	for _, c := range []struct {
		what   string
		access driver.Access
		cache  driver.Cache
	}{{"read-only", driver.Access{}, driver.Cache{}}, {"direct", driver.Access{Write: true}, driver.Cache{Direct: true}}} {
		n, err := openNode(name, c.access, c.cache)
		if err != nil && c.cache.Direct {
			t.Log("no direct I/O here:", err)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if n.ExpectNewData(); n.reserve.Load() {
			t.Errorf("%s: reserves", c.what)
		}
		n.Close(context.Background())
	}
}

func sparseFile(t *testing.T, name string, size int64) string {
	t.Helper()
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, size); err != nil {
		t.Fatal(err)
	}
	return name
}

func openNode(name string, access driver.Access, cache driver.Cache) (*node, error) {
	n, err := New().Open(context.Background(), &driver.OpenRequest{Options: opts.Dict{"filename": name}, Access: access, Cache: cache})
	if err != nil {
		return nil, err
	}
	return n.(*node), nil
}
