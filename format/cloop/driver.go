package cloop

import (
	"bytes"
	"context"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/chunks"
	"github.com/cowl-disk/cowl/opts"
)

var desc = driver.Desc{
	Name:        "cloop",
	Kind:        driver.KindFormat,
	Children:    []driver.ChildDesc{{Role: "file", Use: driver.UseMetadata}},
	Summary:     "Compressed loop images (read only)",
	OpenOptions: opts.SchemaOf(struct{}{}),
}

type cloopDriver struct{}

// New returns the driver "cloop".
func New() driver.Driver { return cloopDriver{} }

var _ driver.Prober = cloopDriver{}

// Desc implements driver.Driver.
func (cloopDriver) Desc() *driver.Desc { return &desc }

// script is what an image begins with. It is text that anything may begin with, which
// makes it a weak sign.
const script = "#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n"

// Probe implements driver.Prober.
func (cloopDriver) Probe(head []byte, _ int64, _ string) int {
	const weak = 2
	if len(head) >= len(script) && bytes.HasPrefix(head, []byte(script)) {
		return weak
	}
	return 0
}

// Open implements driver.Driver.
func (cloopDriver) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	if err := desc.OpenOptions.Decode(req.Options, &struct{}{}); err != nil {
		return nil, err
	}
	if req.Access.Write {
		return nil, driver.Errorf(driver.ErrReadOnly, "image is read-only")
	}
	h, err := readHeader(ctx, req.File)
	if err != nil {
		return nil, err
	}
	if err := h.checkOffsets(ctx, req.File); err != nil {
		return nil, err
	}
	n := &node{header: h, file: req.File, offsets: newOffsets()}
	n.chunks = chunks.NewReader(chunks.Config{Decode: n.decode, Budget: req.Env.Budget})
	return n, nil
}
