package oncrpc

import (
	"encoding/binary"
	"errors"
)

// Encoder appends values in XDR (RFC 4506). The zero value is empty.
type Encoder struct{ B []byte }

// Uint32 appends an unsigned integer (section 4.2), also an enumeration.
func (e *Encoder) Uint32(v uint32) { e.B = binary.BigEndian.AppendUint32(e.B, v) }

// Uint64 appends an unsigned hyper integer (section 4.5).
func (e *Encoder) Uint64(v uint64) { e.B = binary.BigEndian.AppendUint64(e.B, v) }

// Bool appends a boolean (section 4.4).
func (e *Encoder) Bool(v bool) {
	if v {
		e.Uint32(1)
	} else {
		e.Uint32(0)
	}
}

// Fixed appends opaque data of fixed length (section 4.9), which is a multiple of four.
func (e *Encoder) Fixed(b []byte) { e.B = append(e.B, b...) }

// Opaque appends opaque data of variable length (section 4.10).
func (e *Encoder) Opaque(b []byte) {
	e.Uint32(uint32(len(b)))
	e.B = append(e.B, b...)
	e.B = append(e.B, make([]byte, Padding(len(b)))...)
}

// String appends a string (section 4.11).
func (e *Encoder) String(s string) { e.Opaque([]byte(s)) }

// Padding is how many bytes follow opaque data of n bytes, so that a multiple of four is
// reached.
func Padding(n int) int { return -n & 3 }

// ErrMalformed: an answer is not what its procedure answers.
var ErrMalformed = errors.New("the server's answer is malformed")

// Decoder takes values in XDR from a buffer. The first that is not there, or too long, sets
// the error; all values are zero from then on.
type Decoder struct {
	b     []byte
	whole []byte // for Release
	err   error
}

// NewDecoder returns a decoder of b, which it keeps.
func NewDecoder(b []byte) *Decoder { return &Decoder{b: b} }

// Err returns ErrMalformed if a value was not there.
func (d *Decoder) Err() error { return d.err }

// Fail makes the answer a malformed one: a value is none that it can have.
func (d *Decoder) Fail() { d.err, d.b = ErrMalformed, nil }

// Fixed takes opaque data of n bytes. They are part of the decoder's buffer.
func (d *Decoder) Fixed(n int) []byte {
	if n < 0 || n > len(d.b) {
		d.Fail()
		return nil
	}
	b := d.b[:n:n]
	d.b = d.b[n:]
	return b
}

// Uint32 takes an unsigned integer.
func (d *Decoder) Uint32() uint32 {
	if b := d.Fixed(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// Uint64 takes an unsigned hyper integer.
func (d *Decoder) Uint64() uint64 {
	if b := d.Fixed(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// Bool takes a boolean.
func (d *Decoder) Bool() bool {
	v := d.Uint32()
	if v > 1 {
		d.Fail()
	}
	return v == 1
}

// Opaque takes opaque data of at most most bytes. They are part of the decoder's buffer.
func (d *Decoder) Opaque(most int) []byte {
	n := d.Uint32()
	if d.err != nil || int64(n) > int64(most) {
		d.Fail()
		return nil
	}
	b := d.Fixed(int(n))
	d.Fixed(Padding(int(n)))
	if d.err != nil {
		return nil
	}
	return b
}

// String takes a string of at most most bytes.
func (d *Decoder) String(most int) string { return string(d.Opaque(most)) }
