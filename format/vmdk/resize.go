package vmdk

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/blockmap"
	"github.com/cowl-disk/cowl/internal/clustertable"
	"github.com/cowl-disk/cowl/internal/safeio"
)

// Resize implements driver.Resizer: the last extent grows, as far as its kind can. Of a sparse extent whose
// directories are too short, longer ones are written behind all that is in use; they take effect with one write of
// the header. The descriptor comes last.
func (n writable) Resize(ctx context.Context, size int64, opt driver.ResizeOptions) error {
	if opt.Prealloc != "" && opt.Prealloc != driver.PreallocOff {
		return driver.Errorf(driver.ErrUnsupported, "unsupported preallocation mode '%s'", opt.Prealloc)
	}
	old := n.Size()
	if size > 1<<62 {
		return invalid("image size must be less than 8 EiB")
	}
	size = (size + sectorSize - 1) / sectorSize * sectorSize
	x := n.extents[len(n.extents)-1]
	to := size - x.start
	if err := n.canGrow(x, size, to); err != nil || size == old {
		return err
	}
	// A new content ID: images on top of this one no longer fit it.
	if err := n.firstWrite(ctx); err != nil {
		return err
	}
	if err := n.Flush(ctx); err != nil {
		return err
	}
	var err error
	if x.flat() {
		err = growFlat(ctx, x, to)
	} else {
		err = n.growSparse(ctx, x, to)
	}
	if err != nil {
		return err
	}
	if err := n.describeSize(ctx, old, size, to); err != nil {
		return err
	}
	x.size.Store(to)
	n.node.size.Store(size)
	return nil
}

// canGrow says why a disk cannot get another size, of which the last extent would have so many bytes.
func (n writable) canGrow(x *extent, size, to int64) error {
	unsupported := func(format string, args ...any) error {
		return driver.Errorf(driver.ErrUnsupported, format, args...)
	}
	switch {
	case size < n.Size():
		return unsupported("a VMDK image cannot be made smaller: shrink what is on the disk, and copy it to a new image")
	case size == n.Size():
		return nil
	case n.desc.hint != "" || n.desc.parentCID != noParent:
		return unsupported("an image with a parent has the size of its parent: commit it, and resize the parent")
	case x.access != accessRW || x.file == nil:
		return unsupported("the last extent of the image cannot be written")
	case x.kind == extentVMFSRaw || x.kind == extentVMFSRDM:
		return unsupported("the last extent of the image is a device: its size is that of the device")
	case !x.flat() && x.header == nil:
		return unsupported("an extent of type '%s' cannot grow", x.kind)
	}
	if strings.HasPrefix(strings.ToLower(n.desc.createType), "twogb") || strings.HasPrefix(n.desc.createType, "2Gb") {
		if most := x.start + splitSize; size > most {
			return unsupported("the last extent of the image can have 2 GiB, which is a disk of %d bytes: convert the image to one of a larger size", most)
		}
	}
	if x.flat() {
		if _, ok := x.file.(driver.Resizer); !ok || x.file.Traits().FixedSize {
			return unsupported("the file of the last extent cannot grow")
		}
		return nil
	}
	h := x.header.grown(to)
	switch {
	case h.directorySize > maxTwins || h.directorySize > maxDirectory:
		return unsupported("the grain directory of a disk of %d bytes would be too long", size)
	case uint64(x.file.Size()/sectorSize)+h.capacity > maxHostSector && to > x.size.Load():
		// A grain has an address of 32 bits in sectors.
		return unsupported("a sparse extent of %d bytes could not be written to its end, since it has 2 TiB at most", to)
	}
	return nil
}

// grown is the header for an extent of so many bytes.
func (h *sparseHeader) grown(size int64) *sparseHeader {
	g := *h
	g.capacity = uint64(size / sectorSize)
	per := int64(h.entries) * int64(h.grain)
	g.directorySize = (int64(g.capacity) + per - 1) / per
	return &g
}

// growFlat makes a flat extent longer. Other programs may have left something behind its end.
func growFlat(ctx context.Context, x *extent, to int64) error {
	from := x.offset + x.size.Load()
	if have := min(x.file.Size(), x.offset+to); have > from {
		if err := clustertable.WriteZeroes(ctx, x.file, from, have-from); err != nil {
			return err
		}
	}
	if x.file.Size() < x.offset+to {
		if err := x.file.(driver.Resizer).Resize(ctx, x.offset+to, driver.ResizeOptions{}); err != nil {
			return err
		}
	}
	return x.file.Flush(ctx)
}

// growSparse makes a hosted sparse extent longer. Nothing but reads is under way, and all was flushed.
func (n writable) growSparse(ctx context.Context, x *extent, to int64) error {
	if err := clearTail(ctx, x); err != nil {
		return err
	}
	g := x.header.grown(to)
	if g.directorySize > x.header.directorySize {
		if err := moveDirectories(ctx, x, g); err != nil {
			return err
		}
	}
	if err := x.file.Flush(ctx); err != nil {
		return err
	}
	head, err := readHead(ctx, x.file, 0)
	if err != nil {
		return err
	}
	le.PutUint64(head[12:], g.capacity)
	le.PutUint64(head[48:], g.redundant)
	le.PutUint64(head[56:], g.dir)
	if _, err := x.file.WriteAt(ctx, head, 0); err != nil {
		return err
	}
	if err := x.file.Flush(ctx); err != nil {
		return err
	}
	x.header = g
	l := hostedLayout(g)
	if x.twin != nil {
		if err := x.twin.reload(ctx, g); err != nil {
			return err
		}
		l.Reserved = append(l.Reserved, x.twin.last())
	}
	return x.disk.Resized(l, to)
}

