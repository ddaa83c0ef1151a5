package zstd

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// structured returns n bytes with repeats at all distances and of all lengths, some of them at distances used before,
// and few or many literals in between.
func structured(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 7))
	longest, literals, letters := 1+r.IntN(400), 1+r.IntN(40), 1+r.IntN(256)
	distances := []int{1, 4, 8}
	out := make([]byte, 0, n+longest+literals)
	for len(out) < n {
		if d := distances[r.IntN(len(distances))]; len(out) > 0 && r.IntN(5) > 0 {
			if r.IntN(2) == 0 {
				d = 1 + r.IntN(min(len(out), 1<<(1+r.IntN(18))))
				distances[r.IntN(len(distances))] = d
			}
			if d <= len(out) {
				for range 3 + r.IntN(longest) {
					out = append(out, out[len(out)-d])
				}
			}
		}
		for range r.IntN(literals + 1) {
			out = append(out, byte(r.IntN(letters)))
		}
	}
	return out[:n]
}

// inputs are data of many kinds.
func inputs() map[string][]byte {
	r := rand.New(rand.NewPCG(1, 2))
	random := make([]byte, 64<<10)
	testkit.Fill(r, random)
	var numbers []byte
	sum := uint32(0)
	for range 16 << 10 {
		sum += uint32(r.IntN(200))
		numbers = binary.LittleEndian.AppendUint32(numbers, sum)
	}
	// Counts that ask for codes of more than 11 bits.
	var skewed []byte
	for i, a, b := 0, 1, 1; i < 24; i, a, b = i+1, b, a+b {
		skewed = append(skewed, bytes.Repeat([]byte{byte(i * 7)}, a)...)
	}
	r.Shuffle(len(skewed), func(i, j int) { skewed[i], skewed[j] = skewed[j], skewed[i] })
	letters := make([]byte, 64<<10)
	for i := range letters {
		letters[i] = "ACGT"[r.IntN(4)]
	}
	// The second block has equal literals, one before each match of 20 bytes.
	words := bytes.ReplaceAll(random[:1000], []byte("x"), []byte("y"))
	var equal []byte
	for at := 0; at < len(words); at += 20 {
		equal = append(append(equal, words[at:at+20]...), make([]byte, 20)...)
	}
	equal = append(equal, make([]byte, maxBlock-len(equal))...)
	for _, n := range r.Perm(len(words) / 20) {
		equal = append(append(equal, 'x'), words[20*n:20*n+20]...)
	}
	// What compresses, what does not, and one byte over and over, a block each.
	blocks := append(append(structured(9, maxBlock), random...), random...)
	for i := maxBlock; i < len(blocks); i++ {
		blocks[i] ^= byte(r.Uint32())
	}
	return map[string][]byte{
		"empty": nil, "one byte": {7}, "two bytes": {7, 7}, "zeroes": make([]byte, 64<<10), "zeroes, longest": make([]byte, MaxSize), "random": random,
		"base64": []byte(base64.StdEncoding.EncodeToString(random))[:64<<10], "hex": []byte(hex.EncodeToString(random)), "numbers": numbers, "skewed": skewed, "letters": letters,
		"equal literals": equal, "repeats": bytes.Repeat(random[:700], 90), "far repeats": append(bytes.Repeat(random[:60000], 4), random[:100]...),
		"blocks": blocks, "random, then zeroes": append(append(append([]byte(nil), random...), blocks[maxBlock:maxBlock+64<<10]...), make([]byte, 5000)...),
		"structured": structured(1, 64<<10), "structured, longest": structured(2, MaxSize), "structured, short": structured(3, 500), "dense": dense(r),
	}
}

// dense has more sequences than a block has room for.
func dense(r *rand.Rand) (out []byte) {
	for len(out) < MaxSize {
		at := max(1, len(out)-5-r.IntN(60000))
		if len(out) < 70000 {
			out = append(out, byte(r.Uint32()))
			continue
		}
		out = append(out, out[at:at+6]...)
	}
	return out[:MaxSize]
}

