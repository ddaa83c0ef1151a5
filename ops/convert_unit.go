package ops

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/bufpool"
	"github.com/cowl-disk/cowl/internal/zero"
)

// do handles one unit.
func (c *converter) do(ctx context.Context, u unit) error {
	turn := &turn{c: c, seq: u.seq}
	defer turn.pass()
	switch u.kind {
	case kindSkip:
		c.skipped.Add(u.n)
		c.advance(u, u.n)
		return c.hashRange(ctx, u)
	case kindZero:
		c.zeroed.Add(u.n)
		defer c.advance(u, u.n)
		if err := c.writeZero(ctx, u.off, u.n); err != nil {
			return err
		}
		return c.hashRange(ctx, u)
	}
	if u.file != nil {
		done, err := c.copyBySystem(ctx, u)
		if err != nil {
			return err
		}
		if done {
			turn.pass()
			return c.hashRange(ctx, u)
		}
	}
	for u.n > 0 {
		part := u
		part.n = min(u.n, c.chunkEnd(u.off)-u.off)
		last := part.n == u.n
		if err := c.copyChunk(ctx, part, turn, last); err != nil {
			return err
		}
		u.off, u.n = u.off+part.n, u.n-part.n
	}
	return nil
}

// advance counts n bytes of a unit as done.
func (c *converter) advance(u unit, n int64) {
	if c.copiedOnly && u.kind != kindData {
		return
	}
	c.meter.add(n, u.report || !c.copiedOnly || u.n > progressStep)
}

// turn is a unit's position in the order of writing.
type turn struct {
	c      *converter
	seq    uint64
	passed bool
}

// take waits for the turn, if order matters.
func (t *turn) take(ctx context.Context) error {
	if t.c.job.OutOfOrder || t.passed {
		return nil
	}
	return t.c.write.wait(ctx, t.seq)
}

// pass gives the turn up, taken or not.
func (t *turn) pass() {
	if t.c.job.OutOfOrder || t.passed {
		return
	}
	t.passed = true
	t.c.write.done(t.seq)
}

// copyBySystem tries to share or copy the blocks of a unit without reading them.
func (c *converter) copyBySystem(ctx context.Context, u unit) (bool, error) {
	if !c.canShare.Load() {
		// The first attempt is made alone: a refusal costs the target clusters that it
		// allocates and frees, and what other workers write meanwhile would be placed behind it.
		c.firstShare.Lock()
		defer c.firstShare.Unlock()
	}
	if c.noReflink.Load() {
		return false, nil
	}
	var mode driver.CopyMode
	if c.job.Reflink != ReflinkNever {
		mode |= driver.CopyReflink
	}
	if c.job.CopyRange {
		mode |= driver.CopyOffload
	}
	n, err := c.job.Target.Transfer().CopyRange(ctx, u.file, u.host, u.off, u.n, mode)
	if err == nil && n == u.n {
		c.canShare.Store(true)
		c.reflinked.Add(n)
		c.advance(u, n)
		if c.job.CopyRange {
			// Shared blocks cost nothing; copied ones count.
			return true, c.limit.wait(ctx, n)
		}
		return true, nil
	}
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if c.job.Reflink == ReflinkAlways {
		return false, driver.Errorf(driver.ErrUnsupported, "the file system cannot share blocks between source and target here: %w", err)
	}
	if err != nil && !errors.Is(err, driver.ErrUnsupported) {
		return false, err
	}
	// A refusal is permanent: read and write from now on.
	c.noReflink.Store(true)
	return false, nil
}

// copyChunk reads up to a chunk and writes what is not zero.
func (c *converter) copyChunk(ctx context.Context, u unit, t *turn, last bool) error {
	if err := c.limit.wait(ctx, u.n); err != nil {
		return err
	}
	buf := bufpool.Get(int(u.n))
	defer bufpool.Put(buf)
	if err := c.readSource(ctx, buf, u.off); err != nil {
		return err
	}
	if c.job.Compress {
		if err := c.writeCompressed(ctx, buf, u.off, t); err != nil {
			return err
		}
	} else if err := c.writeSparse(ctx, buf, u.off, t, last); err != nil {
		return err
	}
	if c.job.Checksum != nil {
		if err := c.hashBytes(ctx, u.seq, buf, last); err != nil {
			return err
		}
	}
	c.advance(u, u.n)
	return nil
}

