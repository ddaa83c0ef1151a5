package sector

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/cowl-disk/cowl/internal/message"
)

// Unit is the number of bytes in which sectors are numbered, whatever their size.
const Unit = 512

// Limits of a sector's size in bytes.
const (
	MinSize = 512
	MaxSize = 4096
)

// ErrUnsupported is wrapped by the errors of New and Hash about names
// that are not known, and about combinations that do not exist.
var ErrUnsupported = errors.New("not supported")

func unsupported(format string, args ...any) error {
	return message.Errorf(ErrUnsupported, format, args...)
}

// Spec names a sector cipher as dm-crypt and LUKS headers do.
type Spec struct {
	Cipher string // "aes", "serpent", "twofish", "cast5", "3des", "sm4": without the size of the key
	Mode   string // "xts", "cbc", "ecb", "ctr"
	IVGen  string // "plain", "plain64", "plain64be", "null", "essiv"; not looked at with ecb
	IVHash string // essiv: the hash, as Hash takes it
}

// Cipher encrypts and decrypts the sectors of a disk. It is safe for use by
// several goroutines.
type Cipher struct {
	size    int // bytes in a sector
	block   cipher.Block
	tweak   cipher.Block // xts: of the second half of the key
	essiv   cipher.Block
	iv      ivKind
	mode    mode
	scratch sync.Pool // of *scratch
}

type mode uint8

const (
	modeXTS mode = iota
	modeCBC
	modeECB
	modeCTR
)

// batch is how many bytes of a sector are worked on at once: the rest of the
// code moves whole batches through the fast XOR of the standard library. It
// divides every sector size.
const batch = 512

// lanes is the number of sectors that CBC encrypts side by side: within a sector
// every block waits for the one before.
const lanes = 4

// scratch is the working memory of a call.
type scratch struct {
	iv   [lanes][16]byte
	mask [batch]byte
}

// New returns a Cipher for sectors of sectorSize bytes, a power of two from
// MinSize to MaxSize. The key is not kept. For xts the key is that of the data
// followed by that of the tweak, of one length.
func New(spec Spec, key []byte, sectorSize int) (*Cipher, error) {
	if sectorSize < MinSize || sectorSize > MaxSize || sectorSize&(sectorSize-1) != 0 {
		return nil, fmt.Errorf("sector size %d: %w", sectorSize, ErrUnsupported)
	}
	c := &Cipher{size: sectorSize}
	c.scratch.New = func() any { return new(scratch) }
	data := key
	switch spec.Mode {
	case "xts":
		c.mode = modeXTS
		if len(key)%2 != 0 {
			return nil, fmt.Errorf("key of %d bytes cannot be split for xts", len(key))
		}
		data = key[:len(key)/2]
	case "cbc":
		c.mode = modeCBC
	case "ecb":
		c.mode = modeECB
	case "ctr":
		c.mode = modeCTR
	default:
		return nil, unsupported("cipher mode '%s' is not supported", spec.Mode)
	}
	var err error
	if c.block, err = newBlock(spec.Cipher, data); err != nil {
		return nil, err
	}
	if c.mode == modeXTS {
		if c.block.BlockSize() != 16 {
			return nil, unsupported("cipher mode 'xts' needs a block size of 16 bytes, which %s does not have", spec.Cipher)
		}
		if c.tweak, err = newBlock(spec.Cipher, key[len(data):]); err != nil {
			return nil, err
		}
	}
	if c.mode == modeECB {
		return c, nil
	}
	if c.iv, c.essiv, err = newIV(spec, key); err != nil {
		return nil, err
	}
	if c.essiv != nil && c.essiv.BlockSize() != c.block.BlockSize() {
		return nil, unsupported("cipher %s not supported with essiv", spec.Cipher)
	}
	return c, nil
}

// SectorSize returns the number of bytes in a sector.
func (c *Cipher) SectorSize() int { return c.size }

