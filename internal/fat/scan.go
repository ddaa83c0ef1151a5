package fat

import (
	"encoding/binary"
	"strings"
	"unicode/utf16"
)

// scan calls found with each file and directory that the entries of a directory name. Long
// names that do not belong to the entry after them count as if they were not there.
func scan(content []byte, found func(*File) error) error {
	var long longName
	for ; len(content) >= EntrySize && content[0] != 0; content = content[EntrySize:] {
		e := content[:EntrySize]
		if e[0] == 0xe5 { // deleted
			long.reset()
			continue
		}
		if e[11]&0x3f == AttrLongName {
			long.add(e)
			continue
		}
		name, isLong := long.of([11]byte(e))
		long.reset()
		if e[11]&AttrLabel != 0 || e[0] == '.' {
			continue // "." and ".."; no other short name begins so
		}
		f := &File{Name: name, Long: isLong, Short: [11]byte(e), ReadOnly: e[11]&AttrReadOnly != 0, Dir: e[11]&AttrDirectory != 0, Modified: modified(e)}
		if !isLong {
			f.Name = shortText(f.Short, e[12])
		}
		f.First = uint32(binary.LittleEndian.Uint16(e[20:]))<<16 | uint32(binary.LittleEndian.Uint16(e[26:]))
		if !f.Dir {
			f.Size = int64(binary.LittleEndian.Uint32(e[28:]))
		}
		if err := found(f); err != nil {
			return err
		}
	}
	return nil
}

// longName collects the entries of a long name, whose last part comes first.
type longName struct {
	units []uint16 // of all parts, in their order
	next  int      // the part that has to come next, 0 when all are there
	sum   byte
}

func (l *longName) reset() { *l = longName{} }

func (l *longName) add(e []byte) {
	part := int(e[0] &^ 0x40)
	if e[0]&0x40 != 0 {
		if part < 1 || part > 20 {
			l.reset()
			return
		}
		*l = longName{units: make([]uint16, part*longUnits), next: part, sum: e[13]}
	}
	if len(l.units) == 0 || part != l.next || part == 0 || e[13] != l.sum {
		l.reset()
		return
	}
	for i := range longUnits {
		l.units[(part-1)*longUnits+i] = binary.LittleEndian.Uint16(e[unitAt(i):])
	}
	l.next--
}

// of returns the long name of the entry with a short one, if all of it was there.
func (l *longName) of(short [11]byte) (string, bool) {
	if len(l.units) == 0 || l.next != 0 || l.sum != checksum(short) {
		return "", false
	}
	n := 0
	for n < len(l.units) && l.units[n] != 0 {
		n++
	}
	return string(utf16.Decode(l.units[:n])), n > 0
}

// Windows notes in an entry which parts of its short name are in lower case.
const lowerBase, lowerExt = 0x08, 0x10

// shortText is a short name as text: in lower case, as QEMU has it, or in that which the entry
// notes. Bytes of other character sets are replaced.
func shortText(short [11]byte, noted byte) string {
	if noted &= lowerBase | lowerExt; noted == 0 {
		noted = lowerBase | lowerExt
	}
	if short[0] == 0x05 { // stands for 0xe5, which marks what is deleted
		short[0] = 0xe5
	}
	part := func(b []byte, lower bool) string {
		var s strings.Builder
		for _, c := range b {
			if c >= 0x80 {
				c = '_'
			}
			s.WriteByte(c)
		}
		text := strings.TrimRight(s.String(), " ")
		if lower {
			text = strings.ToLower(text)
		}
		return text
	}
	name := part(short[:8], noted&lowerBase != 0)
	if ext := part(short[8:], noted&lowerExt != 0); ext != "" {
		name += "." + ext
	}
	return name
}
