package crash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/ops"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

var bitmapScenarios = []scenario{
	{name: "default", size: 2 << 20, options: opts.Dict{}, resize: true},
	{name: "512-byte clusters", size: 3 << 20, options: opts.Dict{"cluster_size": "512"}, resize: true},
	{name: "lazy refcounts", size: 256 << 10, options: opts.Dict{"cluster_size": "1024", "lazy_refcounts": "on"}, resize: true},
	{name: "1-bit refcounts", size: 512 << 10, options: opts.Dict{"cluster_size": "1024", "refcount_bits": "1"}},
	{name: "subclusters", size: 1 << 20, options: opts.Dict{"cluster_size": "16384", "extended_l2": "on"}, resize: true},
	{name: "compressed", size: 512 << 10, options: opts.Dict{"cluster_size": "4096"}, compress: true},
}

// dirtyBitmap is what a bitmap should be. Granules in must were changed while it
// recorded; all that is set is in may.
type dirtyBitmap struct {
	granularity int64
	enabled     bool
	must, may   []bool
	bits        []bool // as the image has them, at the end of a session
}

func newDirtyBitmap(size, granularity int64, enabled bool) *dirtyBitmap {
	n := (size + granularity - 1) / granularity
	return &dirtyBitmap{granularity: granularity, enabled: enabled, must: make([]bool, n), may: make([]bool, n)}
}

func (b *dirtyBitmap) clone() *dirtyBitmap {
	c := *b
	c.must, c.may, c.bits = slices.Clone(b.must), slices.Clone(b.may), slices.Clone(b.bits)
	return &c
}

func (b *dirtyBitmap) resize(size int64) {
	n := (size + b.granularity - 1) / b.granularity
	fit := func(list []bool) []bool {
		if int64(len(list)) > n {
			return list[:n:n]
		}
		return append(list[:len(list):len(list)], make([]bool, n-int64(len(list)))...)
	}
	b.must, b.may = fit(b.must), fit(b.may)
}

// bitmapState is an image with bitmaps between two sessions.
type bitmapState struct {
	disk    []byte
	bitmaps map[string]*dirtyBitmap
}

func (s *bitmapState) clone() *bitmapState {
	c := &bitmapState{disk: bytes.Clone(s.disk), bitmaps: map[string]*dirtyBitmap{}}
	for name, b := range s.bitmaps {
		c.bitmaps[name] = b.clone()
	}
	return c
}

// change replaces bytes of the disk.
func (s *bitmapState) change(off int64, p []byte) {
	for _, b := range s.bitmaps {
		if !b.enabled {
			continue
		}
		for at := off; at < off+int64(len(p)); {
			g := at / b.granularity
			end := min((g+1)*b.granularity, off+int64(len(p)))
			b.may[g] = true
			if !bytes.Equal(s.disk[at:end], p[at-off:end-off]) {
				b.must[g] = true
			}
			at = end
		}
	}
	copy(s.disk[off:], p)
}

func (s *bitmapState) names() []string { return slices.Sorted(maps.Keys(s.bitmaps)) }

// TestBitmaps works on images with bitmaps in sessions and compares the bits with
// a model, and cuts every session off anywhere: a bitmap is then true or known not
// to be.
func TestBitmaps(t *testing.T) {
	seeds, scenarios := uint64(2), bitmapScenarios
	if testing.Short() || testkit.Race {
		seeds, scenarios = 1, scenarios[1:4]
	}
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			for seed := range seeds {
				runBitmaps(t, s, seed)
			}
		})
	}
}

