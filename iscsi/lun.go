package iscsi

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/cowl-disk/cowl/internal/message"
)

// Operation codes (SPC-4, SBC-3).
const (
	cmdTestUnitReady   = 0x00
	cmdInquiry         = 0x12
	cmdModeSense6      = 0x1a
	cmdReadCapacity10  = 0x25
	cmdRead10          = 0x28
	cmdWrite10         = 0x2a
	cmdSyncCache10     = 0x35
	cmdWriteSame10     = 0x41
	cmdUnmap           = 0x42
	cmdRead16          = 0x88
	cmdWrite16         = 0x8a
	cmdWriteSame16     = 0x93
	cmdServiceIn16     = 0x9e // READ CAPACITY (16) and GET LBA STATUS
	cmdReportLUNs      = 0xa0
	actionReadCapacity = 0x10
	actionLBAStatus    = 0x12

	flagFUA   = 0x08
	flagUnmap = 0x08 // of WRITE SAME
)

// LUN is a logical unit of a target. Its methods may be called concurrently. Blocks are
// those of Capacity.
type LUN struct {
	Doer
	Number uint32 // at most MaxLUN
}

// command makes a command with an operation code.
func (l LUN) command(op byte) *Command {
	c := &Command{LUN: EncodeLUN(l.Number)}
	c.CDB[0] = op
	return c
}

// read does a command that answers with at most n bytes.
func (l LUN) read(ctx context.Context, c *Command, n int) ([]byte, error) {
	c.In = make([]byte, n)
	if err := l.Do(ctx, c); err != nil {
		return nil, err
	}
	return c.In[:c.N], nil
}

func short(what string, n int) error {
	return protocolError("the answer to %s has only %d bytes", what, n)
}

// TestUnitReady says whether the unit can be used: nil if it can.
func (l LUN) TestUnitReady(ctx context.Context) error {
	return l.Do(ctx, l.command(cmdTestUnitReady))
}

// Device types (SPC-4, 6.4.2).
const (
	TypeDisk = 0x00
	TypeROM  = 0x05
	TypeNone = 0x1f // there is no unit
)

// Inquiry is what a unit says of itself (SPC-4, 6.4.2).
type Inquiry struct {
	Qualifier       byte // 0: connected
	Type            byte
	Removable       bool
	Vendor, Product string
	Revision        string
}

// Inquiry asks what the unit is.
func (l LUN) Inquiry(ctx context.Context) (*Inquiry, error) {
	c := l.command(cmdInquiry)
	c.CDB[4] = 255
	b, err := l.read(ctx, c, 255)
	if err != nil {
		return nil, err
	}
	if len(b) < 5 {
		return nil, short("INQUIRY", len(b))
	}
	i := &Inquiry{Qualifier: b[0] >> 5, Type: b[0] & 0x1f, Removable: b[1]&0x80 != 0}
	if len(b) >= 36 {
		i.Vendor, i.Product, i.Revision = printable(b[8:16]), printable(b[16:32]), printable(b[32:36])
	}
	return i, nil
}

// printable returns text of a target without what a terminal would obey, and without
// spaces at its end.
func printable(b []byte) string {
	b = slices.Clone(b)
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = ' '
		}
	}
	for len(b) > 0 && b[len(b)-1] == ' ' {
		b = b[:len(b)-1]
	}
	return string(b)
}

// Pages of vital product data (SPC-4, 7.8; SBC-3, 6.5).
const (
	PageSupported    = 0x00
	PageSerial       = 0x80
	PageDevice       = 0x83
	PageLimits       = 0xb0
	PageProvisioning = 0xb2
)

const maxPage = 4096

// Page returns a page of vital product data, without its header.
func (l LUN) Page(ctx context.Context, page byte) ([]byte, error) {
	c := l.command(cmdInquiry)
	c.CDB[1], c.CDB[2] = 1, page
	binary.BigEndian.PutUint16(c.CDB[3:], maxPage)
	b, err := l.read(ctx, c, maxPage)
	switch {
	case err != nil:
		return nil, err
	case len(b) < 4:
		return nil, short("INQUIRY", len(b))
	case b[1] != page:
		return nil, protocolError("the target answers with page %#02x, not %#02x, of the product data", b[1], page)
	}
	length := int(binary.BigEndian.Uint16(b[2:]))
	b = b[4:]
	return b[:min(len(b), length)], nil
}

// Limits are the bounds of commands, in blocks; 0 is no bound (SBC-3, 6.5.3).
type Limits struct {
	MaxTransfer, OptTransfer uint32
	MaxUnmap                 uint32 // of one UNMAP; 0: unknown
	MaxUnmapRanges           uint32
	UnmapGranularity         uint32
	MaxWriteSame             uint64
	NeedsCount               bool // WRITE SAME takes no count of 0
}

// ParseLimits reads PageLimits.
func ParseLimits(page []byte) *Limits {
	b := make([]byte, 60)
	copy(b, page)
	u := func(at int) uint32 { return binary.BigEndian.Uint32(b[at-4:]) } // at: as the specification counts
	return &Limits{MaxTransfer: u(8), OptTransfer: u(12), MaxUnmap: u(20), MaxUnmapRanges: u(24), UnmapGranularity: u(28),
		MaxWriteSame: binary.BigEndian.Uint64(b[32:]), NeedsCount: b[0]&1 != 0}
}

// Provisioning says how blocks are given back (SBC-3, 6.5.4).
type Provisioning struct {
	Unmap       bool // UNMAP (LBPU)
	WriteSame16 bool // WRITE SAME (16) with the bit UNMAP (LBPWS)
	WriteSame10 bool // WRITE SAME (10) with it
	ReadsZero   bool // what was given back reads as zeroes (LBPRZ)
}

