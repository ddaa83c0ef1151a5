package ops

import (
	"bufio"
	"context"
	"errors"
	"io"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/bufpool"
	"github.com/cowl-disk/cowl/internal/zero"
	"github.com/cowl-disk/cowl/opts"
)

// ConvertFromReader copies a raw disk of unknown length from r to job.Target,
// which grows with it and ends with its length, rounded up to 512 bytes; with
// job.ReaderSize it has that length from the start.
// job.Sources, CopyRange and Reflink are not used.
func ConvertFromReader(ctx context.Context, r io.Reader, job ConvertJob) (ConvertResult, error) {
	job.Compress = job.Compress || job.Target.Traits().OnlyCompressed
	c := &converter{job: job, src: &concat{}, limit: newRateLimit(job.RateLimit), zero: job.TargetZero}
	if job.Compress && !job.Target.CanCompress() {
		return ConvertResult{}, driver.Errorf(driver.ErrUnsupported, "compression not supported for this file format")
	}
	c.unit, c.chunk = c.granularity()
	buf := bufpool.Get(int(c.chunk))
	defer bufpool.Put(buf)
	end := int64(0)
	for {
		if err := ctx.Err(); err != nil {
			return c.result(), err
		}
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			if e := c.takeChunk(ctx, buf[:n], end); e != nil {
				return c.result(), e
			}
			end += int64(n)
			job.Progress.report("copy", end, job.ReaderSize)
		}
		if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return c.result(), err
		}
	}
	if job.ReaderSize > 0 {
		if end != job.ReaderSize {
			return c.result(), driver.Errorf(driver.ErrTruncated, "the source ends at %d, %d were announced", end, job.ReaderSize)
		}
		return c.result(), nil
	}
	size := (end + 511) &^ 511
	if job.Target.Size() == size {
		return c.result(), nil
	}
	return c.result(), job.Target.Resize(ctx, size, driver.ResizeOptions{})
}

func (c *converter) result() ConvertResult {
	return ConvertResult{Copied: c.copied.Load(), Zero: c.zeroed.Load(), Reflinked: c.reflinked.Load(), Skipped: c.skipped.Load()}
}

// takeChunk writes the next bytes of a stream. The target grows by doubling, so
// that its tables are not rewritten for every chunk.
func (c *converter) takeChunk(ctx context.Context, p []byte, off int64) error {
	if err := c.limit.wait(ctx, int64(len(p))); err != nil {
		return err
	}
	if need := off + int64(len(p)); c.job.ReaderSize == 0 && need > c.job.Target.Size() {
		size := max((need+511)&^511, 2*c.job.Target.Size())
		if err := c.job.Target.Resize(ctx, size, driver.ResizeOptions{}); err != nil {
			return err
		}
	}
	c.src.size = off + int64(len(p))
	if c.job.Checksum != nil {
		c.job.Checksum.Write(p)
	}
	t := &turn{c: c, passed: true}
	if c.job.Compress {
		return c.writeCompressed(ctx, p, off, t)
	}
	return c.writeSparse(ctx, p, off, t, true)
}

// ConvertToWriter writes the sources to w, without seeking: as raw bytes, or in
// a format whose driver is a driver.Streamer. job.Target must be nil; of the job,
// Sources, Sparse, Salvage, RateLimit, Checksum, Progress and Warn count.
func ConvertToWriter(ctx context.Context, w io.Writer, drv driver.Driver, options opts.Dict, job ConvertJob) (ConvertResult, error) {
	c := &converter{job: job, src: newConcat(job.Sources), limit: newRateLimit(job.RateLimit), chunk: chunkSize, unit: 4096}
	if job.Warn == nil {
		c.job.Warn = func(string) {}
	}
	if job.Salvaged == nil {
		c.job.Salvaged = salvaged(c.job.Warn)
	}
	c.job.Salvaged = oneAtATime(c.job.Salvaged)
	bw := bufio.NewWriterSize(w, chunkSize)
	var err error
	if drv.Desc().PassesThrough() == "file" {
		err = c.streamRaw(ctx, bw)
	} else {
		err = c.streamFormat(ctx, bw, drv, options)
	}
	if err == nil {
		err = bw.Flush()
	}
	return c.result(), err
}

func (c *converter) streamRaw(ctx context.Context, w io.Writer) error {
	m := newMeter(c.job.Progress, "copy", c.src.size)
	return c.readAhead(ctx, []driver.Range{{Offset: 0, Length: c.src.size}}, func(p []byte, off int64) error {
		c.copied.Add(int64(len(p)))
		m.set(off + int64(len(p)))
		if c.job.Checksum != nil {
			c.job.Checksum.Write(p)
		}
		_, err := w.Write(p)
		return err
	})
}

