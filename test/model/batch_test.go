package model

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/ops"
	"github.com/cowl-disk/cowl/opts"
)

// start opens the image for a batch of steps.
func (w *world) start(ctx context.Context) error {
	if err := w.open(ctx, false); err != nil {
		return err
	}
	w.initial = w.top.disk.Clone()
	return w.verifyBitmaps(ctx, false)
}

func (w *world) readAll(ctx context.Context) error {
	if got, want := w.img.Size(), w.active.Size(); got != want {
		return w.fail("the disk has %d bytes, not %d", got, want)
	}
	return w.read(ctx, 0, w.active.Size())
}

// crash leaves of the changes since the last flush what chance decides, opens the
// image again, and takes what it finds for the truth if it can be.
func (w *world) crash(ctx context.Context) error {
	initial := w.initial
	events := w.top.rec.Events()
	last := 0
	for i, e := range events {
		if e.Kind == testkit.EventFlush {
			last = i + 1
		}
	}
	n := last + w.r.IntN(len(events)-last+1)
	w.note("crash after event %d of %d", n, len(events))
	// What the image that was running still writes goes nowhere.
	img := w.img
	w.img = nil
	if err := img.Close(ctx); err != nil {
		return w.fail("close after a crash: %w", err)
	}
	if err := testkit.Replay(ctx, initial, testkit.Crash(w.r, events, n)); err != nil {
		return w.fail("replay: %w", err)
	}
	w.top.disk = initial.Clone()
	img, err := block.Open(ctx, w.reg, w.source(), block.OpenOptions{Write: true, Sharing: block.Sharing{Resize: true}, Gate: driver.AllowAll, Objects: secrets{}})
	if err != nil {
		w.top.disk = initial // as it was before it was opened
		return w.fail("open after a crash: %w", err)
	}
	w.img = img
	for _, fix := range []driver.CheckFix{{}, {Leaks: true}} {
		var lines []string
		res, err := img.Tree().Node().(driver.Checker).Check(ctx, fix, func(l string) { lines = append(lines, l) }, nil)
		if err != nil || res.Corruptions+res.CorruptionsFixed != 0 || res.CheckErrors != 0 {
			return w.fail("check after a crash: %+v %s, %w", res, strings.Join(lines, "; "), err)
		}
	}
	got := make([]byte, img.Size())
	if _, err := img.ReadAt(ctx, got, 0); err != nil {
		return w.fail("read after a crash: %w", err)
	}
	if bad := w.allowed(got); bad != "" {
		return w.fail("after a crash: %s", bad)
	}
	w.active.Write(got, 0)
	if err := w.verifyBitmaps(ctx, true); err != nil {
		return err
	}
	return w.close(ctx)
}

// allowed says what is wrong with a disk that reads as got after a crash: each
// byte must be as the last flush left it, or as a later change made it.
func (w *world) allowed(got []byte) string {
	want := w.durable.Read(0, w.durable.Size())
	if len(got) != len(want) {
		return fmt.Sprintf("the disk has %d bytes, not %d", len(got), len(want))
	}
	ok := make([]bool, len(got))
	for i := range got {
		ok[i] = got[i] == want[i]
	}
	for _, c := range w.later {
		for i, b := range c.data {
			if at := c.off + int64(i); got[at] == b {
				ok[at] = true
			}
		}
	}
	if i := slices.Index(ok, false); i >= 0 {
		return fmt.Sprintf("byte %d is %#x, which was never written there", i, got[i])
	}
	return ""
}

// between changes the backing file or a feature of the image while it is closed.
func (w *world) between(ctx context.Context) error {
	switch w.r.IntN(3) {
	case 0:
		return w.commit(ctx)
	case 1:
		return w.rebase(ctx)
	}
	return w.amend(ctx)
}

func (w *world) commit(ctx context.Context) error {
	if w.backing == "" {
		return nil
	}
	w.note("commit into %s", w.backing)
	if err := w.open(ctx, true); err != nil {
		return err
	}
	if err := ops.Commit(ctx, ops.CommitJob{Top: w.img, Base: w.img.Backing()}); err != nil {
		return w.fail("commit: %w", err)
	}
	l := w.layers[w.backing]
	if l.content.Size() < w.active.Size() {
		l.content.Resize(w.active.Size())
	}
	l.content.Write(w.active.Read(0, w.active.Size()), 0)
	if err := w.close(ctx); err != nil {
		return err
	}
	return w.relearnSnapshots(ctx)
}

func (w *world) rebase(ctx context.Context) error {
	if w.dataFile {
		return nil
	}
	name := pick(w.r, "", "mem:base", "mem:other")
	w.note("rebase to %q", name)
	if err := w.open(ctx, false); err != nil {
		return err
	}
	job := ops.RebaseJob{Image: w.img, Compress: w.encrypt == "" && w.r.IntN(2) == 0, Workers: 2}
	if name != "" {
		job.Backing = driver.BackingRef{Filename: name, Format: w.layers[name].format}
		other, err := block.Open(ctx, w.reg, block.Source{Filename: name, Format: job.Backing.Format}, block.OpenOptions{Gate: driver.AllowAll})
		if err != nil {
			return w.fail("open %s: %w", name, err)
		}
		defer other.Close(ctx)
		job.New = other
	}
	switch err := ops.Rebase(ctx, job); {
	case err == nil:
		w.backing = name
	case noRoom(err):
		w.note("refused: %v", err)
	default:
		return w.fail("rebase: %w", err)
	}
	if err := w.close(ctx); err != nil {
		return err
	}
	w.markAllBitmaps()
	return w.relearnSnapshots(ctx)
}

