package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

var be = binary.BigEndian

// ErrMalformed is wrapped by every error of the Parse functions.
var ErrMalformed = errors.New("malformed NBD message")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// OptionHeaderLen is the length of OptionHeader in bytes.
const OptionHeaderLen = 16

// OptionHeader precedes the data of an option.
type OptionHeader struct {
	Option Option
	Length uint32 // of the data
}

// Put encodes h.
func (h OptionHeader) Put(b []byte) int {
	be.PutUint64(b, OptMagic)
	be.PutUint32(b[8:], uint32(h.Option))
	be.PutUint32(b[12:], h.Length)
	return OptionHeaderLen
}

// ParseOptionHeader decodes OptionHeaderLen bytes.
func ParseOptionHeader(b []byte) (h OptionHeader, err error) {
	if len(b) < OptionHeaderLen || be.Uint64(b) != OptMagic {
		return h, malformed("bad option magic")
	}
	return OptionHeader{Option(be.Uint32(b[8:])), be.Uint32(b[12:])}, nil
}

// OptionReplyHeaderLen is the length of OptionReplyHeader in bytes.
const OptionReplyHeaderLen = 20

// OptionReplyHeader precedes the data of a reply to an option.
type OptionReplyHeader struct {
	Option Option
	Type   OptionReply
	Length uint32 // of the data
}

// Put encodes h.
func (h OptionReplyHeader) Put(b []byte) int {
	be.PutUint64(b, OptReplyMagic)
	be.PutUint32(b[8:], uint32(h.Option))
	be.PutUint32(b[12:], uint32(h.Type))
	be.PutUint32(b[16:], h.Length)
	return OptionReplyHeaderLen
}

// ParseOptionReplyHeader decodes OptionReplyHeaderLen bytes.
func ParseOptionReplyHeader(b []byte) (h OptionReplyHeader, err error) {
	if len(b) < OptionReplyHeaderLen || be.Uint64(b) != OptReplyMagic {
		return h, malformed("bad option reply magic")
	}
	return OptionReplyHeader{Option(be.Uint32(b[8:])), OptionReply(be.Uint32(b[12:])), be.Uint32(b[16:])}, nil
}

// CheckString checks the rules for names and messages: UTF-8 without NUL, at most
// MaxString bytes.
func CheckString(s string) error {
	switch {
	case len(s) > MaxString:
		return malformed("string of %d bytes, the limit is %d", len(s), MaxString)
	case strings.IndexByte(s, 0) >= 0:
		return malformed("string with a NUL byte")
	case !utf8.ValidString(s):
		return malformed("string is not UTF-8")
	}
	return nil
}

// takeString takes a 32 bit length and that many bytes from b.
func takeString(b []byte) (s string, rest []byte, err error) {
	if len(b) < 4 {
		return "", nil, malformed("length missing")
	}
	n := be.Uint32(b)
	b = b[4:]
	if uint64(n) > uint64(len(b)) {
		return "", nil, malformed("string of %d bytes in %d", n, len(b))
	}
	s = string(b[:n])
	return s, b[n:], CheckString(s)
}

func appendString(b []byte, s string) []byte {
	return append(be.AppendUint32(b, uint32(len(s))), s...)
}

// InfoRequest is the data of OptInfo and OptGo.
type InfoRequest struct {
	Name  string
	Infos []InfoType
}

// Append encodes r.
func (r InfoRequest) Append(b []byte) []byte {
	b = be.AppendUint16(appendString(b, r.Name), uint16(len(r.Infos)))
	for _, i := range r.Infos {
		b = be.AppendUint16(b, uint16(i))
	}
	return b
}

// ParseInfoRequest decodes the data of OptInfo or OptGo.
func ParseInfoRequest(b []byte) (r InfoRequest, err error) {
	if r.Name, b, err = takeString(b); err != nil {
		return r, err
	}
	if len(b) < 2 || len(b) != 2+2*int(be.Uint16(b)) {
		return r, malformed("wrong length of information requests")
	}
	for b = b[2:]; len(b) > 0; b = b[2:] {
		r.Infos = append(r.Infos, InfoType(be.Uint16(b)))
	}
	return r, nil
}

// MetaQuery is the data of OptListMetaContext and OptSetMetaContext.
type MetaQuery struct {
	Name    string
	Queries []string
}

// Append encodes q.
func (q MetaQuery) Append(b []byte) []byte {
	b = be.AppendUint32(appendString(b, q.Name), uint32(len(q.Queries)))
	for _, s := range q.Queries {
		b = appendString(b, s)
	}
	return b
}

