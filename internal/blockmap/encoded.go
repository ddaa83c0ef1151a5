package blockmap

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/clustertable"
)

// StoreEncoded stores the encoded contents of the unit at off, which must not have any:
// see driver.Compressor. They follow the last ones without a gap.
func (m *Disk) StoreEncoded(ctx context.Context, off int64, enc []byte) error {
	if off < 0 || off%m.l.Unit != 0 || off >= m.size.Load() {
		return driver.Errorf(driver.ErrInvalid, "no %s of the disk begins at %d", m.l.Noun, off)
	}
	if err := m.begin(ctx); err != nil {
		return err
	}
	if err := m.relieve(ctx); err != nil {
		return err
	}
	u := off / m.l.Unit
	if m.l.Dir != nil {
		if err := m.ensureTable(ctx, u); err != nil {
			return err
		}
	}
	if err := m.needRoom(ctx); err != nil {
		return err
	}
	c, err := m.pend.Reserve(ctx, u, u+1)
	if err != nil {
		return err
	}
	defer m.pend.Remove(c)
	if e, err := m.Entry(ctx, u); err != nil {
		return err
	} else if e.State == Data || e.State == Encoded {
		return driver.Errorf(driver.ErrInvalid, "%s %d is allocated", m.l.Noun, u)
	}
	n := int64(len(enc))
	host, _, err := m.claimBytes(n, 1)
	if err != nil {
		return err
	}
	if m.l.Limit > 0 && host > m.l.Limit-n {
		m.giveBackBytes(host, n)
		return noSpace()
	}
	if _, err = m.file.WriteAt(ctx, enc, host); err == nil {
		_, err = m.edit(ctx, u, u+1, func(int64, Entry) Entry { return Entry{State: Encoded, Host: host, Length: n} })
	}
	if err != nil {
		m.giveBackBytes(host, n)
	}
	return err
}

// Empty takes all tables out of the directory and cuts the file off behind what is
// reserved: see driver.Emptier. No request is under way.
func (m *Disk) Empty(ctx context.Context) error {
	if m.l.Dir == nil {
		return driver.ErrUnsupported
	}
	if err := m.begin(ctx); err != nil {
		return err
	}
	if err := m.Flush(ctx); err != nil {
		return err
	}
	m.quiesce()
	m.flushMu.Lock()
	defer m.flushMu.Unlock()
	d := m.l.Dir
	if err := clustertable.WriteZeroes(ctx, m.file, d.Off, d.Entries*int64(d.Width)); err != nil {
		return err
	}
	if err := m.file.Flush(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	m.tab.Reset()
	m.dir.Reset()
	m.drops = nil
	m.mu.Unlock()
	m.room.mu.Lock()
	m.room.known, m.room.free, m.room.ready, m.room.next = true, nil, nil, m.l.reservedEnd()
	m.room.fresh = max(m.room.fresh, m.file.Size())
	m.room.mu.Unlock()
	if err := m.trim(ctx); err != nil {
		return err
	}
	m.room.mu.Lock()
	defer m.room.mu.Unlock()
	if !m.room.fixed {
		m.room.fresh = m.file.Size()
	}
	return nil
}
