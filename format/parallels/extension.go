package parallels

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/cowl-disk/cowl/block/driver"
)

// The format extension (section "Format Extension"): a cluster with features, and of those the
// dirty bitmaps.
const (
	extMagic     = 0xab234cef23dcea87
	extHeader    = 24 // magic and checksum
	featureHead  = 24
	featureEnd   = 0
	featureDirty = 0x20385fae252cb34a
	dirtyHeader  = 32

	// maxExtension bounds the cluster, whose bytes all count for the checksum.
	maxExtension = 16 << 20
	extNoun      = "the format extension"

	l1Zeroes = 0 // entries of bitmap tables that name no cluster
	l1Ones   = 1
)

// dirtyBitmap is a bitmap of the extension (section "Dirty bitmaps feature").
type dirtyBitmap struct {
	name        string
	granularity int64    // bytes
	l1          []uint64 // in sectors, for a cluster of the bitmap each

	mu    sync.Mutex
	last  []byte // what was read last, never written to
	first int64  // the number of the first bit in it
}

// readExtension reads the bitmaps of the extension that the header names.
func readExtension(ctx context.Context, file driver.Storage, h *header, budget *driver.Budget) ([]*dirtyBitmap, error) {
	cluster := h.cluster()
	if cluster > maxExtension {
		return nil, driver.Errorf(driver.ErrUnsupported, "the format extension has %d bytes", cluster)
	}
	if err := budget.Table(extNoun, cluster); err != nil {
		return nil, err
	}
	defer budget.Release(cluster)
	b := make([]byte, cluster)
	if n, err := file.ReadAt(ctx, b, int64(h.extOff)*sectorSize); err != nil && (err != io.EOF || n < len(b)) {
		return nil, driver.Errorf(driver.ErrCorrupt, "failed to read Format Extension cluster: %w", err)
	}
	le := binary.LittleEndian
	if magic := le.Uint64(b); magic != extMagic {
		return nil, corrupt("wrong parallels Format Extension magic: 0x%x, expected: 0x%x", magic, uint64(extMagic))
	}
	if sum := md5.Sum(b[extHeader:]); !bytes.Equal(sum[:], b[8:extHeader]) {
		return nil, corrupt("wrong checksum in Format Extension header: the extension is corrupted")
	}
	list, err := decodeFeatures(b[extHeader:], h)
	if err == nil {
		err = checkPlaces(list, file.Size(), cluster)
	}
	return list, err
}

// decodeFeatures decodes the features behind the header of an extension. Those that are not known
// are passed over.
func decodeFeatures(b []byte, h *header) ([]*dirtyBitmap, error) {
	le := binary.LittleEndian
	var list []*dirtyBitmap
	for {
		if len(b) < featureHead {
			return nil, corrupt("can not read feature header, as remaining bytes (%d) in Format Extension is less than Feature header size (%d)", len(b), featureHead)
		}
		magic, size := le.Uint64(b), int64(le.Uint32(b[16:]))
		b = b[featureHead:]
		switch {
		case magic == featureEnd:
			return list, nil
		case size > int64(len(b)):
			return nil, corrupt("feature data_size exceedes Format Extension cluster")
		case magic == featureDirty:
			d, err := decodeDirty(b[:size], h)
			if err != nil {
				return nil, err
			}
			list = append(list, d)
		}
		b = b[min(roundUp(size, 8), int64(len(b))):]
	}
}