func (c *converter) streamFormat(ctx context.Context, w io.Writer, drv driver.Driver, options opts.Dict) error {
	s, ok := drv.(driver.Streamer)
	u, ok2 := drv.(driver.StreamUnit)
	if !ok || !ok2 {
		return driver.Errorf(driver.ErrUnsupported, "the format %s cannot be written to a pipe", drv.Desc().Name)
	}
	var err error
	if c.unit, err = u.StreamUnit(options); err != nil {
		return err
	}
	c.chunk = max(chunkSize, c.unit)
	data, err := c.dataRanges(ctx)
	if err != nil {
		return err
	}
	var total int64
	for _, r := range data {
		total += r.Length
	}
	c.zeroed.Store(c.src.size - total)
	sw, err := s.NewStream(ctx, w, &driver.StreamRequest{Size: c.src.size, Options: options, Data: data})
	if err != nil {
		return err
	}
	m := newMeter(c.job.Progress, "copy", total)
	next := int64(0) // how much the digest has
	zeroes := make([]byte, 64<<10)
	hashTo := func(off int64) {
		for c.job.Checksum != nil && next < off {
			k := min(off-next, int64(len(zeroes)))
			c.job.Checksum.Write(zeroes[:k])
			next += k
		}
	}
	err = c.readAhead(ctx, data, func(p []byte, off int64) error {
		hashTo(off)
		if c.job.Checksum != nil {
			c.job.Checksum.Write(p)
			next = off + int64(len(p))
		}
		m.set(c.copied.Add(int64(len(p))))
		_, err := sw.Write(p)
		return err
	})
	if err != nil {
		return err
	}
	hashTo(c.src.size)
	return sw.Close()
}

// dataRanges finds the units that hold data. With a search for zeroes the source
// is read once for it: a pipe cannot take back what was laid out for zeroes.
func (c *converter) dataRanges(ctx context.Context) ([]driver.Range, error) {
	var out []driver.Range
	add := func(off, n int64) {
		if k := len(out) - 1; k >= 0 && out[k].Offset+out[k].Length == off {
			out[k].Length += n
			return
		}
		out = append(out, driver.Range{Offset: off, Length: n})
	}
	m := newMeter(c.job.Progress, "map", c.src.size)
	c.job.Reflink, c.job.CopyRange = ReflinkNever, false
	buf := bufpool.Get(int(c.chunk))
	defer bufpool.Put(buf)
	for off := int64(0); off < c.src.size; {
		u, err := c.classify(ctx, off)
		if err != nil {
			return nil, err
		}
		switch {
		case u.kind != kindData:
		case c.job.Sparse == 0:
			add(u.off, u.n)
		default:
			p := buf[:u.n]
			if err := c.readSource(ctx, p, u.off); err != nil {
				return nil, err
			}
			for i := int64(0); i < u.n; i += c.unit {
				q := p[i:min(i+c.unit, u.n)]
				if !zero.IsZero(q) {
					add(u.off+i, int64(len(q)))
				}
			}
		}
		off += u.n
		m.set(off)
	}
	m.finish()
	return out, nil
}

// readAhead reads ranges and hands them on in order, one read ahead of the
// writer.
func (c *converter) readAhead(ctx context.Context, ranges []driver.Range, use func(p []byte, off int64) error) error {
	type piece struct {
		buf []byte
		off int64
		err error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pieces := make(chan piece, 2)
	go func() {
		defer close(pieces)
		for _, r := range ranges {
			for off, end := r.Offset, r.Offset+r.Length; off < end; {
				n := min(end-off, chunkSize)
				p := piece{buf: bufpool.Get(int(n)), off: off}
				if p.err = c.limit.wait(ctx, n); p.err == nil {
					p.err = c.readRange(ctx, p.buf, off)
				}
				select {
				case pieces <- p:
				case <-ctx.Done():
					bufpool.Put(p.buf)
					return
				}
				if p.err != nil {
					return
				}
				off += n
			}
		}
	}()
	var err error
	for p := range pieces {
		if err == nil {
			err = p.err
		}
		if err == nil {
			err = use(p.buf, p.off)
		}
		bufpool.Put(p.buf)
		if err != nil {
			cancel()
		}
	}
	if err == nil {
		err = ctx.Err()
	}
	return err
}

// readRange reads a part of the source; holes are not asked for.
func (c *converter) readRange(ctx context.Context, p []byte, off int64) error {
	for len(p) > 0 {
		st, _, err := c.src.status(ctx, off, int64(len(p)), false)
		n := min(int64(len(p)), st.Length)
		if err != nil || n == 0 {
			n = int64(len(p))
		}
		if err == nil && st.Zero {
			clear(p[:n])
		} else if err := c.readSource(ctx, p[:n], off); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}
