package sector

import (
	"crypto/subtle"
	"encoding/binary"
)

// masks fills s.mask with the tweaks of the next blocks, starting with the one
// in lo and hi, and returns the one after them.
func (s *scratch) masks(lo, hi uint64) (uint64, uint64) {
	for i := 0; i < batch; i += 16 {
		m := s.mask[i : i+16 : i+16]
		binary.LittleEndian.PutUint64(m, lo)
		binary.LittleEndian.PutUint64(m[8:], hi)
		// Times x in GF(2^128), reduced by x^128 + x^7 + x^2 + x + 1.
		carry := uint64(int64(hi)>>63) & 0x87
		hi = hi<<1 | lo>>63
		lo = lo<<1 ^ carry
	}
	return lo, hi
}

func (c *Cipher) encryptXTS(dst, src []byte, s *scratch) {
	iv := s.iv[0][:]
	c.tweak.Encrypt(iv, iv)
	lo, hi := binary.LittleEndian.Uint64(iv), binary.LittleEndian.Uint64(iv[8:])
	for i := 0; i < len(src); i += batch {
		d := dst[i : i+batch]
		lo, hi = s.masks(lo, hi)
		subtle.XORBytes(d, src[i:i+batch], s.mask[:])
		for j := 0; j < batch; j += 16 {
			c.block.Encrypt(d[j:j+16:j+16], d[j:j+16:j+16])
		}
		subtle.XORBytes(d, d, s.mask[:])
	}
}

func (c *Cipher) decryptXTS(dst, src []byte, s *scratch) {
	iv := s.iv[0][:]
	c.tweak.Encrypt(iv, iv)
	lo, hi := binary.LittleEndian.Uint64(iv), binary.LittleEndian.Uint64(iv[8:])
	for i := 0; i < len(src); i += batch {
		d := dst[i : i+batch]
		lo, hi = s.masks(lo, hi)
		subtle.XORBytes(d, src[i:i+batch], s.mask[:])
		for j := 0; j < batch; j += 16 {
			c.block.Decrypt(d[j:j+16:j+16], d[j:j+16:j+16])
		}
		subtle.XORBytes(d, d, s.mask[:])
	}
}

func (c *Cipher) encryptCBC(dst, src []byte, sector uint64, s *scratch) {
	n, step := c.block.BlockSize(), uint64(c.size/Unit)
	for len(src) > 0 {
		k := min(lanes, len(src)/c.size)
		var prev [lanes][]byte
		for l := range k {
			c.makeIV(&s.iv[l], sector+uint64(l)*step)
			prev[l] = s.iv[l][:n]
		}
		for j := 0; j < c.size; j += n {
			for l := range k {
				at := l*c.size + j
				d := dst[at : at+n : at+n]
				subtle.XORBytes(d, src[at:at+n], prev[l])
				c.block.Encrypt(d, d)
				prev[l] = d
			}
		}
		dst, src, sector = dst[k*c.size:], src[k*c.size:], sector+uint64(k)*step
	}
}

func (c *Cipher) decryptCBC(dst, src []byte, s *scratch) {
	n := c.block.BlockSize()
	prev := s.iv[0][:n]
	for i := 0; i < len(src); i += batch {
		d := dst[i : i+batch]
		copy(s.mask[:], src[i:i+batch])
		each(c.block.Decrypt, d, s.mask[:], n)
		subtle.XORBytes(d[:n], d[:n], prev)
		subtle.XORBytes(d[n:], d[n:], s.mask[:batch-n])
		copy(prev, s.mask[batch-n:])
	}
}

// xorCTR encrypts and decrypts: the counter is the IV as one big-endian number.
func (c *Cipher) xorCTR(dst, src []byte, s *scratch) {
	n := c.block.BlockSize()
	ctr := s.iv[0][:n]
	for i := 0; i < len(src); i += batch {
		for j := 0; j < batch; j += n {
			c.block.Encrypt(s.mask[j:j+n:j+n], ctr)
			for k := n - 1; k >= 0; k-- {
				if ctr[k]++; ctr[k] != 0 {
					break
				}
			}
		}
		subtle.XORBytes(dst[i:i+batch], src[i:i+batch], s.mask[:])
	}
}
