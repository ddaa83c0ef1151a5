package vmdk

import (
	"context"
	"io"

	"golang.org/x/sync/errgroup"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/resources"
	"github.com/cowl-disk/cowl/opts"
)

var (
	_ driver.Streamer   = vmdkDriver{}
	_ driver.StreamUnit = vmdkDriver{}
)

// streamPlan refuses options of other images than stream-optimized ones.
func streamPlan(d opts.Dict, size int64) (*plan, error) {
	p, err := newPlan(d, size)
	switch {
	case err != nil:
		return nil, err
	case p.Subformat != streamOptimized:
		return nil, driver.Errorf(driver.ErrUnsupported, "a %s image cannot be written to a pipe, only a streamOptimized one: give -o subformat=streamOptimized", p.Subformat)
	case p.BackingFile != "":
		return nil, driver.Errorf(driver.ErrUnsupported, "an image with a parent cannot be written to a pipe")
	}
	return p, nil
}

// StreamUnit implements driver.StreamUnit.
func (vmdkDriver) StreamUnit(d opts.Dict) (int64, error) {
	_, err := streamPlan(d, 0)
	return grainSectors * sectorSize, err
}

// NewStream implements driver.Streamer. Grains are compressed by all processors.
func (vmdkDriver) NewStream(ctx context.Context, w io.Writer, req *driver.StreamRequest) (driver.StreamWriter, error) {
	p, err := streamPlan(req.Options, req.Size)
	if err != nil {
		return nil, err
	}
	p.cid = newCID()
	text := p.text([]extentLine{{access: accessRW, sectors: p.size / sectorSize, kind: extentSparse, name: "disk.vmdk"}})
	if len(text) > descSectors*sectorSize {
		return nil, invalid("the names and versions given are too long for the descriptor")
	}
	s := &pipe{ctx: ctx, w: w, t: newTail(streamHeader(p.size), grainSectors*sectorSize), ranges: req.Data, grains: make([]grain, 4*resources.Processors())}
	for i := range s.grains {
		s.grains[i].data = make([]byte, 0, grainSectors*sectorSize)
	}
	_, err = w.Write(s.t.front(text))
	return s, err
}

// grain is one of a batch.
type grain struct {
	unit      int64
	data, enc []byte
}

// pipe writes a stream-optimized image from the start to the end.
type pipe struct {
	ctx     context.Context
	w       io.Writer
	t       *tail
	ranges  []driver.Range // what is still to come; the first one from done on
	done    int64
	grains  []grain
	n       int // grains of the batch that have begun
	out     []byte
	deflate deflater
	failed  error
}

// Total implements driver.StreamWriter: only what was compressed tells.
func (s *pipe) Total() int64 { return -1 }

// Write implements io.Writer.
func (s *pipe) Write(p []byte) (int, error) {
	const unit = grainSectors * sectorSize
	written := 0
	for len(p) > 0 && s.failed == nil {
		if len(s.ranges) == 0 {
			s.failed = driver.Errorf(driver.ErrInvalid, "more bytes than the ranges of data have")
			break
		}
		r := s.ranges[0]
		off := r.Offset + s.done
		if s.n == 0 || s.grains[s.n-1].unit != off/unit || len(s.grains[s.n-1].data) == unit {
			if s.n == len(s.grains) {
				if s.failed = s.flush(); s.failed != nil {
					break
				}
			}
			s.grains[s.n].unit, s.grains[s.n].data = off/unit, s.grains[s.n].data[:0]
			s.n++
		}
		g := &s.grains[s.n-1]
		n := min(int64(len(p)), r.Length-s.done, unit-off%unit)
		g.data = append(g.data, p[:n]...)
		p, written = p[n:], written+int(n)
		if s.done += n; s.done == r.Length {
			s.ranges, s.done = s.ranges[1:], 0
		}
	}
	return written, s.failed
}

// flush compresses the batch and writes it.
func (s *pipe) flush() error {
	var g errgroup.Group
	g.SetLimit(resources.Processors())
	for i := range s.grains[:s.n] {
		x := &s.grains[i]
		clear(x.data[len(x.data):cap(x.data)])
		g.Go(func() (err error) {
			x.enc, err = s.deflate.encode(x.enc[:0], x.data[:cap(x.data)])
			return err
		})
	}
	err := g.Wait()
	s.out = s.out[:0]
	for i := range s.grains[:s.n] {
		if err == nil {
			s.out, err = s.t.grain(s.out, s.grains[i].unit, s.grains[i].enc)
		}
	}
	if err == nil {
		err = s.ctx.Err()
	}
	if err == nil {
		_, err = s.w.Write(s.out)
	}
	s.n = 0
	return err
}

// Close implements driver.StreamWriter.
func (s *pipe) Close() error {
	if s.failed == nil && len(s.ranges) > 0 {
		s.failed = driver.Errorf(driver.ErrInvalid, "%d ranges of data were not written", len(s.ranges))
	}
	if s.failed == nil {
		s.failed = s.flush()
	}
	if s.failed != nil {
		return s.failed
	}
	end, err := s.t.end(nil)
	if err == nil {
		_, err = s.w.Write(end)
	}
	return err
}