// ParseMetaQuery decodes the data of OptListMetaContext or OptSetMetaContext.
func ParseMetaQuery(b []byte) (q MetaQuery, err error) {
	if q.Name, b, err = takeString(b); err != nil {
		return q, err
	}
	if len(b) < 4 {
		return q, malformed("number of queries missing")
	}
	n := be.Uint32(b)
	b = b[4:]
	if uint64(n) > uint64(len(b))/4 {
		return q, malformed("%d queries in %d bytes", n, len(b))
	}
	for range n {
		var s string
		if s, b, err = takeString(b); err != nil {
			return q, err
		}
		q.Queries = append(q.Queries, s)
	}
	if len(b) != 0 {
		return q, malformed("%d bytes too many", len(b))
	}
	return q, nil
}

// AppendServer encodes the data of RepServer: the name of an export and a text
// for the user.
func AppendServer(b []byte, name, description string) []byte {
	return append(appendString(b, name), description...)
}

// ParseServer decodes the data of RepServer.
func ParseServer(b []byte) (name, description string, err error) {
	name, b, err = takeString(b)
	if err == nil {
		err = CheckString(string(b))
	}
	return name, string(b), err
}

// AppendMetaContext encodes the data of RepMetaContext.
func AppendMetaContext(b []byte, id uint32, name string) []byte {
	return append(be.AppendUint32(b, id), name...)
}

// ParseMetaContext decodes the data of RepMetaContext.
func ParseMetaContext(b []byte) (id uint32, name string, err error) {
	if len(b) < 4 {
		return 0, "", malformed("metadata context of %d bytes", len(b))
	}
	name = string(b[4:])
	return be.Uint32(b), name, CheckString(name)
}

// BlockSize holds the constraints on requests that a server states.
type BlockSize struct {
	Min       uint32 // offsets and lengths are multiples of it
	Preferred uint32 // the smallest request that is efficient
	Max       uint32 // bytes that a request or a reply may carry
}

// Check checks the rules of the specification.
func (s BlockSize) Check() error {
	pow2 := func(n uint32) bool { return n != 0 && n&(n-1) == 0 }
	switch {
	case !pow2(s.Min) || s.Min > 64<<10:
		return malformed("server minimum block size %d is not a power of two up to 64k", s.Min)
	case !pow2(s.Preferred) || s.Preferred < s.Min:
		return malformed("server preferred block size %d is not valid", s.Preferred)
	case s.Max < s.Min || s.Max != ^uint32(0) && s.Max%s.Min != 0:
		return malformed("server maximum block size %d is not valid", s.Max)
	}
	return nil
}

// AppendInfoExport encodes an InfoExport, as data of RepInfo.
func AppendInfoExport(b []byte, size uint64, flags TransFlags) []byte {
	return be.AppendUint16(be.AppendUint64(be.AppendUint16(b, uint16(InfoExport)), size), uint16(flags))
}

// AppendInfoText encodes an InfoName or InfoDescription.
func AppendInfoText(b []byte, typ InfoType, text string) []byte {
	return append(be.AppendUint16(b, uint16(typ)), text...)
}

// AppendInfoBlockSize encodes an InfoBlockSize.
func AppendInfoBlockSize(b []byte, s BlockSize) []byte {
	b = be.AppendUint16(b, uint16(InfoBlockSize))
	return be.AppendUint32(be.AppendUint32(be.AppendUint32(b, s.Min), s.Preferred), s.Max)
}

// Info is the data of RepInfo; Type says which fields are set.
type Info struct {
	Type      InfoType
	Size      uint64
	Flags     TransFlags
	Text      string
	BlockSize BlockSize
}

// ParseInfo decodes the data of RepInfo. Of a type that is not known, only Type
// is set.
func ParseInfo(b []byte) (i Info, err error) {
	if len(b) < 2 {
		return i, malformed("information of %d bytes", len(b))
	}
	i.Type = InfoType(be.Uint16(b))
	b = b[2:]
	want := -1
	switch i.Type {
	case InfoExport:
		want = 10
	case InfoBlockSize:
		want = 12
	}
	if want >= 0 && len(b) != want {
		return i, malformed("information %d of %d bytes, not %d", i.Type, len(b), want)
	}
	switch i.Type {
	case InfoExport:
		i.Size, i.Flags = be.Uint64(b), TransFlags(be.Uint16(b[8:]))
	case InfoName, InfoDescription:
		i.Text = string(b)
		err = CheckString(i.Text)
	case InfoBlockSize:
		i.BlockSize = BlockSize{be.Uint32(b), be.Uint32(b[4:]), be.Uint32(b[8:])}
		err = i.BlockSize.Check()
	}
	return i, err
}