func (c *converter) readSource(ctx context.Context, p []byte, off int64) error {
	err := c.src.read(ctx, p, off)
	if err == nil || !c.job.Salvage || ctx.Err() != nil {
		return err
	}
	return c.salvage(ctx, p, off)
}

// salvageUnit is the smallest range in bytes that is given up.
const salvageUnit = 512

// salvageStatus asks about ever shorter ranges at off. If not even one sector can be
// told about, it is taken for data.
func (c *converter) salvageStatus(ctx context.Context, off int64) (block.Status, error) {
	for n := c.src.size - off; ; n = (n/4 + salvageUnit - 1) &^ (salvageUnit - 1) {
		st, _, err := c.src.status(ctx, off, n, c.job.TargetBase != nil)
		if err == nil || ctx.Err() != nil {
			return st, err
		}
		if n <= salvageUnit {
			c.job.Salvaged(off, err)
			return block.Status{Length: n, Data: true, Allocated: true}, nil
		}
	}
}

// salvaged makes a warning of what could not be read.
func salvaged(warn func(string)) func(int64, error) {
	return func(off int64, err error) {
		doing := "reading"
		var io *block.IOError
		if errors.As(err, &io) {
			if err = io.Err; io.Op == "map" {
				doing = "reading block status at"
			}
		}
		warn(fmt.Sprintf("error while %s offset %d: %v", doing, off, err))
	}
}

// oneAtATime keeps calls of f apart: several workers meet what cannot be read.
func oneAtATime(f func(int64, error)) func(int64, error) {
	var mu sync.Mutex
	return func(off int64, err error) {
		mu.Lock()
		defer mu.Unlock()
		f(off, err)
	}
}

// salvage reads what can be read of a range, down to single sectors.
func (c *converter) salvage(ctx context.Context, p []byte, off int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := c.src.read(ctx, p, off)
	if err == nil {
		return nil
	}
	if len(p) <= salvageUnit {
		clear(p)
		c.job.Salvaged(off, err)
		return nil
	}
	half := (len(p)/2 + salvageUnit - 1) &^ (salvageUnit - 1)
	if err := c.salvage(ctx, p[:half], off); err != nil {
		return err
	}
	return c.salvage(ctx, p[half:], off+int64(half))
}

// run is a part of a buffer that is all zero or all data.
type run struct {
	n    int
	zero bool
}

// writeSparse writes the data in buf and leaves holes for zeroes.
func (c *converter) writeSparse(ctx context.Context, buf []byte, off int64, t *turn, last bool) error {
	var few [16]run
	runs := c.runs(few[:0], buf, off) // before the turn, for others wait for it
	final := len(runs) - 1
	for final > 0 && runs[final].zero && c.staysZero() {
		final--
	}
	if err := t.take(ctx); err != nil {
		return err
	}
	if c.writing != nil {
		c.writing.Lock()
		defer c.writing.Unlock()
	}
	for i, r := range runs {
		p := buf[:r.n]
		buf = buf[r.n:]
		var err error
		if r.zero {
			c.zeroed.Add(int64(r.n))
			err = c.writeZero(ctx, off, int64(r.n))
		} else {
			c.copied.Add(int64(r.n))
			if last && i == final {
				_, err = c.job.Target.Transfer().WriteAtOrdered(ctx, p, off, t.pass)
			} else {
				_, err = c.job.Target.WriteAt(ctx, p, off)
			}
		}
		if err != nil {
			return err
		}
		off += int64(r.n)
	}
	return nil
}

