package incus

import (
	"context"
	"errors"
	"fmt"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/internal/resources"
	"github.com/cowl-disk/cowl/internal/zero"
)

const (
	sector = 512
	// maxWaiting is how many clusters that are written in part wait for the rest.
	maxWaiting = 1024
)

// disk writes to an image whose clusters are compressed, each once: it collects what is
// written until a cluster is whole, compresses several at a time, and stores them in the
// order in which they became whole, so that the image does not depend on the number of
// processors. One goroutine uses it.
type disk struct {
	ctx      context.Context
	img      *block.Image
	cluster  int64
	compress bool

	waiting map[int64]*cluster // by number
	order   []int64            // of those that wait, and of some that do no longer
	stored  map[int64]bool
	queue   []queued
	most    int
	free    []*cluster // to be used again
	// progress, where not nil, is told how many bytes have been stored.
	progress func(done int64)
	done     int64
}

// cluster is one that is written in part, or being compressed. There are as many at a time
// as wait and are in the queue: were each a new one, the collector would go through the
// tree over and over.
type cluster struct {
	b       []byte
	have    []bool // by sector
	left    int
	encoded []byte // room for what b becomes
}

// fresh returns a cluster of zeros of which nothing is written.
func (d *disk) fresh() *cluster {
	sectors := d.cluster / sector
	if k := len(d.free) - 1; k >= 0 {
		c := d.free[k]
		d.free = d.free[:k]
		clear(c.b)
		clear(c.have)
		c.left = int(sectors)
		return c
	}
	return &cluster{b: make([]byte, d.cluster), have: make([]bool, sectors), left: int(sectors)}
}

// release takes a cluster back that nothing uses any more.
func (d *disk) release(c *cluster) {
	if len(d.free) < 2*d.most {
		d.free = append(d.free, c)
	}
}

// queued is a cluster that is being compressed.
type queued struct {
	number int64
	*cluster
	plain  []byte // of the disk
	result chan encoded
}

type encoded struct {
	b   []byte
	ok  bool
	err error
}

func newDisk(ctx context.Context, img *block.Image, clusterSize int64, compress bool) *disk {
	return &disk{ctx: ctx, img: img, cluster: clusterSize, compress: compress, waiting: map[int64]*cluster{}, stored: map[int64]bool{},
		most: 2 * resources.Workers(resources.Processors(), 8*clusterSize)}
}

// WriteAt implements io.WriterAt.
func (d *disk) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > d.img.Size() {
		return 0, fmt.Errorf("write %d bytes at %d of a disk of %d", len(p), off, d.img.Size())
	}
	total := len(p)
	for len(p) > 0 {
		number, in := off/d.cluster, off%d.cluster
		n := min(int64(len(p)), d.cluster-in)
		if err := d.put(number, in, p[:n]); err != nil {
			return total - len(p), err
		}
		p, off = p[n:], off+n
	}
	return total, nil
}

// put writes into one cluster.
func (d *disk) put(number, in int64, p []byte) error {
	if d.stored[number] { // again: seldom, as file systems write their tables at the end
		if err := d.drain(0); err != nil {
			return err
		}
		_, err := d.img.WriteAt(d.ctx, p, number*d.cluster+in)
		return err
	}
	c := d.waiting[number]
	if c == nil {
		if len(d.waiting) >= maxWaiting {
			if err := d.giveUp(); err != nil {
				return err
			}
		}
		c = d.fresh()
		d.waiting[number] = c
		d.order = append(d.order, number)
	}
	copy(c.b[in:], p)
	for s := (in + sector - 1) / sector; (s+1)*sector <= in+int64(len(p)); s++ {
		if !c.have[s] {
			c.have[s] = true
			c.left--
		}
	}
	if c.left > 0 {
		return nil
	}
	return d.store(number)
}

// giveUp stores the clusters that have waited longest.
func (d *disk) giveUp() error {
	for len(d.waiting) > maxWaiting*3/4 {
		number := d.order[0]
		d.order = d.order[1:]
		if d.waiting[number] == nil {
			continue
		}
		if err := d.store(number); err != nil {
			return err
		}
	}
	return nil
}

// store gives a cluster to a goroutine that compresses it. One of zeros is not stored.
func (d *disk) store(number int64) error {
	c := d.waiting[number]
	b := c.b
	delete(d.waiting, number)
	if len(d.order) > 4*maxWaiting { // forget those that do not wait
		kept := d.order[:0]
		for _, n := range d.order {
			if d.waiting[n] != nil {
				kept = append(kept, n)
			}
		}
		d.order = kept
	}
	if zero.IsZero(b) {
		d.release(c)
		return d.ctx.Err()
	}
	d.stored[number] = true
	if n := d.img.Size() - number*d.cluster; n < d.cluster { // the last of the disk
		b = b[:n]
	}
	if err := d.drain(d.most - 1); err != nil {
		return err
	}
	q := queued{number, c, b, make(chan encoded, 1)}
	d.queue = append(d.queue, q)
	if !d.compress {
		q.result <- encoded{}
		return nil
	}
	if c.encoded == nil {
		c.encoded = make([]byte, 0, d.cluster)
	}
	go func() {
		enc, ok, err := d.img.Encode(c.encoded, c.b)
		q.result <- encoded{enc, ok, err}
	}()
	return nil
}

// drain stores clusters in order until at most n are on their way.
func (d *disk) drain(n int) error {
	for len(d.queue) > n {
		q := d.queue[0]
		d.queue = d.queue[1:]
		e := <-q.result
		err := errors.Join(e.err, d.ctx.Err())
		switch {
		case err != nil:
		case e.ok:
			err = d.img.WriteEncoded(d.ctx, q.number*d.cluster, e.b)
		default:
			_, err = d.img.WriteAt(d.ctx, q.plain, q.number*d.cluster)
		}
		if err != nil {
			return err
		}
		d.release(q.cluster)
		if d.done += int64(len(q.plain)); d.progress != nil {
			d.progress(d.done)
		}
	}
	return nil
}

// Flush stores all that was written.
func (d *disk) Flush() error {
	for _, number := range d.order {
		if d.waiting[number] == nil {
			continue
		}
		if err := d.store(number); err != nil {
			return err
		}
	}
	d.order = nil
	return d.drain(0)
}

// stop waits for the goroutines that are left after an error.
func (d *disk) stop() {
	for _, q := range d.queue {
		<-q.result
	}
	d.queue = nil
}
