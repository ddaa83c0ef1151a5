package wire

import (
	"errors"
	"fmt"
	"reflect"
	"syscall"
	"testing"
)

func TestRequestRoundTrip(t *testing.T) {
	for _, extended := range []bool{false, true} {
		want := Request{CmdFlagFUA | CmdFlagDF, CmdWrite, 0x1122334455667788, 1 << 40, 0xfffff000}
		b := make([]byte, ExtendedRequestLen)
		n := want.Put(b)
		if extended {
			want.Length = 1 << 50
			n = want.PutExtended(b)
		}
		var got Request
		if !got.Parse(b[:n], extended) || got != want {
			t.Errorf("extended %v: got %+v, want %+v", extended, got, want)
		}
		b[0] ^= 1
		if got.Parse(b[:n], extended) {
			t.Error("wrong magic accepted")
		}
	}
}

// TestBytes compares encodings with bytes written down from the specification.
func TestBytes(t *testing.T) {
	b := make([]byte, 64)
	r := Request{CmdFlagFUA, CmdTrim, 1, 2, 3}
	for _, c := range []struct {
		name, want string
		n          int
	}{
		{"request", "25609513000100040000000000000001000000000000000200000003", r.Put(b)},
	} {
		if got := fmt.Sprintf("%x", b[:c.n]); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	n := r.PutExtended(b)
	if got := fmt.Sprintf("%x", b[:n]); got != "21e41c710001000400000000000000010000000000000002"+"0000000000000003" {
		t.Errorf("extended request: %s", got)
	}
	n = PutSimpleReply(b, 7, EIO)
	if got := fmt.Sprintf("%x", b[:n]); got != "67446698000000050000000000000007" {
		t.Errorf("simple reply: %s", got)
	}
	ch := Chunk{ReplyFlagDone, ChunkOffsetHole, 7, 9, 12}
	n = ch.PutStructured(b)
	if got := fmt.Sprintf("%x", b[:n]); got != "668e33ef0001000200000000000000070000000c" {
		t.Errorf("chunk: %s", got)
	}
	n = ch.PutExtended(b)
	if got := fmt.Sprintf("%x", b[:n]); got != "6e8a278c0001000200000000000000070000000000000009000000000000000c" {
		t.Errorf("extended chunk: %s", got)
	}
	n = OptionHeader{OptGo, 5}.Put(b)
	if got := fmt.Sprintf("%x", b[:n]); got != "49484156454f50540000000700000005" {
		t.Errorf("option: %s", got)
	}
	n = OptionReplyHeader{OptGo, RepErrUnsup, 5}.Put(b)
	if got := fmt.Sprintf("%x", b[:n]); got != "0003e889045565a9000000078000000100000005" {
		t.Errorf("option reply: %s", got)
	}
}

func TestHandshakeRoundTrip(t *testing.T) {
	ir := InfoRequest{"disk", []InfoType{InfoBlockSize, InfoDescription}}
	if got, err := ParseInfoRequest(ir.Append(nil)); err != nil || !reflect.DeepEqual(got, ir) {
		t.Errorf("%+v, %v", got, err)
	}
	mq := MetaQuery{"disk", []string{"base:", ContextDirtyBitmap}}
	if got, err := ParseMetaQuery(mq.Append(nil)); err != nil || !reflect.DeepEqual(got, mq) {
		t.Errorf("%+v, %v", got, err)
	}
	if name, desc, err := ParseServer(AppendServer(nil, "a", "b c")); err != nil || name != "a" || desc != "b c" {
		t.Errorf("%q %q %v", name, desc, err)
	}
	if id, name, err := ParseMetaContext(AppendMetaContext(nil, 3, "base:allocation")); err != nil || id != 3 || name != ContextAllocation {
		t.Errorf("%d %q %v", id, name, err)
	}
	if i, err := ParseInfo(AppendInfoExport(nil, 99, FlagReadOnly)); err != nil || i.Size != 99 || i.Flags != FlagReadOnly {
		t.Errorf("%+v, %v", i, err)
	}
	bs := BlockSize{512, 4096, 32 << 20}
	if i, err := ParseInfo(AppendInfoBlockSize(nil, bs)); err != nil || i.BlockSize != bs {
		t.Errorf("%+v, %v", i, err)
	}
}

func TestRejects(t *testing.T) {
	for _, s := range []BlockSize{{0, 1, 1}, {3, 4, 8}, {512, 256, 4096}, {512, 4096, 100}, {512, 512, 1000}, {1 << 17, 1 << 17, 1 << 20}} {
		if s.Check() == nil {
			t.Errorf("%+v accepted", s)
		}
	}
	bad := map[string]error{}
	_, bad["info length"] = ParseInfoRequest([]byte{0, 0, 0, 0, 0, 2, 0, 1})
	_, bad["name beyond data"] = ParseInfoRequest([]byte{0, 0, 0, 9, 0, 0})
	_, bad["query count"] = ParseMetaQuery([]byte{0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
	_, bad["query rest"] = ParseMetaQuery([]byte{0, 0, 0, 0, 0, 0, 0, 0, 1})
	_, _, bad["no extent"] = ParseExtents([]byte{0, 0, 0, 1}, false)
	_, _, bad["empty extent"] = ParseExtents(make([]byte, 12), false)
	_, _, bad["extent count"] = ParseExtents(AppendExtents([]byte{}, 1, nil, true), true)
	_, _, bad["status payload"] = ParseStatusPayload(make([]byte, 8))
	_, _, bad["context twice"] = ParseStatusPayload(make([]byte, 16))
	_, _, _, bad["error zero"] = ParseError(ChunkError, make([]byte, 6))
	_, _, _, bad["error message"] = ParseError(ChunkError, []byte{0, 0, 0, 5, 0, 9, 1})
	_, _, _, bad["error offset"] = ParseError(ChunkErrorOffset, []byte{0, 0, 0, 5, 0, 0})
	_, bad["reply"] = ParseReply(make([]byte, 32))
	bad["NUL"] = CheckString("a\x00b")
	bad["UTF-8"] = CheckString("\xff")
	bad["long"] = CheckString(string(make([]byte, MaxString+1)))
	for name, err := range bad {
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestErrno(t *testing.T) {
	for _, c := range []struct {
		err  error
		want Errno
	}{
		{nil, 0}, {errors.New("x"), EIO}, {fmt.Errorf("write: %w", syscall.ENOSPC), ENOSPC}, {syscall.EROFS, EPERM},
		{fmt.Errorf("a: %w", EOVERFLOW), EOVERFLOW}, {Errno(77), EINVAL}, {syscall.EAGAIN, EIO}, {syscall.ENOTSUP, ENOTSUP},
	} {
		if got := ErrnoOf(c.err); got != c.want {
			t.Errorf("%v: %d, want %d", c.err, got, c.want)
		}
	}
}