func decode(t testing.TB, p []byte) []byte {
	t.Helper()
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	out, err := d.DecodeAll(p, nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestRoundTrip compresses with one encoder, over and over. The limit is kept to the byte.
func TestRoundTrip(t *testing.T) {
	var e Encoder
	all := inputs()
	for range 2 {
		for name, in := range all {
			out, ok := e.Append([]byte("abc"), in, 1<<30)
			if !ok || string(out[:3]) != "abc" {
				t.Fatalf("%s: %v", name, ok)
			}
			if got := decode(t, out[3:]); !bytes.Equal(got, in) {
				t.Errorf("%s: comes back otherwise", name)
			}
			if most := len(in) + 12; len(out)-3 > most {
				t.Errorf("%s: %d bytes take %d", name, len(in), len(out)-3)
			}
			before := bytes.Repeat([]byte{0xa5}, 10)
			if short, ok := e.Append(before[:2:2], in, len(out)-4); ok || !bytes.Equal(short, before[:2]) {
				t.Errorf("%s: more than the limit", name)
			}
			if exact, ok := e.Append(before[:2:2], in, len(out)-3); !ok || !bytes.Equal(exact[2:], out[3:]) {
				t.Errorf("%s: not within the limit, or otherwise the second time", name)
			}
		}
	}
}

// TestSameEachTime: what an encoder compressed before does not show.
func TestSameEachTime(t *testing.T) {
	var used Encoder
	all := inputs()
	for range 2 {
		for name, in := range all {
			var e Encoder
			want, _ := e.Append(nil, in, 1<<30)
			if got, _ := used.Append(nil, in, 1<<30); !bytes.Equal(got, want) {
				t.Errorf("%s: compressed otherwise", name)
			}
		}
	}
}

// TestSizes: buffers of all sizes, of many kinds.
func TestSizes(t *testing.T) {
	var sizes []int
	for n := range 300 {
		sizes = append(sizes, n)
	}
	for _, around := range []int{512, 1 << 10, 1 << 12, 1 << 14, 1 << 16, 1<<16 + 256, maxBlock, MaxSize} {
		for n := around - 9; n <= min(around+9, MaxSize); n++ {
			sizes = append(sizes, n)
		}
	}
	var e Encoder
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	all := structured(4, MaxSize)
	random := make([]byte, MaxSize)
	testkit.Fill(testkit.Rand(5), random)
	var out, back []byte
	check := func(in []byte) {
		t.Helper()
		var ok bool
		if out, ok = e.Append(out[:0], in, 1<<30); !ok {
			t.Fatalf("%d bytes: not compressed", len(in))
		}
		if back, err = d.DecodeAll(out, back[:0]); err != nil || !bytes.Equal(back, in) {
			t.Fatalf("%d bytes: comes back otherwise, %v", len(in), err)
		}
	}
	for i, n := range sizes {
		if testing.Short() && i%8 != 0 {
			continue
		}
		check(all[:n])
		check(random[:n])
		check(append(random[:n/2:n/2], random[:n-n/2]...))
		check(make([]byte, n))
		check(structured(uint64(i), n))
	}
	r := testkit.Rand(8)
	for i := range testkit.Count(40) {
		check(structured(uint64(i), r.IntN(MaxSize+1)))
	}
}

// modes are the ways of writing that a frame shows.
type modes map[string]bool

// look adds those of a frame, which is valid.
func (m modes) look(p []byte) {
	p = p[5+[]int{1, 2, 4}[p[4]>>6]:]
	for last := false; !last; {
		h := int(p[0]) | int(p[1])<<8 | int(p[2])<<16
		p = p[3:]
		last = h&1 != 0
		size := h >> 3
		switch h >> 1 & 3 {
		case rawBlock:
			m["raw block"] = true
		case equalBlock:
			m["equal block"] = true
			size = 1
		default:
			m.lookInto(p[:size])
		}
		p = p[size:]
	}
}

func (m modes) lookInto(p []byte) {
	kind, format := p[0]&3, p[0]>>2&3
	h := uint64(p[0]) | uint64(p[1])<<8 | uint64(p[2])<<16
	if len(p) >= 5 {
		h = uint64(binary.LittleEndian.Uint32(p)) | uint64(p[4])<<32
	}
	var header, size int
	switch {
	case kind < 2 && format&1 == 0:
		header, size = 1, int(h>>3&0x1f)
	case kind < 2 && format == 1:
		header, size = 2, int(h>>4&0xfff)
	case kind < 2:
		header, size = 3, int(h>>4&0xfffff)
	case format < 2:
		header, size = 3, int(h>>14&0x3ff)
	case format == 2:
		header, size = 4, int(h>>18&0x3fff)
	default:
		header, size = 5, int(h>>22&0x3ffff)
	}
	name := []string{"raw literals", "equal literals", "compressed literals", "treeless literals"}[kind]
	m[name] = true
	if kind == 1 {
		size = 1
	}
	if kind >= 2 && format == 0 {
		m["one stream"] = true
	}
	if kind == 2 {
		if p[header] < 128 {
			m["compressed weights"] = true
		} else {
			m["plain weights"] = true
		}
	}
	p = p[header+size:]
	switch {
	case p[0] == 0:
		m["no sequences"] = true
		return
	case p[0] < 128:
		p = p[1:]
	default:
		m["many sequences"] = true
		p = p[2:]
	}
	for i, of := range []string{"literals", "offsets", "matches"} {
		m[of+" "+[]string{"predefined", "one symbol", "described", "repeated"}[p[0]>>(6-2*i)&3]] = true
	}
}

// TestModes: every way of writing that there is occurs, so that the other tests see it.
func TestModes(t *testing.T) {
	var e Encoder
	seen := modes{}
	for _, in := range inputs() {
		out, _ := e.Append(nil, in, 1<<30)
		seen.look(out)
	}
	for i := range 80 {
		in := structured(uint64(i), 100+4*i*i)
		out, _ := e.Append(nil, in, 1<<30)
		seen.look(out)
	}
	for _, name := range []string{"raw block", "equal block", "raw literals", "equal literals", "compressed literals", "treeless literals", "one stream", "compressed weights", "plain weights",
		"no sequences", "many sequences"} {
		if !seen[name] {
			t.Errorf("%s: does not occur", name)
		}
	}
	for _, of := range []string{"literals", "offsets", "matches"} {
		for _, mode := range []string{"predefined", "one symbol", "described", "repeated"} {
			if !seen[of+" "+mode] {
				t.Errorf("%s %s: does not occur", of, mode)
			}
		}
	}
}

// TestProgram has the program zstd decode frames.
func TestProgram(t *testing.T) {
	tool := testkit.Tool(t, "zstd")
	var e Encoder
	var frames, want []byte
	add := func(in []byte) {
		frames, _ = e.Append(frames, in, 1<<30)
		want = append(want, in...)
	}
	for _, in := range inputs() {
		add(in)
	}
	for i := range 100 {
		add(structured(uint64(i), i*i*10))
	}
	dir := t.TempDir()
	file, out := filepath.Join(dir, "frames.zst"), filepath.Join(dir, "out")
	if err := os.WriteFile(file, frames, 0o600); err != nil {
		t.Fatal(err)
	}
	testkit.Run(t, tool, "-q", "-d", "-o", out, file)
	if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("comes back otherwise, %v", err)
	}
}

// TestWideSequences: sequences whose bits do not fit into a word with those before, which parsing hardly makes.
func TestWideSequences(t *testing.T) {
	r := testkit.Rand(7)
	before := make([]byte, maxBlock)
	testkit.Fill(r, before)
	wide := 0
	var e Encoder
	for range 10 {
		e.reset(before)
		e.sequences, e.copied = e.sequences[:0], 0
		want := bytes.Clone(before)
		add := func(literals, match, distance int) {
			part := e.literals[e.copied : e.copied+literals]
			testkit.Fill(r, part)
			want = append(want, part...)
			e.copied += literals
			for range match {
				want = append(want, want[len(want)-distance])
			}
			e.sequences = append(e.sequences, sequence{uint32(literals), uint32(match - minMatch), uint32(distance + 3)})
		}
		for len(want)+20000 < MaxSize {
			// Short ones make the codes of wide ones rare, so that these take more bits.
			for range 30 {
				add(1+r.IntN(9), 3+r.IntN(20), 1+r.IntN(2000))
			}
			literals := 4100 + r.IntN(5000)
			add(literals, 4100+r.IntN(5000), len(want)+literals-r.IntN(40000))
		}
		block := want[maxBlock:]
		if !e.compress(len(block)) {
			t.Fatal("not compressed")
		}
		for _, s := range e.coded[1:len(e.sequences)] {
			wide = max(wide, int(s.bits))
		}
		frame := append(appendBlockHeader(appendHeader(nil, len(want)), rawBlock<<1, maxBlock), before...)
		frame = append(appendBlockHeader(frame, 1|compressedBlock<<1, len(e.body)), e.body...)
		if !bytes.Equal(decode(t, frame), want) {
			t.Fatal("comes back otherwise")
		}
	}
	if wide < 41 {
		t.Errorf("no sequence has more than %d extra bits", wide)
	}
}

// TestRatio holds what each kind of data takes.
func TestRatio(t *testing.T) {
	var e Encoder
	for name, most := range map[string]float64{"base64": 0.755, "hex": 0.505, "letters": 0.325, "numbers": 0.81, "random": 1.0002, "repeats": 0.013, "zeroes": 0.0004} {
		in := inputs()[name]
		out, _ := e.Append(nil, in, 1<<30)
		if n := float64(len(out)) / float64(len(in)); n > most {
			t.Errorf("%s: %.4f of the size", name, n)
		}
	}
}

// TestTooLarge: a buffer of more than MaxSize is refused, since its end would be lost.
func TestTooLarge(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("accepted")
		}
	}()
	new(Encoder).Append(nil, make([]byte, MaxSize+1), 1<<30)
}

