package qcow2

import (
	"bytes"
	"context"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// eventLog notes events, and how many writes came before each.
type eventLog struct {
	driver.Storage
	names  []string
	writes int
	at     map[string]int // of the first
}

func (l *eventLog) RaiseEvent(name string) {
	if _, ok := l.at[name]; !ok {
		l.at[name] = l.writes
	}
	l.names = append(l.names, name)
}

func (l *eventLog) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	l.writes++
	return l.Storage.WriteAt(ctx, p, off)
}

// TestEvents: what test suites name happens in the order in which the file sees it.
func TestEvents(t *testing.T) {
	ctx := context.Background()
	_, disk, _ := memImage(t, opts.Dict{"cluster_size": "512", "refcount_bits": "64"})
	log := &eventLog{Storage: disk, at: map[string]int{}}
	n, err := new(Driver).Open(ctx, &driver.OpenRequest{Name: "x", File: log, Env: testEnv(), Access: driver.Access{Write: true}})
	if err != nil {
		t.Fatal(err)
	}
	im := n.(*image)
	write := func(off int64) {
		t.Helper()
		w, err := im.Allocate(ctx, off, 100)
		if err == nil {
			_, err = w.Child.WriteAt(ctx, make([]byte, w.Head+w.Length+w.Tail), w.HostOffset-w.Head)
		}
		if err == nil && w.Pending != nil {
			err = w.Pending.Commit(ctx)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := im.Resize(ctx, 64<<20, driver.ResizeOptions{}); err != nil {
		t.Fatal(err)
	}
	for off := int64(0); off < 3<<20; off += 512 {
		write(off)
	}
	enc, ok, err := im.Encode(nil, bytes.Repeat([]byte{1}, 512))
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	for _, err := range []error{im.WriteEncoded(ctx, 8<<20, enc), im.Flush(ctx), im.ReadEncoded(ctx, make([]byte, 512), 8<<20),
		im.Discard(ctx, 0, 512), im.Flush(ctx), im.MakeEmpty(ctx), im.Close(ctx)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"reftable_load", "refblock_load", "cluster_alloc", "l2_alloc_write", "cow_read", "cow_write", "write_aio", "refblock_alloc",
		"refblock_alloc_write", "cluster_alloc_bytes", "write_compressed", "l2_update_compressed", "read_compressed", "refblock_update_part", "refblock_alloc_hookup",
		"flush_to_os", "flush_to_disk", "l2_update", "l1_update", "cluster_free", "l1_grow_alloc_table", "l1_grow_write_table", "l1_grow_activate_table",
		"reftable_grow", "refblock_alloc_write_blocks", "refblock_alloc_write_table", "refblock_alloc_switch_table", "empty_image_prepare", "reftable_update"} {
		if _, ok := log.at[name]; !ok {
			t.Errorf("%s was not raised", name)
		}
	}
	order := []string{"l2_alloc_write", "write_aio", "l2_update", "l1_update", "empty_image_prepare", "reftable_update"}
	for i := 1; i < len(order); i++ {
		if log.at[order[i-1]] >= log.at[order[i]] {
			t.Errorf("%s after %d writes, %s after %d", order[i-1], log.at[order[i-1]], order[i], log.at[order[i]])
		}
	}
}
