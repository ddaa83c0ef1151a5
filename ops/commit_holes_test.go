package ops_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/ops"
)

// TestCommitOfClustersWrittenInPart commits clusters that lie in holes of the
// overlay's file for the most part, to a base that has data there and to one that
// has not.
func TestCommitOfClustersWrittenInPart(t *testing.T) {
	const cluster, count = 64 << 10, 24
	dir := t.TempDir()
	base, top := filepath.Join(dir, "base"), filepath.Join(dir, "top")
	if err := create(t, ops.CreateJob{Filename: base, Format: "qcow2", Size: count * cluster}); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, count*cluster)
	under := open(t, base, "qcow2", true)
	for i := count / 2; i < count; i++ {
		p := want[i*cluster:][:cluster]
		copy(p, bytes.Repeat([]byte{7}, cluster))
		if _, err := under.WriteAt(t.Context(), p, int64(i*cluster)); err != nil {
			t.Fatal(err)
		}
	}
	if err := under.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	job := ops.CreateJob{Filename: top, Format: "qcow2", Size: -1, Backing: &base, BackingFormat: ptr("qcow2")}
	if err := create(t, job); err != nil {
		t.Fatal(err)
	}
	img := open(t, top, "qcow2", true)
	for i := range count {
		// Whole clusters of zeroes but for a page, which is somewhere else in each.
		p := want[i*cluster:][:cluster]
		clear(p)
		if i%4 != 3 {
			copy(p[i%16*4096:], bytes.Repeat([]byte{byte(i + 1)}, 4096))
		}
		if _, err := img.WriteAt(t.Context(), p, int64(i*cluster)); err != nil {
			t.Fatal(err)
		}
	}
	if err := img.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	punch(t, top)
	img, err := block.Open(t.Context(), registry(), block.Source{Filename: top, Format: "qcow2"},
		block.OpenOptions{Write: true, Chain: block.ChainUse{WriteBacking: true}, Gate: driver.AllowAll})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(t.Context())
	under = img.Backing()
	if err := ops.Commit(t.Context(), ops.CommitJob{Top: img, Base: under}); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := under.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("the base has other contents (error: %v)", err)
	}
}

// punch copies a file so that its zeroes become holes.
func punch(t *testing.T, name string) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(int64(len(b))); err != nil {
		t.Fatal(err)
	}
	for off := 0; off < len(b); off += 4096 {
		p := b[off:min(off+4096, len(b))]
		if bytes.Count(p, []byte{0}) == len(p) {
			continue
		}
		if _, err := f.WriteAt(p, int64(off)); err != nil {
			t.Fatal(err)
		}
	}
}
