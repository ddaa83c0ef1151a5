package nfs

import (
	"context"
	"io"
	"slices"
	"sync"

	"github.com/cowl-disk/cowl/nfs"
)

// leastBlock is the smallest block of a cache, in bytes.
const leastBlock = 64 << 10

// cache keeps what was read, in blocks that are fetched as a whole: reading in order fetches
// ahead that way.
type cache struct {
	f     *nfs.File
	block int64 // bytes
	most  int   // blocks

	mu     sync.Mutex
	blocks []*cached // the last one was used last
	writes int64     // so far: what was fetched meanwhile is not kept
}

type cached struct {
	number int64
	data   []byte // shorter where the file ends
}

func newCache(f *nfs.File, readahead, pages int64) *cache {
	block := max(leastBlock, (readahead+pageSize-1)/pageSize*pageSize)
	return &cache{f: f, block: block, most: int(max(4, pages*pageSize/block))}
}

// read fills p from off, like nfs.File.ReadAt.
func (c *cache) read(ctx context.Context, p []byte, off int64) (int, error) {
	if int64(len(p)) >= c.block {
		return c.f.ReadAt(ctx, p, off)
	}
	done := 0
	for done < len(p) {
		at := off + int64(done)
		data, err := c.get(ctx, at/c.block)
		if err != nil {
			return 0, err
		}
		from := at % c.block
		if from >= int64(len(data)) {
			return done, io.EOF
		}
		done += copy(p[done:], data[from:])
	}
	return done, nil
}

func (c *cache) get(ctx context.Context, number int64) ([]byte, error) {
	c.mu.Lock()
	if i := slices.IndexFunc(c.blocks, func(b *cached) bool { return b.number == number }); i >= 0 {
		b := c.blocks[i]
		c.blocks = append(slices.Delete(c.blocks, i, i+1), b)
		c.mu.Unlock()
		return b.data, nil
	}
	writes := c.writes
	c.mu.Unlock()
	b := &cached{number: number, data: make([]byte, c.block)}
	n, err := c.f.ReadAt(ctx, b.data, number*c.block)
	if err != nil && err != io.EOF {
		return nil, err
	}
	b.data = b.data[:n]
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writes == writes && !slices.ContainsFunc(c.blocks, func(o *cached) bool { return o.number == number }) {
		if len(c.blocks) >= c.most {
			c.blocks = slices.Delete(c.blocks, 0, 1)
		}
		c.blocks = append(c.blocks, b)
	}
	return b.data, nil
}

// forget drops a range, which was changed; the block that the file ended in goes, too.
func (c *cache) forget(from, to int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writes++
	c.blocks = slices.DeleteFunc(c.blocks, func(b *cached) bool {
		start := b.number * c.block
		return int64(len(b.data)) < c.block || start < to && from < start+c.block
	})
}
