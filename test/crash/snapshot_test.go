package crash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// snapshotState is what an image with snapshots held between two operations.
type snapshotState struct {
	event     int // events before it was reached; all earlier ones are durable
	disk      []byte
	snapshots map[string][]byte // by id
}

func (s *snapshotState) clone(event int) *snapshotState {
	c := &snapshotState{event: event, disk: bytes.Clone(s.disk), snapshots: map[string][]byte{}}
	for id, content := range s.snapshots {
		c.snapshots[id] = content // never changed
	}
	return c
}

var snapshotScenarios = []scenario{
	{name: "default", size: 2 << 20, options: opts.Dict{}, resize: true},
	{name: "512-byte clusters", size: 192 << 10, options: opts.Dict{"cluster_size": "512"}, resize: true},
	{name: "version 2", size: 256 << 10, options: opts.Dict{"compat": "0.10", "cluster_size": "1024"}},
	{name: "backing file", size: 512 << 10, options: opts.Dict{"cluster_size": "4096"}, backing: true, resize: true},
	{name: "4-bit refcounts", size: 256 << 10, options: opts.Dict{"cluster_size": "1024", "refcount_bits": "4"}, resize: true},
	{name: "subclusters", size: 1 << 20, options: opts.Dict{"cluster_size": "16384", "extended_l2": "on"}, resize: true},
	{name: "lazy refcounts", size: 256 << 10, options: opts.Dict{"cluster_size": "1024", "lazy_refcounts": "on"}, resize: true},
	{name: "compressed", size: 512 << 10, options: opts.Dict{"cluster_size": "4096"}, compress: true, backing: true},
}

// TestSnapshots cuts off creating, applying and deleting snapshots anywhere: the
// disk and every snapshot are then as before the operation or as after it.
func TestSnapshots(t *testing.T) {
	for _, s := range snapshotScenarios {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(2) {
				runSnapshots(t, s, seed)
			}
		})
	}
}

func runSnapshots(t *testing.T, s scenario, seed uint64) {
	ctx := t.Context()
	r := testkit.Rand(seed)
	memory := mem.New()
	dev := &recorded{}
	reg := block.NewRegistry(raw.New(), qcow2.New(), memory, dev)
	if err := block.Create(ctx, reg, block.CreateRequest{Filename: "mem:img", Format: "qcow2", Size: s.size, Options: s.options.Clone(), Gate: driver.AllowAll}); err != nil {
		t.Fatal(err)
	}
	dev.disk = memory.(*mem.Driver).Disk("img")
	initial := dev.disk.Clone()
	source := block.Source{Filename: "recorded:x", Format: "qcow2"}
	first := &snapshotState{disk: make([]byte, s.size)}
	if s.backing {
		base := make([]byte, s.size*3/4)
		testkit.Fill(r, base)
		disk := mem.NewDisk(int64(len(base)))
		if _, err := disk.WriteAt(ctx, base, 0); err != nil {
			t.Fatal(err)
		}
		memory.(*mem.Driver).Add("base", disk)
		copy(first.disk, base)
		source.Options = opts.Dict{"backing.driver": "raw", "backing.file.driver": "mem", "backing.file.filename": "base"}
	}
	img, err := block.Open(ctx, reg, source, block.OpenOptions{Write: true, Sharing: block.Sharing{Resize: true}, Unmap: true, Gate: driver.AllowAll})
	if err != nil {
		t.Fatal(err)
	}
	rec := dev.rec
	states := []*snapshotState{first}
	var spans [][2]int // events of snapshot operations
	for range 14 {
		cur := states[len(states)-1].clone(0)
		writeSome(t, r, s, img, rec, cur)
		if err := img.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		cur.event = rec.Len()
		states = append(states, cur)
		next := cur.clone(0)
		snapshotOperation(t, r, img, next)
		next.event = rec.Len()
		states = append(states, next)
		spans = append(spans, [2]int{cur.event, next.event})
	}
	if err := img.Close(ctx); err != nil {
		t.Fatal(err)
	}
	events := rec.Events()
	for i, span := range spans {
		// Nothing was written between the flush and the operation.
		before, after := states[2*i+1], states[2*i+2]
		for range 12 {
			n := span[0] + r.IntN(span[1]-span[0]+1)
			left := initial.Clone()
			if err := testkit.Replay(ctx, left, testkit.Crash(r, events, n)); err != nil {
				t.Fatal(err)
			}
			image := left.Clone()
			if err := judgeSnapshots(ctx, memory.(*mem.Driver), source, left, s.options["compat"] == "0.10", before, after, n == span[1]); err != nil {
				dump := filepath.Join(os.TempDir(), fmt.Sprintf("cowl-crash-snapshot-%d.qcow2", seed))
				save(t, image, dump)
				t.Fatalf("seed %d, operation %d, crash after event %d of %d to %d: %v (image in %s)", seed, i, n, span[0], span[1], err, dump)
			}
			if r.IntN(25) == 0 && !s.backing {
				repairWithOriginal(t, image)
			}
		}
	}
}

