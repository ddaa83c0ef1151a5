package asif

import (
	"context"
	"io"
	"sync"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/clustertable"
	"github.com/cowl-disk/cowl/opts"
)

var desc = driver.Desc{
	Name:        "asif",
	Kind:        driver.KindFormat,
	Children:    []driver.ChildDesc{{Role: "file", Use: driver.UseMetadata}},
	Summary:     "Sparse images of macOS 26 (read only)",
	OpenOptions: opts.SchemaOf(struct{}{}),
}

type asifDriver struct{}

// New returns the driver "asif".
func New() driver.Driver { return asifDriver{} }

var (
	_ driver.Prober = asifDriver{}
	_ driver.Format = (*node)(nil)
)

// Desc implements driver.Driver.
func (asifDriver) Desc() *driver.Desc { return &desc }

// Probe implements driver.Prober.
func (asifDriver) Probe(head []byte, _ int64, _ string) int {
	if len(head) >= len(magic) && string(head[:len(magic)]) == magic {
		return 100
	}
	return 0
}

// Open implements driver.Driver.
func (asifDriver) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	if err := desc.OpenOptions.Decode(req.Options, &struct{}{}); err != nil {
		return nil, err
	}
	if req.Access.Write {
		return nil, driver.Errorf(driver.ErrReadOnly, "image is read-only")
	}
	head := make([]byte, headerSize)
	got, err := req.File.ReadAt(ctx, head, 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	l, err := decodeHeader(head[:got], req.File.Size())
	if err != nil {
		return nil, err
	}
	n := &node{layout: *l, file: req.File}
	n.tables = clustertable.NewCache(clustertable.Config{SliceSize: pageSize, Budget: 1 << 20, Lock: &sync.RWMutex{}})
	var sequence [2]uint64
	for i, off := range l.dirs {
		if sequence[i], err = n.word(ctx, off); err != nil {
			return nil, err
		}
	}
	n.dir = l.dirs[0]
	if sequence[1] > sequence[0] {
		n.dir = l.dirs[1]
	}
	return n, nil
}
