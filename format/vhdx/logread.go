package vhdx

import (
	"cmp"
	"context"
	"hash/crc32"
	"slices"

	"github.com/cowl-disk/cowl/block/driver"
)

// The log (2.3): entries of whole sectors of 4 KiB in a ring. An entry has a header,
// descriptors, and a sector of data for each descriptor of data.
const (
	logSector  = 4096
	logHead    = 64
	logDesc    = 32
	entryMagic = "loge"
	descMagic  = "desc"
	zeroMagic  = "zero"
	dataMagic  = "data"

	offEntryLength = 8
	offTail        = 12
	offEntrySeq    = 16
	offDescriptors = 24
	offEntryGUID   = 32
	offFlushed     = 48
	offLast        = 56

	changeCost = 128 // bytes that a change takes in memory, with what growing the list leaves behind

	maxZeroes = 1 << 16 // descriptors of zeroes in a log that is replayed
)

// change is what a descriptor has written: a sector, or zeroes.
type change struct {
	off, zeroes int64 // zeroes: how many; 0 for a sector
	from        int64 // where the sector lies in the log
	lead        [8]byte
	trail       [4]byte
}

// entry is a valid entry of the log.
type entry struct {
	off, length   int64 // in the log
	tail          int64
	sequence      uint64
	flushed, last int64 // lengths of the file
	changes       []change
}

// ring reads the log, whose end is followed by its begin.
type ring struct {
	file        driver.Storage
	off, length int64
	scratch     []byte // of entry.read

	budget   *driver.Budget
	reserved int64 // bytes that the budget counts
	counted  int64 // of them, those that are used
}

// count counts memory for what was found.
func (r *ring) count(n int64) error {
	const step = 64 << 10
	if r.counted += n; r.counted <= r.reserved {
		return nil
	}
	if err := r.budget.Table("the log", step); err != nil {
		return err
	}
	r.reserved += step
	return nil
}

// release gives memory back that the budget counts.
func (r *ring) release() {
	r.budget.Release(r.reserved)
	r.reserved, r.counted = 0, 0
}

func (r *ring) readAt(ctx context.Context, p []byte, at int64) error {
	for len(p) > 0 {
		at %= r.length
		n := min(int64(len(p)), r.length-at)
		if err := readAt(ctx, r.file, p[:n], r.off+at); err != nil {
			return err
		}
		p, at = p[n:], at+n
	}
	return nil
}

// activeSequence returns the entries that must be replayed, oldest first: those from the
// tail of the newest entry for which all of them are whole (2.3.3).
func activeSequence(ctx context.Context, r *ring, id guid) ([]*entry, error) {
	heads, err := findEntries(ctx, r, id)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(heads, func(a, b *entry) int { return cmp.Compare(b.sequence, a.sequence) })
	at := map[int64]*entry{}
	for _, e := range heads {
		at[e.off] = e
	}
	valid := map[int64]bool{}
	whole := func(e *entry) (bool, error) {
		ok, known := valid[e.off]
		if known {
			return ok, nil
		}
		ok, err := e.read(ctx, r)
		valid[e.off] = ok
		return ok, err
	}
	ends := map[*entry]uint64{} // of those that one was seen to follow: the number that is missing
	for _, head := range heads {
		list := []*entry{}
		e, want := at[head.tail], uint64(0)
		for ; ; e = at[(e.off+e.length)%r.length] {
			ok := e != nil && (want == 0 || e.sequence == want) && e.sequence <= head.sequence && (ends[e] == 0 || head.sequence < ends[e])
			if ok {
				if ok, err = whole(e); err != nil {
					return nil, err
				}
			}
			if !ok {
				break
			}
			list = append(list, e)
			if e == head {
				return list, nil
			}
			want = e.sequence + 1
		}
		for _, e := range list {
			ends[e] = want
		}
	}
	return nil, nil
}