func runBitmaps(t *testing.T, s scenario, seed uint64) {
	ctx := t.Context()
	r := testkit.Rand(seed)
	memory := mem.New()
	dev := &recorded{}
	reg := block.NewRegistry(raw.New(), qcow2.New(), memory, dev)
	if err := block.Create(ctx, reg, block.CreateRequest{Filename: "mem:img", Format: "qcow2", Size: s.size, Options: s.options.Clone(), Gate: driver.AllowAll}); err != nil {
		t.Fatal(err)
	}
	dev.disk = memory.(*mem.Driver).Disk("img")
	source := block.Source{Filename: "recorded:x", Format: "qcow2"}
	state := &bitmapState{disk: make([]byte, s.size), bitmaps: map[string]*dirtyBitmap{}}
	for session := range 8 {
		where := fmt.Sprintf("seed %d, session %d", seed, session)
		if r.IntN(2) == 0 {
			asOriginal(t, dev.disk)
		}
		before, initial := state, dev.disk.Clone()
		state = state.clone()
		img, err := block.Open(ctx, reg, source, block.OpenOptions{Write: true, Sharing: block.Sharing{Resize: true}, Unmap: true, Gate: driver.AllowAll})
		if err != nil {
			t.Fatalf("%s: %v", where, err)
		}
		rec := dev.rec
		for range 4 + r.IntN(30) {
			bitmapStep(t, r, s, img, rec, state)
		}
		readBits(t, where, img, state)
		if err := img.Close(ctx); err != nil {
			t.Fatalf("%s: %v", where, err)
		}
		events := rec.Events()
		if err := judgeBitmaps(ctx, source, dev.disk.Clone(), state, state, true); err != nil {
			t.Fatalf("%s: afterwards: %v", where, err)
		}
		points := []int{}
		for n := max(0, len(events)-25); n < len(events); n++ {
			points = append(points, n)
		}
		for range 20 {
			points = append(points, r.IntN(len(events)+1))
		}
		for n := range min(12, len(events)) {
			points = append(points, n)
		}
		for _, n := range points {
			left := initial.Clone()
			if err := testkit.Replay(ctx, left, testkit.Crash(r, events, n)); err != nil {
				t.Fatal(err)
			}
			image := left.Clone()
			if err := judgeBitmaps(ctx, source, left, before, state, false); err != nil {
				dump := filepath.Join(os.TempDir(), fmt.Sprintf("cowl-crash-bitmap-%d.qcow2", seed))
				save(t, image, dump)
				t.Fatalf("%s, crash after event %d of %d: %v (image in %s)", where, n, len(events), err, dump)
			}
			if r.IntN(60) == 0 {
				repairWithOriginal(t, image)
			}
		}
	}
}

// asOriginal puts the bitmaps extension of a header where QEMU has it: behind
// the names of features, beyond the first sector.
func asOriginal(t *testing.T, disk *mem.Disk) {
	t.Helper()
	ctx := t.Context()
	b := make([]byte, 1024)
	if _, err := disk.ReadAt(ctx, b, 0); err != nil {
		t.Fatal(err)
	}
	h, err := ondisk.DecodeHeader(b)
	if err != nil || h.ClusterSize() < int64(len(b)) || h.BackingFileOffset != 0 {
		return
	}
	exts, err := ondisk.DecodeExtensions(bytes.Clone(b[h.HeaderLength:]))
	if err != nil {
		t.Fatal(err)
	}
	slices.SortStableFunc(exts, func(a, b ondisk.Extension) int {
		last := func(e ondisk.Extension) int {
			if e.Type == ondisk.ExtBitmaps {
				return 1
			}
			return 0
		}
		return last(a) - last(b)
	})
	out := b[:h.HeaderLength:h.HeaderLength]
	for _, e := range exts {
		out = ondisk.AppendExtension(out, e)
	}
	out = ondisk.AppendExtension(out, ondisk.Extension{Type: ondisk.ExtEnd})
	if _, err := disk.WriteAt(ctx, out, 0); err != nil {
		t.Fatal(err)
	}
}

