package fat

import (
	"encoding/binary"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/cowl-disk/cowl/fstree"
)

// Attributes of an entry (section 6).
const (
	attrLabel     = 0x08
	attrDirectory = 0x10
	attrArchive   = 0x20
	attrLongName  = 0x0f
)

// plan gives directories and files their clusters, and makes the directories' entries.
func (f *geometry) plan(root *fstree.Node) error {
	top := &object{path: "/", node: root}
	return f.directory(top, top)
}

// directory allocates a directory and all below it, and makes its entries.
func (f *geometry) directory(o, top *object) error {
	names, err := shortNames(o)
	if err != nil {
		return err
	}
	size := int64(len(names.entries))
	if o == top {
		if f.Label != "" {
			size += entrySize
		}
	} else {
		size += 2 * entrySize // . and ..
	}
	if size > maxDir {
		return fmt.Errorf("%q: the directory has too many entries for FAT", o.path)
	}
	o.entries = make([]byte, 0, size)
	if o == top && f.rootSize > 0 {
		if size > f.rootSize {
			return fmt.Errorf("%w: the root directory of FAT%d has %d entries at most", ErrNoSpace, f.Bits, rootEntries)
		}
		f.objects = append(f.objects, o)
	} else if err := f.allocate(o, max(size, 1)); err != nil {
		return err
	}
	switch {
	case o != top:
		o.entries = f.entry(o.entries, dot(1), attrDirectory, o)
		parent := o.parent
		if parent == top {
			parent = &object{node: top.node} // the root has no number here
		}
		o.entries = f.entry(o.entries, dot(2), attrDirectory, parent)
	case f.Label != "":
		label := &object{node: &fstree.Node{ModTime: f.Time}}
		o.entries = f.entry(o.entries, f.label, attrLabel, label)
	}
	base := len(o.entries)
	o.entries = append(o.entries, names.entries...)
	for i, c := range o.node.Children() {
		child := &object{path: strings.TrimSuffix(o.path, "/") + "/" + c.Name, node: c.Node, parent: o}
		entry := o.entries[base+names.at[i]:][:entrySize]
		switch c.Node.Kind {
		case fstree.Dir:
			if err := f.directory(child, top); err != nil {
				return err
			}
			entry[11] = attrDirectory
		case fstree.File:
			if c.Node.Size > maxFile {
				return fmt.Errorf("%q: a file of %d bytes is too large for FAT", child.path, c.Node.Size)
			}
			if err := f.allocate(child, c.Node.Size); err != nil {
				return err
			}
			entry[11] = attrArchive
			binary.LittleEndian.PutUint32(entry[28:], uint32(c.Node.Size))
		default:
			return fmt.Errorf("%q: FAT has no place for a %s", child.path, c.Node.Kind)
		}
		setCluster(entry, child.first)
		setTimes(entry, c.Node.ModTime)
	}
	return nil
}

// dot is the name of the entry of a directory itself, or of its parent.
func dot(n int) (name [11]byte) {
	copy(name[:], fmt.Sprintf("%-11s", strings.Repeat(".", n)))
	return name
}

// entry appends an entry without a long name.
func (f *geometry) entry(b []byte, name [11]byte, attr byte, o *object) []byte {
	e := make([]byte, entrySize)
	copy(e, name[:])
	e[11] = attr
	setCluster(e, o.first)
	setTimes(e, o.node.ModTime)
	return append(b, e...)
}

func setCluster(e []byte, c int64) {
	binary.LittleEndian.PutUint16(e[20:], uint16(c>>16))
	binary.LittleEndian.PutUint16(e[26:], uint16(c))
}

// setTimes writes one time as that of creation, access and change. FAT's times are of no
// time zone; these are UTC.
func setTimes(e []byte, t time.Time) {
	t = t.UTC()
	switch {
	case t.Year() < 1980:
		t = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)
	case t.Year() > 2107:
		t = time.Date(2107, 12, 31, 23, 59, 58, 0, time.UTC)
	}
	day := uint16(t.Year()-1980)<<9 | uint16(t.Month())<<5 | uint16(t.Day())
	clock := uint16(t.Hour())<<11 | uint16(t.Minute())<<5 | uint16(t.Second()/2)
	le := binary.LittleEndian
	le.PutUint16(e[14:], clock)
	le.PutUint16(e[16:], day)
	le.PutUint16(e[18:], day)
	le.PutUint16(e[22:], clock)
	le.PutUint16(e[24:], day)
}

