package ext4

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cowl-disk/cowl/fstree"
)

const (
	xattrMagic   = 0xea020000
	xattrHeader  = 32
	xattrEntry   = 16
	inlineXattrs = inodeSize - 128 - extraSize - 4 // room in the inode, after the magic
	maxShared    = 1024                            // inodes that share a block of attributes
)

// The namespaces by their numbers. A name that is whole here has an empty rest.
var xattrSpaces = []struct {
	prefix string
	index  byte
}{{"system.posix_acl_access", 2}, {"system.posix_acl_default", 3}, {"user.", 1}, {"trusted.", 4}, {"security.", 6}}

// attribute is an extended attribute as it is on disk.
type attribute struct {
	index byte
	name  string
	value []byte
}

// attributes encodes those of a node.
func (w *writer) attributes(n *fstree.Node) (list []attribute, err error) {
next:
	for _, x := range n.Xattrs {
		for _, s := range xattrSpaces {
			name, ok := strings.CutPrefix(x.Name, s.prefix)
			if !ok || strings.HasSuffix(s.prefix, ".") == (name == "") {
				continue
			}
			a := attribute{s.index, name, x.Value}
			if name == "" {
				if a.value, err = diskACL(x.Value); err != nil {
					return nil, fmt.Errorf("attribute %s: %w", x.Name, err)
				}
			}
			list = append(list, a)
			continue next
		}
		w.lose("attribute " + x.Name + ": those of user, trusted and security and access control lists are kept")
	}
	slices.SortFunc(list, func(a, b attribute) int {
		return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(len(a.name), len(b.name)), cmp.Compare(a.name, b.name))
	})
	return list, nil
}

// diskACL packs an access control list as ext4 has it: entries without a name have no
// room for one.
func diskACL(b []byte) ([]byte, error) {
	le := binary.LittleEndian
	if len(b) < 4 || (len(b)-4)%8 != 0 || le.Uint32(b) != 2 {
		return nil, errors.New("not an access control list of version 2")
	}
	out := le.AppendUint32(nil, 1)
	for b = b[4:]; len(b) > 0; b = b[8:] {
		tag := le.Uint16(b)
		out = append(out, b[:4]...)
		switch tag {
		case 0x02, 0x08: // a user or a group by its number
			out = append(out, b[4:8]...)
		case 0x01, 0x04, 0x10, 0x20:
		default:
			return nil, fmt.Errorf("an entry of type %#x in an access control list", tag)
		}
	}
	return out, nil
}

// size is how many bytes an attribute takes.
func (a attribute) size() int { return xattrEntry + (len(a.name)+3)&^3 + (len(a.value)+3)&^3 }

// hash sums up name and value.
func (a attribute) hash() (h uint32) {
	for i := range len(a.name) {
		h = h<<5 ^ h>>27 ^ uint32(int32(int8(a.name[i])))
	}
	v := append(slices.Clone(a.value), 0, 0, 0)
	for i := 0; i < (len(a.value)+3)/4; i++ {
		h = h<<16 ^ h>>16 ^ binary.LittleEndian.Uint32(v[4*i:])
	}
	return h
}

// encodeAttributes fills area with entries from its beginning and values from its end.
// Offsets of values count from base bytes before area.
func encodeAttributes(area []byte, base int, list []attribute) {
	le := binary.LittleEndian
	at, end := 0, len(area)
	for _, a := range list {
		e := area[at:]
		e[0], e[1] = byte(len(a.name)), a.index
		if size := (len(a.value) + 3) &^ 3; size > 0 {
			end -= size
			copy(area[end:], a.value)
			le.PutUint16(e[2:], uint16(base+end))
		}
		le.PutUint32(e[8:], uint32(len(a.value)))
		le.PutUint32(e[12:], a.hash())
		copy(e[xattrEntry:], a.name)
		at += xattrEntry + (len(a.name)+3)&^3
	}
}

// setAttributes gives an inode its attributes: those that fit lie in it, the others in a
// block, which inodes with the same ones share.
func (w *writer) setAttributes(n *inode, list []attribute) error {
	var inline, outside []attribute
	room, total := inlineXattrs-4, xattrHeader+4 // four bytes of zeros end the entries
	for _, a := range list {
		if len(a.name) > fstree.MaxName || len(a.value) > blockSize {
			return fmt.Errorf("the attribute %.40q of %d bytes is too large for ext4", a.name, len(a.value))
		}
		if a.size() <= room {
			room -= a.size()
			inline = append(inline, a)
			continue
		}
		total += a.size()
		outside = append(outside, a)
	}
	if total > blockSize {
		return fmt.Errorf("attributes of %d bytes do not fit in the block of %d bytes that ext4 has for them", total, blockSize)
	}
	if len(inline) > 0 {
		n.inline = binary.LittleEndian.AppendUint32(nil, xattrMagic)
		area := make([]byte, inlineXattrs)
		encodeAttributes(area, 0, inline)
		n.inline = append(n.inline, area...)
	}
	if len(outside) == 0 {
		return nil
	}
	area := make([]byte, blockSize-xattrHeader)
	encodeAttributes(area, xattrHeader, outside)
	hash := uint32(0)
	for _, a := range outside {
		hash = hash<<16 ^ hash>>16 ^ a.hash()
	}
	n.blocks++
	key := string(area)
	if s := w.shared[key]; s != nil && s.users < maxShared {
		s.users++
		n.acl = s.at
		return nil
	}
	r, err := w.layout.allocate(1)
	if err != nil {
		return err
	}
	s := &xattrBlock{at: r.at, users: 1, area: area, hash: hash}
	w.shared[key] = s
	w.xattrBlocks = append(w.xattrBlocks, s)
	n.acl = r.at
	return nil
}

// xattrBlock is a block of attributes. It is written at the end, when its users are counted.
type xattrBlock struct {
	at    int64
	users uint32
	hash  uint32
	area  []byte
}

func (w *writer) writeXattrs() error {
	le := binary.LittleEndian
	for _, s := range w.xattrBlocks {
		b := le.AppendUint32(nil, xattrMagic)
		b = le.AppendUint32(b, s.users)
		b = le.AppendUint32(b, 1)
		b = le.AppendUint32(b, s.hash)
		b = append(append(b, make([]byte, xattrHeader-len(b))...), s.area...)
		sum := crc32c(w.seed, le.AppendUint64(nil, uint64(s.at)))
		le.PutUint32(b[16:], crc32c(sum, b))
		if err := w.put("attributes", b, s.at*blockSize); err != nil {
			return err
		}
	}
	return nil
}
