package qcow2_test

import (
	"context"
	"encoding/binary"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// snapshotSeed is a small image with two snapshots.
func snapshotSeed(tb testing.TB, options opts.Dict) []byte {
	tb.Helper()
	ctx := context.Background()
	b := seedImage(tb, options)
	img, disk := openBytes(tb, b, &driver.Budget{})
	for range 2 {
		_, err := img.Snapshots().Create(ctx, driver.SnapshotRequest{Name: "name", Date: time.Unix(1, 2)})
		if err == nil {
			_, err = img.WriteAt(ctx, make([]byte, 700), 900)
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
	if err := img.Close(ctx); err != nil {
		tb.Fatal(err)
	}
	return diskBytes(tb, disk)
}

func diskBytes(tb testing.TB, disk *mem.Disk) []byte {
	tb.Helper()
	out := make([]byte, disk.Size())
	if _, err := disk.ReadAt(context.Background(), out, 0); err != nil {
		tb.Fatal(err)
	}
	return out
}

// openBytes opens an image for writing; nil if it cannot be opened.
func openBytes(tb testing.TB, b []byte, budget *driver.Budget) (*block.Image, *mem.Disk) {
	tb.Helper()
	ctx := context.Background()
	memory := mem.New().(*mem.Driver)
	disk := mem.NewDisk(0)
	if _, err := disk.WriteAt(ctx, b, 0); err != nil {
		tb.Fatal(err)
	}
	memory.Add("a", disk)
	o := openOpts(true)
	o.Gate, o.Budget = driver.DenyAll, budget
	img, err := block.Open(ctx, block.NewRegistry(qcow2.New(), memory), block.Source{Filename: "mem:a", Format: "qcow2"}, o)
	if err != nil {
		return nil, disk
	}
	return img, disk
}

// FuzzSnapshots puts any bytes in place of the snapshot table, and does every
// operation on every snapshot. Nothing may panic, hang or take memory without
// bound.
func FuzzSnapshots(f *testing.F) {
	seeds := [][]byte{snapshotSeed(f, opts.Dict{"cluster_size": "512"}), snapshotSeed(f, opts.Dict{"cluster_size": "16k", "extended_l2": "on"}),
		snapshotSeed(f, opts.Dict{"cluster_size": "1k", "compat": "0.10"})}
	for i, b := range seeds {
		off := binary.BigEndian.Uint64(b[64:])
		f.Add(uint8(i), uint32(2), b[off:min(uint64(len(b)), off+200)], uint8(1))
	}
	f.Fuzz(func(t *testing.T, seed uint8, count uint32, table []byte, what uint8) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		b := append([]byte(nil), seeds[int(seed)%len(seeds)]...)
		off := binary.BigEndian.Uint64(b[64:])
		b = append(b[:off], append(append([]byte(nil), table...), b[min(uint64(len(b)), off+uint64(len(table))):]...)...)
		binary.BigEndian.PutUint32(b[60:], count)
		img, _ := openBytes(t, b, &driver.Budget{MaxMemory: 64 << 20})
		if img == nil {
			return
		}
		list, _, err := img.Snapshots().List(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if what&1 != 0 {
			_, _ = img.Snapshots().Create(ctx, driver.SnapshotRequest{Name: "new"})
		}
		for i, s := range list {
			if i >= 4 {
				break
			}
			if what&2 != 0 {
				_ = img.Snapshots().Apply(ctx, s.ID)
			}
			_, _ = img.WriteAt(ctx, []byte("written"), 100)
			if what&4 != 0 {
				_ = img.Snapshots().Delete(ctx, s.ID, s.Name)
			}
		}
		_ = img.Close(ctx)
		if ctx.Err() != nil {
			t.Fatal("took too long")
		}
	})
}
