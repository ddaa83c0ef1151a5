package dmg

import (
	"bytes"
	"compress/bzip2"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cowl-disk/cowl/internal/chunks"
	"github.com/cowl-disk/cowl/internal/testkit"
)

// bzip2Samples are streams and what they hold.
var bzip2Samples = map[string]struct{ stream, content string }{
	"nothing": {"425a683917724538509000000000", ""},
	"hello":   {"425a68393141592653594eece83600000251800010400006449080200031064c4101a7a9a580bb9431f8bb9229c28482776741b0", "hello world\n"},
}

func bzip2Bytes(t testing.TB, s string) []byte {
	var b []byte
	if _, err := fmt.Sscanf(s, "%x", &b); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestBzip2 decodes streams, whole, cut, with a byte changed, one behind the other, and into too little room.
func TestBzip2Streams(t *testing.T) {
	var d bzip2Decoder
	for name, c := range bzip2Samples {
		src := bzip2Bytes(t, c.stream)
		dst := make([]byte, len(c.content)+10)
		if n, err := d.decode(dst, src); err != nil || string(dst[:n]) != c.content {
			t.Errorf("%s: %q, %v", name, dst[:n], err)
		}
		if n, err := d.decode(dst, append(bytes.Clone(src), src...)); err != nil && len(dst) >= 2*len(c.content) || err == nil && string(dst[:n]) != c.content+c.content {
			t.Errorf("%s, twice: %q, %v", name, dst[:n], err)
		}
		for n := range len(src) {
			if m, err := d.decode(dst, src[:n]); err == nil {
				t.Errorf("%s: %d of %d bytes are %q, without an error", name, n, len(src), dst[:m])
			}
		}
		for i := range src {
			bad := bytes.Clone(src)
			bad[i] ^= 0x10
			if m, err := d.decode(dst, bad); err == nil && string(dst[:m]) != c.content {
				t.Errorf("%s with byte %d changed: %q, without an error", name, i, dst[:m])
			}
		}
		if len(c.content) > 0 {
			if _, err := d.decode(dst[:len(c.content)-1], src); !errors.Is(err, chunks.ErrLong) {
				t.Errorf("%s into too little room: %v", name, err)
			}
		}
	}
}

// TestBzip2Program decodes what the program bzip2 makes of content of all kinds.
func TestBzip2Program(t *testing.T) {
	if _, err := exec.LookPath("bzip2"); err != nil {
		t.Skip("bzip2 is not installed")
	}
	var d bzip2Decoder
	r := testkit.Rand(5)
	for i := range 30 {
		content := make([]byte, r.IntN(300<<10))
		switch i % 3 {
		case 0:
			testkit.FillDisk(r, content)
		case 1: // runs of a few kinds of bytes
			for at := 0; at < len(content); {
				n := min(len(content)-at, 1+r.IntN(1<<uint(r.IntN(12))))
				c := byte(r.IntN(3))
				for k := range n {
					content[at+k] = c
				}
				at += n
			}
		case 2:
			content = []byte(base64.StdEncoding.EncodeToString(content))
		}
		cmd := exec.Command("bzip2", "-c", "-"+string(rune('1'+r.IntN(9))))
		cmd.Stdin = bytes.NewReader(content)
		src, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		dst := make([]byte, len(content))
		if n, err := d.decode(dst, src); err != nil || !bytes.Equal(dst[:n], content) {
			t.Fatalf("%d: %d of %d bytes, %v", i, n, len(content), err)
		}
		if n := len(content); n > 0 {
			if _, err := d.decode(dst[:n-1], src); !errors.Is(err, chunks.ErrLong) {
				t.Fatalf("%d, into too little room: %v", i, err)
			}
		}
	}
}

// crowded is a stream with more codes than there is room for. The standard library decodes it to 12 bytes, libbz2 and
// 7-Zip refuse it.
const crowded = "BZh11AY&SYN\xec\xe86\x00\x00\x02Q\x80\x00\x10@\x00\x06D\x90\x80 \x001A12A\xa7\xa9\xa5\x80\xbb\x941\xf8\xbb\x92)\u0084\x82wgA\xb0"

// TestBzip2Crowded refuses codes that there is no room for, as the bzip2 program does.
func TestBzip2Crowded(t *testing.T) {
	var d bzip2Decoder
	if n, err := d.decode(make([]byte, 100), []byte(crowded)); !errors.Is(err, errBzip2Code) {
		t.Errorf("%d bytes, %v", n, err)
	}
	if tool, err := exec.LookPath("bzip2"); err == nil {
		cmd := exec.Command(tool, "-t")
		cmd.Stdin = strings.NewReader(crowded)
		if out, err := cmd.CombinedOutput(); err == nil {
			t.Errorf("bzip2 takes it: %s", out)
		}
	}
}

// exact says whether the codes of all tables leave no room. Those that do, and those that have too little, mean something else
// to the standard library than to libbz2.
func (b *bzip2Block) exact() bool {
	for i := range b.tables {
		t := &b.tables[i]
		if slices.Max(t.limit[:]) != 0 && t.limit[bzip2Longest] != 1<<bzip2Longest {
			return false
		}
	}
	return true
}

// FuzzBzip2: what the standard library decodes is decoded alike, if its codes are complete.
func FuzzBzip2(f *testing.F) {
	for _, c := range bzip2Samples {
		f.Add(bzip2Bytes(f, c.stream))
	}
	f.Add([]byte(crowded))
	f.Fuzz(func(t *testing.T, src []byte) {
		b := &bzip2Block{}
		d := bzip2Decoder{pool: sync.Pool{New: func() any { return b }}}
		const most = 1 << 16
		want, wantErr := io.ReadAll(io.LimitReader(bzip2.NewReader(bytes.NewReader(src)), most+1))
		dst := make([]byte, most)
		n, err := d.decode(dst, src)
		switch {
		case len(want) > most:
			if err == nil {
				t.Errorf("more than %d bytes, without an error", most)
			}
		case wantErr == nil && (err != nil || !bytes.Equal(dst[:n], want)) && b.exact():
			t.Errorf("%d bytes, want %d; %v", n, len(want), err)
		}
	})
}
