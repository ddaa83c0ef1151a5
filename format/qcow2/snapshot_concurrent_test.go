package qcow2_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
)

// TestSnapshotsWhileWriting takes, applies and deletes snapshots while others
// write and read. A request is in a snapshot as a whole or not at all: every
// stretch of the disk that one request writes is of one stamp.
func TestSnapshotsWhileWriting(t *testing.T) {
	const workers, stretch, size = 4, 10 << 10, 1 << 20
	for _, o := range [][]string{{"cluster_size=4k"}, {"cluster_size=64k"}, {"extended_l2=on", "cluster_size=16k"}, {"cluster_size=512", "lazy_refcounts=on"}, {"compat=0.10", "cluster_size=4k"}} {
		t.Run(fmt.Sprint(o), func(t *testing.T) {
			path, _ := makeVariant(t, t.TempDir(), size, o)
			img := openImage(t, path, true)
			ctx := context.Background()
			var stamp atomic.Uint64
			var stop atomic.Bool
			var wg sync.WaitGroup
			for w := range workers {
				wg.Go(func() {
					r := testkit.Rand(uint64(w))
					p := make([]byte, stretch)
					for !stop.Load() {
						off := (r.Int64N(size/stretch/workers)*workers + int64(w)) * stretch
						var err error
						switch r.IntN(8) {
						case 0:
							err = img.WriteZeroes(ctx, off, stretch, driver.ZeroMayUnmap)
						case 1:
							err = img.Flush(ctx)
						case 2:
							_, err = img.ReadAt(ctx, p, off)
						default:
							b := binary.BigEndian.AppendUint64(nil, stamp.Add(1))
							_, err = img.WriteAt(ctx, bytes.Repeat(b, stretch/8), off)
						}
						if err != nil {
							t.Errorf("worker %d: %v", w, err)
							return
						}
					}
				})
			}
			var ids []string
			r := testkit.Rand(99)
			var err error
			for i := 0; i < 40 && err == nil; i++ {
				switch k := r.IntN(4); {
				case len(ids) == 0 || k < 2 && len(ids) < 6:
					var id string
					id, err = img.Snapshots().Create(ctx, driver.SnapshotRequest{Name: "n"})
					ids = append(ids, id)
				case k == 2:
					err = img.Snapshots().Apply(ctx, ids[r.IntN(len(ids))])
				default:
					err = img.Snapshots().Delete(ctx, ids[0], "n")
					ids = ids[1:]
				}
			}
			stop.Store(true)
			wg.Wait()
			if err != nil {
				t.Fatal(err)
			}
			closeImage(t, img)
			checkClean(t, path)
			for _, id := range append(ids, "") {
				uniform(t, path, id, stretch)
			}
		})
	}
}

// uniform fails unless every stretch of the disk, as the snapshot holds it, is
// eight bytes repeated.
func uniform(t *testing.T, path, id string, stretch int) {
	t.Helper()
	o := openOpts(false)
	o.Snapshot = id
	img, err := block.Open(context.Background(), registry(), block.Source{Filename: path, Format: "qcow2"}, o)
	if err != nil {
		t.Fatal(err)
	}
	defer closeImage(t, img)
	b := readAll(t, img)
	for i := 0; i+stretch <= len(b); i += stretch {
		if p := b[i : i+stretch]; !bytes.Equal(p[8:], p[:stretch-8]) {
			t.Fatalf("snapshot %q: the request at %d is there in part", id, i)
		}
	}
}
