package iscsi_test

import (
	"bytes"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/internal/testkit/iscsid"
	"github.com/cowl-disk/cowl/protocol/iscsi"
)

// TestAhead reads a disk that is far away in order, and then anywhere.
func TestAhead(t *testing.T) {
	ctx := testkit.Guard(t)
	const size = 24<<20 + 3*4096
	u := iscsid.NewUnit(size, 4096)
	want := make([]byte, size)
	testkit.Fill(testkit.Rand(1), want)
	u.Put(want, 0)
	var reads atomic.Int32
	var fails atomic.Bool
	s := iscsid.Start(t, iscsid.Config{Intercept: func(_ uint32, cdb []byte) iscsid.Action {
		switch {
		case cdb[0] == 0:
			time.Sleep(3 * time.Millisecond) // it seems to be far away
		case cdb[0] == 0x28 && fails.Load():
			return iscsid.Check(3, 0x1100)
		case cdb[0] == 0x28:
			reads.Add(1)
		}
		return iscsid.Action{}
	}}, map[uint32]*iscsid.Unit{1: u})
	o, err := iscsi.New().(driver.FilenameParser).ParseFilename(urlOf(s))
	if err != nil {
		t.Fatal(err)
	}
	opened, err := iscsi.New().Open(ctx, &driver.OpenRequest{Options: o, Sequential: true, Env: &driver.Env{Warn: func(string) {}}})
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close(ctx)
	n := opened.(driver.Storage)
	if x, err := n.Map(ctx, 0, size); err != nil || x.Length != size {
		t.Fatalf("%+v, %v", x, err)
	}
	read := func(off int64, length int) {
		t.Helper()
		p := make([]byte, length)
		if _, err := n.ReadAt(ctx, p, off); err != nil {
			t.Error(err)
		} else if !bytes.Equal(p, want[off:off+int64(length)]) {
			t.Errorf("other data at %d", off)
		}
	}
	read(0, 4096)
	for reads.Load() < 10 && ctx.Err() == nil { // more than was asked for
		time.Sleep(time.Millisecond)
	}
	next := make(chan int64)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for off := range next {
				read(off, int(min(1<<20, size-off)))
			}
		})
	}
	for off := int64(0); off < size; off += 1 << 20 {
		next <- off
	}
	close(next)
	wg.Wait()
	if got, most := reads.Load(), int32(size/(256<<10)+2); got > most {
		t.Errorf("%d pieces were read, of %d", got, most)
	}
	r := testkit.Rand(2)
	for range 50 {
		off := int64(r.IntN(size/4096)) * 4096
		read(off, int(min(int64(1+r.IntN(200))*4096, size-off)))
	}
	fails.Store(true)
	if _, err := n.ReadAt(ctx, make([]byte, 4096), 0); err == nil {
		// The piece may have been read before: another one was not.
		_, err = n.ReadAt(ctx, make([]byte, size), 0)
		if err == nil {
			t.Error("errors are dropped")
		}
	}
}
