package server

import (
	"slices"

	"github.com/cowl-disk/cowl/internal/zero"
	"github.com/cowl-disk/cowl/nbd/wire"
)

const (
	// holeUnit is the smallest hole that is looked for in what was read.
	holeUnit = 512
	// zeroMin is the shortest range that counts as a hole because it is zero, whatever
	// the device says of it.
	zeroMin = 4096
)

// span is a range of what was read.
type span struct{ from, to int }

// sparse says whether the reply to req may leave out zeroes.
func (c *conn) sparse(req *wire.Request) bool {
	return c.mode != modeSimple && req.Flags&wire.CmdFlagDF == 0
}

// holes finds what the reply to req can leave out of p, read at off: ranges that the
// device knows to be zeroes. It is asked only if there are zeroes, so that dense data
// costs no more than a look.
func (c *conn) holes(req *wire.Request, off uint64, p []byte) []span {
	if !c.sparse(req) {
		return nil
	}
	if len(p) >= zeroMin && zero.IsZero(p) {
		return []span{{0, len(p)}}
	}
	if c.reporter == nil || !zeroUnit(p, off) {
		return nil
	}
	var list []span
	at := 0
	err := c.reporter.BlockStatus(c.ctx, wire.ContextAllocation, int64(off), int64(len(p)), func(n int64, flags uint64) bool {
		end := at + int(min(n, int64(len(p)-at)))
		if flags&wire.StateZero != 0 && end > at {
			if k := len(list) - 1; k >= 0 && list[k].to == at {
				list[k].to = end
			} else {
				list = append(list, span{at, end})
			}
		}
		more := end > at && end < len(p)
		at = end
		return more
	})
	if err != nil {
		return nil // the data are there
	}
	return list
}

// zeroUnit says whether an aligned unit of p, which was read at off, is zero, or all of p.
func zeroUnit(p []byte, off uint64) bool {
	first := min(int(-off&(holeUnit-1)), len(p))
	for rest := p[first:]; len(rest) >= holeUnit; rest = rest[holeUnit:] {
		if zero.IsZero(rest[:holeUnit]) {
			return true
		}
	}
	return len(p) < 2*holeUnit && zero.IsZero(p)
}

// addRead appends what was read from off, without the holes in it. The buffer of p, if
// it has one, is given back when all of it is sent.
func (c *conn) addRead(r *replies, req *wire.Request, off uint64, p part, holes []span, done bool) {
	data := p.data
	at := 0
	for _, h := range slices.Concat(holes, []span{{len(data), len(data)}}) {
		if h.from > at {
			c.addReadHead(r, req, off+uint64(at), h.from-at, done && h.from == len(data))
			r.addBuffer(part{data: data[at:h.from]})
		}
		if h.to > h.from {
			c.addHole(r, req, off+uint64(h.from), h.to-h.from, done && h.to == len(data))
		}
		at = h.to
	}
	p.data = nil
	r.addBuffer(p)
}
