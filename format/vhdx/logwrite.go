package vhdx

import (
	"context"

	"github.com/cowl-disk/cowl/internal/clustertable"
)

// maxChanges is how many sectors an entry has at most: its descriptors are in one sector,
// and two entries fit into a log of 1 MiB, so that no entry overwrites the one before.
const maxChanges = (logSector - logHead) / logDesc

// sectorChange is what a sector of the file is to be.
type sectorChange struct {
	off  int64
	data []byte // logSector bytes
}

// link writes changed pieces of the table. It is the hook of package blockmap: what the
// file has is durable.
func (im *image) link(ctx context.Context, b *clustertable.Batch) error {
	im.mu.Lock()
	defer im.mu.Unlock()
	var list []sectorChange
	for off, data := range b.All() {
		for len(data) > 0 {
			start := off &^ (logSector - 1)
			n := min(int64(len(data)), start+logSector-off)
			s := sectorChange{start, data[:n]}
			if n < logSector {
				// A sector is logged as a whole.
				whole := make([]byte, logSector)
				if err := readAt(ctx, im.raw, whole, start); err != nil {
					return err
				}
				copy(whole[off-start:], data[:n])
				s.data = whole
			}
			list = append(list, s)
			off, data = off+n, data[n:]
		}
	}
	return im.logAll(ctx, list)
}

// logWrite writes a piece of metadata by way of the log, after what the file has became
// durable. mu is held.
func (im *image) logWrite(ctx context.Context, off int64, p []byte) error {
	if err := im.raw.Flush(ctx); err != nil {
		return err
	}
	start := off &^ (logSector - 1)
	whole := make([]byte, roundUp(off+int64(len(p))-start, logSector))
	if err := readAt(ctx, im.raw, whole, start); err != nil {
		return err
	}
	copy(whole[off-start:], p)
	var list []sectorChange
	for i := int64(0); i < int64(len(whole)); i += logSector {
		list = append(list, sectorChange{start + i, whole[i : i+logSector]})
	}
	return im.logAll(ctx, list)
}

// logAll writes sectors by way of the log, as many entries as are needed. mu is held.
func (im *image) logAll(ctx context.Context, list []sectorChange) error {
	for first := true; len(list) > 0; first = false {
		if !first { // the entry before must not be needed any more
			if err := im.raw.Flush(ctx); err != nil {
				return err
			}
		}
		n := min(len(list), maxChanges)
		if err := im.logEntry(ctx, list[:n]); err != nil {
			return err
		}
		list = list[n:]
	}
	return nil
}

// logEntry writes an entry, makes it durable, and then writes its sectors to where they
// belong. mu is held.
func (im *image) logEntry(ctx context.Context, list []sectorChange) error {
	if im.session == (guid{}) {
		im.session = newGUID()
	}
	im.sequence++
	b := make([]byte, logSector*(1+len(list)))
	copy(b, entryMagic)
	le.PutUint32(b[offEntryLength:], uint32(len(b)))
	le.PutUint32(b[offTail:], uint32(im.logPos))
	le.PutUint64(b[offEntrySeq:], im.sequence)
	le.PutUint32(b[offDescriptors:], uint32(len(list)))
	copy(b[offEntryGUID:], im.session[:])
	le.PutUint64(b[offFlushed:], uint64(im.stable))
	le.PutUint64(b[offLast:], uint64(im.stable))
	for i, s := range list {
		d := b[logHead+i*logDesc:]
		copy(d, descMagic)
		copy(d[4:], s.data[logSector-4:])
		copy(d[8:16], s.data)
		le.PutUint64(d[16:], uint64(s.off))
		le.PutUint64(d[24:], im.sequence)
		p := b[logSector*(1+i):][:logSector]
		copy(p, s.data)
		copy(p, dataMagic)
		le.PutUint32(p[4:], uint32(im.sequence>>32))
		le.PutUint32(p[logSector-4:], uint32(im.sequence))
	}
	seal(b)
	pos := im.logPos
	for p := b; len(p) > 0; {
		n := min(int64(len(p)), im.header.logLength-pos)
		if _, err := im.raw.WriteAt(ctx, p[:n], im.header.logOffset+pos); err != nil {
			return err
		}
		p, pos = p[n:], (pos+n)%im.header.logLength
	}
	if err := im.raw.Flush(ctx); err != nil {
		return err
	}
	im.logPos = pos
	if im.header.log != im.session {
		h := im.header
		h.log = im.session
		if err := im.writeHeader(ctx, h); err != nil {
			return err
		}
	}
	for _, s := range list {
		if _, err := im.raw.WriteAt(ctx, s.data, s.off); err != nil {
			return err
		}
	}
	return nil
}

// clearLog tells that nothing must be replayed, once what was logged is durable. mu is held.
func (im *image) clearLog(ctx context.Context) error {
	if im.header.log == (guid{}) {
		return nil
	}
	if err := im.raw.Flush(ctx); err != nil {
		return err
	}
	h := im.header
	h.log = guid{}
	return im.writeHeader(ctx, h)
}

// endLog is clearLog, for those who do not hold mu.
func (im *image) endLog(ctx context.Context) error {
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.clearLog(ctx)
}

// touch gives the file another identifier, and the contents of the disk another one if they
// are going to change. mu is held.
func (im *image) touch(ctx context.Context, contents bool) error {
	h := im.header
	h.fileWrite = newGUID()
	if contents {
		h.dataWrite = newGUID()
	}
	return im.writeHeader(ctx, h)
}

// firstWrite is the hook of package blockmap.
func (im *image) firstWrite(ctx context.Context) error {
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.touch(ctx, true)
}
