package iscsi

import (
	"encoding/binary"
	"io"
)

// receive takes what the target sends, until the connection ends.
func (c *conn) receive() {
	defer close(c.received)
	for {
		var h header
		err := readHeader(c.br, &h, c.p.digests)
		if err == nil {
			err = c.dispatch(&h)
		}
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			c.fail(err)
			return
		}
	}
}

// dispatch handles one PDU, whose header was read.
func (c *conn) dispatch(h *header) error {
	n := h.dataLength()
	if n > maxReceive {
		return protocolError("the target sends a data segment of %d bytes", n)
	}
	switch op := h.opcode(); op {
	case opDataIn:
		return c.dataIn(h, n)
	case opR2T:
		c.sawNumbers(h, false)
		if err := readData(c.br, nil, n, c.p.digests); err != nil {
			return err
		}
		return c.ask(h)
	case opResponse:
		return c.response(h, n)
	case opTextReply:
		return c.textReply(h, n)
	case opReject:
		return c.reject(h, n)
	}
	if err := readData(c.br, nil, n, c.p.digests); err != nil {
		return err
	}
	switch op := h.opcode(); op {
	case opNopIn:
		c.sawNumbers(h, h.tag() != noTag)
		if h.u32(20) == noTag {
			return nil // the answer to a ping
		}
		pong := header{0: opNopOut, 1: flagFinal}
		copy(pong[8:16], h[8:16])
		pong.set(16, noTag)
		pong.set(20, h.u32(20))
		return c.queue(&pong)
	case opTaskMgmtReply:
		c.sawNumbers(h, true)
		c.aborted(h)
		return nil
	case opAsync:
		c.sawNumbers(h, true)
		// 1: wants a logout, 2 and 3: drops connections, 4: wants to negotiate again.
		// A new login does for all of them.
		if event := h[36]; event >= 1 && event <= 4 {
			return errLoggedOut
		}
		return nil
	case opLogoutReply:
		return errLoggedOut
	}
	return protocolError("the target sends an unknown PDU (opcode %#02x)", h.opcode())
}

// find returns the task of a PDU.
func (c *conn) find(h *header) (*task, error) {
	t := c.tasks[h.tag()]
	if t == nil {
		return nil, protocolError("the target answers an unknown command (tag %#x)", h.tag())
	}
	if !t.probe {
		c.progress.Store(now())
	}
	return t, nil
}

// aborted takes the answer to the request to abort a command: none comes for that, then.
func (c *conn) aborted(h *header) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.tasks {
		if t.cmd == nil && t.abort == h.tag() {
			c.finish(t, ErrClosed)
			return
		}
	}
}

// finish ends a task. It is called with mu.
func (c *conn) finish(t *task, err error) {
	delete(c.tasks, t.tag)
	if t.cmd == nil {
		c.abandoned--
	}
	t.err = err
	close(t.done)
}

// dataIn takes data for a command.
func (c *conn) dataIn(h *header, n int) error {
	final := h[1]&flagStatus != 0
	c.sawNumbers(h, final)
	c.mu.Lock()
	t, err := c.find(h)
	if err != nil {
		c.mu.Unlock()
		return err
	}
	var p []byte
	if t.cmd != nil {
		if at := int64(h.u32(40)); at != int64(t.got) || n > len(t.cmd.In)-t.got {
			c.mu.Unlock()
			return protocolError("the target sends %d bytes for offset %d of %d, not for %d", n, at, len(t.cmd.In), t.got)
		}
		p = t.cmd.In[t.got : t.got+n]
		t.filling = true
	}
	c.mu.Unlock()
	c.filling.Store(true)
	err = readData(c.br, p, n, c.p.digests)
	c.filling.Store(false)
	c.mu.Lock()
	defer c.mu.Unlock()
	t.filling = false
	if err != nil {
		return err
	}
	t.got += len(p)
	if final {
		c.end(t, h, h[3], nil)
	}
	return nil
}

// ask takes a request for data. It is checked here and answered by the command's goroutine.
func (c *conn) ask(h *header) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	t, err := c.find(h)
	if err != nil || t.cmd == nil {
		return err
	}
	offset, length := int64(h.u32(40)), int64(h.u32(44))
	if length == 0 || length > int64(c.p.maxBurst) || offset+length > int64(len(t.cmd.Out)) {
		return protocolError("the target asks for %d bytes at offset %d of %d", length, offset, len(t.cmd.Out))
	}
	select {
	case t.r2t <- transfer{h.u32(20), int(offset), int(offset + length)}:
		return nil
	default:
		return protocolError("the target asks for more data than it may at a time")
	}
}

// maxSense is how much of the data of a response is looked at.
const maxSense = 258

// response takes the status of a command, with its sense data.
func (c *conn) response(h *header, n int) error {
	c.sawNumbers(h, true)
	data := make([]byte, min(n, maxSense))
	if err := readData(c.br, data, n, c.p.digests); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	t, err := c.find(h)
	if err != nil {
		return err
	}
	if h[2] != 0 { // not completed at the target
		c.finish(t, protocolError("the target fails (response %#02x)", h[2]))
		return nil
	}
	var sense []byte
	if len(data) >= 2 {
		length := int(binary.BigEndian.Uint16(data))
		sense = data[2:min(len(data), 2+length)]
	}
	c.end(t, h, h[3], sense)
	return nil
}

// end ends a task with a status. It is called with mu.
func (c *conn) end(t *task, h *header, status byte, sense []byte) {
	switch {
	case status == StatusGood:
		c.finish(t, t.complete(h))
		c.worked = true
	case status == StatusCheck && len(sense) > 0:
		e := parseSense(sense)
		c.finish(t, e)
		if e.reset() && c.worked && len(c.tasks) > 0 {
			// Commands that were under way may be gone. On a new connection all of
			// them are sent again.
			go c.fail(e)
		}
	default:
		c.finish(t, &StatusError{status})
	}
}

// complete checks that as much data came as the target says.
func (t *task) complete(h *header) error {
	if t.cmd == nil || len(t.cmd.In) == 0 {
		return nil
	}
	missing := 0
	if h[1]&flagUnderflow != 0 {
		missing = int(min(h.u32(44), uint32(len(t.cmd.In))))
	}
	if t.got != len(t.cmd.In)-missing {
		return protocolError("the target sent %d bytes of %d, and says that %d are missing", t.got, len(t.cmd.In), missing)
	}
	return nil
}

// reject takes the refusal of a PDU.
func (c *conn) reject(h *header, n int) error {
	c.sawNumbers(h, true)
	var refused header
	if err := readData(c.br, refused[:], n, c.p.digests); err != nil {
		return err
	}
	err := protocolError("the target rejects a PDU (opcode %#02x, reason %#02x)", refused.opcode(), h[2])
	c.mu.Lock()
	defer c.mu.Unlock()
	switch t := c.tasks[refused.tag()]; refused.opcode() {
	case opCommand:
		if t != nil {
			c.finish(t, err)
			return nil
		}
	case opTaskMgmt, opNopOut:
		return nil
	}
	return err
}
