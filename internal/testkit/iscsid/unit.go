package iscsid

import (
	"encoding/binary"
)

var good = Action{}

// do does a command of a unit, which is nil if there is none.
func (s *Server) do(u *Unit, cdb, out []byte) ([]byte, Action) {
	if cdb[0] == 0xa0 {
		return s.reportLUNs(), good
	}
	if u == nil {
		if cdb[0] == 0x12 {
			return append([]byte{0x7f, 0, 5, 2, 31}, make([]byte, 31)...), good
		}
		return nil, Check(5, 0x2500)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	switch cdb[0] {
	case 0x00:
		return nil, good
	case 0x12:
		return u.inquiry(cdb)
	case 0x1a:
		flags := byte(0x10)
		if u.WriteProtected {
			flags |= 0x80
		}
		page := append([]byte{0x08, 18}, make([]byte, 18)...)
		if u.Cached {
			page[2] = 4
		}
		return append([]byte{byte(3 + len(page)), 0, flags, 0}, page...), good
	case 0x25:
		b := binary.BigEndian.AppendUint32(nil, uint32(len(u.mapped)-1))
		return binary.BigEndian.AppendUint32(b, uint32(u.BlockSize)), good
	case 0x9e:
		return u.serviceIn(cdb)
	case 0x35, 0x91:
		u.synced++
		return nil, good
	case 0x42:
		return nil, u.unmap(out)
	case 0x28, 0x2a, 0x41, 0x88, 0x8a, 0x93:
		return u.blocks(cdb, out)
	}
	return nil, Check(5, 0x2000)
}

func (s *Server) reportLUNs() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := binary.BigEndian.AppendUint32(nil, uint32(8*len(s.units)))
	b = append(b, 0, 0, 0, 0)
	for n := range s.units {
		var l [8]byte
		if n < 256 {
			l[1] = byte(n)
		} else {
			l[0], l[1] = 0x40|byte(n>>8), byte(n)
		}
		b = append(b, l[:]...)
	}
	return b
}

func (u *Unit) inquiry(cdb []byte) ([]byte, Action) {
	if cdb[1]&1 == 0 {
		b := append([]byte{u.Type, 0, 5, 2, 31, 0, 0, 2}, "COWL    A DISK OF TESTS 1   "...)
		return b, good
	}
	var page []byte
	switch cdb[2] {
	case 0x00:
		page = []byte{0x00, 0x80, 0x83, 0xb0, 0xb2}
	case 0x80:
		page = []byte("SERIAL")
	case 0x83:
		page = []byte{1, 3, 0, 8, 0x50, 1, 2, 3, 4, 5, 6, 7}
	case 0xb0:
		page = make([]byte, 60)
		binary.BigEndian.PutUint32(page[4:], u.MaxTransfer)
		if u.Thin {
			binary.BigEndian.PutUint32(page[16:], 1<<20)
			binary.BigEndian.PutUint32(page[20:], 1)
			binary.BigEndian.PutUint32(page[24:], 8)
		}
	case 0xb2:
		page = make([]byte, 4)
		if u.Thin {
			page[1], page[2] = 0xe4, 2
		}
	default:
		return nil, Check(5, 0x2400)
	}
	b := binary.BigEndian.AppendUint16([]byte{u.Type, cdb[2]}, uint16(len(page)))
	return append(b, page...), good
}

// serviceIn does READ CAPACITY (16) and GET LBA STATUS.
func (u *Unit) serviceIn(cdb []byte) ([]byte, Action) {
	switch {
	case u.NoLong:
	case cdb[1]&31 == 0x10:
		b := binary.BigEndian.AppendUint64(nil, uint64(len(u.mapped)-1))
		b = binary.BigEndian.AppendUint32(b, uint32(u.BlockSize))
		b = append(b, make([]byte, 20)...)
		if u.Thin {
			b[14] = 0xc0
		}
		return b, good
	case cdb[1]&31 == 0x12 && !u.NoStatus:
		lba := binary.BigEndian.Uint64(cdb[2:])
		if lba >= uint64(len(u.mapped)) {
			return nil, Check(5, 0x2100)
		}
		b := make([]byte, 8)
		for at := lba; at < uint64(len(u.mapped)) && len(b) < 8+16*3; { // few at a time
			n := uint64(1)
			for at+n < uint64(len(u.mapped)) && u.mapped[at+n] == u.mapped[at] {
				n++
			}
			b = binary.BigEndian.AppendUint64(b, at)
			b = binary.BigEndian.AppendUint32(b, uint32(n))
			b = append(b, map[bool]byte{false: 1}[u.mapped[at]], 0, 0, 0)
			at += n
		}
		binary.BigEndian.PutUint32(b, uint32(len(b)-4))
		return b, good
	}
	return nil, Check(5, 0x2000)
}

// blocks reads and writes.
func (u *Unit) blocks(cdb, out []byte) ([]byte, Action) {
	lba, n := uint64(binary.BigEndian.Uint32(cdb[2:])), uint64(binary.BigEndian.Uint16(cdb[7:]))
	if cdb[0] >= 0x88 {
		lba, n = binary.BigEndian.Uint64(cdb[2:]), uint64(binary.BigEndian.Uint32(cdb[10:]))
	}
	total := uint64(len(u.mapped))
	if lba > total || n > total-lba {
		return nil, Check(5, 0x2100)
	}
	if u.MaxTransfer > 0 && n > uint64(u.MaxTransfer) && cdb[0] != 0x41 && cdb[0] != 0x93 {
		return nil, Check(5, 0x2400)
	}
	part := u.data[lba*uint64(u.BlockSize) : (lba+n)*uint64(u.BlockSize)]
	if cdb[0] == 0x28 || cdb[0] == 0x88 {
		return append([]byte(nil), part...), good
	}
	mapped := true
	switch {
	case u.WriteProtected:
		return nil, Check(7, 0x2700)
	case cdb[0] == 0x41 || cdb[0] == 0x93:
		if u.NoWriteSame || len(out) != u.BlockSize {
			return nil, Check(5, 0x2000)
		}
		for at := 0; at < len(part); at += copy(part[at:], out) {
		}
		mapped = cdb[1]&8 == 0 || !u.Thin
	case len(out) != len(part):
		return nil, Check(5, 0x2400)
	default:
		copy(part, out)
	}
	for i := lba; i < lba+n; i++ {
		u.mapped[i] = mapped
	}
	return nil, good
}

func (u *Unit) unmap(out []byte) Action {
	if !u.Thin || len(out) < 8 {
		return Check(5, 0x2000)
	}
	for b := out[8:]; len(b) >= 16; b = b[16:] {
		lba, n := binary.BigEndian.Uint64(b), uint64(binary.BigEndian.Uint32(b[8:]))
		if total := uint64(len(u.mapped)); lba > total || n > total-lba {
			return Check(5, 0x2100)
		}
		for i := lba; i < lba+n; i++ {
			u.mapped[i] = false
			clear(u.data[i*uint64(u.BlockSize) : (i+1)*uint64(u.BlockSize)])
		}
	}
	return good
}
