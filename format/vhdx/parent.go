package vhdx

import (
	"context"
	"path"
	"path/filepath"
	"strings"
	"unicode/utf16"

	"github.com/cowl-disk/cowl/block/driver"
)

// Keys of a parent locator (2.6.2.6.3).
const (
	keyLinkage  = "parent_linkage"
	keyLinkage2 = "parent_linkage2"
	keyRelative = "relative_path"
	keyAbsolute = "absolute_win32_path"

	locatorHead  = 20
	locatorEntry = 12
	maxKey       = 64 // bytes of the keys that are looked at
)

// locator is a parent locator (2.6.2.6).
type locator struct {
	raw       []byte
	values    map[string]string
	at        int64 // offset in the file
	linkageAt int   // offset of the value of parent_linkage in raw, 0 if there is none
}

// decodeLocator takes a locator apart. Only values that matter are looked at.
func decodeLocator(b []byte) (locator, error) {
	l := locator{raw: b, values: map[string]string{}}
	if guid(b[:16]) != locatorVHDX {
		return l, unsupported("the parent is located by the unknown type %s", guid(b[:16]))
	}
	n := int(le.Uint16(b[18:]))
	if locatorHead+n*locatorEntry > len(b) {
		return l, corrupt("a parent locator of %d entries has %d bytes", n, len(b))
	}
	for i := range n {
		e := b[locatorHead+i*locatorEntry:]
		keyOff, valueOff := int64(le.Uint32(e)), int64(le.Uint32(e[4:]))
		keyLen, valueLen := int64(le.Uint16(e[8:])), int64(le.Uint16(e[10:]))
		if keyOff+keyLen > int64(len(b)) || valueOff+valueLen > int64(len(b)) {
			return l, corrupt("entry %d of the parent locator lies behind its end", i)
		}
		if keyLen > maxKey {
			continue
		}
		switch key := decodeUTF16(b[keyOff : keyOff+keyLen]); key {
		case keyLinkage, keyLinkage2, keyRelative, keyAbsolute:
			if _, twice := l.values[key]; twice {
				return l, corrupt("the parent locator has %s twice", key)
			}
			l.values[key] = decodeUTF16(b[valueOff : valueOff+valueLen])
			if key == keyLinkage && valueLen == 2*int64(len(guid{}.String())) {
				l.linkageAt = int(valueOff)
			}
		}
	}
	return l, nil
}

// newLocator returns the locator of a parent with a name and contents.
func newLocator(name string, linkage guid) (locator, error) {
	pairs := [][2]string{{keyLinkage, linkage.String()}}
	if path.IsAbs(name) || filepath.IsAbs(name) {
		pairs = append(pairs, [2]string{keyAbsolute, name})
	} else {
		pairs = append(pairs, [2]string{keyRelative, `.\` + strings.ReplaceAll(name, "/", `\`)})
	}
	b := make([]byte, locatorHead+len(pairs)*locatorEntry)
	copy(b, locatorVHDX[:])
	le.PutUint16(b[18:], uint16(len(pairs)))
	for i, p := range pairs {
		e := locatorHead + i*locatorEntry
		for j, s := range p {
			text := encodeUTF16(s)
			if len(text) > 0xffff {
				return locator{}, driver.Errorf(driver.ErrInvalid, "the name of the parent is too long")
			}
			le.PutUint32(b[e+4*j:], uint32(len(b)))
			le.PutUint16(b[e+8+2*j:], uint16(len(text)))
			b = append(b, text...)
		}
	}
	return decodeLocator(b)
}

// parent returns the name of the parent's file, relative to the image: the one that is
// relative, or else the last part of another.
func (l *locator) parent() (string, error) {
	slashes := func(key string) string { return strings.ReplaceAll(l.values[key], `\`, "/") }
	name := strings.TrimPrefix(slashes(keyRelative), "./")
	if name == "" {
		if name = slashes(keyAbsolute); !path.IsAbs(name) || strings.HasPrefix(name, "//") {
			name = path.Base(name)
		}
	}
	if name == "" || name == "." || name == "/" {
		return "", corrupt("a differencing disk does not name its parent")
	}
	return name, nil
}

func decodeUTF16(b []byte) string {
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = le.Uint16(b[2*i:])
	}
	return strings.TrimRight(string(utf16.Decode(u)), "\x00")
}

func encodeUTF16(s string) []byte {
	var b []byte
	for _, v := range utf16.Encode([]rune(s)) {
		b = le.AppendUint16(b, v)
	}
	return b
}

// contents returns the identifier of what the disk holds.
func (im *image) contents() guid {
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.header.dataWrite
}

// CheckParent implements driver.ParentChecker.
func (im *image) CheckParent(_ context.Context, parent driver.Node) error {
	p, ok := parent.(*image)
	if !im.meta.diff || !ok {
		return nil // somebody chose another one, and knows why
	}
	id := p.contents()
	for _, key := range []string{keyLinkage, keyLinkage2} {
		if want, ok := parseGUID(im.meta.locator.values[key]); ok && want == id {
			im.mu.Lock()
			defer im.mu.Unlock()
			im.parent, im.linkage = p, id
			return nil
		}
	}
	return corrupt("the parent has been modified, or is another one: its contents are %s, and were %s", id, im.meta.locator.values[keyLinkage])
}

// followParent records which contents the parent has now, if they were changed by way of
// this image (commit). Changes by others are refused when the image is opened.
func (im *image) followParent(ctx context.Context) error {
	im.mu.Lock()
	parent, linkage := im.parent, im.linkage
	im.mu.Unlock()
	if parent == nil || !im.Writable() {
		return nil
	}
	id := parent.contents()
	if id == linkage || im.meta.locator.linkageAt == 0 {
		return nil
	}
	l := &im.meta.locator
	text := encodeUTF16(id.String())
	im.mu.Lock()
	defer im.mu.Unlock()
	if err := im.touch(ctx, false); err != nil {
		return err
	}
	if err := im.logWrite(ctx, l.at+int64(l.linkageAt), text); err != nil {
		return err
	}
	im.linkage = id
	return im.clearLog(ctx)
}