// writeSome changes the disk a little.
func writeSome(t *testing.T, r *rand.Rand, s scenario, img *block.Image, rec *testkit.Recorder, cur *snapshotState) {
	t.Helper()
	ctx := t.Context()
	for range 6 {
		size := img.Size()
		off := r.Int64N(size/sector) * sector
		n := (1 + r.Int64N(min(size-off, 60*sector)/sector)) * sector
		var err error
		switch k := r.IntN(10); {
		case k < 6:
			p := make([]byte, n)
			testkit.Fill(r, p)
			_, err = img.WriteAt(ctx, p, off)
			copy(cur.disk[off:], p)
		case k < 8:
			err = img.WriteZeroes(ctx, off, n, driver.ZeroMayUnmap)
			clear(cur.disk[off : off+n])
		case k == 8 && s.compress:
			var c change
			if c, err = compressed(ctx, r, img, rec); c.data != nil {
				copy(cur.disk[c.off:], c.data)
			}
		case k == 9 && s.resize:
			size = s.size/2 + r.Int64N(s.size/sector)*sector
			err = img.Resize(ctx, size, driver.ResizeOptions{})
			cur.disk = change{size: size}.apply(cur.disk)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// snapshotOperation does one operation and changes the state as it should.
func snapshotOperation(t *testing.T, r *rand.Rand, img *block.Image, state *snapshotState) {
	t.Helper()
	ctx := t.Context()
	ids := make([]string, 0, len(state.snapshots))
	for id := range state.snapshots {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	var err error
	switch k := r.IntN(3); {
	case len(ids) == 0 || k == 0 && len(ids) < 4:
		var id string
		if id, err = img.Snapshots().Create(ctx, driver.SnapshotRequest{Name: "s"}); err == nil {
			state.snapshots[id] = bytes.Clone(state.disk)
		}
	case k == 1:
		id := ids[r.IntN(len(ids))]
		err = img.Snapshots().Apply(ctx, id)
		state.disk = bytes.Clone(state.snapshots[id])
	default:
		id := ids[r.IntN(len(ids))]
		err = img.Snapshots().Delete(ctx, id, "s")
		delete(state.snapshots, id)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// judgeSnapshots opens what a crash left and compares it with both states.
func judgeSnapshots(ctx context.Context, memory *mem.Driver, source block.Source, left *mem.Disk, v2 bool, before, after *snapshotState, done bool) error {
	reg := block.NewRegistry(raw.New(), qcow2.New(), memory, &recorded{disk: left})
	// Before anything repairs it: a version 2 image has no dirty bit, and so its
	// flags may disagree with refcounts that are too high.
	img, err := block.Open(ctx, reg, source, block.OpenOptions{Use: block.Use{Check: true}, Gate: driver.AllowAll})
	if err != nil {
		return fmt.Errorf("does not open: %w", err)
	}
	var lines []string
	_, err = img.Tree().Node().(driver.Checker).Check(ctx, driver.CheckFix{}, func(l string) { lines = append(lines, l) }, nil)
	state, stateErr := img.State(ctx)
	if err := errors.Join(err, stateErr, img.Close(ctx)); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	if err := acceptable(lines, state.Dirty, v2); err != nil {
		return err
	}
	// Reading comes first: it must not need the repair.
	for _, write := range []bool{false, true} {
		errBefore, errAfter := holds(ctx, reg, source, before, write), holds(ctx, reg, source, after, write)
		if errAfter != nil && (done || errBefore != nil) {
			return fmt.Errorf("writable: %v; neither as before (%v) nor as after (%w)", write, errBefore, errAfter)
		}
		if !write {
			continue
		}
		if errAfter != nil {
			after = before
		}
		return overwrite(ctx, reg, source, after)
	}
	return nil
}

// overwrite writes the whole disk anew: what snapshots share with it stays theirs.
func overwrite(ctx context.Context, reg *block.Registry, source block.Source, state *snapshotState) error {
	img, err := block.Open(ctx, reg, source, block.OpenOptions{Write: true, Gate: driver.AllowAll})
	if err != nil {
		return err
	}
	state = state.clone(0)
	for i := range state.disk {
		state.disk[i] ^= 0x55
	}
	_, err = img.WriteAt(ctx, state.disk, 0)
	if err := errors.Join(err, img.Close(ctx)); err != nil {
		return err
	}
	if err := holds(ctx, reg, source, state, true); err != nil {
		return fmt.Errorf("after writing over the disk: %w", err)
	}
	return nil
}

// acceptable judges what check says: leaks always, and in an image that is marked
// dirty, or cannot be, flags that disagree with refcounts.
func acceptable(lines []string, dirty, v2 bool) error {
	for _, l := range lines {
		switch {
		case strings.HasPrefix(l, "Leaked cluster "):
		case strings.Contains(l, "OFLAG_COPIED") && (dirty || v2):
		case dirty && strings.HasPrefix(l, "ERROR cluster "): // lazy refcounts
		default:
			return fmt.Errorf("check finds %q", l)
		}
	}
	return nil
}

// holds says whether the disk and the snapshots are what state says. Opening for
// writing repairs what a crash left; afterwards the image is clean.
func holds(ctx context.Context, reg *block.Registry, source block.Source, state *snapshotState, write bool) error {
	img, err := block.Open(ctx, reg, source, block.OpenOptions{Write: write, Gate: driver.AllowAll})
	if err != nil {
		return fmt.Errorf("does not open: %w", err)
	}
	defer img.Close(ctx)
	if err := same(ctx, img, state.disk); err != nil {
		return fmt.Errorf("the disk: %w", err)
	}
	list, _, err := img.Snapshots().List(ctx)
	if err != nil {
		return err
	}
	if len(list) != len(state.snapshots) {
		return fmt.Errorf("%d snapshots, want %d", len(list), len(state.snapshots))
	}
	for _, s := range list {
		snap, err := block.Open(ctx, reg, source, block.OpenOptions{Snapshot: s.ID, Gate: driver.AllowAll})
		if err != nil {
			return fmt.Errorf("snapshot %s does not open: %w", s.ID, err)
		}
		err = same(ctx, snap, state.snapshots[s.ID])
		if e := snap.Close(ctx); err == nil {
			err = e
		}
		if err != nil {
			return fmt.Errorf("snapshot %s: %w", s.ID, err)
		}
	}
	if !write {
		return nil
	}
	var lines []string
	res, err := img.Tree().Node().(driver.Checker).Check(ctx, driver.CheckFix{}, func(l string) { lines = append(lines, l) }, nil)
	if err != nil || res.CheckErrors != 0 || res.Corruptions != 0 && slices.ContainsFunc(lines, func(l string) bool {
		return !strings.HasPrefix(l, "Leaked") && !strings.Contains(l, "OFLAG_COPIED")
	}) {
		return fmt.Errorf("check after opening for writing: %v %v", err, lines)
	}
	return nil
}

func same(ctx context.Context, img *block.Image, want []byte) error {
	if img.Size() != int64(len(want)) {
		return fmt.Errorf("%d bytes, want %d", img.Size(), len(want))
	}
	got := make([]byte, len(want))
	if _, err := img.ReadAt(ctx, got, 0); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		i := 0
		for got[i] == want[i] {
			i++
		}
		return fmt.Errorf("differs at %d", i)
	}
	return nil
}

// repairWithOriginal lets QEMU repair what a crash left: afterwards it
// finds nothing.
func repairWithOriginal(t *testing.T, d *mem.Disk) {
	t.Helper()
	tool := testkit.Tool(t, "qemu-img")
	name := filepath.Join(t.TempDir(), "left.qcow2")
	save(t, d, name)
	_, _, _ = testkit.Try(t, tool, "check", "-r", "all", "-f", "qcow2", name)
	if out, errs, code := testkit.Try(t, tool, "check", "-f", "qcow2", name); code != 0 {
		t.Fatalf("after QEMU's repair its check exits with %d: %s%s", code, out, errs)
	}
}
