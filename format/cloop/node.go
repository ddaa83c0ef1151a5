package cloop

import (
	"context"
	"encoding/binary"
	"io"
	"sync"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/chunks"
	"github.com/cowl-disk/cowl/internal/clustertable"
)

// node is an open image. Only its caches change after Open.
type node struct {
	header
	file    driver.Storage
	offsets *clustertable.Cache
	chunks  *chunks.Reader
	zlib    chunks.Zlib
}

// newOffsets returns a cache of pages of the table of offsets.
func newOffsets() *clustertable.Cache {
	return clustertable.NewCache(clustertable.Config{SliceSize: 64 << 10, Budget: 2 << 20, Lock: &sync.RWMutex{}})
}

// Size implements driver.Node.
func (n *node) Size() int64 { return n.blocks * n.blockSize }

// Limits implements driver.Node.
func (n *node) Limits() driver.Limits { return driver.Limits{RequestAlignment: sectorSize} }

// Traits implements driver.Node.
func (n *node) Traits() driver.Traits { return driver.Traits{FixedSize: true} }

// Flush implements driver.Node.
func (n *node) Flush(context.Context) error { return nil }

// Close implements driver.Node.
func (n *node) Close(context.Context) error {
	n.chunks.Close()
	return nil
}

// Map implements driver.Format: all blocks are compressed.
func (n *node) Map(_ context.Context, off, length int64) (driver.Extent, error) {
	length = min(length, n.Size()-off)
	if length <= 0 {
		return driver.Extent{}, nil
	}
	return driver.Extent{Length: length, Kind: driver.ExtentEncoded, Compressed: true}, nil
}

// ReadEncoded implements driver.Format.
func (n *node) ReadEncoded(ctx context.Context, p []byte, off int64) error {
	return n.chunks.ReadAt(ctx, p, off, n.find)
}

// find returns the block that holds a guest offset.
func (n *node) find(ctx context.Context, off int64) (chunks.Chunk, error) {
	i := off / n.blockSize
	from, err := n.offset(ctx, i)
	if err != nil {
		return chunks.Chunk{}, err
	}
	to, err := n.offset(ctx, i+1)
	if err == nil && (from < 0 || to < from || to-from > maxEncoded) { // the file has changed since Open
		err = driver.Errorf(driver.ErrCorrupt, "block %d lies between the offsets %d and %d", i, from, to)
	}
	return chunks.Chunk{Offset: i * n.blockSize, Length: n.blockSize, File: n.file, Host: from, Size: to - from}, err
}

// offset returns entry i of the table.
func (n *node) offset(ctx context.Context, i int64) (v int64, err error) {
	at := i * entrySize
	in := at % n.offsets.SliceSize()
	err = n.offsets.View(ctx, n.file, func() int64 { return tableStart + at - in }, func(s *clustertable.Slice) {
		v = int64(binary.BigEndian.Uint64(s.Data[in:]))
	})
	return v, err
}

// decode implements chunks.Decoder. A stream of less than a block is damaged.
func (n *node) decode(dst []byte, in *chunks.Input, _ chunks.Chunk) error {
	got, err := n.zlib.Decode(dst, in)
	if err == nil && got < len(dst) {
		err = io.ErrUnexpectedEOF
	}
	return err
}
