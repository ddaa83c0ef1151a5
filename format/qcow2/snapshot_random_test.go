package qcow2_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/qapi"
)

// kept is a snapshot with what it must hold.
type kept struct {
	id, name string
	content  *testkit.Model
}

// snapshotModel is an image with snapshots, and what it must hold.
type snapshotModel struct {
	path   string
	v2     bool
	active *testkit.Model
	list   []kept
	next   int
}

// snapshotVariants are the variants that can have several snapshots.
func snapshotVariants(t *testing.T, f func(t *testing.T, m *snapshotModel, open []string)) {
	for i, v := range variants {
		if !testkit.Sample(i, 5) {
			continue
		}
		if slices.ContainsFunc(v.options, func(o string) bool {
			return strings.HasPrefix(o, "data_file") || o == "refcount_bits=1"
		}) {
			continue
		}
		t.Run(v.name, func(t *testing.T) {
			path, m := makeVariant(t, t.TempDir(), min(v.size, 8<<20), v.options)
			f(t, &snapshotModel{path: path, v2: slices.Contains(v.options, "compat=0.10"), active: m}, v.open)
		})
	}
}

// ours does one random snapshot operation with our code.
func (m *snapshotModel) ours(t *testing.T, r *rand.Rand, img *block.Image) string {
	t.Helper()
	ctx := context.Background()
	var what string
	var err error
	switch k := r.IntN(4); {
	case len(m.list) == 0 || k < 2 && len(m.list) < 5:
		name := fmt.Sprintf("snap %d", m.next)
		m.next++
		what = "create " + name
		var id string
		id, err = img.Snapshots().Create(ctx, driver.SnapshotRequest{Name: name, Date: time.Unix(1700000000, 5000)})
		m.list = append(m.list, kept{id, name, m.active.Clone()})
	case k == 2:
		s := m.list[r.IntN(len(m.list))]
		what = "apply " + s.id
		if err = img.Snapshots().Apply(ctx, s.id); err == nil {
			m.active = s.content.Clone()
		}
	default:
		i := r.IntN(len(m.list))
		what = "delete " + m.list[i].id
		err = img.Snapshots().Delete(ctx, m.list[i].id, m.list[i].name)
		m.list = slices.Delete(m.list, i, i+1)
	}
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	return what
}

// theirs lets QEMU work on the closed image.
func (m *snapshotModel) theirs(t *testing.T, r *rand.Rand) {
	t.Helper()
	for range 6 {
		switch k := r.IntN(10); {
		case k < 4:
			size := m.active.Size()
			var commands []string
			for range 8 {
				off := r.Int64N(size/512) * 512
				n := min((1+r.Int64N(200))*512, size-off)
				pattern := byte(1 + r.IntN(255))
				commands = append(commands, fmt.Sprintf("write -P %d %d %d", pattern, off, n))
				m.active.Write([]byte(strings.Repeat(string([]byte{pattern}), int(n))), off)
				if !m.v2 && r.IntN(2) == 0 {
					off &^= 64<<10 - 1
					n = min(64<<10, size-off)
					commands = append(commands, fmt.Sprintf("write -z -u %d %d", off, n))
					m.active.Zero(off, n)
				}
			}
			qemuIO(t, m.path, commands...)
		case k < 5 && !m.v2:
			size := max(1<<20, m.active.Size()+(r.Int64N(4<<20)-2<<20)&^511)
			testkit.Run(t, "qemu-img", "resize", "-q", "--shrink", "-f", "qcow2", m.path, fmt.Sprint(size))
			m.active.Resize(size)
		case k < 7 && len(m.list) < 5:
			name := fmt.Sprintf("snap %d", m.next)
			m.next++
			testkit.Run(t, "qemu-img", "snapshot", "-c", name, m.path)
			info := m.info(t)
			m.list = append(m.list, kept{info[len(info)-1].ID, name, m.active.Clone()})
		case k < 9 && len(m.list) > 0:
			s := m.list[r.IntN(len(m.list))]
			testkit.Run(t, "qemu-img", "snapshot", "-a", s.id, m.path)
			m.active = s.content.Clone()
		case len(m.list) > 0:
			i := r.IntN(len(m.list))
			testkit.Run(t, "qemu-img", "snapshot", "-d", m.list[i].name, m.path)
			m.list = slices.Delete(m.list, i, i+1)
		}
	}
}

func (m *snapshotModel) info(t *testing.T) []qapi.SnapshotInfo {
	t.Helper()
	img := openImage(t, m.path, false)
	defer closeImage(t, img)
	list, ok, err := img.Snapshots().List(context.Background())
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	return list
}

