package qcow2

import (
	"bytes"
	"context"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/tableio"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// hdrSector is what a crash leaves written as a whole or not at all.
const hdrSector = 512

// headerImage is an encoded header cluster and what of it means something.
type headerImage struct {
	data []byte
	hdr  ondisk.Header
	used []span // the extensions, with the header before them, and the name
}

// encodeHeader lays out the first cluster: header, extensions, backing file
// name, which goes to nameAt or, if that is 0, behind the extensions. Extensions
// that are not understood are kept as they were.
func (im *image) encodeHeader(nameAt int64) (headerImage, error) {
	h := im.hdr
	exts := make([]ondisk.Extension, 0, len(im.exts)+1)
	if im.backingFormat != "" {
		exts = append(exts, ondisk.Extension{Type: ondisk.ExtBackingFormat, Data: []byte(im.backingFormat)})
	}
	for _, e := range im.exts {
		if e.Type != ondisk.ExtBackingFormat {
			exts = append(exts, e)
		}
	}
	h.BackingFileOffset, h.BackingFileSize = 0, 0
	b := h.Append(nil)
	h.HeaderLength = uint32(len(b))
	for _, e := range exts {
		b = ondisk.AppendExtension(b, e)
	}
	b = ondisk.AppendExtension(b, ondisk.Extension{Type: ondisk.ExtEnd})
	used := []span{{off: 0, end: int64(len(b))}}
	if im.backing != "" {
		b = append(b, make([]byte, max(0, nameAt-int64(len(b))))...)
		h.BackingFileOffset, h.BackingFileSize = uint64(len(b)), uint32(len(im.backing))
		used = append(used, span{off: int64(len(b)), end: int64(len(b) + len(im.backing))})
		b = append(b, im.backing...)
	}
	if int64(len(b)) > im.clusterSize {
		return headerImage{}, driver.Errorf(driver.ErrRange, "no space left in the file header: %d bytes are needed and the cluster has %d", len(b), im.clusterSize)
	}
	copy(b, h.Append(nil))
	return headerImage{data: append(b, make([]byte, im.clusterSize-int64(len(b)))...), hdr: h, used: used}, nil
}

// currentHeader reads the header cluster that is on disk.
func (im *image) currentHeader(ctx context.Context) (headerImage, error) {
	cur := headerImage{data: make([]byte, im.clusterSize)}
	if err := tableio.ReadPadded(ctx, im.file, cur.data, 0); err != nil {
		return cur, err
	}
	h, err := ondisk.DecodeHeader(cur.data)
	if err != nil || int64(h.HeaderLength) > im.clusterSize {
		return cur, driver.Errorf(driver.ErrCorrupt, "the header has changed since the image was opened")
	}
	cur.hdr = *h
	end := im.clusterSize
	name := span{off: int64(h.BackingFileOffset), end: int64(h.BackingFileOffset) + int64(h.BackingFileSize)}
	if name.off != 0 {
		end = max(min(name.off, end), int64(h.HeaderLength))
		cur.used = append(cur.used, name)
	}
	exts, err := ondisk.DecodeExtensions(cur.data[h.HeaderLength:end])
	if err != nil {
		return cur, driver.Errorf(driver.ErrCorrupt, "the header extensions have changed since the image was opened")
	}
	size := int64(h.HeaderLength) + 8
	for _, e := range exts {
		size += 8 + (int64(len(e.Data))+7)&^7
	}
	cur.used = append(cur.used, span{off: 0, end: min(size, end)})
	return cur, nil
}

// over returns what the header cluster holds when next is written over cur:
// bytes behind the first sector that next does not use stay as they are.
func (next headerImage) over(cur headerImage) []byte {
	b := bytes.Clone(cur.data)
	copy(b[:hdrSector], next.data)
	for _, s := range next.used {
		copy(b[s.off:s.end], next.data[s.off:s.end])
	}
	return b
}

// disturbs says whether writing next over cur changes, behind the first sector,
// what cur means.
func (next headerImage) disturbs(cur headerImage) bool {
	b := next.over(cur)
	for _, s := range cur.used {
		if from := max(s.off, hdrSector); from < s.end && !bytes.Equal(b[from:s.end], cur.data[from:s.end]) {
			return true
		}
	}
	return false
}

func sectorOf(b []byte, i int64) []byte { return b[i*hdrSector : (i+1)*hdrSector] }

// writeHeader writes header, extensions and backing file name anew and makes
// them durable. hdrMu is held.
//
// The first sector is written last, and by itself: until then what is behind
// it is not what the header on disk refers to. A name that would overwrite the
// old one is put elsewhere; extensions that would overwrite others wait until the
// table of feature names, which says nothing that matters, has made room. Only
// in clusters too small for that is the header written in one piece.
func (im *image) writeHeader(ctx context.Context) error {
	cur, err := im.currentHeader(ctx)
	if err != nil {
		return err
	}
	next, err := im.encodeHeader(0)
	if err != nil {
		return err
	}
	if next.disturbs(cur) {
		if next, cur, err = im.separateLayout(ctx, cur, next); err != nil {
			return err
		}
	}
	b := next.over(cur)
	if wrote, err := im.writeSectors(ctx, cur.data, b); err != nil {
		return err
	} else if wrote {
		if err := im.file.Flush(ctx); err != nil {
			return err
		}
	}
	_, err = im.file.WriteAt(ctx, sectorOf(b, 0), 0)
	if err == nil {
		err = im.file.Flush(ctx)
	}
	if err != nil {
		im.refused.Store(true) // which header is on disk is not known
		return err
	}
	im.hdr = next.hdr
	// What is left of the old header is not referred to: an error is ignored.
	_, _ = im.writeSectors(ctx, b, next.data)
	return nil
}

// writeSectors writes the sectors of the header behind the first one in which want
// differs from have.
func (im *image) writeSectors(ctx context.Context, have, want []byte) (wrote bool, err error) {
	for i := int64(1); i*hdrSector < int64(len(want)); i++ {
		if bytes.Equal(sectorOf(have, i), sectorOf(want, i)) {
			continue
		}
		if _, err := im.file.WriteAt(ctx, sectorOf(want, i), i*hdrSector); err != nil {
			return wrote, err
		}
		wrote = true
	}
	return wrote, nil
}

// separateLayout finds a layout of the new header that does not overwrite the current
// one behind the first sector. It may write a shorter form of the current header
// first, and returns what is on disk then.
func (im *image) separateLayout(ctx context.Context, cur, next headerImage) (headerImage, headerImage, error) {
	moved, err := im.moveName(cur, next)
	if err != nil {
		return next, cur, err
	}
	if !moved.disturbs(cur) {
		return moved, cur, nil
	}
	short, ok := shortHeader(cur)
	if !ok {
		return next, cur, nil
	}
	if _, err := im.file.WriteAt(ctx, sectorOf(short.data, 0), 0); err != nil {
		return next, cur, err
	}
	if err := im.file.Flush(ctx); err != nil {
		return next, cur, err
	}
	if moved, err = im.moveName(short, next); err != nil {
		return next, short, err
	}
	if moved.disturbs(short) {
		return next, short, nil
	}
	return moved, short, nil
}

// moveName lays the new header out with the name behind everything that either
// header uses, if there is room; else as it is.
func (im *image) moveName(cur, next headerImage) (headerImage, error) {
	end := next.used[0].end
	for _, s := range cur.used {
		end = max(end, s.end)
	}
	end = (end + hdrSector - 1) &^ (hdrSector - 1)
	if im.backing == "" || end+int64(len(im.backing)) > im.clusterSize {
		return next, nil
	}
	return im.encodeHeader(end)
}

// shortHeader is a header without the table of feature names, if that fits into
// the first sector. The name stays where it is.
func shortHeader(cur headerImage) (headerImage, bool) {
	end := int64(len(cur.data))
	name := span{off: int64(cur.hdr.BackingFileOffset), end: int64(cur.hdr.BackingFileOffset) + int64(cur.hdr.BackingFileSize)}
	if name.off != 0 {
		end = name.off
	}
	exts, err := ondisk.DecodeExtensions(cur.data[cur.hdr.HeaderLength:end])
	if err != nil {
		return cur, false
	}
	b := bytes.Clone(cur.data[:cur.hdr.HeaderLength])
	for _, e := range exts {
		if e.Type != ondisk.ExtFeatureNames {
			b = ondisk.AppendExtension(b, e)
		}
	}
	b = ondisk.AppendExtension(b, ondisk.Extension{Type: ondisk.ExtEnd})
	if len(b) > hdrSector || name.off != 0 && name.off < hdrSector {
		return cur, false
	}
	short := headerImage{data: bytes.Clone(cur.data), hdr: cur.hdr, used: []span{{off: 0, end: int64(len(b))}}}
	clear(short.data[:hdrSector])
	copy(short.data, b)
	if name.off != 0 {
		short.used = append(short.used, name)
	}
	return short, true
}
