package client

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"slices"

	"github.com/cowl-disk/cowl/internal/message"
	"github.com/cowl-disk/cowl/nbd/wire"
)

const (
	readBuffer = 64 << 10
	// maxReply is the longest data of a reply to an option, and maxReplies how many
	// replies one option may have.
	maxReply   = 2*wire.MaxString + 64
	maxReplies = 10000
)

// handshake is a connection that is being negotiated.
type handshake struct {
	ctx      context.Context
	cfg      *Config
	raw, nc  net.Conn
	br       *bufio.Reader
	mode     Mode
	noZeroes bool
	size     uint64 // oldstyle
	flags    wire.TransFlags
}

func newHandshake(ctx context.Context, raw net.Conn, cfg *Config) *handshake {
	return &handshake{ctx: ctx, cfg: cfg, raw: raw, nc: raw, br: bufio.NewReaderSize(raw, readBuffer)}
}

func (h *handshake) read(n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(h.br, b); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, message.Errorf(nil, "failed to read from the NBD server: %w", err)
	}
	return b, nil
}

// begin finds out the dialect, begins TLS, and agrees on the kind of replies.
func (h *handshake) begin() error {
	b, err := h.read(16)
	if err != nil {
		return &GreetingError{"initial magic", err}
	}
	if binary.BigEndian.Uint64(b) != wire.InitMagic {
		return badGreeting("bad initial magic received: 0x%x", b[:8])
	}
	switch binary.BigEndian.Uint64(b[8:]) {
	case wire.OldMagic:
		return h.oldstyle()
	case wire.OptMagic:
	default:
		return badGreeting("bad server magic received: 0x%x", b[8:])
	}
	if b, err = h.read(2); err != nil {
		return &GreetingError{"server flags", err}
	}
	server := binary.BigEndian.Uint16(b)
	flags := uint32(0)
	if server&wire.FlagFixedNewstyle != 0 {
		flags |= wire.FlagClientFixedNewstyle
	}
	if server&wire.FlagNoZeroes != 0 {
		flags |= wire.FlagClientNoZeroes
		h.noZeroes = true
	}
	if _, err := h.nc.Write(binary.BigEndian.AppendUint32(nil, flags)); err != nil {
		return err
	}
	if server&wire.FlagFixedNewstyle == 0 {
		h.mode = ModeExportName
		if h.cfg.TLS != nil {
			return message.Errorf(nil, "server does not support STARTTLS")
		}
		return nil
	}
	if h.cfg.TLS != nil {
		if err := h.startTLS(); err != nil {
			return err
		}
	}
	return h.agree()
}

func (h *handshake) oldstyle() error {
	if h.cfg.TLS != nil {
		return message.Errorf(nil, "server does not support STARTTLS")
	}
	b, err := h.read(8 + 4 + 124)
	if err != nil {
		return err
	}
	flags := binary.BigEndian.Uint32(b[8:])
	if flags > math.MaxUint16 {
		return badGreeting("unexpected export flags 0x%x", flags)
	}
	h.mode, h.size, h.flags = ModeOldstyle, binary.BigEndian.Uint64(b), wire.TransFlags(flags)
	return nil
}

func (h *handshake) startTLS() error {
	if err := h.simpleOption(wire.OptStartTLS); err != nil {
		return err
	}
	if h.br.Buffered() > 0 {
		return violation("data between STARTTLS and TLS")
	}
	tc := tls.Client(h.raw, h.cfg.TLS)
	if err := tc.HandshakeContext(h.ctx); err != nil {
		return fmt.Errorf("TLS handshake failed: %w", err)
	}
	h.nc = tc
	h.br.Reset(tc)
	return nil
}

// agree asks for the most that both sides can do.
func (h *handshake) agree() error {
	h.mode = ModeSimple
	limit := h.cfg.MaxMode
	if limit == 0 {
		limit = ModeExtended
	}
	for _, try := range []struct {
		mode   Mode
		option wire.Option
	}{{ModeExtended, wire.OptExtendedHeaders}, {ModeStructured, wire.OptStructuredReply}} {
		if limit < try.mode {
			continue
		}
		err := h.simpleOption(try.option)
		if err == nil {
			h.mode = try.mode
			return nil
		}
		if !refused(err) {
			return err
		}
	}
	return nil
}

