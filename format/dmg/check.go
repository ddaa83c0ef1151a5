package dmg

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/bufpool"
)

// checkBuffer is how much is read at a time.
const checkBuffer = 1 << 20

// Check implements driver.Checker: it reads the whole image and compares it with the
// checksums in it: those of the tables, that of them all, and that of the data as they
// are in the file. Nothing can be repaired.
func (n *node) Check(ctx context.Context, _ driver.CheckFix, report func(string), progress func(done, total int64)) (*driver.CheckResult, error) {
	res := &driver.CheckResult{}
	if progress == nil {
		progress = func(int64, int64) {}
	}
	// wrong counts what is damaged; other errors end the check.
	wrong := func(what string, err error) error {
		if err != nil && !errors.Is(err, driver.ErrCorrupt) && !errors.Is(err, driver.ErrTruncated) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("%s: %w", what, err)
		}
		res.Corruptions++
		if err != nil {
			report(fmt.Sprintf("ERROR: %s: %v", what, err))
		} else {
			report(fmt.Sprintf("ERROR: %s does not have the checksum that the image says", what))
		}
		return nil
	}
	done := int64(0)
	master := crc32.NewIEEE()
	for i := range n.runs.tables {
		t := &n.runs.tables[i]
		var b [4]byte
		be.PutUint32(b[:], t.sum.value)
		master.Write(b[:])
		sum, err := n.sumTable(ctx, t)
		if err == nil && (t.sum.kind != checksumCRC32 || sum == t.sum.value) {
			done += t.count
			progress(min(done, n.trailer.sectors), n.trailer.sectors)
			continue
		}
		if err := wrong(fmt.Sprintf("table %d (%d sectors at %d)", i, t.count, t.sector), err); err != nil {
			return nil, err
		}
	}
	if s := n.trailer.masterSum; s.kind == checksumCRC32 && s.value != master.Sum32() {
		if err := wrong("the list of tables", nil); err != nil {
			return nil, err
		}
	}
	if s := n.trailer.dataSum; s.kind == checksumCRC32 {
		sum, err := n.sumData(ctx)
		if err != nil || sum != s.value {
			if err := wrong("the data of the file", err); err != nil {
				return nil, err
			}
		}
	}
	return res, nil
}

// sumTable reads the sectors of a table and returns their checksum, which does not
// count those that no file system uses.
func (n *node) sumTable(ctx context.Context, t *table) (uint32, error) {
	buf := bufpool.Get(checkBuffer)
	defer bufpool.Put(buf)
	sum := uint32(0)
	for sector, end := t.sector, min(t.sector+t.count, n.trailer.sectors); sector < end; {
		r := n.runs.find(sector)
		if r == nil {
			return 0, driver.Errorf(driver.ErrCorrupt, "no chunk holds sector %d", sector)
		}
		last := min(r.sector+r.count, end)
		if r.kind == typeIgnore {
			sector = last
			continue
		}
		for sector < last {
			p := buf[:min(last-sector, checkBuffer/sectorSize)*sectorSize]
			if err := n.read(ctx, p, sector*sectorSize); err != nil {
				return 0, err
			}
			sum = crc32.Update(sum, crc32.IEEETable, p)
			sector += int64(len(p)) / sectorSize
		}
	}
	return sum, nil
}

// read fills p from a range within one run.
func (n *node) read(ctx context.Context, p []byte, off int64) error {
	r := n.runs.find(off / sectorSize)
	switch {
	case r.isZero():
		clear(p)
		return nil
	case r.kind != typeRaw:
		return n.ReadEncoded(ctx, p, off)
	}
	m, err := n.data.ReadAt(ctx, p, r.pos+off-r.sector*sectorSize)
	if m < len(p) && (err == nil || err == io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if m == len(p) {
		err = nil
	}
	return err
}

// sumData returns the checksum of the data as they are in the file.
func (n *node) sumData(ctx context.Context) (uint32, error) {
	buf := bufpool.Get(checkBuffer)
	defer bufpool.Put(buf)
	size := n.data.Size()
	if n.trailer.segments <= 1 {
		size = n.trailer.length
	}
	sum := uint32(0)
	for off := int64(0); off < size; {
		p := buf[:min(int64(len(buf)), size-off)]
		if m, err := n.data.ReadAt(ctx, p, off); m < len(p) {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
		sum = crc32.Update(sum, crc32.IEEETable, p)
		off += int64(len(p))
	}
	return sum, nil
}