// Encrypt encrypts src, a number of whole sectors of which the first has the
// given number in units of 512 bytes, into dst, which is at least as long and is
// either src or does not overlap it.
func (c *Cipher) Encrypt(dst, src []byte, sector uint64) {
	dst = c.check(dst, src)
	s := c.scratch.Get().(*scratch)
	switch c.mode {
	case modeXTS:
		c.each(dst, src, sector, s, c.encryptXTS)
	case modeCBC:
		c.encryptCBC(dst, src, sector, s)
	case modeECB:
		each(c.block.Encrypt, dst, src, c.block.BlockSize())
	case modeCTR:
		c.each(dst, src, sector, s, c.xorCTR)
	}
	c.scratch.Put(s)
}

// Decrypt is the reverse of Encrypt.
func (c *Cipher) Decrypt(dst, src []byte, sector uint64) {
	dst = c.check(dst, src)
	s := c.scratch.Get().(*scratch)
	switch c.mode {
	case modeXTS:
		c.each(dst, src, sector, s, c.decryptXTS)
	case modeCBC:
		c.each(dst, src, sector, s, c.decryptCBC)
	case modeECB:
		each(c.block.Decrypt, dst, src, c.block.BlockSize())
	case modeCTR:
		c.each(dst, src, sector, s, c.xorCTR)
	}
	c.scratch.Put(s)
}

func (c *Cipher) check(dst, src []byte) []byte {
	if len(src)%c.size != 0 {
		panic("sector: not a number of whole sectors")
	}
	return dst[:len(src)]
}

// each runs fn on every sector, with its IV in s.iv[0].
func (c *Cipher) each(dst, src []byte, sector uint64, s *scratch, fn func(dst, src []byte, s *scratch)) {
	for len(src) > 0 {
		c.makeIV(&s.iv[0], sector)
		fn(dst[:c.size], src[:c.size], s)
		dst, src, sector = dst[c.size:], src[c.size:], sector+uint64(c.size/Unit)
	}
}

// each runs fn on every block of n bytes.
func each(fn func(dst, src []byte), dst, src []byte, n int) {
	for i := 0; i+n <= len(src); i += n {
		fn(dst[i:i+n:i+n], src[i:i+n:i+n])
	}
}

type ivKind uint8

const (
	ivPlain ivKind = iota
	ivPlain64
	ivPlain64BE
	ivNull
)

// makeIV writes the IV of a sector, as many bytes as a block has; what follows
// in iv is of no meaning.
func (c *Cipher) makeIV(iv *[16]byte, sector uint64) {
	*iv = [16]byte{}
	n := c.block.BlockSize()
	switch c.iv {
	case ivPlain:
		binary.LittleEndian.PutUint32(iv[:], uint32(sector))
	case ivPlain64:
		binary.LittleEndian.PutUint64(iv[:], sector)
	case ivPlain64BE:
		binary.BigEndian.PutUint64(iv[n-8:], sector)
	}
	if c.essiv != nil {
		c.essiv.Encrypt(iv[:n], iv[:n])
	}
}

func newIV(spec Spec, key []byte) (ivKind, cipher.Block, error) {
	switch spec.IVGen {
	case "plain":
		return ivPlain, nil, nil
	case "plain64":
		return ivPlain64, nil, nil
	case "plain64be":
		return ivPlain64BE, nil, nil
	case "null":
		return ivNull, nil, nil
	case "essiv":
		newHash, err := Hash(spec.IVHash)
		if err != nil {
			return 0, nil, err
		}
		h := newHash()
		h.Write(key)
		b, err := newBlock(spec.Cipher, h.Sum(nil))
		if err != nil {
			return 0, nil, unsupported("no %s cipher with key size %d available", spec.Cipher, h.Size())
		}
		return ivPlain64, b, nil
	}
	return 0, nil, unsupported("IV generator '%s' is not supported", spec.IVGen)
}