// findEntries returns what has the header of an entry.
func findEntries(ctx context.Context, r *ring, id guid) ([]*entry, error) {
	const chunk = 256 << 10
	var list []*entry
	buf := make([]byte, chunk)
	for pos := int64(0); pos < r.length; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		x, err := r.file.Map(ctx, r.off+pos, r.length-pos)
		if err != nil {
			return nil, err
		}
		if x.Kind == driver.ExtentEOF {
			break
		}
		if skip := x.Length &^ (logSector - 1); x.Kind != driver.ExtentData && skip > 0 {
			pos += skip
			continue
		}
		b := buf[:min(chunk, r.length-pos)]
		if err := readAt(ctx, r.file, b, r.off+pos); err != nil {
			return nil, err
		}
		for ; len(b) > 0; b, pos = b[logSector:], pos+logSector {
			if string(b[:4]) != entryMagic || guid(b[offEntryGUID:offEntryGUID+16]) != id {
				continue
			}
			e := &entry{off: pos, length: int64(le.Uint32(b[offEntryLength:])), tail: int64(le.Uint32(b[offTail:])), sequence: le.Uint64(b[offEntrySeq:])}
			if e.length == 0 || e.length%logSector != 0 || e.length > r.length || e.tail%logSector != 0 || e.tail >= r.length || e.sequence == 0 {
				continue
			}
			if err := r.count(256); err != nil {
				return nil, err
			}
			list = append(list, e)
		}
	}
	return list, nil
}

// read reads an entry and says whether it is whole. It ends at the first sector that is not
// what it should be.
func (e *entry) read(ctx context.Context, r *ring) (ok bool, err error) {
	if r.scratch == nil {
		r.scratch = make([]byte, logSector)
	}
	b := r.scratch
	zeroes := 0
	defer func() {
		if !ok {
			r.count(-int64(len(e.changes)) * changeCost)
			e.changes = nil
		}
	}()
	if err := r.readAt(ctx, b, e.off); err != nil {
		return false, err
	}
	n := int64(le.Uint32(b[offDescriptors:]))
	e.flushed, e.last = int64(min(le.Uint64(b[offFlushed:]), 1<<62)), int64(min(le.Uint64(b[offLast:]), 1<<62))
	head := roundUp(logHead+n*logDesc, logSector)
	if head > e.length {
		return false, nil
	}
	want := le.Uint32(b[offChecksum:])
	le.PutUint32(b[offChecksum:], 0)
	sum := crc32.Update(0, castagnoli, b)
	from := head
	for i, at := int64(0), int64(logHead); i < n; i, at = i+1, at+logDesc {
		if at == logSector {
			if err := r.readAt(ctx, b, e.off+roundUp(logHead+i*logDesc, logSector)); err != nil {
				return false, err
			}
			sum, at = crc32.Update(sum, castagnoli, b), 0
		}
		d := b[at:]
		c := change{off: int64(min(le.Uint64(d[16:]), 1<<62))}
		if le.Uint64(d[24:]) != e.sequence || c.off%logSector != 0 {
			return false, nil
		}
		switch string(d[:4]) {
		case zeroMagic:
			c.zeroes = int64(min(le.Uint64(d[8:]), 1<<62))
			if c.zeroes%logSector != 0 {
				return false, nil
			}
			if c.zeroes == 0 {
				continue
			}
			if zeroes++; zeroes > maxZeroes {
				return false, tooManyZeroes(zeroes)
			}
		case descMagic:
			copy(c.trail[:], d[4:])
			copy(c.lead[:], d[8:])
			c.from = e.off + from
			from += logSector
		default:
			return false, nil
		}
		if err := r.count(changeCost); err != nil {
			return false, err
		}
		e.changes = append(e.changes, c)
	}
	if from != e.length {
		return false, nil
	}
	for at := head; at < e.length; at += logSector {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		if err := r.readAt(ctx, b, e.off+at); err != nil {
			return false, err
		}
		if string(b[:4]) != dataMagic || le.Uint32(b[4:]) != uint32(e.sequence>>32) || le.Uint32(b[logSector-4:]) != uint32(e.sequence) {
			return false, nil
		}
		sum = crc32.Update(sum, castagnoli, b)
	}
	return sum == want, nil
}

