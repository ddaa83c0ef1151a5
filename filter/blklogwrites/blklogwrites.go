// Package blklogwrites is the filter that records every change of a disk in a log, in
// the format of the kernel's dm-log-writes target
// (Documentation/admin-guide/device-mapper/log-writes.rst), so that the tools for that
// can replay them.
//
// The log is a super block, one sector, and then the entries: a sector with the header
// and, for a write, the data. Numbers are little endian; sectors are those of the log.
//
// Lock order: node.mu alone. It is held while an entry is written, so that entries
// are in the log in the order of the changes.
package blklogwrites

import (
	"context"
	"encoding/binary"
	"math/bits"
	"sync"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/filter/pass"
	"github.com/cowl-disk/cowl/opts"
)

// The log's format.
const (
	logMagic   = 0x6a736677736872
	logVersion = 1

	superSize = 28 // magic, version, number of entries, sector size
	entrySize = 32 // sector, number of sectors, flags, length of the data

	flagFlush   = 1 << 0
	flagDiscard = 1 << 2
)

type options struct {
	Append     bool  `opt:"log-append" help:"Append to an existing log"`
	SectorSize int64 `opt:"log-sector-size" type:"size" default:"512" help:"Log sector size"`
	Interval   int64 `opt:"log-super-update-interval" type:"number" default:"4096" help:"Log superblock update interval (# of write requests)"`
}

var desc = driver.Desc{
	Name: "blklogwrites",
	Kind: driver.KindFilter,
	Children: []driver.ChildDesc{
		{Role: pass.Role, Use: driver.UseFiltered},
		{Role: "log", Use: driver.UseMetadata},
	},
	Summary:     "Records changes in a log",
	OpenOptions: opts.SchemaOf(options{}),
}

type blklogwrites struct{}

// New returns the driver "blklogwrites".
func New() driver.Driver { return blklogwrites{} }

// Desc implements driver.Driver.
func (blklogwrites) Desc() *driver.Desc { return &desc }

// Open implements driver.Driver.
func (blklogwrites) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	var o options
	if err := desc.OpenOptions.Decode(req.Options, &o); err != nil {
		return nil, err
	}
	if o.SectorSize < 512 || o.SectorSize >= 1<<23 || bits.OnesCount64(uint64(o.SectorSize)) != 1 {
		return nil, driver.Errorf(driver.ErrInvalid, "invalid log sector size %d", o.SectorSize)
	}
	if o.Interval < 1 {
		return nil, driver.Errorf(driver.ErrInvalid, "invalid log superblock update interval %d", o.Interval)
	}
	n := &node{Node: pass.Node{Child: req.File}, log: req.Child("log"), sector: o.SectorSize, interval: o.Interval, next: 1, write: req.Access.Write}
	if o.Append {
		if err := n.load(ctx); err != nil {
			return nil, err
		}
	}
	return n, nil
}

type node struct {
	pass.Node
	log      driver.Storage
	sector   int64
	interval int64
	write    bool

	mu      sync.Mutex
	next    int64 // sector of the next entry
	entries uint64
}

// Limits implements driver.Node: changes are logged in whole sectors.
func (n *node) Limits() driver.Limits {
	l := n.Node.Limits()
	l.RequestAlignment = max(l.RequestAlignment, n.sector)
	return l
}

