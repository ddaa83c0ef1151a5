package crash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/drivers"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// unitScenarios are of the formats whose disk is a table of units. Units of 1 MiB and more
// are written in long requests, so that several of them come to be.
var unitScenarios = []scenario{
	{name: "vdi", format: "vdi", size: 6 << 20, options: opts.Dict{}, sectors: 5000, resize: true},
	{name: "vdi static", format: "vdi", size: 4 << 20, options: opts.Dict{"static": "on"}, sectors: 3000, resize: true},
	{name: "qed", format: "qed", size: 512 << 10, options: opts.Dict{"cluster_size": "4096", "table_size": "2"}},
	{name: "qed, several tables", format: "qed", size: 12 << 20, options: opts.Dict{"cluster_size": "4096", "table_size": "2"}, sectors: 2000},
	{name: "qed with backing file", format: "qed", size: 512 << 10, options: opts.Dict{"cluster_size": "4096", "table_size": "2"}, backing: true},
	{name: "qcow", format: "qcow", size: 6 << 20, options: opts.Dict{}, sectors: 1000, compress: true},
	{name: "qcow with backing file", format: "qcow", size: 512 << 10, options: opts.Dict{}, backing: true},
	{name: "parallels", format: "parallels", size: 512 << 10, options: opts.Dict{"cluster_size": "4096"}, resize: true},
	{name: "parallels, sectors", format: "parallels", size: 128 << 10, options: opts.Dict{"cluster_size": "512"}, resize: true},
	{name: "vmdk", format: "vmdk", size: 30 << 20, options: opts.Dict{}, sectors: 1000, grow: true, once: true},
	{name: "vmdk, zeroed grains", format: "vmdk", size: 3 << 20, options: opts.Dict{"zeroed_grain": "on"}, sectors: 1000, grow: true},
	{name: "vpc", format: "vpc", size: 10 << 20, options: opts.Dict{"force_size": "on"}, sectors: 6000, resize: true},
	{name: "vhdx", format: "vhdx", size: 6 << 20, options: opts.Dict{"block_size": "1M"}, sectors: 5000, resize: true},
	{name: "vhdx fixed", format: "vhdx", size: 4 << 20, options: opts.Dict{"block_size": "1M", "subformat": "fixed"}, sectors: 3000, resize: true},
	{name: "vhdx with parent", format: "vhdx", size: 4 << 20, options: opts.Dict{"block_size": "1M", "backing_file": "mem:parent"}, sectors: 3000, backing: true},
}

// TestUnits cuts off the writes of images that are tables of units.
func TestUnits(t *testing.T) {
	for i, s := range unitScenarios {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			seeds := uint64(1)
			if testkit.Long() && !s.once {
				seeds = 8
			}
			for seed := range seeds {
				runUnits(t, s, seed+uint64(i)*100)
			}
		})
	}
}

func runUnits(t *testing.T, s scenario, seed uint64) {
	ctx := t.Context()
	r := testkit.Rand(seed)
	memory := mem.New().(*mem.Driver)
	dev := &recorded{}
	registry := func(dev *recorded) *block.Registry {
		list := []driver.Driver{memory, dev}
		for _, d := range drivers.All() {
			if d.Desc().Kind == driver.KindFormat {
				list = append(list, d)
			}
		}
		return block.NewRegistry(list...)
	}
	reg := registry(dev)
	if s.options["backing_file"] != nil {
		// The parent that the image names: a disk is opened with other contents in its place.
		err := block.Create(ctx, reg, block.CreateRequest{Filename: "mem:parent", Format: s.format, Size: s.size, Gate: driver.AllowAll})
		if err != nil {
			t.Fatal(err)
		}
	}
	err := block.Create(ctx, reg, block.CreateRequest{Filename: "mem:img", Format: s.format, Size: s.size, Options: s.options.Clone(), Gate: driver.AllowAll})
	if err != nil {
		t.Fatal(err)
	}
	dev.disk = memory.Disk("img")
	initial := dev.disk.Clone()
	source := block.Source{Filename: "recorded:x", Format: s.format}
	h := history{start: make([]byte, s.size)}
	if s.backing {
		base := mem.NewDisk(s.size * 3 / 4)
		testkit.Fill(r, h.start[:base.Size()])
		if _, err := base.WriteAt(ctx, h.start[:base.Size()], 0); err != nil {
			t.Fatal(err)
		}
		memory.Add("base", base)
		source.Options = opts.Dict{"backing.driver": "raw", "backing.file.driver": "mem", "backing.file.filename": "base"}
	}
	o := block.OpenOptions{Write: true, Sharing: block.Sharing{Resize: true}, Unmap: true, Gate: driver.AllowAll}
	img, err := block.Open(ctx, reg, source, o)
	if err != nil {
		t.Fatal(err)
	}
	rec := dev.rec
	operate(t, r, s, img, rec, &h)
	state := bytes.Clone(h.start)
	for _, c := range h.changes {
		state = c.apply(state)
	}
	live := make([]byte, img.Size())
	if _, err := img.ReadAt(ctx, live, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(live, state) {
		t.Fatalf("seed %d: the running image differs from the model", seed)
	}
	if err := img.Close(ctx); err != nil {
		t.Fatal(err)
	}
	h.flushes = append(h.flushes, flush{rec.Len(), len(h.changes)})
	events := rec.Events()
	for i := range 60 {
		n := r.IntN(len(events) + 1)
		if i == 0 {
			n = len(events)
		}
		left := initial.Clone()
		if err := testkit.Replay(ctx, left, testkit.Crash(r, events, n)); err != nil {
			t.Fatal(err)
		}
		image := left.Clone()
		if err := judgeUnits(ctx, registry(&recorded{disk: left}), source, &h, n); err != nil {
			dump := filepath.Join(os.TempDir(), fmt.Sprintf("cowl-crash-%d.%s", seed, s.format))
			save(t, image, dump)
			t.Fatalf("seed %d, crash after event %d of %d: %v (image in %s)", seed, n, len(events), err, dump)
		}
	}
}

// judgeUnits opens what a crash left: it has leaks at most, and what was flushed.
func judgeUnits(ctx context.Context, reg *block.Registry, source block.Source, h *history, n int) (err error) {
	img, err := block.Open(ctx, reg, source, block.OpenOptions{Write: true, Unmap: true, Gate: driver.AllowAll})
	if err != nil {
		return fmt.Errorf("does not open: %w", err)
	}
	defer func() { err = errors.Join(err, img.Close(ctx)) }()
	var lines []string
	res := &driver.CheckResult{}
	if c, ok := img.Tree().Node().(driver.Checker); ok {
		if res, err = c.Check(ctx, driver.CheckFix{}, func(l string) { lines = append(lines, l) }, nil); err != nil {
			return fmt.Errorf("check: %w", err)
		}
	}
	if res.Corruptions != 0 || res.CheckErrors != 0 {
		return fmt.Errorf("check finds %+v: %s", *res, strings.Join(lines, "; "))
	}
	got := make([]byte, img.Size())
	if _, err := img.ReadAt(ctx, got, 0); err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if err := h.allows(got, n); err != nil {
		return err
	}
	// Life goes on, without touching anything else.
	p := bytes.Repeat([]byte{0x5a}, sector)
	if _, err := img.WriteAt(ctx, p, 0); err != nil {
		return err
	}
	copy(got, p)
	again := make([]byte, len(got))
	if _, err := img.ReadAt(ctx, again, 0); err != nil || !bytes.Equal(again, got) {
		return fmt.Errorf("a write of the first sector changed something else (%v)", err)
	}
	return nil
}