// sector returns what a change writes.
func (c *change) sector(ctx context.Context, r *ring) ([]byte, error) {
	b := make([]byte, logSector)
	if err := r.readAt(ctx, b, c.from); err != nil {
		return nil, err
	}
	copy(b, c.lead[:])
	copy(b[logSector-4:], c.trail[:])
	return b, nil
}

// replayed is a log that must be replayed.
type replayed struct {
	ring    ring
	entries []*entry
	size    int64 // of the file afterwards
}

// findLog returns the log that h names, nil if nothing must be replayed.
func findLog(ctx context.Context, file driver.Storage, h *header, budget *driver.Budget) (*replayed, error) {
	if h.log == (guid{}) || h.logLength == 0 {
		return nil, nil
	}
	p := &replayed{ring: ring{file: file, off: h.logOffset, length: h.logLength, budget: budget}, size: file.Size()}
	var err error
	if p.entries, err = activeSequence(ctx, &p.ring, h.log); err == nil && len(p.entries) > 0 {
		err = p.check(file)
	}
	if err != nil || len(p.entries) == 0 {
		p.ring.release()
		return nil, err
	}
	return p, nil
}

// check refuses what no log can have.
func (p *replayed) check(file driver.Storage) error {
	zeroes := 0
	for _, e := range p.entries {
		if e.flushed > file.Size() {
			return corrupt("the file has %d bytes, and had %d when the log was written: it has been cut off", file.Size(), e.flushed)
		}
		p.size = max(p.size, e.last)
		for _, c := range e.changes {
			if c.zeroes > 0 {
				zeroes++
			}
		}
	}
	if zeroes > maxZeroes {
		return tooManyZeroes(zeroes)
	}
	if p.size > 2*maxDisk {
		return corrupt("a file of %d bytes, as the log has it, cannot be", p.size)
	}
	for _, e := range p.entries {
		for _, c := range e.changes {
			if end := c.off + max(c.zeroes, logSector); end > p.size {
				return corrupt("the log has %d bytes for offset %d, behind the end of the file at %d", end-c.off, c.off, p.size)
			}
		}
	}
	return nil
}

func tooManyZeroes(n int) error {
	return driver.Errorf(driver.ErrBudget, "the log has %d ranges of zeroes, limit %d", n, maxZeroes)
}

// apply writes the log to where it belongs.
func (p *replayed) apply(ctx context.Context, file driver.Storage) error {
	if p.size > file.Size() {
		r, ok := file.(driver.Resizer)
		if !ok {
			return unsupported("the log cannot be replayed: the file cannot grow to %d bytes", p.size)
		}
		if err := r.Resize(ctx, p.size, driver.ResizeOptions{}); err != nil {
			return err
		}
	}
	for _, e := range p.entries {
		for i := range e.changes {
			if err := e.changes[i].apply(ctx, file, &p.ring); err != nil {
				return err
			}
		}
	}
	return file.Flush(ctx)
}

func (c *change) apply(ctx context.Context, file driver.Storage, r *ring) error {
	if c.zeroes == 0 {
		b, err := c.sector(ctx, r)
		if err == nil {
			_, err = file.WriteAt(ctx, b, c.off)
		}
		return err
	}
	if z, ok := file.(driver.ZeroWriter); ok {
		return z.WriteZeroes(ctx, c.off, c.zeroes, 0)
	}
	b := make([]byte, min(c.zeroes, mib))
	for off, n := c.off, c.zeroes; n > 0; {
		p := b[:min(n, int64(len(b)))]
		if _, err := file.WriteAt(ctx, p, off); err != nil {
			return err
		}
		off, n = off+int64(len(p)), n-int64(len(p))
	}
	return nil
}