// bitmapStep does something to the disk or to the bitmaps.
func bitmapStep(t *testing.T, r *rand.Rand, s scenario, img *block.Image, rec *testkit.Recorder, state *bitmapState) {
	t.Helper()
	ctx := t.Context()
	size := img.Size()
	off := r.Int64N(size/sector) * sector
	n := (1 + r.Int64N(min(size-off, 60*sector)/sector)) * sector
	names := state.names()
	name := fmt.Sprintf("b%d", r.IntN(5))
	b := state.bitmaps[name]
	var err error
	switch k := r.IntN(20); {
	case k < 6:
		p := make([]byte, n)
		testkit.Fill(r, p)
		_, err = img.WriteAt(ctx, p, off)
		state.change(off, p)
	case k < 8:
		err = img.WriteZeroes(ctx, off, n, driver.ZeroMayUnmap)
		state.change(off, make([]byte, n))
	case k == 8:
		err = img.Discard(ctx, off, n)
		if err == nil {
			now := make([]byte, n)
			_, err = img.ReadAt(ctx, now, off)
			state.change(off, now)
		}
	case k == 9 && s.compress:
		var c change
		if c, err = compressed(ctx, r, img, rec); c.data != nil {
			state.change(c.off, c.data)
		}
	case k == 10 && s.resize && r.IntN(3) == 0:
		size = s.size/2 + r.Int64N(s.size/sector)*sector
		err = img.Resize(ctx, size, driver.ResizeOptions{})
		state.disk = change{size: size}.apply(state.disk)
		for _, b := range state.bitmaps {
			b.resize(size)
		}
	case k == 11:
		err = img.Flush(ctx)
	case b == nil:
		g := int64(512) << r.IntN(9)
		enabled := r.IntN(3) > 0
		err = img.Bitmaps().Add(ctx, driver.BitmapSpec{Name: name, Granularity: g, Disabled: !enabled})
		state.bitmaps[name] = newDirtyBitmap(size, g, enabled)
	case k == 12:
		err = img.Bitmaps().Remove(ctx, name)
		delete(state.bitmaps, name)
	case k == 13:
		err = img.Bitmaps().Clear(ctx, name)
		state.bitmaps[name] = newDirtyBitmap(size, b.granularity, b.enabled)
	case k < 16:
		b.enabled = r.IntN(3) > 0
		err = img.Bitmaps().Enable(ctx, name, b.enabled)
	case k == 16:
		err = img.Bitmaps().Set(ctx, name, off, n)
		for g := off / b.granularity; g*b.granularity < off+n; g++ {
			b.must[g], b.may[g] = true, true
		}
	case k == 17:
		from := names[r.IntN(len(names))]
		src := state.bitmaps[from]
		for g := range src.may {
			for at := int64(g) * src.granularity; at < min(size, int64(g+1)*src.granularity); at += sector {
				b.may[at/b.granularity] = b.may[at/b.granularity] || src.may[g]
				b.must[at/b.granularity] = b.must[at/b.granularity] || src.must[g]
			}
		}
		err = ops.MergeBitmap(ctx, img, name, img, from)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// bitsOf reads the bits of a bitmap.
func bitsOf(ctx context.Context, img *block.Image, name string, granularity int64) ([]bool, error) {
	var bits []bool
	for off := int64(0); off < img.Size(); {
		n, dirty, err := img.Bitmaps().Extent(ctx, name, off, img.Size()-off)
		if err != nil {
			return nil, err
		}
		if n <= 0 || n%granularity != 0 && off+n != img.Size() {
			return nil, fmt.Errorf("bitmap %s: %d bytes at %d of one kind", name, n, off)
		}
		for end := off + n; off < end; off += granularity {
			bits = append(bits, dirty)
		}
	}
	return bits, nil
}

// readBits takes over the bits of the image, if they are what they should be.
func readBits(t *testing.T, where string, img *block.Image, state *bitmapState) {
	t.Helper()
	for name, b := range state.bitmaps {
		bits, err := bitsOf(t.Context(), img, name, b.granularity)
		if err != nil || len(bits) != len(b.may) {
			t.Fatalf("%s: bitmap %s: %d bits, want %d: %v", where, name, len(bits), len(b.may), err)
		}
		for g := range bits {
			if b.must[g] && !bits[g] || bits[g] && !b.may[g] {
				t.Fatalf("%s: bitmap %s, granule %d of %d bytes: set %t, changed %t, requested %t", where, name, g, b.granularity, bits[g], b.must[g], b.may[g])
			}
		}
		// What is set stays set, whatever it was set for.
		b.bits, b.must, b.may = bits, slices.Clone(bits), slices.Clone(bits)
	}
}

// judgeBitmaps opens what a crash left. A bitmap that is not inconsistent is as it
// was stored before, and then nothing that it records was written since, or as it
// was stored after.
func judgeBitmaps(ctx context.Context, source block.Source, left *mem.Disk, before, after *bitmapState, done bool) error {
	reg := block.NewRegistry(raw.New(), qcow2.New(), &recorded{disk: left})
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
	if done && len(lines) > 0 {
		return fmt.Errorf("check finds %q", lines)
	}
	if err := acceptable(lines, state.Dirty, false); err != nil {
		return err
	}
	names := map[string]bool{}
	for _, write := range []bool{false, true} {
		img, err := block.Open(ctx, reg, source, block.OpenOptions{Write: write, Gate: driver.AllowAll})
		if err != nil {
			return fmt.Errorf("writable %t: does not open: %w", write, err)
		}
		err = judgeList(ctx, img, before, after, done, names)
		if err == nil && write && img.Size() > 0 {
			_, err = img.WriteAt(ctx, bytes.Repeat([]byte{0x77}, sector), 0)
		}
		if err := errors.Join(err, img.Close(ctx)); err != nil {
			return fmt.Errorf("writable %t: %w", write, err)
		}
	}
	// What was written last is in all bitmaps that were true and record.
	img, err = block.Open(ctx, reg, source, block.OpenOptions{Gate: driver.AllowAll})
	if err != nil {
		return err
	}
	defer img.Close(ctx)
	list, _, err := img.Bitmaps().List(ctx)
	for _, b := range list {
		if b.Inconsistent == names[b.Name] {
			return fmt.Errorf("bitmap %s: inconsistent %t", b.Name, b.Inconsistent)
		}
		if b.Inconsistent || !b.Enabled {
			continue
		}
		if _, dirty, err := img.Bitmaps().Extent(ctx, b.Name, 0, 1); err != nil || !dirty {
			return fmt.Errorf("bitmap %s lost the last write: %v", b.Name, err)
		}
	}
	return err
}

// judgeList judges all bitmaps and notes which are true.
func judgeList(ctx context.Context, img *block.Image, before, after *bitmapState, done bool, names map[string]bool) error {
	disk := make([]byte, img.Size())
	if _, err := img.ReadAt(ctx, disk, 0); err != nil {
		return err
	}
	list, _, err := img.Bitmaps().List(ctx)
	if err != nil {
		return err
	}
	if done && len(list) != len(after.bitmaps) {
		return fmt.Errorf("%d bitmaps, want %d", len(list), len(after.bitmaps))
	}
	for _, info := range list {
		if info.Inconsistent {
			if done {
				return fmt.Errorf("bitmap %s is inconsistent", info.Name)
			}
			continue
		}
		names[info.Name] = true
		bits, err := bitsOf(ctx, img, info.Name, info.Granularity)
		if err != nil {
			return err
		}
		var dirty int64
		for g, set := range bits {
			if set {
				dirty += min(info.Granularity, img.Size()-int64(g)*info.Granularity)
			}
		}
		if dirty != info.Dirty {
			return fmt.Errorf("bitmap %s has %d dirty bytes, and says %d", info.Name, dirty, info.Dirty)
		}
		fits := func(s *bitmapState) bool {
			b := s.bitmaps[info.Name]
			return b != nil && b.granularity == info.Granularity && b.enabled == info.Enabled && slices.Equal(b.bits, bits) &&
				(!b.enabled || bytes.Equal(disk, s.disk))
		}
		if !fits(after) && (done || !fits(before)) {
			return fmt.Errorf("bitmap %s is consistent, but neither as before nor as after: enabled %t; %s; %s", info.Name, info.Enabled,
				before.explain(info, bits, disk), after.explain(info, bits, disk))
		}
	}
	return nil
}

// explain says what of a bitmap differs from a state.
func (s *bitmapState) explain(info driver.BitmapInfo, bits []bool, disk []byte) string {
	b := s.bitmaps[info.Name]
	if b == nil {
		return "there was none"
	}
	return fmt.Sprintf("granularity %d and %d, enabled %t, bits equal %t, disk equal %t", info.Granularity, b.granularity, b.enabled,
		slices.Equal(b.bits, bits), bytes.Equal(disk, s.disk))
}
