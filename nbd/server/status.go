package server

import (
	"slices"

	"github.com/cowl-disk/cowl/nbd/wire"
)

const (
	// maxExtents bounds the answer for one context; a client asks again for the rest.
	maxExtents = 8192
	// maxLength32 is the longest extent that fits a compact answer, a multiple of
	// any block size.
	maxLength32 = 1<<32 - 64<<10
)

// status hands on a request for block status, whose payload it reads.
func (c *conn) status(req *wire.Request, payload int) error {
	j := c.newJob(req)
	j.ids = c.meta
	if req.Flags&wire.CmdFlagPayloadLen != 0 {
		if payload > 8+4*maxListed {
			if err := c.discard(int64(payload)); err != nil {
				return err
			}
			return c.answer(req, wire.EINVAL)
		}
		data := make([]byte, payload)
		if c.in.buffered() < payload {
			if err := c.flushOwn(); err != nil {
				return err
			}
		}
		if err := c.in.readFull(data); err != nil {
			return err
		}
		length, ids, err := wire.ParseStatusPayload(data)
		if err != nil || length == 0 || req.Offset > c.size || length > c.size-req.Offset {
			return c.answer(req, wire.EINVAL)
		}
		j.ids = nil
		for _, id := range ids {
			k := slices.IndexFunc(c.meta, func(m metaContext) bool { return m.id == id })
			if k < 0 {
				return c.answer(req, wire.EINVAL)
			}
			j.ids = append(j.ids, c.meta[k])
		}
		j.req.Length = length
	}
	return c.dispatch(j)
}

// executeStatus answers a request for block status: one chunk per context.
func (c *conn) executeStatus(j *job) {
	var out [][]byte
	for _, m := range j.ids {
		extents, err := c.extents(j, m.name)
		if err != nil {
			c.post(func(r *replies) { c.addError(r, &j.req, wire.ErrnoOf(err), -1, true) })
			return
		}
		out = append(out, wire.AppendExtents(nil, m.id, extents, c.mode == modeExtended))
	}
	typ := wire.ChunkBlockStatus
	if c.mode == modeExtended {
		typ = wire.ChunkBlockStatusExt
	}
	c.post(func(r *replies) {
		for i, data := range out {
			c.addChunk(r, &j.req, typ, i == len(out)-1, len(data))
			copy(r.grow(len(data)), data)
		}
	})
}

// extents asks the device, and merges neighbours of equal flags.
func (c *conn) extents(j *job, name string) ([]wire.Extent, error) {
	limit := maxExtents
	if j.req.Flags&wire.CmdFlagReqOne != 0 {
		limit = 1
	}
	longest := uint64(maxLength32)
	if c.mode == modeExtended {
		longest = 1 << 62
	}
	var extents []wire.Extent
	left := j.req.Length
	err := c.dev.(StatusReporter).BlockStatus(c.ctx, name, int64(j.req.Offset), int64(left), func(length int64, flags uint64) bool {
		n := min(uint64(max(length, 0)), left)
		if k := len(extents) - 1; k >= 0 && extents[k].Flags == flags && n <= longest-extents[k].Length {
			extents[k].Length += n
			left -= n
			return left > 0 && n > 0 && c.ctx.Err() == nil
		}
		if len(extents) == limit {
			return false
		}
		extents = append(extents, wire.Extent{Length: min(n, longest), Flags: flags})
		left -= min(n, longest)
		// An extent that was cut short ends the answer.
		return left > 0 && n > 0 && n <= longest && c.ctx.Err() == nil
	})
	if err == nil && (len(extents) == 0 || extents[0].Length == 0) {
		err = wire.EIO
	}
	if err == nil {
		err = c.ctx.Err()
	}
	return extents, err
}
