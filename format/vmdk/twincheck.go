package vmdk

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/blockmap"
	"github.com/cowl-disk/cowl/internal/bufpool"
)

// mendTwins deals with copies of grain tables that differ from the tables. They are what a crash leaves between the
// writes of both; VMware's programs read the copy where the table cannot be read. A repair writes the table over it,
// unless something else lies there.
func (x *extent) mendTwins(ctx context.Context, stale []tablePair, fix driver.CheckFix, res *driver.CheckResult, report func(string)) error {
	repair := (fix.Leaks || fix.Errors) && x.disk.Writable()
	if !repair || len(stale) == 0 {
		res.Leaks += int64(len(stale))
		return nil
	}
	taken, err := x.takenCopies(ctx, stale)
	if err != nil {
		return err
	}
	table := bufpool.Get(int(x.header.entries) * 4)
	defer bufpool.Put(table)
	for i, p := range stale {
		if taken[i] {
			res.Corruptions++
			report(fmt.Sprintf("ERROR: the copy of the grain table at sector %d is to be at sector %d, where something else lies", p.table, p.copy))
			continue
		}
		if err := readAround(ctx, x.file, table, int64(p.table)*sectorSize); err != nil {
			return err
		}
		if _, err := x.file.WriteAt(ctx, table, int64(p.copy)*sectorSize); err != nil {
			return err
		}
		res.LeaksFixed++
	}
	return x.file.Flush(ctx)
}

// eachPair calls visit for the tables of an extent that has two directories, each with its copy. There may be none of
// either, and what is named may be anywhere.
func (x *extent) eachPair(ctx context.Context, visit func(i int64, p tablePair) error) error {
	h := x.header
	if h.flags&flagRedundant == 0 || h.redundant == 0 {
		return nil
	}
	const entries = 16 << 10
	a, b := bufpool.Get(entries*4), bufpool.Get(entries*4)
	defer bufpool.Put(a)
	defer bufpool.Put(b)
	for i := int64(0); i < h.directorySize; i += entries {
		n := min(entries, h.directorySize-i)
		if err := readAround(ctx, x.file, a[:n*4], int64(h.dir)*sectorSize+i*4); err != nil {
			return err
		}
		if err := readAround(ctx, x.file, b[:n*4], int64(h.redundant)*sectorSize+i*4); err != nil {
			return err
		}
		for k := range n {
			if err := visit(i+k, tablePair{le.Uint32(a[k*4:]), le.Uint32(b[k*4:])}); err != nil {
				return err
			}
		}
	}
	return nil
}

// inUse is the hook of package blockmap: what is in use besides grains and tables are the descriptor and copies of tables.
func (x *extent) inUse(ctx context.Context, use func(off, n int64)) error {
	h := x.header
	if h == nil {
		return nil
	}
	use(int64(min(h.descOff, maxHostSector))*sectorSize, int64(min(h.descSize, maxHostSector))*sectorSize)
	return x.eachPair(ctx, func(_ int64, p tablePair) error {
		if p.copy != 0 {
			use(int64(p.copy)*sectorSize, int64(h.entries)*4)
		}
		return nil
	})
}

// staleCopies lists tables whose copy has other contents, at most as many as Check reports.
func (x *extent) staleCopies(ctx context.Context, report func(string)) (stale []tablePair, err error) {
	size := int64(x.header.entries) * 4
	table, other := bufpool.Get(int(size)), bufpool.Get(int(size))
	defer bufpool.Put(table)
	defer bufpool.Put(other)
	err = x.eachPair(ctx, func(i int64, p tablePair) error {
		if p.table == p.copy || p.table == 0 || int64(p.table)*sectorSize >= x.file.Size() {
			return nil // there is no copy, or blockmap tells what is wrong with the table
		}
		if err := readAround(ctx, x.file, table, int64(p.table)*sectorSize); err != nil {
			return err
		}
		if p.copy != 0 {
			if err := readAround(ctx, x.file, other, int64(p.copy)*sectorSize); err != nil {
				return err
			}
			if bytes.Equal(table, other) {
				return nil
			}
		}
		if len(stale) < blockmap.MaxFindings {
			report(fmt.Sprintf("Leaked copy of grain table %d: it differs from the table", i))
			stale = append(stale, p)
		}
		return nil
	})
	return stale, err
}

// readAround reads what the file has at an offset, and zeroes for what it lacks.
func readAround(ctx context.Context, file driver.Storage, p []byte, off int64) error {
	n, err := file.ReadAt(ctx, p, off)
	if n < len(p) && err != nil && err != io.EOF {
		return err
	}
	clear(p[n:])
	return nil
}

// takenCopies says which of the copies lie where something else does: a grain, a table, what is in front of them,
// another copy; or that are not in the file.
func (x *extent) takenCopies(ctx context.Context, stale []tablePair) ([]bool, error) {
	taken := make([]bool, len(stale))
	order := make([]int, len(stale)) // by place of the copy
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int { return int(int64(stale[i].copy) - int64(stale[j].copy)) })
	size := int64(x.header.entries) * 4
	at := func(i int) int64 { return int64(stale[order[i]].copy) * sectorSize }
	mark := func(off, n int64) {
		i, _ := slices.BinarySearchFunc(order, off-size+1, func(k int, off int64) int {
			return int(min(max(int64(stale[k].copy)*sectorSize-off, -1), 1))
		})
		for ; i < len(order) && at(i) < off+n; i++ {
			taken[order[i]] = true
		}
	}
	for i := range order {
		if at(i) == 0 || at(i)+size > x.file.Size() || i > 0 && at(i) < at(i-1)+size {
			taken[order[i]] = true
		}
	}
	h := x.header
	mark(0, sectorSize)
	mark(int64(h.dir)*sectorSize, h.directorySize*4)
	mark(int64(h.redundant)*sectorSize, h.directorySize*4)
	mark(int64(min(h.descOff, maxHostSector))*sectorSize, int64(min(h.descSize, maxHostSector))*sectorSize)
	if x.twin != nil {
		for _, p := range x.twin.tables {
			mark(int64(p.table)*sectorSize, size)
		}
	}
	err := x.disk.Entries(ctx, func(_ int64, e blockmap.Entry) error {
		if e.State == blockmap.Data {
			mark(e.Host, x.grain)
		}
		return nil
	})
	return taken, err
}
