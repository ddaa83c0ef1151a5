package blockmap

import (
	"context"
	"io"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/bufpool"
)

// scanBuffer is how much of a table is read at once, in bytes.
const scanBuffer = 256 << 10

// scan reads all tables from the file, past the cache, and calls visit for each
// entry that is not Absent, in the order of the disk, and table, if not nil, for
// each table that a directory names; its entries are passed over if it returns false. What cannot be right is passed on as Bad: a
// table that was met before, or lies beyond the end of the file, is told of by
// badTable and not read. flushMu is held, and what was changed is in the file.
func (m *Disk) scan(ctx context.Context, table func(off int64) bool, visit func(u int64, e Entry) error) error {
	return m.scanTables(ctx, scanner{table: table, entry: func(u int64, e Entry, _ uint64) error { return visit(u, e) }})
}

// scanner takes what scanTables finds. Each function but entry may be nil.
type scanner struct {
	entry    func(u int64, e Entry, raw uint64) error
	table    func(off int64) (ok bool)
	badTable func(i int64, raw uint64, twice bool)
}

func (m *Disk) scanTables(ctx context.Context, s scanner) error {
	l := &m.l
	units := roundUp(m.size.Load(), l.Unit) / l.Unit
	if l.Dir == nil {
		if l.Index == nil {
			return m.scanWords(ctx, l.Table, units, l.Width, func(i int64, raw uint64) error { return m.visit(s, i, raw) })
		}
		return m.scanIndexed(ctx, units, s)
	}
	seen := map[int64]struct{}{}
	defer func() { m.env.Budget.Release(int64(len(seen)) / seenStep * seenStep * seenCost) }()
	tables := roundUp(units, l.perTable()) / l.perTable()
	return m.scanWords(ctx, l.Dir.Off, tables, l.Dir.Width, func(i int64, raw uint64) error {
		off, ok := l.Dir.Decode(raw)
		if ok && off == 0 {
			return nil
		}
		_, twice := seen[off]
		ok = ok && off >= 0 && off <= m.file.Size()-l.Dir.TableBytes
		if ok && !twice && s.table != nil {
			twice = !s.table(off)
		}
		if !ok || twice {
			if s.badTable != nil {
				s.badTable(i, raw, ok)
			}
			return nil
		}
		seen[off] = struct{}{}
		if len(seen)%seenStep == 0 {
			if err := m.env.Budget.Table("the list of tables", seenStep*seenCost); err != nil {
				delete(seen, off)
				return err
			}
		}
		first := i * l.perTable()
		return m.scanWords(ctx, off, min(l.perTable(), units-first), l.Width, func(j int64, raw uint64) error { return m.visit(s, first+j, raw) })
	})
}

// The memory for the list of tables that were met is counted in steps.
const (
	seenStep = 4096
	seenCost = 32 // bytes a table
)

func (m *Disk) visit(s scanner, u int64, raw uint64) error {
	e := m.decodeWord(raw)
	if e.State == Absent {
		return nil
	}
	return s.entry(u, e, raw)
}

// scanIndexed scans a flat table whose entries are not all of units.
func (m *Disk) scanIndexed(ctx context.Context, units int64, s scanner) error {
	u := int64(0)
	if units == 0 {
		return nil
	}
	return m.scanWords(ctx, m.l.Table, m.l.Index(units-1)+1, m.l.Width, func(i int64, raw uint64) error {
		if m.l.Index(u) != i {
			return nil
		}
		u++
		return m.visit(s, u-1, raw)
	})
}

// scanWords calls visit for the words of a table that are not zero or, where zero
// says something, for all.
func (m *Disk) scanWords(ctx context.Context, off, n int64, width int, visit func(i int64, raw uint64) error) error {
	skip := m.l.Dir != nil || m.l.Index == nil && m.l.Decode(0).State == Absent
	buf := bufpool.Get(scanBuffer)
	defer bufpool.Put(buf)
	for i := int64(0); i < n; {
		if err := ctx.Err(); err != nil {
			return err
		}
		at, left := off+i*int64(width), (n-i)*int64(width)
		if skip {
			x, err := m.file.Map(ctx, at, left)
			if err != nil {
				return err
			}
			if x.Kind == driver.ExtentEOF {
				return nil
			}
			if words := x.Length / int64(width); x.Kind != driver.ExtentData && words > 0 {
				i += words
				continue
			}
		}
		b := buf[:min(left, int64(len(buf)))]
		got, err := m.file.ReadAt(ctx, b, at)
		if err != nil && err != io.EOF {
			return err
		}
		clear(b[got:])
		for ; len(b) > 0; b, i = b[width:], i+1 {
			raw := word(m.l.Order, width, b)
			if raw == 0 && skip {
				continue
			}
			if err := visit(i, raw); err != nil {
				return err
			}
		}
	}
	return nil
}
