package blockmap

import (
	"context"
	"math/bits"

	"github.com/cowl-disk/cowl/block/driver"
)

// sectorSize is what a bit of a sector bitmap stands for, in bytes.
const sectorSize = 512

// bitsBudget bounds the bitmaps that are remembered, in bytes.
const bitsBudget = 4 << 20

// sectors returns which sectors of unit u, which lies at host, are there; nil: all.
func (m *Disk) sectors(ctx context.Context, u, host int64) ([]byte, error) {
	m.bitsMu.Lock()
	b, ok := m.bits[host]
	m.bitsMu.Unlock()
	if ok {
		return b, nil
	}
	b, err := m.hooks.Sectors(ctx, u, host)
	if err != nil {
		return nil, err
	}
	need := m.l.Unit / sectorSize
	if b != nil && int64(len(b))*8 < need {
		return nil, driver.Errorf(driver.ErrCorrupt, "the sector bitmap of the %s at offset %d is too short", m.l.Noun, host)
	}
	m.bitsMu.Lock()
	defer m.bitsMu.Unlock()
	if int64(len(m.bits)) >= max(4, bitsBudget/(need/8+64)) || m.bits == nil {
		m.bits = map[int64][]byte{}
	}
	m.bits[host] = b
	return b, nil
}

// sectorPlan says how a unit that has an entry with data can be written.
func (m *Disk) sectorPlan(e Entry) planState {
	if !e.Partial {
		return planInPlace
	}
	m.bitsMu.Lock()
	defer m.bitsMu.Unlock()
	switch b, ok := m.bits[e.Host]; {
	case !ok:
		return planSectors
	case b == nil:
		return planInPlace
	}
	return planNew
}

// written notes that all sectors of a unit are there.
func (m *Disk) written(host int64) {
	if m.hooks.Sectors == nil {
		return
	}
	m.bitsMu.Lock()
	defer m.bitsMu.Unlock()
	if m.bits == nil {
		m.bits = map[int64][]byte{}
	}
	m.bits[host] = nil
}

// forget forgets which sectors of the unit at host are there.
func (m *Disk) forget(host int64) {
	m.bitsMu.Lock()
	defer m.bitsMu.Unlock()
	delete(m.bits, host)
}

// sectorRun cuts p, a run of one unit that begins at off of the disk, where the sectors
// that are there begin or end. n is how long it is asked for.
func (m *Disk) sectorRun(ctx context.Context, p piece, off, n int64) (piece, error) {
	in := off % m.l.Unit
	b, err := m.sectors(ctx, off/m.l.Unit, p.host-in)
	if err != nil || b == nil {
		return p, err
	}
	first, last := in/sectorSize, (in+n-1)/sectorSize
	here := bit(b, first)
	end := first + 1
	for end <= last {
		if w := b[end/8]; end%8 == 0 && (w == 0xff || w == 0) && (w != 0) == here {
			end += 8
			continue
		}
		if bit(b, end) != here {
			break
		}
		end++
	}
	p.n = min(end*sectorSize-in, p.n)
	if !here {
		p.state, p.host = Absent, 0 // partial stays: the unit has room
	}
	return p, nil
}

func bit(b []byte, i int64) bool { return bits.Reverse8(b[i/8])>>(i%8)&1 != 0 }
