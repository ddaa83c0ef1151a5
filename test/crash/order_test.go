package crash

import (
	"context"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/ops"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// watched is a protocol whose only disk tells of every write before it happens.
type watched struct {
	disk    *mem.Disk
	onWrite func()
}

type watchedNode struct {
	*mem.Disk
	d *watched
}

func (d *watched) Desc() *driver.Desc {
	return &driver.Desc{Name: "watched", Kind: driver.KindProtocol, Schemes: []string{"watched"},
		OpenOptions: opts.SchemaOf(struct {
			Filename string `opt:"filename"`
		}{})}
}

func (d *watched) Open(context.Context, *driver.OpenRequest) (driver.Node, error) {
	return &watchedNode{d.disk, d}, nil
}

func (n *watchedNode) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	n.d.onWrite()
	return n.Disk.WriteAt(ctx, p, off)
}

// TestCommitFlushesFirst makes sure that an overlay is not touched before its
// contents are in the base durably.
func TestCommitFlushesFirst(t *testing.T) {
	ctx := t.Context()
	memory := mem.New().(*mem.Driver)
	base := &recorded{disk: mem.NewDisk(chainSize)}
	top := &watched{onWrite: func() {}}
	reg := block.NewRegistry(raw.New(), qcow2.New(), memory, base, top)
	err := block.Create(ctx, reg, block.CreateRequest{Filename: "mem:img", Format: "qcow2", Size: chainSize, Gate: driver.AllowAll,
		Options: opts.Dict{"backing_file": "recorded:x", "backing_fmt": "raw"}})
	if err != nil {
		t.Fatal(err)
	}
	top.disk = memory.Disk("img")
	img, err := block.Open(ctx, reg, block.Source{Filename: "watched:x", Format: "qcow2"},
		block.OpenOptions{Write: true, Unmap: true, Gate: driver.AllowAll, Chain: block.ChainUse{WriteBacking: true}})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(ctx)
	data := make([]byte, chainSize/2)
	testkit.Fill(testkit.Rand(1), data)
	if _, err := img.WriteAt(ctx, data, chainSize/4); err != nil {
		t.Fatal(err)
	}
	if err := img.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	touched := false
	top.onWrite = func() {
		if touched {
			return
		}
		touched = true
		events := base.rec.Events()
		written := int64(0)
		for _, e := range events {
			written += int64(len(e.Data))
		}
		if written < int64(len(data)) || events[len(events)-1].Kind != testkit.EventFlush {
			t.Errorf("the overlay is emptied after %d events of the base, %d bytes written", len(events), written)
		}
	}
	if err := ops.Commit(ctx, ops.CommitJob{Top: img, Base: img.Backing()}); err != nil {
		t.Fatal(err)
	}
	if !touched {
		t.Error("the overlay was not emptied")
	}
}
