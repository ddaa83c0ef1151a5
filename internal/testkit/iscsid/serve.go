package iscsid

import (
	"encoding/binary"
	"errors"
	"fmt"
)

var errEnd = errors.New("the connection ends")

// serve serves a connection.
func (c *conn) serve() error {
	if err := c.login(); err != nil {
		return err
	}
	for {
		h, data, err := c.recv()
		if err != nil {
			return err
		}
		if err := c.one(&h, data); err != nil {
			return err
		}
	}
}

// one serves one PDU.
func (c *conn) one(h *[48]byte, data []byte) error {
	r := [48]byte{1: 0x80}
	copy(r[16:20], h[16:20])
	switch h[0] & 0x3f {
	case 0x00: // NOP-Out
		c.s.Pings.Add(1)
		if binary.BigEndian.Uint32(h[16:]) == 0xffffffff {
			return nil
		}
		r[0] = 0x20
		binary.BigEndian.PutUint32(r[20:], 0xffffffff)
		c.numbers(&r)
		return c.send(&r, nil)
	case 0x01:
		c.sending.Lock()
		c.cmdSN++
		c.sending.Unlock()
		return c.command(h, data)
	case 0x02: // whatever is asked for is done
		r[0] = 0x22
		delete(c.writes, binary.BigEndian.Uint32(h[20:]))
		c.numbers(&r)
		return c.send(&r, nil)
	case 0x04:
		r[0] = 0x24
		binary.BigEndian.PutUint32(r[20:], 0xffffffff)
		c.numbers(&r)
		return c.send(&r, fmt.Appendf(nil, "TargetName=%s\x00TargetAddress=%s,1\x00", c.s.Name, c.s.Address))
	case 0x05:
		return c.dataOut(h, data)
	case 0x06:
		r[0] = 0x26
		c.numbers(&r)
		_ = c.send(&r, nil)
		return errEnd
	}
	return errEnd
}

// command serves a command, or begins to, if its data has not all come.
func (c *conn) command(h *[48]byte, data []byte) error {
	tag, length := binary.BigEndian.Uint32(h[16:]), int(binary.BigEndian.Uint32(h[20:]))
	lun, ok := unitNumber(h[8:16])
	if !ok {
		return errEnd
	}
	cdb := append([]byte(nil), h[32:48]...)
	if h[1]&0x20 == 0 || length == 0 {
		return c.execute(tag, lun, cdb, nil, length)
	}
	if len(data) > 0 && (!c.attached || len(data) > c.firstBurst || len(data) > c.maxReceive) || h[1]&0x80 == 0 && !c.unasked {
		return errEnd // against what was negotiated
	}
	w := &write{lun: lun, cdb: cdb, buf: make([]byte, length), got: copy(make([]byte, length), data)}
	copy(w.buf, data)
	c.writes[tag] = w
	if h[1]&0x80 == 0 {
		w.burstEnd, w.r2t = min(length, c.firstBurst), 0xffffffff
		return nil
	}
	return c.ask(tag, w)
}

// ask asks for more data, or executes the command if there is none.
func (c *conn) ask(tag uint32, w *write) error {
	if w.got == len(w.buf) {
		delete(c.writes, tag)
		return c.execute(tag, w.lun, w.cdb, w.buf, 0)
	}
	w.burstEnd, w.r2t = min(len(w.buf), w.got+c.maxBurst), tag^0x55
	r := [48]byte{0: 0x31, 1: 0x80}
	binary.BigEndian.PutUint32(r[16:], tag)
	binary.BigEndian.PutUint32(r[20:], w.r2t)
	binary.BigEndian.PutUint32(r[40:], uint32(w.got))
	binary.BigEndian.PutUint32(r[44:], uint32(w.burstEnd-w.got))
	c.numbers(&r)
	return c.send(&r, nil)
}

// dataOut takes data of a write.
func (c *conn) dataOut(h *[48]byte, data []byte) error {
	tag := binary.BigEndian.Uint32(h[16:])
	w := c.writes[tag]
	if w == nil {
		return nil // it was aborted
	}
	if binary.BigEndian.Uint32(h[20:]) != w.r2t || int(binary.BigEndian.Uint32(h[40:])) != w.got || w.got+len(data) > w.burstEnd || len(data) > c.maxReceive {
		return errEnd
	}
	w.got += copy(w.buf[w.got:], data)
	if (h[1]&0x80 != 0) != (w.got == w.burstEnd) {
		return errEnd
	}
	if w.got < w.burstEnd {
		return nil
	}
	return c.ask(tag, w)
}

// execute does a command and answers it.
func (c *conn) execute(tag, lun uint32, cdb, out []byte, length int) error {
	a := Action{}
	if c.s.Intercept != nil {
		a = c.s.Intercept(lun, cdb)
	}
	switch a.Do {
	case Forget:
		return nil
	case Cut:
		return errEnd
	}
	var in []byte
	if a.Do == Continue {
		c.s.mu.Lock()
		u := c.s.units[lun]
		c.s.mu.Unlock()
		in, a = c.s.do(u, cdb, out)
	}
	r := [48]byte{0: 0x21, 1: 0x80, 3: a.Status}
	binary.BigEndian.PutUint32(r[16:], tag)
	if a.Status != 0 {
		var data []byte
		if len(a.Sense) > 0 {
			data = append(binary.BigEndian.AppendUint16(nil, uint16(len(a.Sense))), a.Sense...)
		}
		c.numbers(&r)
		return c.send(&r, data)
	}
	in = in[:min(len(in), length)]
	for at := 0; at < len(in); {
		n := min(c.maxSend, len(in)-at)
		d := [48]byte{0: 0x25}
		copy(d[16:20], r[16:20])
		binary.BigEndian.PutUint32(d[20:], 0xffffffff)
		binary.BigEndian.PutUint32(d[40:], uint32(at))
		at += n
		if at == len(in) { // the status comes with the last data
			d[1] = 0x81
			if at < length {
				d[1] |= 2
				binary.BigEndian.PutUint32(d[44:], uint32(length-at))
			}
		}
		c.numbers(&d)
		if err := c.send(&d, in[at-n:at]); err != nil || at == len(in) {
			return err
		}
	}
	if length > 0 {
		r[1] |= 2
		binary.BigEndian.PutUint32(r[44:], uint32(length))
	}
	c.numbers(&r)
	return c.send(&r, nil)
}

// unitNumber reads the form of the wire.
func unitNumber(b []byte) (uint32, bool) {
	switch {
	case b[0] == 0:
		return uint32(b[1]), true
	case b[0]>>6 == 1:
		return uint32(b[0]&0x3f)<<8 | uint32(b[1]), true
	case b[0] == 0xd2:
		return uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3]), true
	}
	return 0, false
}
