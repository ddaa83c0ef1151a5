package server

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/cowl-disk/cowl/nbd/wire"
)

const (
	// maxOption is the longest data of an option that is looked at, and skipOption
	// the longest that is read over: what is longer ends the connection.
	maxOption  = 64 << 10
	skipOption = 1 << 20
	// maxListed bounds the contexts that one option can select or list.
	maxListed = 1024
)

// errDone ends a negotiation that the client has aborted.
var errDone = errors.New("the client has ended the negotiation")

// violation is an error of a client that ends its connection.
func violation(format string, args ...any) error {
	return fmt.Errorf("client violates the NBD protocol: %s", fmt.Sprintf(format, args...))
}

// metaContext is a context that a client has selected.
type metaContext struct {
	id   uint32
	name string
}

// negotiator is a connection before the transmission phase.
type negotiator struct {
	*conn
	br       *bufio.Reader
	noZeroes bool
	authed   bool
	metaName string // the export that meta belongs to
	data     []byte // of the option at hand
	out      []byte
}

// negotiate leads the client to an export, within the time limit. It returns what
// was read beyond the handshake.
func (c *conn) negotiate() (rest []byte, err error) {
	if d := c.srv.cfg.HandshakeTimeout; d > 0 {
		c.raw.SetDeadline(time.Now().Add(d))
	}
	n := &negotiator{conn: c, br: bufio.NewReaderSize(c.nc, 4096)}
	if err := n.haggle(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.transmitting = true
	c.raw.SetDeadline(time.Time{})
	if c.stopped {
		c.raw.SetReadDeadline(time.Unix(1, 0))
	}
	rest, _ = n.br.Peek(n.br.Buffered())
	return rest, nil
}

func (n *negotiator) haggle() error {
	b := binary.BigEndian.AppendUint64(nil, wire.InitMagic)
	b = binary.BigEndian.AppendUint64(b, wire.OptMagic)
	b = binary.BigEndian.AppendUint16(b, wire.FlagFixedNewstyle|wire.FlagNoZeroes)
	if _, err := n.nc.Write(b); err != nil {
		return err
	}
	var head [wire.OptionHeaderLen]byte
	if _, err := io.ReadFull(n.br, head[:4]); err != nil {
		return err
	}
	flags := binary.BigEndian.Uint32(head[:])
	if flags&^(wire.FlagClientFixedNewstyle|wire.FlagClientNoZeroes) != 0 {
		return violation("client flags %#x", flags)
	}
	n.noZeroes = flags&wire.FlagClientNoZeroes != 0
	for {
		if _, err := io.ReadFull(n.br, head[:]); err != nil {
			return err
		}
		h, err := wire.ParseOptionHeader(head[:])
		if err != nil {
			return violation("%v", err)
		}
		done, err := n.option(h)
		if err == nil {
			_, err = n.nc.Write(n.out)
			n.out = n.out[:0]
		}
		if done || err != nil {
			return err
		}
	}
}

// option reads and answers one option. It reports whether the transmission phase
// begins.
func (n *negotiator) option(h wire.OptionHeader) (done bool, err error) {
	if h.Length > maxOption {
		if h.Length > skipOption || h.Option == wire.OptExportName {
			return false, violation("option %d of %d bytes", h.Option, h.Length)
		}
		if _, err := io.CopyN(io.Discard, n.br, int64(h.Length)); err != nil {
			return false, err
		}
		n.fail(h.Option, wire.RepErrTooBig, "option data too long")
		return false, nil
	}
	if n.data, err = n.readData(int(h.Length)); err != nil {
		return false, err
	}
	plain := n.srv.cfg.TLS != nil && n.srv.cfg.RequireTLS && n.tls == nil
	if plain && h.Option != wire.OptStartTLS && h.Option != wire.OptAbort {
		if h.Option == wire.OptExportName {
			return false, violation("export chosen before TLS")
		}
		n.fail(h.Option, wire.RepErrTLSReqd, fmt.Sprintf("Option 0x%x not permitted before TLS", uint32(h.Option)))
		return false, nil
	}
	if !plain && !n.authed && h.Option != wire.OptStartTLS && h.Option != wire.OptAbort {
		if err := n.authorize(); err != nil {
			return false, err
		}
	}
	if n.isStopped() && h.Option != wire.OptAbort && h.Option != wire.OptExportName {
		n.fail(h.Option, wire.RepErrShutdown, "the server is shutting down")
		return false, nil
	}
	empty := func() bool {
		if len(n.data) != 0 {
			n.fail(h.Option, wire.RepErrInvalid, fmt.Sprintf("option '%v' should have zero length", h.Option))
			return false
		}
		return true
	}
	switch h.Option {
	case wire.OptExportName:
		return true, n.exportName()
	case wire.OptAbort:
		n.reply(h.Option, wire.RepAck, nil)
		n.nc.Write(n.out)
		return false, errDone
	case wire.OptList:
		if empty() {
			for _, name := range n.srv.names() {
				desc := ""
				if e := n.srv.find(name); e != nil {
					desc = e.Description
				}
				n.reply(h.Option, wire.RepServer, wire.AppendServer(nil, name, desc))
			}
			n.reply(h.Option, wire.RepAck, nil)
		}
	case wire.OptStartTLS:
		if empty() {
			return false, n.startTLS()
		}
	case wire.OptInfo, wire.OptGo:
		return n.info(h.Option)
	case wire.OptStructuredReply, wire.OptExtendedHeaders:
		if empty() {
			n.setMode(h.Option)
		}
	case wire.OptListMetaContext, wire.OptSetMetaContext:
		n.metaContexts(h.Option)
	default:
		n.fail(h.Option, wire.RepErrUnsup, fmt.Sprintf("Unsupported option %d (%v)", uint32(h.Option), h.Option))
	}
	return false, nil
}

// readData reads the data of an option, growing with what really arrives.
func (n *negotiator) readData(length int) ([]byte, error) {
	b := n.data[:0]
	for len(b) < length {
		at := len(b)
		b = slices.Grow(b, min(4096, length-at))[:at+min(4096, length-at)]
		if _, err := io.ReadFull(n.br, b[at:]); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (n *negotiator) reply(o wire.Option, typ wire.OptionReply, data []byte) {
	at := len(n.out)
	n.out = append(n.out, make([]byte, wire.OptionReplyHeaderLen)...)
	wire.OptionReplyHeader{Option: o, Type: typ, Length: uint32(len(data))}.Put(n.out[at:])
	n.out = append(n.out, data...)
}

func (n *negotiator) fail(o wire.Option, typ wire.OptionReply, msg string) {
	n.reply(o, typ, []byte(msg[:min(len(msg), wire.MaxString)]))
}

func (n *negotiator) authorize() error {
	n.authed = true
	if n.srv.cfg.Authorize == nil {
		return nil
	}
	if err := n.srv.cfg.Authorize(n.ctx, Peer{Addr: n.raw.RemoteAddr(), TLS: n.tls}); err != nil {
		return fmt.Errorf("client is not authorized: %w", err)
	}
	return nil
}

func (n *negotiator) startTLS() error {
	switch {
	case n.tls != nil:
		n.fail(wire.OptStartTLS, wire.RepErrInvalid, "TLS already enabled")
		return nil
	case n.srv.cfg.TLS == nil:
		n.fail(wire.OptStartTLS, wire.RepErrPolicy, "TLS not configured")
		return nil
	case n.br.Buffered() > 0:
		// What was sent in the clear must not be taken for protected.
		return violation("data after STARTTLS")
	}
	n.reply(wire.OptStartTLS, wire.RepAck, nil)
	if _, err := n.nc.Write(n.out); err != nil {
		return err
	}
	n.out = n.out[:0]
	tc := tls.Server(n.raw, n.srv.cfg.TLS)
	if err := tc.HandshakeContext(n.ctx); err != nil {
		return fmt.Errorf("TLS handshake failed: %w", err)
	}
	st := tc.ConnectionState()
	n.nc, n.tls = tc, &st
	n.br.Reset(tc)
	// Nothing of what was agreed on in the clear holds.
	n.mode, n.meta, n.metaName = modeSimple, nil, ""
	return n.authorize()
}

func (n *negotiator) setMode(o wire.Option) {
	switch {
	case o == wire.OptStructuredReply && n.mode == modeExtended:
		n.fail(o, wire.RepErrExtHeaderReqd, "extended headers already negotiated")
	case o == wire.OptStructuredReply && n.mode == modeStructured:
		n.fail(o, wire.RepErrInvalid, "structured reply already negotiated")
	case o == wire.OptExtendedHeaders && n.mode == modeExtended:
		n.fail(o, wire.RepErrInvalid, "extended headers already negotiated")
	default:
		n.mode = modeStructured
		if o == wire.OptExtendedHeaders {
			n.mode = modeExtended
		}
		n.reply(o, wire.RepAck, nil)
	}
}

// choose enters the transmission phase with e, unless it was removed meanwhile.
func (n *negotiator) choose(e *Export) bool {
	n.srv.mu.Lock()
	defer n.srv.mu.Unlock()
	if n.srv.exports[e.Name] != e {
		return false
	}
	n.export = e
	return true
}

func (n *negotiator) exportName() error {
	name := string(n.data)
	e := n.srv.find(name)
	if e == nil || n.isStopped() {
		return violation("export '%s' not present", name)
	}
	if e.blockSize(false).Min > 1 {
		return violation("export '%s' has a minimum block size, and the client does not ask for it", name)
	}
	if !n.choose(e) {
		return violation("export '%s' not present", name)
	}
	n.meta = n.metaFor(name)
	n.out = binary.BigEndian.AppendUint64(n.out, uint64(e.Device.Size()))
	n.out = binary.BigEndian.AppendUint16(n.out, uint16(e.flags(n.mode)))
	if !n.noZeroes {
		n.out = append(n.out, make([]byte, 124)...)
	}
	return nil
}

// metaFor returns the selected contexts, if they are those of the export.
func (n *negotiator) metaFor(name string) []metaContext {
	if n.metaName != name {
		return nil
	}
	return n.meta
}

func (n *negotiator) info(o wire.Option) (bool, error) {
	req, err := wire.ParseInfoRequest(n.data)
	if err != nil {
		n.fail(o, wire.RepErrInvalid, err.Error())
		return false, nil
	}
	e := n.srv.find(req.Name)
	if e == nil {
		n.fail(o, wire.RepErrUnknown, fmt.Sprintf("export '%s' not present", req.Name))
		return false, nil
	}
	asked := slices.Contains(req.Infos, wire.InfoBlockSize)
	size := e.blockSize(asked || o == wire.OptInfo)
	if size.Min > 1 && !asked && e.blockSize(false).Min > 1 {
		n.fail(o, wire.RepErrBlockSizeReqd, "request NBD_INFO_BLOCK_SIZE to use this export")
		return false, nil
	}
	if slices.Contains(req.Infos, wire.InfoName) {
		n.reply(o, wire.RepInfo, wire.AppendInfoText(nil, wire.InfoName, e.Name))
	}
	if e.Description != "" && slices.Contains(req.Infos, wire.InfoDescription) {
		n.reply(o, wire.RepInfo, wire.AppendInfoText(nil, wire.InfoDescription, e.Description))
	}
	n.reply(o, wire.RepInfo, wire.AppendInfoBlockSize(nil, size))
	n.reply(o, wire.RepInfo, wire.AppendInfoExport(nil, uint64(e.Device.Size()), e.flags(n.mode)))
	if o == wire.OptGo && !n.choose(e) {
		n.out = n.out[:0]
		n.fail(o, wire.RepErrUnknown, fmt.Sprintf("export '%s' not present", req.Name))
		return false, nil
	}
	n.reply(o, wire.RepAck, nil)
	if o == wire.OptGo {
		n.asked = asked
		n.meta = n.metaFor(req.Name)
	}
	return o == wire.OptGo, nil
}

func (n *negotiator) metaContexts(o wire.Option) {
	list := o == wire.OptListMetaContext
	if !list {
		n.meta, n.metaName = nil, ""
	}
	if n.mode < modeStructured {
		n.fail(o, wire.RepErrInvalid, fmt.Sprintf("request option '%v' when structured reply is not negotiated", o))
		return
	}
	q, err := wire.ParseMetaQuery(n.data)
	if err != nil {
		n.fail(o, wire.RepErrInvalid, err.Error())
		return
	}
	e := n.srv.find(q.Name)
	if e == nil {
		n.fail(o, wire.RepErrUnknown, fmt.Sprintf("export '%s' not present", q.Name))
		return
	}
	var found []metaContext
	for i, name := range e.contexts() {
		if len(found) < maxListed && matches(name, q.Queries, list) {
			id := uint32(i + 1)
			found = append(found, metaContext{id, name})
			if list {
				id = 0
			}
			n.reply(o, wire.RepMetaContext, wire.AppendMetaContext(nil, id, name))
		}
	}
	n.reply(o, wire.RepAck, nil)
	if !list {
		n.meta, n.metaName = found, q.Name
	}
}

// matches says whether one of the queries asks for a context. A query that ends
// after a colon means all contexts with that prefix, when listing.
func matches(name string, queries []string, list bool) bool {
	if list && len(queries) == 0 {
		return true
	}
	for _, q := range queries {
		if q == name || list && strings.HasSuffix(q, ":") && strings.HasPrefix(name, q) {
			return true
		}
	}
	return false
}

// stopReading makes the connection end after the requests under way.
func (c *conn) stopReading() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = true
	if c.transmitting {
		c.raw.SetReadDeadline(time.Unix(1, 0))
	} else {
		// The client has not begun anything that could be lost.
		c.raw.SetReadDeadline(time.Now().Add(time.Second / 10))
	}
}

func (c *conn) isStopped() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stopped
}
