package luks

import (
	"context"
	"errors"
	"io"

	"github.com/cowl-disk/cowl/crypto/sector"
	"github.com/cowl-disk/cowl/internal/message"
)

// Kinds of error, for errors.Is.
var (
	ErrFormat      = errors.New("not a LUKS volume")
	ErrCorrupt     = errors.New("LUKS header is corrupt")
	ErrUnsupported = errors.New("LUKS feature not supported")
	ErrInvalid     = errors.New("invalid argument")
	ErrLimit       = errors.New("limit exceeded")

	// ErrPassphrase says that no key slot could be unlocked.
	ErrPassphrase = message.Errorf(nil, "invalid password, cannot unlock any keyslot")
	// ErrLastKey says that a change would leave no key slot, so that the volume
	// could never be opened again.
	ErrLastKey = errors.New("last key")
)

// errorf makes an error of a kind that reads as its message alone.
func errorf(kind error, format string, args ...any) error {
	return message.Errorf(kind, format, args...)
}

// Area is what holds a header: offset 0 is its first byte. ReadAt beyond the end
// returns the bytes there are and io.EOF. If it has a method Flush(context.Context)
// error as well, that is called between writes that must not be reordered and when
// a change is complete.
type Area interface {
	ReadAt(ctx context.Context, p []byte, off int64) (int, error)
	WriteAt(ctx context.Context, p []byte, off int64) (int, error)
}

func flush(ctx context.Context, a Area) error {
	if f, ok := a.(interface{ Flush(context.Context) error }); ok {
		return f.Flush(ctx)
	}
	return nil
}

// readFull reads len(p) bytes. Fewer are io.ErrUnexpectedEOF.
func readFull(ctx context.Context, a Area, p []byte, off int64) error {
	n, err := a.ReadAt(ctx, p, off)
	switch {
	case n == len(p):
		return nil
	case err == nil || err == io.EOF:
		return io.ErrUnexpectedEOF
	}
	return err
}

// sectorSize is the unit of offsets in headers, and the sector of key material.
const sectorSize = 512

const (
	magic          = "LUKS\xba\xbe"
	secondaryMagic = "SKUL\xba\xbe" // of the second header of version 2
)

// Header is a header that was checked. Offsets and sizes are bytes. The exported
// fields are not changed by the user.
type Header struct {
	Version       int // 1 or 2
	UUID          string
	Spec          sector.Spec // cipher of the payload
	KeyBytes      int         // length of the volume key
	PayloadOffset int64       // in the volume; 0 if the header is detached
	PayloadSize   int64       // -1: up to the end of the volume
	SectorSize    int         // 512 to 4096, a power of two
	// IVOffset is added to the number (in units of 512 bytes) of each sector of the
	// payload, of which the first has number 0.
	IVOffset uint64

	// Reserve is asked before a key derivation takes n bytes of memory, as argon2 key
	// slots of version 2 name it, and returns what gives them back. If it is nil, up
	// to 4 GiB are allowed.
	Reserve func(n int64) (release func(), err error)

	area     Area
	areaSize int64
	v1       *luks1
	v2       *luks2
}

// OpenOptions modify Open.
type OpenOptions struct {
	// Detached: the header is separate from the payload, so that its size is not
	// bounded by where the payload begins.
	Detached bool
}

// Open reads and checks the header at the start of an area of areaSize bytes. No
// passphrase is needed. The area is used by later calls too.
func Open(ctx context.Context, area Area, areaSize int64) (*Header, error) {
	return OpenWith(ctx, area, areaSize, OpenOptions{})
}

// OpenWith is Open with options.
func OpenWith(ctx context.Context, area Area, areaSize int64, o OpenOptions) (*Header, error) {
	// What is cut off counts as zeroes, which the checks below refuse.
	buf := make([]byte, headerSize1)
	if err := readFull(ctx, area, buf[:min(max(areaSize, 0), headerSize1)], 0); err != nil {
		return nil, message.Errorf(nil, "could not read encryption header: %w", err)
	}
	switch Version(buf) {
	case 0:
		return nil, errorf(ErrFormat, "volume is not in LUKS format")
	case 1:
		return open1(area, areaSize, buf, o)
	case 2:
		return open2(ctx, area, areaSize, o)
	}
	return nil, errorf(ErrUnsupported, "LUKS version %d is not supported", Version(buf))
}

// Version returns the version that the start of a volume names, 0 if it is not a
// LUKS volume.
func Version(head []byte) int {
	if len(head) < 8 || string(head[:6]) != magic {
		return 0
	}
	return int(head[6])<<8 | int(head[7])
}

// Key is a volume key. It stays in memory until Wipe.
type Key struct {
	bytes []byte
	slot  int
}

// Slot is the number of the key slot that held the key.
func (k *Key) Slot() int { return k.slot }

// Wipe overwrites the key. It is not used afterwards.
func (k *Key) Wipe() {
	if k != nil {
		clear(k.bytes)
	}
}

// Cipher returns the cipher of the payload. Sector numbers are those of the payload
// plus IVOffset.
func (h *Header) Cipher(k *Key) (*sector.Cipher, error) {
	c, err := sector.New(h.Spec, k.bytes, h.SectorSize)
	if err != nil {
		return nil, errorf(ErrUnsupported, "%w", err)
	}
	return c, nil
}

// Unlock finds the key slot that a passphrase opens and returns the volume key.
// ErrPassphrase: there is none. Slots are tried beside each other as far as there
// are processors.
func (h *Header) Unlock(ctx context.Context, passphrase []byte) (*Key, error) {
	if h.v2 != nil {
		return h.unlock2(ctx, passphrase)
	}
	return h.unlock1(ctx, passphrase)
}