// directoryNames are the entries of a directory with their long names, without the rest.
type directoryNames struct {
	entries []byte
	at      []int // where the short entry of each child is
}

// shortNames makes the entries' names: long ones where a name is not a short one itself.
func shortNames(o *object) (n directoryNames, err error) {
	taken := map[[11]byte]bool{}
	folded := map[string]string{}
	next := map[string]int{}
	children := o.node.Children()
	exact := make([]bool, len(children))
	short := make([][11]byte, len(children))
	for i, c := range children { // names that are short ones come first: they cannot change
		if err := checkName(c.Name); err != nil {
			return n, fmt.Errorf("%q: %w", strings.TrimSuffix(o.path, "/")+"/"+c.Name, err)
		}
		key := strings.Map(unicode.ToUpper, c.Name)
		if other, ok := folded[key]; ok {
			return n, fmt.Errorf("%q: the names %q and %q differ in case only, which FAT does not tell apart", o.path, other, c.Name)
		}
		folded[key] = c.Name
		if name, ok := exactShort(c.Name); ok {
			exact[i], short[i], taken[name] = true, name, true
		}
	}
	for i, c := range children {
		if !exact[i] {
			short[i] = alias(c.Name, taken, next)
			n.entries = appendLong(n.entries, c.Name, short[i])
		}
		n.at = append(n.at, len(n.entries))
		n.entries = append(n.entries, short[i][:]...)
		n.entries = append(n.entries, make([]byte, entrySize-11)...)
	}
	return n, nil
}

// checkName refuses what long names cannot be (section 7.4).
func checkName(name string) error {
	switch {
	case !utf8.ValidString(name):
		return fmt.Errorf("the name is not UTF-8, which FAT needs")
	case len(utf16.Encode([]rune(name))) > 255:
		return fmt.Errorf("the name is longer than 255 characters")
	case strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || strings.ContainsRune(`"*/:<>?\|`, r) }):
		return fmt.Errorf("the name has a character that FAT does not allow")
	case strings.HasSuffix(name, ".") || strings.HasSuffix(name, " ") || strings.HasPrefix(name, " "):
		return fmt.Errorf("the name begins or ends with a character that FAT drops")
	}
	return nil
}

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

// alias makes a short name for a long one, which no other entry has: NAME~1.EXT.
func alias(name string, taken map[[11]byte]bool, next map[string]int) (short [11]byte) {
	upper := func(s string, most int) string {
		var b []byte
		for _, r := range strings.ToUpper(s) {
			switch {
			case r == ' ' || r == '.':
				continue
			case r < 0x80 && shortChar(byte(r)):
				b = append(b, byte(r))
			default:
				b = append(b, '_')
			}
			if len(b) == most {
				return string(b)
			}
		}
		return string(b)
	}
	base, ext := strings.TrimLeft(name, "."), ""
	if i := strings.LastIndexByte(base, '.'); i > 0 {
		base, ext = base[:i], upper(base[i+1:], 3)
	}
	base = upper(base, 6)
	if base == "" {
		base = "_"
	}
	key := base + "." + ext
	for number := max(next[key], 1); ; number++ {
		tail := fmt.Sprintf("~%d", number)
		copy(short[:], fmt.Sprintf("%-8s%-3s", base[:min(len(base), 8-len(tail))]+tail, ext))
		if !taken[short] {
			taken[short], next[key] = true, number+1
			return short
		}
	}
}

// appendLong appends the entries of a long name, the last part first (section 7).
func appendLong(b []byte, name string, short [11]byte) []byte {
	sum := byte(0)
	for _, c := range short {
		sum = sum>>1 | sum<<7
		sum += c
	}
	const units = 13
	text := utf16.Encode([]rune(name))
	parts := (len(text) + units - 1) / units
	if len(text)%units != 0 {
		text = append(text, 0)
	}
	for len(text) < parts*units {
		text = append(text, 0xffff)
	}
	for part := parts; part > 0; part-- {
		e := make([]byte, entrySize)
		if e[0] = byte(part); part == parts {
			e[0] |= 0x40
		}
		e[11], e[13] = attrLongName, sum
		for i, u := range text[(part-1)*units : part*units] {
			at := 1 + 2*i
			if i >= 5 {
				at = 14 + 2*(i-5)
			}
			if i >= 11 {
				at = 28 + 2*(i-11)
			}
			binary.LittleEndian.PutUint16(e[at:], u)
		}
		b = append(b, e...)
	}
	return b
}
