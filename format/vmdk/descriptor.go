package vmdk

import (
	"bytes"
	"math"
	"strconv"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
)

const (
	sectorSize = 512
	// maxDescriptor bounds the text of a descriptor in bytes. QEMU reads one byte less.
	maxDescriptor = 1 << 20
	noParent      = 0xffffffff // parentCID of a disk that has none
)

// Kinds of extents, as the descriptor spells them.
const (
	extentFlat       = "FLAT"
	extentVMFS       = "VMFS"
	extentSparse     = "SPARSE"
	extentVMFSSparse = "VMFSSPARSE"
	extentSESparse   = "SESPARSE"
	extentZero       = "ZERO"
	// Raw device maps: the file, or the device, that is named holds the disk as it is.
	extentVMFSRaw = "VMFSRAW"
	extentVMFSRDM = "VMFSRDM"
)

// Access of extents.
const (
	accessRW       = "RW"
	accessReadOnly = "RDONLY"
	accessNone     = "NOACCESS"
)

// extentLine is a line of the extent description (section "The Extent Description").
type extentLine struct {
	access  string
	sectors int64
	kind    string
	name    string // of the file, as it is written
	offset  int64  // in the file, in sectors
}

// descriptor is what the text says (section "The Descriptor File").
type descriptor struct {
	createType string
	cid        uint32
	parentCID  uint32
	hint       string // name of the parent, "" if there is none
	extents    []extentLine
}

// parseDescriptor reads the text of a descriptor. Keys and kinds may be in any case, and
// blanks around "=" do not matter.
func parseDescriptor(text []byte) (*descriptor, error) {
	d := &descriptor{parentCID: noParent}
	if i := bytes.IndexByte(text, 0); i >= 0 {
		text = text[:i]
	}
	known := false
	for line := range bytes.Lines(text) {
		s := strings.TrimSpace(string(line))
		if s == "" || s[0] == '#' {
			continue
		}
		if x, ok, err := parseExtent(s); err != nil {
			return nil, err
		} else if ok {
			if x != nil {
				d.extents = append(d.extents, *x)
			}
			continue
		}
		key, value, ok := strings.Cut(s, "=")
		if !ok {
			continue
		}
		value = unquote(strings.TrimSpace(value))
		switch strings.ToLower(strings.TrimSpace(key)) {
		case "cid":
			d.cid = parseCID(value, 0)
		case "parentcid":
			d.parentCID = parseCID(value, noParent)
		case "createtype":
			d.createType, known = value, true
		case "parentfilenamehint":
			d.hint = value
		}
	}
	if !known {
		return nil, driver.Errorf(driver.ErrFormat, "invalid VMDK image descriptor")
	}
	return d, nil
}

// unquote takes quotes off a value.
func unquote(s string) string {
	if rest, ok := strings.CutPrefix(s, "\""); ok {
		s, _, _ = strings.Cut(rest, "\"")
	}
	return s
}

// parseCID reads the hexadecimal digits that a value begins with.
func parseCID(s string, otherwise uint32) uint32 {
	v, err := strconv.ParseUint(s[:hexDigits(s)], 16, 32)
	if err != nil {
		return otherwise
	}
	return uint32(v)
}

func hexDigits[T string | []byte](s T) int {
	n := 0
	for n < len(s) && (s[n] >= '0' && s[n] <= '9' || s[n]|32 >= 'a' && s[n]|32 <= 'f') {
		n++
	}
	return n
}

// parseExtent reads a line if it describes an extent (ok); x is nil if it describes
// none of any length.
func parseExtent(s string) (x *extentLine, ok bool, err error) {
	access, rest, _ := strings.Cut(s, " ")
	access = strings.ToUpper(access)
	if access != accessRW && access != accessReadOnly && access != accessNone {
		return nil, false, nil
	}
	invalid := func() (*extentLine, bool, error) {
		return nil, true, driver.Errorf(driver.ErrCorrupt, "invalid extent line: %s", s)
	}
	number, rest, _ := strings.Cut(strings.TrimSpace(rest), " ")
	sectors, err := strconv.ParseInt(number, 10, 64)
	kind, rest, _ := strings.Cut(strings.TrimSpace(rest), " ")
	if err != nil || kind == "" {
		return nil, false, nil
	}
	x = &extentLine{access: access, sectors: sectors, kind: strings.ToUpper(kind)}
	rest = strings.TrimSpace(rest)
	if quoted, ok := strings.CutPrefix(rest, "\""); ok {
		if x.name, rest, ok = strings.Cut(quoted, "\""); !ok {
			return invalid()
		}
	}
	if fields := strings.Fields(rest); len(fields) > 0 {
		if x.offset, err = strconv.ParseInt(fields[0], 10, 64); err != nil || x.offset < 0 {
			return invalid()
		}
	} else if x.kind == extentFlat {
		return invalid()
	}
	switch x.kind {
	case extentFlat, extentZero:
	default:
		if x.offset != 0 {
			return invalid()
		}
	}
	switch {
	case sectors <= 0:
		return nil, true, nil
	case x.name == "" && x.kind != extentZero:
		return invalid()
	case sectors > math.MaxInt64/sectorSize/2 || x.offset > math.MaxInt64/sectorSize/2:
		return nil, true, driver.Errorf(driver.ErrCorrupt, "an extent of %d sectors at sector %d is too large", sectors, x.offset)
	}
	return x, true, nil
}

// place is a part of the text of a descriptor.
type place struct{ off, length int }

// findCID returns where the digits of the value of a key are, ok if the text has it.
func findCID(text []byte, key string) (place, bool) {
	for off := 0; off < len(text); {
		line := text[off:]
		if i := bytes.IndexByte(line, '\n'); i >= 0 {
			line = line[:i+1]
		}
		if k, value, ok := bytes.Cut(line, []byte{'='}); ok && strings.EqualFold(string(bytes.TrimSpace(k)), key) {
			value = bytes.TrimLeft(value, " \t\"")
			at := off + len(line) - len(value)
			if i := bytes.IndexByte(line, '='); i >= 0 {
				at = off + i + 1 + (len(line) - i - 1 - len(value))
			}
			return place{at, hexDigits(value)}, true
		}
		off += len(line)
	}
	return place{}, false
}

// cidLike returns a number other than old and noParent with n hexadecimal digits, so
// that it fits where another one was, made of random bits.
func cidLike(old uint32, n int, random uint32) uint32 {
	if n < 1 || n > 8 {
		n = 8
	}
	low, span := uint64(0), uint64(1)<<(4*n)
	if n > 1 {
		low = span / 16
	}
	v := low + uint64(random)%(span-low)
	for uint32(v) == old || v == noParent {
		v = low + (v+1-low)%(span-low)
	}
	return uint32(v)
}