func (h *handshake) send(o wire.Option, data []byte) error {
	b := make([]byte, wire.OptionHeaderLen, wire.OptionHeaderLen+len(data))
	wire.OptionHeader{Option: o, Length: uint32(len(data))}.Put(b)
	_, err := h.nc.Write(append(b, data...))
	if tc, ok := h.nc.(*tls.Conn); ok && err != nil {
		// A server that refuses our certificate says so and closes the connection: that says
		// more than the lost connection.
		if _, said := tc.Read(make([]byte, 1)); said != nil && !errors.Is(said, io.EOF) {
			err = said
		}
	}
	return err
}

// reply reads one reply to an option. An error of the server is an *OptionError.
func (h *handshake) reply(o wire.Option) (typ wire.OptionReply, data []byte, err error) {
	b, err := h.read(wire.OptionReplyHeaderLen)
	if err != nil {
		return 0, nil, err
	}
	r, err := wire.ParseOptionReplyHeader(b)
	switch {
	case err != nil:
		return 0, nil, violation("%v", err)
	case r.Option != o:
		return 0, nil, violation("reply to option %d instead of %d", r.Option, o)
	case r.Length > maxReply:
		return 0, nil, violation("option reply of %d bytes", r.Length)
	}
	if data, err = h.read(int(r.Length)); err != nil {
		return 0, nil, err
	}
	if r.Type.IsErr() {
		msg := string(data)
		if wire.CheckString(msg) != nil {
			msg = ""
		}
		return 0, nil, &OptionError{Option: o, Reply: r.Type, Message: msg}
	}
	if r.Type == wire.RepAck && len(data) != 0 {
		return 0, nil, violation("acknowledgement with data")
	}
	return r.Type, data, nil
}

// simpleOption sends an option without data, to be answered by an acknowledgement.
func (h *handshake) simpleOption(o wire.Option) error {
	return h.option(o, nil, wire.RepAck, nil)
}

// option sends an option and gives each reply of the type want to each, until the
// acknowledgement.
func (h *handshake) option(o wire.Option, data []byte, want wire.OptionReply, each func(data []byte) error) error {
	if err := h.send(o, data); err != nil {
		return err
	}
	for range maxReplies {
		typ, data, err := h.reply(o)
		if err != nil || typ == wire.RepAck {
			return err
		}
		if typ != want {
			return violation("unexpected reply type %v to option %v", typ, o)
		}
		if err := each(data); err != nil {
			return err
		}
	}
	return violation("too many replies to option %v", o)
}

// abort ends the session with a server that still waits for options.
func (h *handshake) abort() {
	if h.mode >= ModeSimple {
		h.send(wire.OptAbort, nil)
	}
}

// choose selects contexts and enters the transmission phase.
func (h *handshake) choose(name string, contexts []string) (info Info, ids map[uint32]string, err error) {
	info = Info{Name: name, Mode: h.mode, TLS: h.nc != h.raw}
	switch h.mode {
	case ModeOldstyle:
		info.Size, err = checkSize(h.size)
		info.Flags = h.flags
		return info, nil, err
	case ModeExportName:
		err = h.exportName(&info)
		return info, nil, err
	}
	if h.mode >= ModeStructured && len(contexts) > 0 {
		if ids, err = h.setContexts(name, contexts); err != nil {
			if !refused(err) {
				h.abort()
				return info, nil, err
			}
		}
		for _, want := range contexts {
			for _, have := range ids {
				if have == want {
					info.Contexts = append(info.Contexts, want)
				}
			}
		}
	}
	err = h.info(wire.OptGo, name, &info)
	var oe *OptionError
	if errors.As(err, &oe) {
		if oe.Reply != wire.RepErrUnsup {
			h.abort()
			return info, nil, err
		}
		err = h.exportName(&info)
	}
	return info, ids, err
}

