package vpc

import (
	"context"
	"encoding/binary"
	"path"
	"path/filepath"
	"strings"
	"unicode/utf16"

	"github.com/cowl-disk/cowl/block/driver"
)

// locator is an entry of the header that names the parent.
type locator struct {
	raw         []byte // of the header
	off, length int64
}

// end returns where the room of the text ends, whole sectors.
func (l locator) end() int64 { return l.off + roundUp(l.length, sectorSize) }

// locators returns those that have text in a file of size bytes.
func (d *dynamic) locators(size int64) (list []locator) {
	be := binary.BigEndian
	for i := range locators {
		e := d.raw[dynLocators+i*locatorBytes:][:locatorBytes]
		l := locator{e, int64(min(be.Uint64(e[16:]), 1<<62)), int64(be.Uint32(e[8:]))}
		if be.Uint32(e) != 0 && l.length > 0 && l.length <= maxLocator && l.off+l.length <= size {
			list = append(list, l)
		}
	}
	return list
}

// reservedBy returns the parts of a file of size bytes that are neither blocks nor footers.
func (im *image) reservedBy(d *dynamic, size int64) []driver.Range {
	list := []driver.Range{{Offset: int64(im.footer.data), Length: dynamicSize}, {Offset: int64(d.table), Length: int64(d.entries) * 4}}
	if im.diff {
		for _, l := range d.locators(size) {
			list = append(list, driver.Range{Offset: l.off, Length: l.end() - l.off})
		}
	}
	return list
}

// inWay returns the locators if one of them is in the way of the table, which is to end at
// end, and where the last one ends if they are behind the table.
func (im *image) inWay(d *dynamic, end int64) (list []locator, from, to int64) {
	all := d.locators(im.file.Size())
	from = end
	moves := false
	for _, l := range all {
		moves = moves || l.off < end && l.end() > int64(d.table)
		from = max(from, l.end())
	}
	if !im.diff || !moves {
		return nil, end, end
	}
	to = from
	for _, l := range all {
		to += l.end() - l.off
	}
	return all, from, to
}

// moveLocators copies the text of locators to free room from at on, and has the header d
// name it there.
func (im *image) moveLocators(ctx context.Context, d *dynamic, list []locator, at int64) error {
	for _, l := range list {
		b := make([]byte, l.end()-l.off)
		if err := readAt(ctx, im.file, b, l.off); err != nil {
			return err
		}
		if _, err := im.file.WriteAt(ctx, b, at); err != nil {
			return err
		}
		binary.BigEndian.PutUint64(l.raw[16:], uint64(at))
		at += int64(len(b))
	}
	return im.writeDynamic(ctx, d)
}

// writeDynamic makes a dynamic disk header durable, after all that was written before.
func (im *image) writeDynamic(ctx context.Context, d *dynamic) error {
	if err := im.file.Flush(ctx); err != nil {
		return err
	}
	if _, err := im.file.WriteAt(ctx, d.encode(), int64(im.footer.data)); err != nil {
		return err
	}
	return im.file.Flush(ctx)
}

// nameParent has the header of a new differencing disk name its parent, and returns the text
// of its locators, which lie in front of the table.
func (d *dynamic) nameParent(name string, id uuid) ([]byte, error) {
	be := binary.BigEndian
	d.parent = id
	code, text := winRelative, `.\`+strings.ReplaceAll(name, "/", `\`)
	if path.IsAbs(name) || filepath.IsAbs(name) {
		code, text = winAbsolute, name
	}
	last := utf16.Encode([]rune(path.Base(strings.ReplaceAll(name, `\`, "/"))))
	if len(last)*2 >= dynLocators-dynParentName || 2*len(text) > maxLocator/2 {
		return nil, driver.Errorf(driver.ErrInvalid, "the name of the parent is too long")
	}
	for i, v := range last {
		be.PutUint16(d.raw[dynParentName+2*i:], v)
	}
	var b []byte
	for _, v := range utf16.Encode([]rune(text)) {
		b = binary.LittleEndian.AppendUint16(b, v)
	}
	e := d.raw[dynLocators:]
	copy(e, code)
	be.PutUint32(e[8:], uint32(len(b)))
	b = append(b, make([]byte, roundUp(int64(len(b)), sectorSize)-int64(len(b)))...)
	be.PutUint32(e[4:], uint32(len(b)))
	be.PutUint64(e[16:], tableOffset)
	d.table = tableOffset + uint64(len(b))
	return b, nil
}

// parentOf opens the parent of a new image and returns its identifier.
func parentOf(ctx context.Context, req *driver.CreateRequest, name string) (id uuid, err error) {
	if req.OpenImage == nil {
		return id, driver.Errorf(driver.ErrUnsupported, "a parent cannot be opened here")
	}
	parent, done, err := req.OpenImage(ctx, name)
	if err != nil {
		return id, err
	}
	defer done()
	p, ok := parent.Node.(identified)
	if !ok {
		return id, driver.Errorf(driver.ErrInvalid, "the parent of a differencing disk must be a dynamic or differencing one, and not %s", parent.Format)
	}
	return p.identity(), nil
}
