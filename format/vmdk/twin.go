package vmdk

import (
	"context"
	"io"
	"slices"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/bufpool"
)

// twin is the file of a sparse extent whose grain tables are there twice (section
// "Hosted Sparse Extent Header": redundant grain directory): what is written to a table
// is written to its copy as well. The copy comes first, so that the table that is read
// never has more than its copy.
type twin struct {
	driver.Storage
	size   int64 // of a table in bytes
	tables []tablePair
	budget *driver.Budget
	memory int64 // bytes of tables that the budget counts
}

// maxTwins is how many grain tables are kept twice: those of 64 TiB, as images are made.
const maxTwins = 2 << 20

// release gives memory back that the budget counts. t may be nil.
func (t *twin) release() {
	if t != nil {
		t.budget.Release(t.memory)
		t.memory, t.tables = 0, nil
	}
}

// tablePair is a table and its copy, in sectors.
type tablePair struct{ table, copy uint32 }

// openTwin makes the twin of a file. A directory that lacks a table cannot be kept twice.
func openTwin(ctx context.Context, env *driver.Env, file driver.Storage, h *sparseHeader) (*twin, error) {
	if h.directorySize > maxTwins {
		return nil, driver.Errorf(driver.ErrUnsupported, "an image with %d grain tables can only be read", h.directorySize)
	}
	t := &twin{Storage: file, size: int64(h.entries) * 4, budget: env.Budget, memory: h.directorySize * 8}
	if err := env.Budget.Table("the list of grain tables", t.memory); err != nil {
		return nil, err
	}
	if err := t.load(ctx, h); err != nil {
		t.release()
		return nil, err
	}
	return t, nil
}

// reload reads the directories of a header that has changed.
func (t *twin) reload(ctx context.Context, h *sparseHeader) error {
	more := h.directorySize*8 - t.memory
	if err := t.budget.Table("the list of grain tables", more); err != nil {
		return err
	}
	t.memory += more
	return t.load(ctx, h)
}

// load reads both directories.
func (t *twin) load(ctx context.Context, h *sparseHeader) error {
	file := t.Storage
	t.tables = make([]tablePair, 0, h.directorySize)
	const entries = 64 << 10
	a, b := bufpool.Get(entries*4), bufpool.Get(entries*4)
	defer bufpool.Put(a)
	defer bufpool.Put(b)
	if h.redundant > uint64(file.Size()) {
		return driver.Errorf(driver.ErrCorrupt, "the redundant grain directory at sector %d lies beyond the end of the file", h.redundant)
	}
	for i := int64(0); i < h.directorySize; i += entries {
		n := min(entries, h.directorySize-i)
		for _, d := range []struct {
			p      []byte
			sector uint64
		}{{a[:n*4], h.dir}, {b[:n*4], h.redundant}} {
			if m, err := file.ReadAt(ctx, d.p, int64(d.sector)*sectorSize+i*4); m < len(d.p) {
				if err == nil || err == io.EOF {
					err = driver.Errorf(driver.ErrCorrupt, "the file ends in the grain directory at sector %d", d.sector)
				}
				return err
			}
		}
		for k := range n {
			p := tablePair{le.Uint32(a[k*4:]), le.Uint32(b[k*4:])}
			if p.table == 0 || p.copy == 0 {
				return driver.Errorf(driver.ErrUnsupported, "grain table %d is missing: the image can only be read", i+k)
			}
			if p.table != p.copy {
				t.tables = append(t.tables, p)
			}
		}
	}
	slices.SortFunc(t.tables, func(x, y tablePair) int { return int(int64(x.table) - int64(y.table)) })
	return nil
}

// WriteAt implements driver.Storage.
func (t *twin) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	end := off + int64(len(p))
	i, _ := slices.BinarySearchFunc(t.tables, off, func(x tablePair, off int64) int {
		if int64(x.table)*sectorSize+t.size <= off {
			return -1
		}
		return 1
	})
	for ; i < len(t.tables) && int64(t.tables[i].table)*sectorSize < end; i++ {
		at := int64(t.tables[i].table) * sectorSize
		from, to := max(at, off), min(at+t.size, end)
		if _, err := t.Storage.WriteAt(ctx, p[from-off:to-off], int64(t.tables[i].copy)*sectorSize+from-at); err != nil {
			return 0, err
		}
	}
	return t.Storage.WriteAt(ctx, p, off)
}

// last is the room of the copy that lies last in the file.
func (t *twin) last() driver.Range {
	r := driver.Range{Length: t.size}
	for _, p := range t.tables {
		r.Offset = max(r.Offset, int64(p.copy)*sectorSize)
	}
	return r
}

// Resize implements driver.Resizer.
func (t *twin) Resize(ctx context.Context, size int64, o driver.ResizeOptions) error {
	r, ok := t.Storage.(driver.Resizer)
	if !ok {
		return driver.Errorf(driver.ErrUnsupported, "the file cannot get another length")
	}
	return r.Resize(ctx, size, o)
}

// Unwrap implements driver.Wrapper.
func (t *twin) Unwrap() driver.Storage { return t.Storage }