// TestNoAllocation: an encoder that was used before needs no memory.
func TestNoAllocation(t *testing.T) {
	var e Encoder
	all := inputs()
	out := make([]byte, 0, 2*MaxSize)
	for _, in := range all {
		out, _ = e.Append(out[:0], in, 1<<30)
	}
	for name, in := range all {
		if n := testing.AllocsPerRun(2, func() { out, _ = e.Append(out[:0], in, 1<<30) }); n > 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// TestShares: shares of a table are complete, and no symbol that occurs is without one.
func TestShares(t *testing.T) {
	r := testkit.Rand(6)
	for range 5000 {
		var counts [maxSymbols]uint32
		n := 2 + r.IntN(31)
		last, total := 0, 0
		for range n {
			last = r.IntN(53)
			counts[last] = 1 + r.Uint32N(1+r.Uint32N(1<<r.IntN(15)))
		}
		used := 0
		for s, k := range counts {
			if k > 0 {
				used++
				total += int(k)
				last = s
			}
		}
		if used < 2 {
			continue
		}
		var x table
		log := uint8(5 + r.IntN(5))
		x.normalize(&counts, last, total, log)
		size := 0
		for s, share := range x.norm {
			size += int(share)
			if (share > 0) != (counts[s] > 0) {
				t.Fatalf("a symbol that occurs %d times has the share %d", counts[s], share)
			}
		}
		if size != 1<<log {
			t.Fatalf("shares sum up to %d of %d", size, 1<<log)
		}
	}
}

func FuzzRoundTrip(f *testing.F) {
	for _, in := range inputs() {
		f.Add(in[:min(len(in), 4096)], uint8(1))
	}
	f.Add(structured(1, 3000), uint8(90))
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(d.Close)
	var e Encoder
	f.Fuzz(func(t *testing.T, in []byte, times uint8) {
		// Repeats make blocks of what is small.
		in = bytes.Repeat(in, 1+int(times)%64)
		in = in[:min(len(in), MaxSize)]
		out, ok := e.Append(nil, in, 1<<30)
		if !ok {
			t.Fatal("not compressed")
		}
		back, err := d.DecodeAll(out, nil)
		if err != nil || !bytes.Equal(back, in) {
			t.Fatalf("comes back otherwise, %v", err)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	all := inputs()
	for _, name := range []string{"structured", "base64", "numbers", "random"} {
		b.Run(name, func(b *testing.B) {
			var e Encoder
			in := all[name]
			b.SetBytes(int64(len(in)))
			var out []byte
			for b.Loop() {
				out, _ = e.Append(out[:0], in, 1<<30)
			}
		})
	}
}