// verify reads everything with our code and with QEMU.
func (m *snapshotModel) verify(t *testing.T) {
	t.Helper()
	checkClean(t, m.path)
	ctx := context.Background()
	list := m.info(t)
	if len(list) != len(m.list) {
		t.Fatalf("%d snapshots are listed, not %d", len(list), len(m.list))
	}
	for i, s := range m.list {
		if list[i].ID != s.id || list[i].Name != s.name {
			t.Fatalf("snapshot %d is %s %q, not %s %q", i, list[i].ID, list[i].Name, s.id, s.name)
		}
		img := openImage(t, m.path, false)
		if err := img.Tree().Node().(driver.SnapshotOpener).OpenSnapshot(ctx, s.id); err != nil {
			t.Fatal(err)
		}
		if img.Size() != s.content.Size() {
			t.Fatalf("snapshot %s has %d bytes, not %d", s.id, img.Size(), s.content.Size())
		}
		if d := s.content.Diff(readAll(t, img), 0); d != "" {
			t.Fatalf("snapshot %s: %s", s.id, d)
		}
		closeImage(t, img)
		raw := filepath.Join(t.TempDir(), "s.raw")
		testkit.Run(t, "qemu-img", "convert", "-l", "snapshot.id="+s.id, "-f", "qcow2", "-O", "raw", m.path, raw)
		got, err := os.ReadFile(raw)
		if err != nil {
			t.Fatal(err)
		}
		// QEMU copies as much of a snapshot as the disk has now.
		if d := s.content.Diff(got[:min(int64(len(got)), s.content.Size())], 0); d != "" {
			t.Fatalf("snapshot %s read by QEMU: %s", s.id, d)
		}
	}
	if d := m.active.Diff(original(t, m.path), 0); d != "" {
		t.Fatalf("read by QEMU: %s", d)
	}
	img := openImage(t, m.path, false)
	defer closeImage(t, img)
	if d := m.active.Diff(readAll(t, img), 0); d != "" {
		t.Fatal(d)
	}
}

// TestRandomSnapshots changes images with snapshots at random, in turns with our
// code and with QEMU, and lets both read everything after each turn.
func TestRandomSnapshots(t *testing.T) {
	t.Parallel()
	testkit.NoRace(t, "TestSnapshotsWhileWriting has several callers")
	testkit.Tool(t, "qemu-io")
	rounds := 6
	if !testkit.Long() {
		rounds = 2
	}
	snapshotVariants(t, func(t *testing.T, m *snapshotModel, open []string) {
		r := testkit.Rand(11)
		for round := range rounds {
			var log []string
			if round%3 == 2 {
				m.theirs(t, r)
			} else {
				img := openImage(t, m.path, true, open...)
				for i := range 40 {
					if i%5 == 4 {
						log = append(log, m.ours(t, r, img))
						if d := m.active.Diff(readAll(t, img), 0); d != "" {
							t.Fatalf("%s\nafter %s", d, strings.Join(log, "\n"))
						}
						continue
					}
					log = append(log, step(t, r, img, m.active, !m.v2))
				}
				closeImage(t, img)
			}
			t.Logf("round %d: %s", round, strings.Join(log, "\n"))
			m.verify(t)
		}
	})
}

// TestSnapshotErrors: what cannot be done changes nothing.
func TestSnapshotErrors(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "a.qcow2")
	create(t, path, 1<<20, "refcount_bits=2", "cluster_size=4k")
	qemuIO(t, path, "write -P 7 0 512k")
	img := openImage(t, path, true)
	for i := range 2 {
		if _, err := img.Snapshots().Create(ctx, driver.SnapshotRequest{Name: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	_, err := img.Snapshots().Create(ctx, driver.SnapshotRequest{Name: "too many"})
	if !errors.Is(err, driver.ErrInvalid) {
		t.Fatalf("a third snapshot with 2-bit refcounts: %v", err)
	}
	if err := img.Snapshots().Apply(ctx, "0"); !errors.Is(err, driver.ErrInvalid) {
		t.Fatalf("applying needs a third reference for a moment: %v", err)
	}
	if err := img.Snapshots().Apply(ctx, "x"); !errors.Is(err, driver.ErrNoSnapshot) {
		t.Fatal(err)
	}
	if err := img.Snapshots().Delete(ctx, "1", "1"); !errors.Is(err, driver.ErrNoSnapshot) {
		t.Fatal(err)
	}
	if _, err := img.Snapshots().Create(ctx, driver.SnapshotRequest{Name: strings.Repeat("n", 256)}); !errors.Is(err, driver.ErrInvalid) {
		t.Fatal(err)
	}
	stopped, stop := context.WithCancel(ctx)
	stop()
	if err := img.Snapshots().Apply(stopped, "1"); err == nil {
		t.Fatal("a cancelled call succeeds")
	}
	closeImage(t, img)
	checkClean(t, path)
	if got := original(t, path); got[0] != 7 || got[512<<10-1] != 7 || got[512<<10] != 0 {
		t.Fatal("content changed")
	}
	img = openImage(t, path, false)
	defer closeImage(t, img)
	if _, err := img.Snapshots().Create(ctx, driver.SnapshotRequest{}); !errors.Is(err, driver.ErrReadOnly) {
		t.Fatal(err)
	}
}
