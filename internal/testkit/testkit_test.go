package testkit

import (
	"context"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/protocol/mem"
)

func TestModelDiff(t *testing.T) {
	m := NewModel(10000)
	m.Write([]byte("hello"), 4094)
	if d := m.Diff([]byte("\x00hello\x00"), 4093); d != "" {
		t.Fatal(d)
	}
	if d := m.Diff([]byte("hellO"), 4094); d != "byte 4098 (4 of 5 at 4094) is 0x4f, want 0x6f" {
		t.Fatal(d)
	}
	c := m.Clone()
	m.Resize(4096)
	m.Resize(10000)
	if d := m.Diff([]byte("he\x00\x00\x00"), 4094); d != "" {
		t.Fatal(d)
	}
	if d := c.Diff([]byte("hello"), 4094); d != "" {
		t.Fatal("a clone changed: " + d)
	}
}

func TestRecorderReplaysEverything(t *testing.T) {
	ctx := context.Background()
	disk := mem.NewDisk(1 << 16)
	rec := NewRecorder(disk)
	r := Rand(1)
	for range 200 {
		off, n := r.Int64N(1<<16-4096), 1+r.Int64N(4096)
		var err error
		switch r.IntN(5) {
		case 0:
			err = rec.WriteZeroes(ctx, off, n, 0)
		case 1:
			err = rec.Discard(ctx, off, n)
		case 2:
			err = rec.Flush(ctx)
		default:
			p := make([]byte, n)
			Fill(r, p)
			_, err = rec.WriteAt(ctx, p, off)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := rec.Resize(ctx, 60000, driver.ResizeOptions{}); err != nil {
		t.Fatal(err)
	}
	again := mem.NewDisk(1 << 16)
	if err := Replay(ctx, again, rec.Events()); err != nil {
		t.Fatal(err)
	}
	a, b := make([]byte, 60000), make([]byte, 60000)
	if _, err := disk.ReadAt(ctx, a, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := again.ReadAt(ctx, b, 0); err != nil {
		t.Fatal(err)
	}
	if string(a) != string(b) || again.Size() != 60000 {
		t.Fatal("the replay differs")
	}
}

func TestCrashKeepsWhatWasFlushed(t *testing.T) {
	w := func(off int64) Event { return Event{Kind: EventWrite, Offset: off, Data: make([]byte, 2048)} }
	events := []Event{w(0), w(1 << 20), {Kind: EventFlush}, w(2 << 20), w(3 << 20)}
	r := Rand(1)
	lost, torn := false, false
	for range 100 {
		got := Crash(r, events, len(events))
		if len(got) < 3 || got[0].Offset != 0 || len(got[1].Data) != 2048 {
			t.Fatal("something flushed was lost", got)
		}
		lost = lost || len(got) < 5
		for _, e := range got[3:] {
			torn = torn || len(e.Data) < 2048
		}
		if n := len(Crash(r, events, 2)); n > 2 {
			t.Fatal("the future happened")
		}
	}
	if !lost || !torn {
		t.Fatal("nothing was ever lost or torn", lost, torn)
	}
}

func TestModelDiffZero(t *testing.T) {
	m := NewModel(20000)
	m.Write([]byte{0, 7, 8}, 8191)
	for _, c := range []struct {
		off, n int64
		want   string
	}{{0, 8192, ""}, {8194, 20000 - 8194, ""}, {0, 20000, "byte 8192 is 0x7"}, {8193, 9, "byte 8193 is 0x8"}, {5, 0, ""}} {
		if d := m.DiffZero(c.off, c.n); d != c.want {
			t.Errorf("%d+%d: %q, want %q", c.off, c.n, d, c.want)
		}
	}
}
