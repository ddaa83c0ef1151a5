package fat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// EntrySize is the length of an entry of a directory in bytes.
const EntrySize = 32

// Attributes of an entry (section 6).
const (
	AttrReadOnly  = 0x01
	AttrLabel     = 0x08
	AttrDirectory = 0x10
	AttrArchive   = 0x20
	AttrLongName  = 0x0f
)

// longUnits is how many UTF-16 units of a name one entry holds; maxLong how many a name has.
const (
	longUnits = 13
	maxLong   = 255
)

// CheckName refuses what long names cannot be (section 7.4).
func CheckName(name string) error {
	switch {
	case !utf8.ValidString(name):
		return errors.New("the name is not UTF-8, which FAT needs")
	case name == "":
		return errors.New("the name is empty")
	case len(utf16.Encode([]rune(name))) > maxLong:
		return fmt.Errorf("the name is longer than %d characters", maxLong)
	case strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || strings.ContainsRune(`"*/:<>?\|`, r) }):
		return errors.New("the name has a character that FAT does not allow")
	case strings.HasSuffix(name, ".") || strings.HasSuffix(name, " ") || strings.HasPrefix(name, " "):
		return errors.New("the name begins or ends with a character that FAT drops")
	}
	return nil
}

// Fold is what two names of one directory must not have in common: FAT does not tell
// upper and lower case apart.
func Fold(name string) string { return strings.Map(unicode.ToUpper, name) }

const shortExtra = "!#$%&'()-@^_`{}~"

func shortChar(c byte) bool {
	return c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte(shortExtra, c) >= 0
}

// exactShort returns a name that is a short one as it is.
func exactShort(name string) (short [11]byte, ok bool) {
	base, ext, dotted := strings.Cut(name, ".")
	if len(base) < 1 || len(base) > 8 || len(ext) > 3 || dotted && ext == "" {
		return short, false
	}
	for _, part := range []string{base, ext} {
		for i := range len(part) {
			if !shortChar(part[i]) {
				return short, false
			}
		}
	}
	copy(short[:], fmt.Sprintf("%-8s%-3s", base, ext))
	return short, true
}

// shortNames are those of one directory.
type shortNames struct {
	taken map[[11]byte]bool
	next  map[string]int
}

// ShortNames gives all names of a directory short ones, each of its own, and says which need
// their long name, too. The names must differ by Fold.
func ShortNames(names []string) (short [][11]byte, long []bool) {
	s := shortNames{map[[11]byte]bool{}, map[string]int{}}
	short, long = make([][11]byte, len(names)), make([]bool, len(names))
	for i, name := range names { // names that are short ones come first: they cannot change
		if exact, ok := exactShort(name); ok {
			short[i], s.taken[exact] = exact, true
		} else {
			long[i] = true
		}
	}
	for i, name := range names { // then those that are but for lower case
		if upper, ok := exactShort(strings.ToUpper(name)); ok && long[i] && !s.taken[upper] {
			short[i], s.taken[upper] = upper, true
		}
	}
	for i, name := range names {
		if short[i] == ([11]byte{}) {
			short[i] = s.alias(name)
		}
	}
	return short, long
}

// alias makes a short name for a long one, which no other entry has: NAME~1.EXT.
func (s *shortNames) alias(name string) (short [11]byte) {
	base, ext := strings.TrimLeft(name, "."), ""
	if i := strings.LastIndexByte(base, '.'); i > 0 {
		base, ext = base[:i], shortened(base[i+1:], 3)
	}
	base = shortened(base, 6)
	if base == "" {
		base = "_"
	}
	key := base + "." + ext
	for number := max(s.next[key], 1); ; number++ {
		tail := fmt.Sprintf("~%d", number)
		copy(short[:], fmt.Sprintf("%-8s%-3s", base[:min(len(base), 8-len(tail))]+tail, ext))
		if !s.taken[short] {
			s.taken[short], s.next[key] = true, number+1
			return short
		}
	}
}

// shortened is the beginning of a name in the characters of short names.
func shortened(name string, most int) string {
	var b []byte
	for _, r := range strings.ToUpper(name) {
		switch {
		case r == ' ' || r == '.':
			continue
		case r < 0x80 && shortChar(byte(r)):
			b = append(b, byte(r))
		default:
			b = append(b, '_')
		}
		if len(b) == most {
			break
		}
	}
	return string(b)
}

// checksum of a short name is in each entry of its long one (section 7.2).
func checksum(short [11]byte) (sum byte) {
	for _, c := range short {
		sum = sum>>1 | sum<<7
		sum += c
	}
	return sum
}

// unitAt is the offset of a UTF-16 unit of a long name in its entry.
func unitAt(i int) int {
	switch {
	case i < 5:
		return 1 + 2*i
	case i < 11:
		return 14 + 2*(i-5)
	}
	return 28 + 2*(i-11)
}

// LongEntries is how many entries a long name takes.
func LongEntries(name string) int {
	return (len(utf16.Encode([]rune(name))) + longUnits - 1) / longUnits
}

// AppendLong appends the entries of a long name, the last part first (section 7).
func AppendLong(b []byte, name string, short [11]byte) []byte {
	sum := checksum(short)
	text := utf16.Encode([]rune(name))
	parts := (len(text) + longUnits - 1) / longUnits
	if len(text)%longUnits != 0 {
		text = append(text, 0)
	}
	for len(text) < parts*longUnits {
		text = append(text, 0xffff)
	}
	for part := parts; part > 0; part-- {
		e := make([]byte, EntrySize)
		if e[0] = byte(part); part == parts {
			e[0] |= 0x40
		}
		e[11], e[13] = AttrLongName, sum
		for i, u := range text[(part-1)*longUnits : part*longUnits] {
			binary.LittleEndian.PutUint16(e[unitAt(i):], u)
		}
		b = append(b, e...)
	}
	return b
}
