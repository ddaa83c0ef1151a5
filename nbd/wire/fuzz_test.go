package wire

import (
	"bytes"
	"testing"
)

// FuzzParse gives any bytes to every parser; what parses encodes to the same
// bytes again.
func FuzzParse(f *testing.F) {
	f.Add(InfoRequest{"disk", []InfoType{1, 2}}.Append(nil))
	f.Add(MetaQuery{"disk", []string{"base:allocation"}}.Append(nil))
	f.Add(AppendExtents(nil, 1, []Extent{{512, 3}, {1 << 20, 0}}, false))
	f.Add(AppendExtents(nil, 1, []Extent{{512, 3}}, true))
	f.Add(AppendError(nil, EIO, "broken", 4096))
	f.Add(AppendStatusPayload(nil, 1<<33, []uint32{1, 2}))
	f.Add(AppendInfoBlockSize(nil, BlockSize{1, 4096, MaxPayload}))
	r := Request{1, 2, 3, 4, 5}
	b := make([]byte, ExtendedRequestLen)
	r.PutExtended(b)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		same := func(what string, enc []byte, err error) {
			if err == nil && !bytes.Equal(enc, b) {
				t.Errorf("%s: %x encodes as %x", what, b, enc)
			}
		}
		ir, err := ParseInfoRequest(b)
		same("info request", ir.Append(nil), err)
		mq, err := ParseMetaQuery(b)
		same("meta query", mq.Append(nil), err)
		name, desc, err := ParseServer(b)
		same("server", AppendServer(nil, name, desc), err)
		id, ctx, err := ParseMetaContext(b)
		same("meta context", AppendMetaContext(nil, id, ctx), err)
		id, ext, err := ParseExtents(b, false)
		same("extents", AppendExtents(nil, id, ext, false), err)
		if id, ext, err = ParseExtents(b, true); err == nil && be.Uint32(b[4:]) != 0 {
			same("extents", AppendExtents(nil, id, ext, true), err)
		}
		n, ids, err := ParseStatusPayload(b)
		same("status payload", AppendStatusPayload(nil, n, ids), err)
		for _, typ := range []ChunkType{ChunkError, ChunkErrorOffset} {
			errno, msg, off, err := ParseError(typ, b)
			if typ == ChunkError || off >= 0 {
				same("error", AppendError(nil, errno, msg, off), err)
			}
		}
		_, _ = ParseInfo(b)
		_, _, _ = ParseOffsetHole(b)
		_, _ = ParseReply(b)
		_, _ = ParseOptionHeader(b)
		_, _ = ParseOptionReplyHeader(b)
	})
}
