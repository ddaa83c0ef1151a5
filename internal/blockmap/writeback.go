package blockmap

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/clustertable"
)

// maxDrops is how many units may wait to be given up before tables are written.
const maxDrops = 1024

// mustWrite says whether so much is waiting that it should be written.
func (m *Disk) mustWrite() bool {
	if m.tab.Dirty() > m.tab.Slices()/2 || m.dir != nil && m.dir.Dirty() > m.dir.Slices()/2 {
		return true
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.drops) > maxDrops
}

// relieve writes tables back if a lot is waiting. No lock is held.
func (m *Disk) relieve(ctx context.Context) error {
	if !m.mustWrite() {
		return nil
	}
	m.flushMu.Lock()
	defer m.flushMu.Unlock()
	if !m.mustWrite() {
		return nil
	}
	return m.writeback(ctx, false)
}

// Flush makes everything durable that was written and committed.
func (m *Disk) Flush(ctx context.Context) error {
	switch {
	case !m.l.Writable:
		return nil
	case !m.begun.Load():
		return m.file.Flush(ctx)
	}
	m.flushMu.Lock()
	defer m.flushMu.Unlock()
	return m.writeback(ctx, true)
}

// writeback brings changed tables to the file, in the order of the package
// documentation. With durable, all is durable that was committed before the call.
// flushMu is held.
func (m *Disk) writeback(ctx context.Context, durable bool) (err error) {
	m.applyReady(ctx)
	m.mu.Lock()
	tab, dir := m.tab.Take(), &clustertable.Batch{}
	if m.dir != nil {
		dir = m.dir.Take()
	}
	drops := m.drops
	m.drops = nil
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		tab.Done(err)
		dir.Done(err)
		if err != nil {
			m.drops = append(drops, m.drops...)
		}
		m.mu.Unlock()
		if err == nil {
			m.whenUnused(drops)
		}
	}()
	if tab.Empty() && dir.Empty() {
		if durable {
			return m.file.Flush(ctx)
		}
		return nil
	}
	if err = m.countRoom(ctx); err != nil {
		return err
	}
	if err = m.file.Flush(ctx); err != nil {
		return err
	}
	if err = m.link(ctx, tab, dir); err != nil {
		return err
	}
	if durable || len(drops) > 0 {
		return m.file.Flush(ctx)
	}
	return nil
}

// link writes changed tables.
func (m *Disk) link(ctx context.Context, tab, dir *clustertable.Batch) error {
	if m.hooks.Link != nil {
		return m.hooks.Link(ctx, tab)
	}
	return clustertable.WriteInOrder(ctx, m.file, tab, dir)
}

// countRoom lets the format note what room is in use. Nobody finds room meanwhile.
func (m *Disk) countRoom(ctx context.Context) error {
	if m.hooks.Linking == nil {
		return nil
	}
	r := &m.room
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.taken {
		return nil
	}
	r.fresh = max(r.fresh, r.next+m.l.Trailer)
	err := m.hooks.Linking(ctx, r.next)
	r.taken = err != nil
	return err
}

// Close writes everything and gives memory back. No request is under way.
func (m *Disk) Close(ctx context.Context) error {
	defer m.Release()
	if !m.begun.Load() {
		return nil
	}
	m.flushMu.Lock()
	defer m.flushMu.Unlock()
	if err := m.writeback(ctx, true); err != nil {
		return err
	}
	m.applyReady(ctx)
	if err := m.trim(ctx); err != nil {
		return err
	}
	if m.hooks.Closing == nil {
		return nil
	}
	return m.hooks.Closing(ctx)
}

// Prepare makes the image ready for changes that the format itself makes: FirstWrite is
// called, and all is durable that was committed before.
func (m *Disk) Prepare(ctx context.Context) error {
	if err := m.begin(ctx); err != nil {
		return err
	}
	return m.Flush(ctx)
}

// Trim cuts off what lies behind all that is in use. No request is under way.
func (m *Disk) Trim(ctx context.Context) error {
	if err := m.begin(ctx); err != nil {
		return err
	}
	if err := m.needRoom(ctx); err != nil {
		return err
	}
	m.flushMu.Lock()
	defer m.flushMu.Unlock()
	return m.trim(ctx)
}

// trim cuts off what lies behind all that is in use: room that was handed out and
// given back.
func (m *Disk) trim(ctx context.Context) error {
	m.room.mu.Lock()
	known, end := m.room.known, m.room.next
	m.room.mu.Unlock()
	r, ok := m.file.(driver.Resizer)
	if end += m.l.Trailer; !known || m.room.fixed || !ok || end >= m.file.Size() {
		return nil
	}
	if m.hooks.Trimming != nil {
		if err := m.hooks.Trimming(ctx); err != nil {
			return err
		}
	}
	return r.Resize(ctx, end, driver.ResizeOptions{})
}