func checkSize(size uint64) (int64, error) {
	if size > math.MaxInt64 {
		return 0, violation("export of %d bytes", size)
	}
	return int64(size), nil
}

// exportName chooses an export in the old way.
func (h *handshake) exportName(info *Info) error {
	if err := h.send(wire.OptExportName, []byte(info.Name)); err != nil {
		return err
	}
	n := 10
	if !h.noZeroes {
		n += 124
	}
	b, err := h.read(n)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		// A server has no other way to refuse a name.
		return &OptionError{Option: wire.OptExportName, Reply: wire.RepErrUnknown}
	}
	if err != nil {
		return err
	}
	info.Flags = wire.TransFlags(binary.BigEndian.Uint16(b[8:]))
	info.Size, err = checkSize(binary.BigEndian.Uint64(b))
	return err
}

// info asks for what the server says of an export, with OptGo or OptInfo.
func (h *handshake) info(o wire.Option, name string, info *Info) error {
	req := wire.InfoRequest{Name: name, Infos: []wire.InfoType{wire.InfoBlockSize, wire.InfoDescription, wire.InfoName}}
	if o == wire.OptGo {
		req.Infos = req.Infos[:2]
	}
	seen := false
	err := h.option(o, req.Append(nil), wire.RepInfo, func(data []byte) error {
		i, err := wire.ParseInfo(data)
		if err != nil {
			return violation("%v", err)
		}
		switch i.Type {
		case wire.InfoExport:
			seen = true
			info.Flags = i.Flags
			info.Size, err = checkSize(i.Size)
		case wire.InfoName:
			info.Name = i.Text
		case wire.InfoDescription:
			info.Description = i.Text
		case wire.InfoBlockSize:
			info.BlockSize = i.BlockSize
		}
		return err
	})
	if err == nil && !seen {
		err = violation("no size of the export")
	}
	return err
}

func (h *handshake) setContexts(name string, contexts []string) (map[uint32]string, error) {
	ids := map[uint32]string{}
	q := wire.MetaQuery{Name: name, Queries: contexts}
	err := h.option(wire.OptSetMetaContext, q.Append(nil), wire.RepMetaContext, func(data []byte) error {
		id, context, err := wire.ParseMetaContext(data)
		if err != nil {
			return violation("%v", err)
		}
		if _, twice := ids[id]; twice || !slices.Contains(contexts, context) {
			return violation("unexpected metadata context '%s'", context)
		}
		ids[id] = context
		return nil
	})
	return ids, err
}

// list asks for all exports and their details.
func (h *handshake) list() ([]Info, error) {
	switch h.mode {
	case ModeOldstyle:
		size, err := checkSize(h.size)
		return []Info{{Size: size, Flags: h.flags, Mode: h.mode}}, err
	case ModeExportName:
		return nil, message.Errorf(nil, "server does not support export lists")
	}
	defer h.abort()
	var list []Info
	err := h.option(wire.OptList, nil, wire.RepServer, func(data []byte) error {
		name, desc, err := wire.ParseServer(data)
		if err != nil {
			return violation("%v", err)
		}
		list = append(list, Info{Name: name, Description: desc, Mode: h.mode, TLS: h.nc != h.raw, Size: -1})
		return nil
	})
	if err != nil {
		return nil, err
	}
	for k := range list {
		info := &list[k]
		name := info.Name
		if err := h.info(wire.OptInfo, name, info); err != nil {
			var oe *OptionError
			if !errors.As(err, &oe) {
				return list, err
			}
			continue // only the name is known
		}
		info.Name = name
		if h.mode < ModeStructured {
			continue
		}
		err := h.option(wire.OptListMetaContext, wire.MetaQuery{Name: name}.Append(nil), wire.RepMetaContext, func(data []byte) error {
			_, context, err := wire.ParseMetaContext(data)
			if err != nil {
				return violation("%v", err)
			}
			info.Contexts = append(info.Contexts, context)
			return nil
		})
		if err != nil && !refused(err) {
			return list, err
		}
	}
	return list, nil
}
