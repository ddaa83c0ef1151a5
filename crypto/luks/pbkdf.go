package luks

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/subtle"
	"encoding"
	"encoding/binary"
	"hash"
	"math"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"
)

// checkEvery is how many iterations pass between checks of the context.
const checkEvery = 1 << 12

// pbkdf2 derives n bytes (RFC 8018, section 5.2). Blocks of the result are computed
// beside each other; ctx ends it early.
func pbkdf2(ctx context.Context, newHash func() hash.Hash, password, salt []byte, iters, n int) ([]byte, error) {
	size := newHash().Size()
	blocks := (n + size - 1) / size
	out := make([]byte, blocks*size)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range blocks {
		g.Go(func() error {
			p := newPRF(newHash, password)
			return p.block(ctx, out[i*size:(i+1)*size], salt, uint32(i+1), iters)
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return out[:n], nil
}

// prf computes the HMACs of one block. fast is nil where the hash cannot save its
// state in the way that is expected.
type prf struct {
	mac  hash.Hash
	fast *fastHMAC
}

func newPRF(newHash func() hash.Hash, password []byte) *prf {
	return &prf{mac: hmac.New(newHash, password), fast: newFastHMAC(newHash, password)}
}

func (p *prf) block(ctx context.Context, out, salt []byte, number uint32, iters int) error {
	p.mac.Reset()
	p.mac.Write(salt)
	p.mac.Write(binary.BigEndian.AppendUint32(nil, number))
	u := p.mac.Sum(nil)
	copy(out, u)
	for left := iters - 1; left > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(left, checkEvery)
		p.iterate(out, u, n)
		left -= n
	}
	return nil
}

// iterate replaces u by its HMAC n times and adds up each in out.
func (p *prf) iterate(out, u []byte, n int) {
	if p.fast != nil {
		p.fast.iterate(out, u, n)
		return
	}
	for range n {
		p.mac.Reset()
		p.mac.Write(u)
		p.mac.Sum(u[:0])
		subtle.XORBytes(out, out, u)
	}
}

// fastHMAC computes HMACs of messages that are as long as a digest: each is one
// block for the inner hash and one for the outer, so that padding them by hand and
// taking the chaining value out of the saved state spares most of what a general
// HMAC does besides compressing. newFastHMAC makes sure that it computes the same.
type fastHMAC struct {
	size         int
	inner, outer []byte // saved states after the block of the key
	block        []byte // a digest and its padding
	h            hash.Hash
	load         encoding.BinaryUnmarshaler
	save         encoding.BinaryAppender
	state        []byte
}

// stateOffset is where the chaining value is in the saved state of the hashes of
// the standard library.
const stateOffset = 4

func newFastHMAC(newHash func() hash.Hash, password []byte) *fastHMAC {
	h := newHash()
	load, ok := h.(encoding.BinaryUnmarshaler)
	save, ok2 := h.(encoding.BinaryAppender)
	if !ok || !ok2 {
		return nil
	}
	f := &fastHMAC{size: h.Size(), h: h, load: load, save: save}
	key := make([]byte, h.BlockSize())
	if len(password) > len(key) {
		h.Write(password)
		h.Sum(key[:0])
	} else {
		copy(key, password)
	}
	pad := func(with byte) []byte {
		b := bytes.Clone(key)
		for i := range b {
			b[i] ^= with
		}
		h.Reset()
		h.Write(b)
		state, err := save.AppendBinary(nil)
		if err != nil || len(state) < stateOffset+f.size {
			return nil
		}
		return state
	}
	if f.inner, f.outer = pad(0x36), pad(0x5c); f.inner == nil || f.outer == nil {
		return nil
	}
	f.block = make([]byte, h.BlockSize())
	f.block[f.size] = 0x80
	binary.BigEndian.PutUint64(f.block[len(f.block)-8:], uint64(h.BlockSize()+f.size)*8)

	// The layout of a saved state is not guaranteed: compare.
	u, sum := make([]byte, f.size), make([]byte, f.size)
	mac := hmac.New(newHash, password)
	for range 2 {
		mac.Reset()
		mac.Write(u)
		want := mac.Sum(nil)
		if f.iterate(sum, u, 1); !bytes.Equal(u, want) {
			return nil
		}
	}
	return f
}

func (f *fastHMAC) iterate(out, u []byte, n int) {
	digest := f.block[:f.size]
	copy(digest, u)
	for range n {
		f.compress(f.inner)
		f.compress(f.outer)
		subtle.XORBytes(out, out, digest)
	}
	copy(u, digest)
}

// compress replaces the digest in block by the hash of the saved state and block.
func (f *fastHMAC) compress(from []byte) {
	// The state was saved by this very hash, so that neither call can fail.
	_ = f.load.UnmarshalBinary(from)
	f.h.Write(f.block)
	f.state, _ = f.save.AppendBinary(f.state[:0])
	copy(f.block[:f.size], f.state[stateOffset:])
}

// The measurement runs in pieces, of which the fastest counts, so that other work of
// the machine makes no difference.
const (
	measurePiece = 1 << 14 // iterations
	measureTime  = 40 * time.Millisecond
)

// pbkdf2Rate measures how many iterations one processor does in a second for a
// result of one block. It need not be known for times in which no processor comes
// to minIterations.
func pbkdf2Rate(ctx context.Context, newHash func() hash.Hash, d time.Duration) (float64, error) {
	if d >= 0 && d < time.Microsecond {
		return 0, nil
	}
	p := newPRF(newHash, []byte("measure"))
	u := make([]byte, newHash().Size())
	out := bytes.Clone(u)
	best := time.Duration(1<<63 - 1)
	for begin := time.Now(); time.Since(begin) < measureTime; {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		t := time.Now()
		p.iterate(out, u, measurePiece)
		best = min(best, max(time.Since(t), 1))
	}
	return measurePiece / best.Seconds(), nil
}

// IterTime converts the option iter-time, in milliseconds, to what CreateOptions and
// AddKey take: there zero means the default, and what is out of range is refused
// in QEMU's words.
func IterTime(ms int64) time.Duration {
	switch {
	case ms == 0:
		return 1
	case ms < 0 || ms > int64(math.MaxInt64/time.Millisecond):
		return -1
	}
	return time.Duration(ms) * time.Millisecond
}

// minIterations is the least count that is written.
const minIterations = 1000

// iterations is how many take the time d for a result of n bytes, if blocks are
// computed one after the other, divided by parts.
func iterations(rate float64, h hash.Hash, n int, d time.Duration, parts float64) (uint32, error) {
	blocks := (n + h.Size() - 1) / h.Size()
	perSecond := rate / float64(blocks)
	if d < 0 || float64(d.Milliseconds()) > (1<<64)/perSecond {
		return 0, errorf(ErrInvalid, "PBKDF iterations %.0f too large to scale: numerical result out of range", perSecond)
	}
	iters := perSecond * d.Seconds() / parts
	if iters > 1<<32-1 {
		return 0, errorf(ErrInvalid, "PBKDF iterations %.0f larger than %d: numerical result out of range", iters, uint32(1<<32-1))
	}
	return uint32(max(iters, minIterations)), nil
}