// runs adds the runs of buf to list.
func (c *converter) runs(list []run, buf []byte, off int64) []run {
	if c.job.Sparse <= 0 {
		return append(list, run{n: len(buf)})
	}
	for len(buf) > 0 {
		n, isZero := c.firstRun(buf, off)
		if k := len(list) - 1; k >= 0 && list[k].zero == isZero {
			list[k].n += n
		} else {
			list = append(list, run{n, isZero})
		}
		buf, off = buf[n:], off+int64(n)
	}
	return list
}

// firstRun measures the first run of buf that is all zero or all data, in units
// aligned on the disk.
func (c *converter) firstRun(buf []byte, off int64) (n int, isZero bool) {
	first := int(c.unit - off%c.unit)
	if first >= len(buf) {
		return len(buf), zero.IsZero(buf)
	}
	isZero = zero.IsZero(buf[:first])
	return first + zero.Prefix(buf[first:], isZero, int(c.unit)), isZero
}

// staysZero says that zeroes need not be written.
func (c *converter) staysZero() bool { return c.zero && c.job.TargetBase == nil }

func (c *converter) writeZero(ctx context.Context, off, n int64) error {
	if c.staysZero() {
		return nil
	}
	return c.job.Target.WriteZeroes(ctx, off, n, driver.ZeroMayUnmap)
}

// writeCompressed encodes the clusters of buf and stores them in turn.
func (c *converter) writeCompressed(ctx context.Context, buf []byte, off int64, t *turn) error {
	cluster := int(c.unit)
	type piece struct {
		enc  []byte
		zero bool
		ok   bool
	}
	pieces := make([]piece, (len(buf)+cluster-1)/cluster)
	room := bufpool.Get(2 * len(pieces) * cluster)
	defer bufpool.Put(room)
	pad := bufpool.Get(cluster)
	defer bufpool.Put(pad)
	for i := range pieces {
		p := buf[i*cluster : min((i+1)*cluster, len(buf))]
		if c.job.Sparse > 0 && zero.IsZero(p) {
			pieces[i].zero = true
			continue
		}
		if len(p) < cluster {
			clear(pad[copy(pad, p):])
			p = pad[:cluster]
		}
		var err error
		dst := room[2*i*cluster : 2*i*cluster : 2*(i+1)*cluster]
		if pieces[i].enc, pieces[i].ok, err = c.job.Target.Encode(dst, p); err != nil {
			return err
		}
	}
	if err := t.take(ctx); err != nil {
		return err
	}
	for i, pc := range pieces {
		pos := off + int64(i*cluster)
		p := buf[i*cluster : min((i+1)*cluster, len(buf))]
		var err error
		switch {
		case pc.zero:
			c.zeroed.Add(int64(len(p)))
			err = c.writeZero(ctx, pos, int64(len(p)))
		case pc.ok:
			c.copied.Add(int64(len(p)))
			err = c.job.Target.WriteEncoded(ctx, pos, pc.enc)
		default:
			c.copied.Add(int64(len(p)))
			_, err = c.job.Target.WriteAt(ctx, p, pos)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// hashBytes adds a part of a unit to the digest, in turn.
func (c *converter) hashBytes(ctx context.Context, seq uint64, p []byte, last bool) error {
	if err := c.hash.wait(ctx, seq); err != nil {
		return err
	}
	c.job.Checksum.Write(p)
	if last {
		c.hash.done(seq)
	}
	return nil
}

// hashRange adds a unit that was not read to the digest.
func (c *converter) hashRange(ctx context.Context, u unit) error {
	if c.job.Checksum == nil {
		return nil
	}
	if err := c.hash.wait(ctx, u.seq); err != nil {
		return err
	}
	buf := bufpool.Get(int(min(u.n, chunkSize)))
	defer bufpool.Put(buf)
	if u.kind == kindZero {
		clear(buf)
	}
	for off, n := u.off, u.n; n > 0; {
		p := buf[:min(n, int64(len(buf)))]
		if u.kind != kindZero {
			if err := c.readSource(ctx, p, off); err != nil {
				return err
			}
		}
		c.job.Checksum.Write(p)
		off, n = off+int64(len(p)), n-int64(len(p))
	}
	c.hash.done(u.seq)
	return nil
}