// noRoom says whether a header in a small cluster cannot take more.
func noRoom(err error) bool {
	return err != nil && strings.Contains(err.Error(), "no space left in the file header")
}

// markAllBitmaps: what was copied into the image may be recorded as a change, or
// not, since the disk reads as before.
func (w *world) markAllBitmaps() {
	for _, b := range w.bitmaps {
		b.loose = true
	}
}

func (w *world) amend(ctx context.Context) error {
	d := opts.Dict{}
	switch w.r.IntN(3) {
	case 0:
		d["lazy_refcounts"] = pick(w.r, "on", "off")
	case 1:
		d["refcount_bits"] = pick(w.r, "8", "16", "32", "64")
	default:
		if len(w.bitmaps) > 0 {
			return nil // version 2 loses bitmaps, and leaks them, as with QEMU
		}
		d["compat"] = pick(w.r, "0.10", "1.1")
	}
	w.note("amend %v", d)
	if err := w.open(ctx, false); err != nil {
		return err
	}
	err := ops.Amend(ctx, ops.AmendJob{Image: w.img, Options: d})
	switch {
	case err == nil && d["compat"] == "0.10":
		w.v2, w.bitmaps = true, nil // version 2 has no bitmaps
	case err == nil && d["compat"] == "1.1":
		w.v2 = false
	case err != nil && (errors.Is(err, driver.ErrUnsupported) || errors.Is(err, driver.ErrInvalid) || noRoom(err)):
		w.note("refused: %v", err)
	case err != nil:
		return w.fail("amend: %w", err)
	}
	return w.close(ctx)
}

// relearnSnapshots reads the snapshots again: what they show through the backing
// file has changed with it.
func (w *world) relearnSnapshots(ctx context.Context) error {
	for i, s := range w.kept {
		got, err := w.readSnapshot(ctx, s.id)
		if err != nil {
			return err
		}
		w.kept[i].content = testkit.NewModel(int64(len(got)))
		w.kept[i].content.Write(got, 0)
	}
	return nil
}

func (w *world) readSnapshot(ctx context.Context, id string) ([]byte, error) {
	img, err := block.Open(ctx, w.reg, w.source(), block.OpenOptions{Snapshot: id, Gate: driver.AllowAll, Objects: secrets{}})
	if err != nil {
		return nil, w.fail("open snapshot %s: %w", id, err)
	}
	defer img.Close(ctx)
	got := make([]byte, img.Size())
	if _, err := img.ReadAt(ctx, got, 0); err != nil {
		return nil, w.fail("read snapshot %s: %w", id, err)
	}
	return got, nil
}

// source names the top image, with its key.
func (w *world) source() block.Source {
	d := opts.Dict{}
	if w.encrypt != "" {
		d["encrypt.format"], d["encrypt.key-secret"] = w.encrypt, secretID
	}
	return block.Source{Filename: "top:x", Format: "qcow2", Options: d}
}

// check opens the closed image and compares all of it with the models.
func (w *world) check(ctx context.Context) error {
	img, err := block.Open(ctx, w.reg, w.source(), block.OpenOptions{Gate: driver.AllowAll, Objects: secrets{}})
	if err != nil {
		return w.fail("open for verifying: %w", err)
	}
	defer img.Close(ctx)
	w.img = img
	defer func() { w.img = nil }()
	if err := w.readAll(ctx); err != nil {
		return err
	}
	var lines []string
	res, err := img.Tree().Node().(driver.Checker).Check(ctx, driver.CheckFix{}, func(l string) { lines = append(lines, l) }, nil)
	if err != nil {
		return w.fail("check: %w", err)
	}
	if res.Corruptions != 0 || res.CheckErrors != 0 || res.Leaks != 0 {
		return w.fail("check finds %+v: %s", *res, strings.Join(lines, "; "))
	}
	list, _, err := img.Snapshots().List(ctx)
	if err != nil || len(list) != len(w.kept) {
		return w.fail("%d snapshots are listed, not %d (%w)", len(list), len(w.kept), err)
	}
	for i, s := range w.kept {
		if list[i].ID != s.id || list[i].Name != s.name {
			return w.fail("snapshot %d is %s %q, not %s %q", i, list[i].ID, list[i].Name, s.id, s.name)
		}
		got, err := w.readSnapshot(ctx, s.id)
		if err != nil {
			return err
		}
		if d := s.content.Diff(got, 0); d != "" || int64(len(got)) != s.content.Size() {
			return w.fail("snapshot %s has %d bytes: %s", s.name, len(got), d)
		}
	}
	return w.verifyBitmaps(ctx, false)
}