func decodeDirty(b []byte, h *header) (*dirtyBitmap, error) {
	if len(b) < dirtyHeader {
		return nil, corrupt("too small Bitmap Feature area in Parallels Format Extension: %d bytes, expected at least %d bytes", len(b), dirtyHeader)
	}
	le := binary.LittleEndian
	sectors, id, granularity, l1 := le.Uint64(b), b[8:24], int64(le.Uint32(b[24:]))*sectorSize, int64(le.Uint32(b[28:]))
	b = b[dirtyHeader:]
	if sectors != h.sectors {
		return nil, corrupt("bitmap size (in sectors) %d differs from disk size in sectors %d", sectors, h.sectors)
	}
	if l1 > int64(len(b))/8 {
		return nil, corrupt("bitmaps feature corrupted: l1 table exceeds extension data_size")
	}
	if granularity == 0 || granularity&(granularity-1) != 0 || granularity > 2<<30 {
		return nil, corrupt("the granularity of a bitmap is %d bytes", granularity)
	}
	bits := roundUp(int64(sectors)*sectorSize, granularity) / granularity
	if want := roundUp(roundUp(bits, 64)/8, h.cluster()) / h.cluster(); l1 != want {
		return nil, corrupt("bitmap table size %d does not correspond to bitmap size and cluster size. Expected %d", l1, want)
	}
	d := &dirtyBitmap{name: fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:]), granularity: granularity}
	for i := range l1 {
		d.l1 = append(d.l1, le.Uint64(b[i*8:]))
	}
	return d, nil
}

// bitmapBuffer is how much of a bitmap is read at once, in bytes.
const bitmapBuffer = 64 << 10

// run returns how many bits from bit on, before end, are the same as it, and whether they are set.
func (d *dirtyBitmap) run(ctx context.Context, file driver.Storage, cluster, bit, end int64) (n int64, set bool, err error) {
	for at := bit; at < end; {
		stop := min(end, (at/(cluster*8)+1)*cluster*8)
		entry := d.l1[at/(cluster*8)]
		here, to := entry == l1Ones, stop
		if entry != l1Zeroes && entry != l1Ones {
			b, first, err := d.piece(ctx, file, cluster, at)
			if err != nil {
				return 0, false, err
			}
			here, to = runIn(b, at-first, min(stop-first, int64(len(b))*8))
			to += first
		}
		if at == bit {
			set = here
		} else if here != set {
			return at - bit, set, nil
		}
		if at = to; at < stop && at%(bitmapBuffer*8) != 0 {
			return at - bit, set, nil // the next bit is another
		}
	}
	return end - bit, set, nil
}

// runIn returns the state of bit at in b, and where it ends or end.
func runIn(b []byte, at, end int64) (set bool, to int64) {
	is := func(i int64) bool { return b[i/8]>>(i%8)&1 != 0 }
	set = is(at)
	same := byte(0)
	if set {
		same = 0xff
	}
	for to = at + 1; to < end; {
		switch {
		case to%8 == 0 && end-to >= 8 && b[to/8] == same:
			to += 8
		case is(to) == set:
			to++
		default:
			return set, to
		}
	}
	return set, end
}

// piece returns the piece of the bitmap that has a bit, which is in a cluster of its own, and the number of its first bit.
func (d *dirtyBitmap) piece(ctx context.Context, file driver.Storage, cluster, bit int64) ([]byte, int64, error) {
	in := bit / 8 % cluster / bitmapBuffer * bitmapBuffer
	first := bit/8/cluster*cluster*8 + in*8
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.last != nil && d.first == first {
		return d.last, first, nil
	}
	b := make([]byte, min(bitmapBuffer, cluster-in))
	if _, err := file.ReadAt(ctx, b, int64(d.l1[bit/8/cluster])*sectorSize+in); err != nil {
		return nil, 0, driver.Errorf(nil, "failed to read bitmap data cluster: %w", err)
	}
	d.last, d.first = b, first
	return b, first, nil
}

// checkPlaces refuses bitmaps whose clusters lie behind the end of the file or over each other: reading them
// takes no longer than reading the file.
func checkPlaces(list []*dirtyBitmap, size, cluster int64) error {
	var all []uint64
	for _, d := range list {
		for _, e := range d.l1 {
			if e == l1Zeroes || e == l1Ones {
				continue
			}
			if size < cluster || e > uint64(size-cluster)/sectorSize {
				return corrupt("failed to read bitmap data cluster: it is at sector %d, behind the end of the file", e)
			}
			all = append(all, e)
		}
	}
	slices.Sort(all)
	for i := 1; i < len(all); i++ {
		if all[i]-all[i-1] < uint64(cluster/sectorSize) {
			return corrupt("two clusters of bitmaps lie at sectors %d and %d", all[i-1], all[i])
		}
	}
	return nil
}
