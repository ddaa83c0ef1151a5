package client

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/cowl-disk/cowl/nbd/wire"
)

var be = binary.BigEndian

// inRange checks a range that a caller gives.
func (c *Conn) inRange(off, n int64) error {
	if off < 0 || n < 0 || off > c.info.Size-n {
		return fmt.Errorf("%d bytes at %d are beyond the end of the export: %w", n, off, wire.EINVAL)
	}
	return nil
}

// MaxPayload is how much one request may carry; ReadAt and WriteAt make several of
// what is larger.
func (c *Conn) MaxPayload() int {
	if m := c.info.BlockSize.Max; m != 0 && m < wire.MaxPayload {
		return int(m)
	}
	return wire.MaxPayload
}

// maxEffect bounds a request whose length is that of its effect.
func (c *Conn) maxEffect() int64 {
	if c.info.Mode == ModeExtended {
		return math.MaxInt64
	}
	return 1 << 31
}

// simply sends requests without payload over a range, and waits for them one after
// the other.
func (c *Conn) simply(ctx context.Context, cmd wire.Command, flags wire.CmdFlags, off, n int64) error {
	if err := c.inRange(off, n); err != nil {
		return err
	}
	for n > 0 {
		m := min(n, c.maxEffect())
		k, err := c.do(ctx, wire.Request{Type: cmd, Flags: flags, Offset: uint64(off), Length: uint64(m)}, nil, nil, statusAsk{})
		c.release(k)
		if err != nil {
			return err
		}
		off, n = off+m, n-m
	}
	return nil
}

func (c *Conn) has(f wire.TransFlags) bool {
	return c.info.Flags&wire.FlagHasFlags != 0 && c.info.Flags&f != 0
}

func (c *Conn) need(f wire.TransFlags, what string) error {
	if !c.has(f) {
		return fmt.Errorf("%s: %w", what, ErrUnsupported)
	}
	return nil
}

// ReadOnly says whether the server takes no writes.
func (c *Conn) ReadOnly() bool { return c.has(wire.FlagReadOnly) }

// CanFUA says whether the server takes the flag for durable writes.
func (c *Conn) CanFUA() bool { return c.has(wire.FlagSendFUA) }

// ReadAt fills p from offset off; the range must be within the export.
func (c *Conn) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := c.inRange(off, int64(len(p))); err != nil {
		return err
	}
	for len(p) > 0 {
		q := p[:min(len(p), c.MaxPayload())]
		k, err := c.do(ctx, wire.Request{Type: wire.CmdRead, Offset: uint64(off), Length: uint64(len(q))}, nil, q, statusAsk{})
		c.release(k)
		if err != nil {
			return err
		}
		p, off = p[len(q):], off+int64(len(q))
	}
	return nil
}

// WriteAt writes p at off. With fua it returns when the data are durable, by a
// flush if the server does not know the flag.
func (c *Conn) WriteAt(ctx context.Context, p []byte, off int64, fua bool) error {
	if err := c.inRange(off, int64(len(p))); err != nil {
		return err
	}
	if c.ReadOnly() {
		return fmt.Errorf("the export is read-only: %w", wire.EPERM)
	}
	flags, flush := c.durable(fua)
	if c.info.Mode == ModeExtended {
		flags |= wire.CmdFlagPayloadLen
	}
	for len(p) > 0 {
		q := p[:min(len(p), c.MaxPayload())]
		k, err := c.do(ctx, wire.Request{Type: wire.CmdWrite, Flags: flags, Offset: uint64(off), Length: uint64(len(q))}, q, nil, statusAsk{})
		c.release(k)
		if err != nil {
			return err
		}
		p, off = p[len(q):], off+int64(len(q))
	}
	if flush {
		return c.Flush(ctx)
	}
	return nil
}

// durable returns the flag for durable writes, or that a flush must follow.
func (c *Conn) durable(fua bool) (flags wire.CmdFlags, flush bool) {
	if !fua {
		return 0, false
	}
	if c.CanFUA() {
		return wire.CmdFlagFUA, false
	}
	return 0, true
}

// Flush makes durable all writes that have ended before the call. A server that
// does not offer flushes has nothing to flush.
func (c *Conn) Flush(ctx context.Context) error {
	if !c.has(wire.FlagSendFlush) {
		return c.Err()
	}
	k, err := c.do(ctx, wire.Request{Type: wire.CmdFlush}, nil, nil, statusAsk{})
	c.release(k)
	return err
}

// Trim says that a range is no longer needed.
func (c *Conn) Trim(ctx context.Context, off, n int64, fua bool) error {
	if err := c.need(wire.FlagSendTrim, "trim"); err != nil {
		return err
	}
	flags, flush := c.durable(fua)
	err := c.simply(ctx, wire.CmdTrim, flags, off, n)
	if err == nil && flush {
		err = c.Flush(ctx)
	}
	return err
}

// Cache asks the server to prefetch a range.
func (c *Conn) Cache(ctx context.Context, off, n int64) error {
	if err := c.need(wire.FlagSendCache, "cache"); err != nil {
		return err
	}
	return c.simply(ctx, wire.CmdCache, 0, off, n)
}

// ZeroOptions modify WriteZeroes.
type ZeroOptions struct {
	NoHole bool // the range stays or becomes allocated
	Fast   bool // fail with ErrUnsupported or wire.ENOTSUP rather than be slow
	FUA    bool // durable at the return
}

// WriteZeroes makes a range read as zeroes.
func (c *Conn) WriteZeroes(ctx context.Context, off, n int64, o ZeroOptions) error {
	if err := c.need(wire.FlagSendWriteZeroes, "write zeroes"); err != nil {
		return err
	}
	flags, flush := c.durable(o.FUA)
	if o.NoHole {
		flags |= wire.CmdFlagNoHole
	}
	if o.Fast {
		if err := c.need(wire.FlagSendFastZero, "fast zero"); err != nil {
			return err
		}
		flags |= wire.CmdFlagFastZero
	}
	err := c.simply(ctx, wire.CmdWriteZeroes, flags, off, n)
	if err == nil && flush {
		err = c.Flush(ctx)
	}
	return err
}

// BlockStatus asks what is at off in a context that was selected. The extents
// follow each other from off on, and cover n bytes or fewer, but at least one. With
// one there is a single extent.
func (c *Conn) BlockStatus(ctx context.Context, contextName string, off, n int64, one bool) ([]wire.Extent, error) {
	if err := c.inRange(off, n); err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, fmt.Errorf("block status of nothing: %w", wire.EINVAL)
	}
	for id, name := range c.ids {
		if name != contextName {
			continue
		}
		req := wire.Request{Type: wire.CmdBlockStatus, Offset: uint64(off), Length: uint64(min(n, c.maxEffect()))}
		if one {
			req.Flags = wire.CmdFlagReqOne
		}
		ask := statusAsk{context: id, length: req.Length}
		var payload []byte
		if len(c.ids) > 1 && c.info.Mode == ModeExtended && c.has(wire.FlagBlockStatusPayload) {
			// Spare the server the contexts that are not asked about.
			payload = wire.AppendStatusPayload(nil, req.Length, []uint32{id})
			req.Flags |= wire.CmdFlagPayloadLen
			req.Length = uint64(len(payload))
		}
		k, err := c.do(ctx, req, payload, nil, ask)
		var extents []wire.Extent
		if k != nil {
			extents = k.extents
		}
		c.release(k)
		if err != nil {
			return nil, err
		}
		return extents, nil
	}
	return nil, fmt.Errorf("context '%s': %w", contextName, ErrUnsupported)
}
