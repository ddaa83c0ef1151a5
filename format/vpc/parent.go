package vpc

import (
	"bytes"
	"context"
	"encoding/binary"
	"path"
	"strings"
	"unicode/utf16"

	"github.com/cowl-disk/cowl/block/driver"
)

// Parent locators (section "Parent Locator Entry"): platform code, space, length,
// reserved and offset.
const (
	locators     = 8
	locatorBytes = 24
	maxLocator   = 64 << 10
	winRelative  = "W2ru"
	winAbsolute  = "W2ku"
)

// parentName returns the name of the parent's file, relative to the image: the one of the
// relative locator, or else the last part of another.
func parentName(ctx context.Context, file driver.Storage, d *dynamic) (string, error) {
	be := binary.BigEndian
	other := ""
	for i := range locators {
		e := d.raw[dynLocators+i*locatorBytes:]
		code, n, off := string(e[:4]), be.Uint32(e[8:]), be.Uint64(e[16:])
		if code != winRelative && code != winAbsolute || n == 0 {
			continue
		}
		if n > maxLocator || off > uint64(max(0, file.Size()-int64(n))) {
			return "", driver.Errorf(driver.ErrCorrupt, "parent locator %d of %d bytes at %d cannot be right", i, n, off)
		}
		b := make([]byte, n)
		if err := readAt(ctx, file, b, int64(off)); err != nil {
			return "", err
		}
		name := slashes(decodeUTF16(b, binary.LittleEndian))
		if code == winRelative && name != "" {
			return strings.TrimPrefix(name, "./"), nil
		}
		if other = path.Base(name); path.IsAbs(name) && !strings.HasPrefix(name, "//") {
			other = name // as we write it
		}
	}
	if other == "" {
		other = path.Base(slashes(decodeUTF16(d.raw[dynParentName:dynLocators], be)))
	}
	if other == "" || other == "." || other == "/" {
		return "", corrupt("a differencing disk does not name its parent")
	}
	return other, nil
}

// decodeUTF16 returns text up to the first zero.
func decodeUTF16(b []byte, order binary.ByteOrder) string {
	var u []uint16
	for ; len(b) >= 2; b = b[2:] {
		v := order.Uint16(b)
		if v == 0 {
			break
		}
		u = append(u, v)
	}
	return string(utf16.Decode(u))
}

func slashes(name string) string { return strings.ReplaceAll(name, `\`, "/") }

// identified is a node whose image has an identifier.
type identified interface{ identity() uuid }

func (im *image) identity() uuid { return im.footer.id }
func (n *fixed) identity() uuid  { return n.footer.id }

// CheckParent implements driver.ParentChecker.
func (im *image) CheckParent(_ context.Context, parent driver.Node) error {
	if !im.diff {
		return nil
	}
	p, ok := parent.(identified)
	if !ok {
		return nil // somebody chose another one, and knows why
	}
	if id := p.identity(); !bytes.Equal(id[:], im.dyn.parent[:]) {
		return driver.Errorf(driver.ErrCorrupt, "the image has the identifier %x, and the parent of this one had %x", id, im.dyn.parent)
	}
	return nil
}
