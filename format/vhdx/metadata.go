package vhdx

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
)

const (
	metadataSignature = "metadata"
	metadataTable     = 64 << 10 // items lie behind it
	maxItem           = mib

	flagUser     = 1
	flagVirtual  = 2
	flagRequired = 4

	paramLeave  = 1 // blocks stay allocated: a fixed disk
	paramParent = 2
)

// metadata is what the metadata region says of the disk.
type metadata struct {
	block             int64
	fixed, diff       bool
	size              int64
	logical, physical int64
	page83            guid
	locator           locator
	sizeAt            int64 // offset of the size in the file
}

// item is a place in the metadata region.
type item struct{ off, length int64 }

// readMetadata reads the metadata region, and refuses what is required and not known
// (2.6.1.2).
func readMetadata(ctx context.Context, file driver.Storage, r region) (*metadata, error) {
	table := make([]byte, metadataTable)
	if err := readAt(ctx, file, table, r.off); err != nil {
		return nil, err
	}
	n := int(le.Uint16(table[10:]))
	if string(table[:8]) != metadataSignature || n > maxEntries {
		return nil, corrupt("the metadata at offset %d does not begin with its table", r.off)
	}
	type key struct {
		id   guid
		user bool
	}
	items := map[key]item{}
	for i := range n {
		e := table[(i+1)*entryBytes:]
		flags := le.Uint32(e[24:])
		k, it := key{guid(e[:16]), flags&flagUser != 0}, item{int64(le.Uint32(e[16:])), int64(le.Uint32(e[20:]))}
		if _, twice := items[k]; twice {
			return nil, corrupt("the metadata item %s is there twice", k.id)
		}
		if it.length > maxItem || it.length > 0 && it.off < metadataTable || it.off+it.length > r.length {
			return nil, corrupt("the metadata item %s, %d bytes at %d, cannot be right", k.id, it.length, it.off)
		}
		items[k] = it
		switch k.id {
		case itemParameters, itemSize, itemPage83, itemLogical, itemPhysical, itemLocator:
			if !k.user {
				continue
			}
		}
		if flags&flagRequired != 0 {
			return nil, unsupported("the metadata item %s is required, and not known", k.id)
		}
	}
	read := func(id guid, n int64) ([]byte, error) {
		it, ok := items[key{id: id}]
		if !ok || it.length < n {
			return nil, corrupt("the metadata item %s is missing", id)
		}
		b := make([]byte, it.length)
		return b, readAt(ctx, file, b, r.off+it.off)
	}
	m := &metadata{sizeAt: r.off + items[key{id: itemSize}].off}
	b, err := read(itemParameters, 8)
	if err == nil {
		m.block, m.fixed, m.diff = int64(le.Uint32(b)), b[4]&paramLeave != 0, b[4]&paramParent != 0
		b, err = read(itemSize, 8)
	}
	if err == nil {
		m.size = int64(min(le.Uint64(b), 1<<62))
		b, err = read(itemPage83, 16)
	}
	if err == nil {
		copy(m.page83[:], b)
		b, err = read(itemLogical, 4)
	}
	if err == nil {
		m.logical = int64(le.Uint32(b))
		b, err = read(itemPhysical, 4)
	}
	if err == nil {
		m.physical = int64(le.Uint32(b))
		if m.diff {
			if b, err = read(itemLocator, locatorHead); err == nil {
				m.locator, err = decodeLocator(b)
				m.locator.at = r.off + items[key{id: itemLocator}].off
			}
		}
	}
	if err != nil {
		return nil, err
	}
	return m, m.check()
}

// check refuses what no disk can have.
func (m *metadata) check() error {
	switch {
	case m.block < minBlock || m.block > maxBlock || m.block&(m.block-1) != 0:
		return corrupt("blocks of %d bytes cannot be", m.block)
	case m.logical != 512 && m.logical != 4096 || m.physical != 512 && m.physical != 4096:
		return corrupt("sectors of %d bytes, on a disk of %d, cannot be", m.logical, m.physical)
	case m.size > maxDisk || m.size%m.logical != 0:
		return corrupt("a disk of %d bytes with sectors of %d cannot be", m.size, m.logical)
	}
	return nil
}

// ratio is how many blocks a chunk has, for which there is one bitmap block.
func (m *metadata) ratio() int64 { return chunkSectors * m.logical / m.block }

// blocks returns how many blocks the disk has.
func (m *metadata) blocks() int64 { return roundUp(m.size, m.block) / m.block }

// entries returns how many entries the table has: those of a differencing disk end with the
// one of a bitmap block (2.5).
func (m *metadata) entries() int64 {
	n, ratio := m.blocks(), m.ratio()
	switch {
	case n == 0:
		return 0
	case m.diff:
		return roundUp(n, ratio) / ratio * (ratio + 1)
	}
	return n + (n-1)/ratio
}

// index returns the place of a block in the table.
func (m *metadata) index(block int64) int64 { return block + block/m.ratio() }

// encode returns the metadata region, as far as it is not zeroes.
func (m *metadata) encode() []byte {
	b := make([]byte, metadataTable+4096+len(m.locator.raw))
	copy(b, metadataSignature)
	params := byte(0)
	if m.fixed {
		params |= paramLeave
	}
	if m.diff {
		params |= paramParent
	}
	word := func(width int, v int64) []byte { return le.AppendUint64(nil, uint64(v))[:width] }
	list := []struct {
		id    guid
		flags byte
		data  []byte
	}{
		{itemParameters, flagRequired, append(word(4, m.block), params, 0, 0, 0)},
		{itemSize, flagRequired | flagVirtual, word(8, m.size)},
		{itemPage83, flagRequired | flagVirtual, m.page83[:]},
		{itemLogical, flagRequired | flagVirtual, word(4, m.logical)},
		{itemPhysical, flagRequired | flagVirtual, word(4, m.physical)},
		{itemLocator, flagRequired, m.locator.raw},
	}
	if !m.diff {
		list = list[:len(list)-1]
	}
	le.PutUint16(b[10:], uint16(len(list)))
	at := metadataTable
	for i, it := range list {
		if it.id == itemLocator {
			at = metadataTable + 4096
		}
		e := b[(i+1)*entryBytes:]
		copy(e, it.id[:])
		le.PutUint32(e[16:], uint32(at))
		le.PutUint32(e[20:], uint32(len(it.data)))
		e[24] = it.flags
		at += copy(b[at:], it.data)
	}
	return b
}
