package squashfs

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/pierrec/lz4/v4"
)

// TestLZ4 reads what the encoder writes with another decoder: texts of all small lengths,
// with matches near and farther than the format reaches, and room for less than the result.
func TestLZ4(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	random := make([]byte, 200_000)
	for i := range random {
		random[i] = byte(r.Uint32())
	}
	words := make([]byte, 0, 300_000)
	for len(words) < 300_000 {
		words = fmt.Appendf(words, "%d %s ", r.IntN(50), []string{"inode", "block", "fragment", "table"}[r.IntN(4)])
	}
	cases := map[string][]byte{"random": random, "words": words, "zeros": make([]byte, 100_000),
		"as far as it reaches": append(bytes.Clone(random[:65535]), random[:65535]...),
		"one byte too far":     append(bytes.Clone(random[:65536]), random[:65536]...),
		"long literals":        append(append(bytes.Clone(random[:70_000]), words[:5000]...), random[:3000]...)}
	for n := range 70 {
		cases[fmt.Sprint("words ", n)] = words[:n]
		cases[fmt.Sprint("run ", n)] = bytes.Repeat([]byte("a"), n)
	}
	var e lz4Encoder
	for name, src := range cases {
		dst := make([]byte, len(src)+len(src)/200+20)
		n := e.encode(dst, src)
		back := make([]byte, len(src))
		if m, err := lz4.UncompressBlock(dst[:n], back); n == 0 || err != nil || !bytes.Equal(back[:m], src) {
			t.Errorf("%s: %d bytes, %d of them back, %v", name, n, m, err)
		}
		if literals, match := lz4End(dst[:n]); match > 0 && (literals < 5 || match+literals < 12) {
			t.Errorf("%s: ends in a match of %d bytes and %d literals", name, match, literals)
		}
		// it fits not at all
		for _, room := range []int{0, n / 2, n - 1} {
			if got := e.encode(dst[:room:room], src); got != 0 {
				t.Errorf("%s: %d bytes in a room of %d, %d before", name, got, room, n)
			}
		}
	}
	for name, most := range map[string]int{"words": 110_000, "zeros": 500, "as far as it reaches": 66_500, "long literals": 77_000} {
		if n := e.encode(make([]byte, 400_000), cases[name]); n > most {
			t.Errorf("%s: %d bytes, more than %d", name, n, most)
		}
	}
}

// lz4End returns how many literals a block ends in, and how long the match before is, 0
// where there is none.
func lz4End(b []byte) (literals, match int) {
	length := func(n int) int {
		for more := byte(255); n >= 15 && more == 255; {
			more, b = b[0], b[1:]
			n += int(more)
		}
		return n
	}
	for {
		token := b[0]
		b = b[1:]
		literals = length(int(token >> 4))
		if b = b[literals:]; len(b) == 0 {
			return literals, match
		}
		b = b[2:]
		match = length(int(token&15)) + 4
	}
}