// load finds the end of an existing log.
func (n *node) load(ctx context.Context) error {
	var b [superSize]byte
	if _, err := n.log.ReadAt(ctx, b[:], 0); err != nil {
		return driver.Errorf(driver.ErrInvalid, "could not read log superblock: %w", err)
	}
	if binary.LittleEndian.Uint64(b[0:]) != logMagic {
		return driver.Errorf(driver.ErrInvalid, "invalid log superblock magic")
	}
	if v := binary.LittleEndian.Uint64(b[8:]); v != logVersion {
		return driver.Errorf(driver.ErrInvalid, "unsupported log version %d", v)
	}
	if s := int64(binary.LittleEndian.Uint32(b[24:])); s != n.sector {
		return driver.Errorf(driver.ErrInvalid, "invalid log sector size %d", s)
	}
	entries := binary.LittleEndian.Uint64(b[16:])
	for range entries {
		var e [entrySize]byte
		if _, err := n.log.ReadAt(ctx, e[:], n.next*n.sector); err != nil {
			return driver.Errorf(driver.ErrCorrupt, "failed to read log entry %d: %w", n.entries, err)
		}
		flags, data := binary.LittleEndian.Uint64(e[16:]), binary.LittleEndian.Uint64(e[8:])
		if flags&flagDiscard != 0 {
			data = 0
		}
		if data > uint64(n.log.Size()/n.sector) {
			return driver.Errorf(driver.ErrCorrupt, "log entry %d at sector %d ends beyond the end of the log", n.entries, n.next)
		}
		n.next += 1 + int64(data)
		n.entries++
	}
	return nil
}

// record writes an entry for a change of length bytes at off. data are nil for changes
// without; zeroes are logged as data.
func (n *node) record(ctx context.Context, off, length int64, flags uint64, data []byte) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	sectors := (length + n.sector - 1) / n.sector
	b := make([]byte, n.sector)
	binary.LittleEndian.PutUint64(b[0:], uint64(off/n.sector))
	binary.LittleEndian.PutUint64(b[8:], uint64(sectors))
	binary.LittleEndian.PutUint64(b[16:], flags)
	at := n.next * n.sector
	if _, err := n.log.WriteAt(ctx, b, at); err != nil {
		return err
	}
	used := int64(0)
	if flags&flagDiscard == 0 && length > 0 {
		if err := n.recordData(ctx, at+n.sector, length, data); err != nil {
			return err
		}
		used = sectors
	}
	n.next += 1 + used
	n.entries++
	if flags&flagFlush != 0 || n.entries%uint64(n.interval) == 0 {
		return n.super(ctx)
	}
	return nil
}

func (n *node) recordData(ctx context.Context, at, length int64, data []byte) error {
	if data != nil {
		_, err := n.log.WriteAt(ctx, data, at)
		return err
	}
	err := pass.WriteZeroes(ctx, n.log, at, length, 0)
	if err != nil {
		_, err = n.log.WriteAt(ctx, make([]byte, length), at)
	}
	return err
}

// super writes the super block. mu is held.
func (n *node) super(ctx context.Context) error {
	b := make([]byte, n.sector)
	binary.LittleEndian.PutUint64(b[0:], logMagic)
	binary.LittleEndian.PutUint64(b[8:], logVersion)
	binary.LittleEndian.PutUint64(b[16:], n.entries)
	binary.LittleEndian.PutUint32(b[24:], uint32(n.sector))
	if _, err := n.log.WriteAt(ctx, b, 0); err != nil {
		return err
	}
	return n.log.Flush(ctx)
}

// WriteAt implements driver.Storage.
func (n *node) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	m, err := n.Node.WriteAt(ctx, p, off)
	if err == nil {
		err = n.record(ctx, off, int64(len(p)), 0, p)
	}
	return m, err
}

// WriteZeroes implements driver.ZeroWriter.
func (n *node) WriteZeroes(ctx context.Context, off, length int64, flags driver.ZeroFlags) error {
	if err := n.Node.WriteZeroes(ctx, off, length, flags); err != nil {
		return err
	}
	return n.record(ctx, off, length, 0, nil)
}

// Discard implements driver.Discarder.
func (n *node) Discard(ctx context.Context, off, length int64) error {
	if err := n.Node.Discard(ctx, off, length); err != nil {
		return err
	}
	return n.record(ctx, off, length, flagDiscard, nil)
}

// Flush implements driver.Node.
func (n *node) Flush(ctx context.Context) error {
	if err := n.Node.Flush(ctx); err != nil || !n.write {
		return err
	}
	return n.record(ctx, 0, 0, flagFlush, nil)
}