// clearTail makes zeroes of what the last grain holds behind the end of the disk.
func clearTail(ctx context.Context, x *extent) error {
	size := x.size.Load()
	in := size % x.grain
	if in == 0 {
		return nil
	}
	e, err := x.disk.Entry(ctx, size/x.grain)
	if err != nil || e.State != blockmap.Data {
		return err
	}
	return clustertable.WriteZeroes(ctx, x.file, e.Host+in, x.grain-in)
}

// moveDirectories writes the directories of g, and the tables that the old ones lack, behind all that is in use.
func moveDirectories(ctx context.Context, x *extent, g *sparseHeader) error {
	h := x.header
	// Whole pages: so are the units in which package blockmap counts what is in use.
	const page = 4096 / sectorSize
	pages := func(bytes int64) int64 { return (bytes + 4095) / 4096 * page }
	tableSize := pages(int64(h.entries) * 4)
	more := g.directorySize - h.directorySize
	length := pages(g.directorySize * 4)
	next := pages(max(x.file.Size(), x.disk.End()))
	for _, d := range []struct {
		old uint64
		at  *uint64
	}{{h.redundant, &g.redundant}, {h.dir, &g.dir}} {
		if d.at == &g.redundant && h.flags&flagRedundant == 0 {
			continue
		}
		b, err := safeio.ReadAt(ctx, x.file, int64(d.old)*sectorSize, h.directorySize*4)
		if err != nil {
			return fmt.Errorf("the grain directory at sector %d: %w", d.old, err)
		}
		tables := next + length
		for i := range more {
			b = le.AppendUint32(b, uint32(tables+i*tableSize))
		}
		b = append(b, make([]byte, length*sectorSize-int64(len(b)))...)
		if _, err := x.file.WriteAt(ctx, b, next*sectorSize); err != nil {
			return err
		}
		if err := clustertable.WriteZeroes(ctx, x.file, tables*sectorSize, more*tableSize*sectorSize); err != nil {
			return err
		}
		*d.at = uint64(next)
		next = tables + more*tableSize
	}
	return nil
}

// describeSize brings the size of the last extent, and of the disk, to the descriptor.
func (n writable) describeSize(ctx context.Context, old, size, last int64) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	text := make([]byte, n.descLen)
	if m, err := n.file.ReadAt(ctx, text, n.descOff); int64(m) < n.descLen {
		return err
	}
	room := len(text)
	changed := resizeText(text, old, size, last)
	if n.descOff > 0 {
		if len(changed) > room {
			return driver.Errorf(driver.ErrUnsupported, "the descriptor has no room for the new size")
		}
		changed = append(changed, make([]byte, room-len(changed))...)
	}
	if _, err := n.file.WriteAt(ctx, changed, n.descOff); err != nil {
		return err
	}
	n.descLen = int64(len(changed))
	return n.file.Flush(ctx)
}

// resizeText is the text of a descriptor with another size of the last extent and, where it says the geometry of
// disks as QEMU makes them, with another number of cylinders. Sizes are in bytes.
func resizeText(text []byte, old, size, last int64) []byte {
	if i := bytes.IndexByte(text, 0); i >= 0 {
		text = text[:i]
	}
	const cylinders, heads, sectors = "ddb.geometry.cylinders", "ddb.geometry.heads", "ddb.geometry.sectors"
	geometry := map[string]int64{}
	lastLine, i := -1, 0
	for line := range bytes.Lines(text) {
		s := strings.TrimSpace(string(line))
		if x, ok, err := parseExtent(s); err == nil && ok && x != nil {
			lastLine = i
		}
		if key, value, ok := strings.Cut(s, "="); ok {
			if v, err := strconv.ParseInt(unquote(strings.TrimSpace(value)), 10, 64); err == nil {
				geometry[strings.TrimSpace(key)] = v
			}
		}
		i++
	}
	track := geometry[heads] * geometry[sectors] * sectorSize
	follows := track > 0 && track < 1<<40 && geometry[cylinders] == old/track
	var out []byte
	i = 0
	for line := range bytes.Lines(text) {
		s := string(line)
		key, _, _ := strings.Cut(s, "=")
		switch {
		case i == lastLine:
			fields := strings.Fields(s)
			at := strings.Index(s, fields[1])
			s = s[:at] + strconv.FormatInt(last/sectorSize, 10) + s[at+len(fields[1]):]
		case follows && strings.TrimSpace(key) == cylinders:
			s = strings.Replace(s, strconv.FormatInt(old/track, 10), strconv.FormatInt(size/track, 10), 1)
		}
		out = append(out, s...)
		i++
	}
	return out
}
