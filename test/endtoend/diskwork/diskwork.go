// Package diskwork is what a test guest does to a disk, for the guest that does it and for the host that knows what
// the disk must hold afterwards.
package diskwork

import (
	"encoding/binary"
	"math/rand/v2"
)

// Kinds of steps.
const (
	Write   = "write"   // of random bytes
	Zero    = "zero"    // the device is asked for zeroes
	Discard = "discard" // what the range holds is not defined until it is written again
	Flush   = "flush"
)

// Step is one request.
type Step struct {
	Kind   string
	Offset int64 // of Write, Zero and Discard, in whole sectors
	Length int64
	seed   uint64
}

const sector = 512

// Steps are those for a disk of a size, which name makes different from others.
func Steps(name string, size int64) (list []Step) {
	var seed uint64
	for _, c := range name {
		seed = seed*31 + uint64(c)
	}
	r := rand.New(rand.NewPCG(seed, uint64(size)))
	for i := range 40 {
		s := Step{Kind: Write, seed: r.Uint64()}
		s.Offset = r.Int64N(size/sector) * sector
		s.Length = min((1+r.Int64N(300))*sector, size-s.Offset)
		switch i % 5 {
		case 1:
			s.Kind = Zero
		case 3:
			discard := s
			discard.Kind = Discard
			list = append(list, discard)
		case 4:
			list = append(list, Step{Kind: Flush})
		}
		list = append(list, s)
	}
	return append(list, Step{Kind: Flush})
}

// Data are the bytes of a Write or a Zero.
func (s Step) Data() []byte {
	p := make([]byte, s.Length)
	if s.Kind == Write {
		r := rand.New(rand.NewPCG(s.seed, 0))
		for i := 0; i < len(p); i += 8 {
			binary.LittleEndian.PutUint64(p[i:], r.Uint64())
		}
	}
	return p
}