// ParseProvisioning reads PageProvisioning.
func ParseProvisioning(page []byte) *Provisioning {
	if len(page) < 2 {
		return &Provisioning{}
	}
	f := page[1]
	return &Provisioning{Unmap: f&0x80 != 0, WriteSame16: f&0x40 != 0, WriteSame10: f&0x20 != 0, ReadsZero: f&0x04 != 0}
}

// Capacity is the size of a unit (SBC-3, 5.15 and 5.16).
type Capacity struct {
	Blocks    uint64
	BlockSize uint32
	// PhysicalBlock is the size of a physical block, in bytes.
	PhysicalBlock uint32
	// Thin: blocks may have no room (LBPME). ReadsZero: those read as zeroes (LBPRZ).
	Thin, ReadsZero bool
	// Long: the unit has the commands with 16 bytes.
	Long bool
}

// Capacity asks for the size, by READ CAPACITY (16), or (10) where the target does not have that.
func (l LUN) Capacity(ctx context.Context) (*Capacity, error) {
	c := l.command(cmdServiceIn16)
	c.CDB[1] = actionReadCapacity
	binary.BigEndian.PutUint32(c.CDB[10:], 32)
	b, err := l.read(ctx, c, 32)
	var sense *SenseError
	switch {
	case errors.As(err, &sense) && sense.Unsupported():
		return l.capacity10(ctx)
	case err != nil:
		return nil, err
	case len(b) < 12:
		return nil, short("READ CAPACITY (16)", len(b))
	}
	last := binary.BigEndian.Uint64(b)
	if last == 1<<64-1 {
		return nil, protocolError("the target says that the unit has 2^64 blocks")
	}
	size := &Capacity{Blocks: last + 1, BlockSize: binary.BigEndian.Uint32(b[8:]), Long: true}
	size.PhysicalBlock = size.BlockSize
	if len(b) >= 16 {
		if physical := uint64(size.BlockSize) << (b[13] & 15); physical <= 1<<31 {
			size.PhysicalBlock = uint32(physical)
		}
		size.Thin, size.ReadsZero = b[14]&0x80 != 0, b[14]&0x40 != 0
	}
	return size, nil
}

func (l LUN) capacity10(ctx context.Context) (*Capacity, error) {
	b, err := l.read(ctx, l.command(cmdReadCapacity10), 8)
	switch {
	case err != nil:
		return nil, err
	case len(b) < 8:
		return nil, short("READ CAPACITY (10)", len(b))
	}
	block := binary.BigEndian.Uint32(b[4:])
	return &Capacity{Blocks: uint64(binary.BigEndian.Uint32(b)) + 1, BlockSize: block, PhysicalBlock: block}, nil
}

// Mode is what MODE SENSE (6) tells (SBC-3, 6.4.1 and 6.4.5).
type Mode struct {
	WriteProtected bool
	FUA            bool // commands may have the bit FUA (DPOFUA)
	WriteCache     bool // what was written may be in a volatile cache; true if that is unknown
}

// Mode asks for the mode of the unit.
func (l LUN) Mode(ctx context.Context) (*Mode, error) {
	c := l.command(cmdModeSense6)
	c.CDB[2], c.CDB[4] = 0x3f, 255 // all pages, current values
	b, err := l.read(ctx, c, 255)
	switch {
	case err != nil:
		return nil, err
	case len(b) < 4:
		return nil, short("MODE SENSE (6)", len(b))
	}
	m := &Mode{WriteProtected: b[2]&0x80 != 0, FUA: b[2]&0x10 != 0, WriteCache: true}
	pages := b[4:]
	pages = pages[min(len(pages), int(b[3])):] // behind the block descriptors
	for len(pages) > 2 {
		if pages[0]&0x7f == 0x08 { // caching
			m.WriteCache = pages[2]&0x04 != 0
		}
		header := 2
		length := int(pages[1])
		if pages[0]&0x40 != 0 { // with a subpage
			if len(pages) < 4 {
				break
			}
			header, length = 4, int(binary.BigEndian.Uint16(pages[2:]))
		}
		pages = pages[min(len(pages), header+length):]
	}
	return m, nil
}

// maxUnits bounds how many units of a target are listed.
const maxUnits = 16384

// ReportLUNs lists the units of the target, in the form of the wire. The number of l does not
// matter.
func (l LUN) ReportLUNs(ctx context.Context) ([]uint64, error) {
	size := 8 + 8*64
	for {
		c := LUN{Doer: l.Doer}.command(cmdReportLUNs)
		binary.BigEndian.PutUint32(c.CDB[6:], uint32(size))
		b, err := l.read(ctx, c, size)
		switch {
		case err != nil:
			return nil, err
		case len(b) < 8:
			return nil, short("REPORT LUNS", len(b))
		}
		length := int64(binary.BigEndian.Uint32(b))
		if length > 8*maxUnits {
			return nil, protocolError("the target has more than %d units", maxUnits)
		}
		if want := 8 + int(length); want > size {
			size = want
			continue
		}
		b = b[8:]
		b = b[:min(len(b), int(length))]
		var list []uint64
		for len(b) >= 8 {
			list = append(list, binary.BigEndian.Uint64(b))
			b = b[8:]
		}
		return list, nil
	}
}

// IsUnsupported says whether an error means that the target has no such command.
func IsUnsupported(err error) bool {
	var sense *SenseError
	return errors.As(err, &sense) && sense.Unsupported()
}

func tooLong(what string, blocks uint64) error {
	return message.Errorf(nil, "%s of %d blocks is more than the command can tell", what, blocks)
}
