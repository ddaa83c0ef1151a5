package bochs

import (
	"context"
	"io"
	"strings"
	"sync"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/clustertable"
	"github.com/cowl-disk/cowl/opts"
)

var desc = driver.Desc{
	Name: "bochs",
	Kind: driver.KindFormat,
	Children: []driver.ChildDesc{
		{Role: "file", Use: driver.UseMetadata},
		{Role: "backing", Use: driver.UseBacking, Optional: true},
	},
	Summary:     "Disks of the emulator Bochs (read only)",
	OpenOptions: opts.SchemaOf(struct{}{}),
}

type bochsDriver struct{}

// New returns the driver "bochs".
func New() driver.Driver { return bochsDriver{} }

var _ driver.Prober = bochsDriver{}

// Desc implements driver.Driver.
func (bochsDriver) Desc() *driver.Desc { return &desc }

// Probe implements driver.Prober.
func (bochsDriver) Probe(head []byte, _ int64, _ string) int {
	if isRedolog(head) || isSparse(head) {
		return 100
	}
	return 0
}

// suffix is what Bochs adds to the name of a disk to name the redolog on it.
const suffix = ".redolog"

// Open implements driver.Driver.
func (bochsDriver) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	if err := desc.OpenOptions.Decode(req.Options, &struct{}{}); err != nil {
		return nil, err
	}
	if req.Access.Write {
		return nil, driver.Errorf(driver.ErrReadOnly, "image is read-only")
	}
	head := make([]byte, redologSize)
	got, err := req.File.ReadAt(ctx, head, 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	l, err := decodeHeader(head[:got])
	if err != nil {
		return nil, err
	}
	if end := l.table + l.entries*entrySize; end > req.File.Size() {
		return nil, driver.Errorf(driver.ErrCorrupt, "the table of %d entries at offset %d reaches beyond the end of the file (%d bytes)", l.entries, l.table, req.File.Size())
	}
	n := &node{layout: l, file: req.File}
	if l.overlay {
		base, ok := strings.CutSuffix(req.Name[strings.LastIndexByte(req.Name, '/')+1:], suffix)
		switch {
		case ok && base != "":
			n.backing = &driver.BackingRef{Filename: base}
		case !req.BackingGiven:
			return nil, driver.Errorf(driver.ErrUnsupported, "the redolog does not name the disk that it belongs to: give it as the option backing.file.filename, or name the redolog DISK%s", suffix)
		}
	}
	n.tables = clustertable.NewCache(clustertable.Config{SliceSize: pageSize, Budget: 1 << 20, Lock: &sync.RWMutex{}})
	bitmap := int64(sectorSize)
	for bitmap < l.unit/sectorSize/8 {
		bitmap *= 2
	}
	n.bitmaps = clustertable.NewCache(clustertable.Config{SliceSize: bitmap, Budget: 1 << 20, Lock: &sync.RWMutex{}})
	return n, nil
}
