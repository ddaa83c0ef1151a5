package applecrypt

import (
	"context"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha1"
	"io"
	"math"
	"runtime"
	"sync"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/bufpool"
)

const (
	// maxChunk is how much is read and decrypted at a time.
	maxChunk = 2 << 20
	// minShare is the least that is worth another processor.
	minShare = 128 << 10
)

// Storage is the decrypted bytes of a file. It can only be read.
type Storage struct {
	keys   *Keys
	child  driver.Storage
	offset int64 // of block 0 in child
	size   int64
}

var _ driver.Storage = (*Storage)(nil)

// Whole is the data of the file that the keys were found in.
func (k *Keys) Whole(file driver.Storage) (*Storage, error) {
	if k.offset > file.Size() || k.size > file.Size()-k.offset {
		return nil, driver.Errorf(driver.ErrTruncated, "the image should have %d bytes of data at offset %d, the file has %d", k.size, k.offset, file.Size())
	}
	if k.size/k.blockSize > math.MaxUint32 {
		return nil, corrupt("%d bytes in blocks of %d cannot be numbered", k.size, k.blockSize)
	}
	return &Storage{keys: k, child: file, offset: k.offset, size: k.size}, nil
}

// Part is a file that is encrypted from its start, with block numbers of its own.
func (k *Keys) Part(file driver.Storage) *Storage {
	return &Storage{keys: k, child: file, size: min(file.Size(), k.blockSize*math.MaxUint32)}
}

// BlockSize is the size in bytes of a block.
func (k *Keys) BlockSize() int64 { return k.blockSize }

// Size implements driver.Node.
func (s *Storage) Size() int64 { return s.size }

// BlockSize is the size in bytes of a block.
func (s *Storage) BlockSize() int64 { return s.keys.blockSize }

// Shorter returns the same bytes without n at the end, 0 <= n <= Size.
func (s *Storage) Shorter(n int64) *Storage {
	short := *s
	short.size -= n
	return &short
}

// Limits implements driver.Node.
func (s *Storage) Limits() driver.Limits { return driver.Limits{} }

// Traits implements driver.Node.
func (s *Storage) Traits() driver.Traits { return driver.Traits{FixedSize: true, Encrypted: true} }

// Flush implements driver.Node.
func (s *Storage) Flush(context.Context) error { return nil }

// Close does nothing: the file is closed by who opened it.
func (s *Storage) Close(context.Context) error { return nil }

// WriteAt refuses.
func (s *Storage) WriteAt(context.Context, []byte, int64) (int, error) {
	return 0, driver.Errorf(driver.ErrReadOnly, "encrypted images of macOS can be read only")
}

// Map implements driver.Storage: a hole is encrypted zeroes, which are not zeroes.
func (s *Storage) Map(_ context.Context, off, n int64) (driver.Extent, error) {
	if off >= s.size {
		return driver.Extent{Kind: driver.ExtentEOF}, nil
	}
	return driver.Extent{Kind: driver.ExtentData, Length: min(n, s.size-off)}, nil
}

// ReadAt implements driver.Storage.
func (s *Storage) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off >= s.size {
		return 0, io.EOF
	}
	short := int64(len(p)) > s.size-off
	if short {
		p = p[:s.size-off]
	}
	bs := s.keys.blockSize
	for done := 0; done < len(p); {
		pos := off + int64(done)
		in := pos % bs
		want := min(int64(len(p)-done)+in, max(maxChunk, bs))
		buf := bufpool.Get(int((want + bs - 1) / bs * bs))
		n, err := s.child.ReadAt(ctx, buf, s.offset+pos-in)
		if err != nil && err != io.EOF {
			bufpool.Put(buf)
			return done, err
		}
		clear(buf[n:])
		s.decrypt(buf, (pos-in)/bs)
		done += copy(p[done:], buf[in:want])
		bufpool.Put(buf)
	}
	if short {
		return len(p), io.EOF
	}
	return len(p), nil
}

// decrypt decrypts whole blocks from a number on, on as many processors as pay.
func (s *Storage) decrypt(p []byte, number int64) {
	bs := int(s.keys.blockSize)
	share := max(len(p)/runtime.GOMAXPROCS(0), minShare)
	share = (share + bs - 1) / bs * bs
	var wg sync.WaitGroup
	for i := 0; i < len(p); i += share {
		part, first := p[i:min(len(p), i+share)], number+int64(i/bs)
		if i+share >= len(p) {
			s.decryptPart(part, first)
			break
		}
		wg.Go(func() { s.decryptPart(part, first) })
	}
	wg.Wait()
}

func (s *Storage) decryptPart(p []byte, number int64) {
	bs := int(s.keys.blockSize)
	mac := hmac.New(sha1.New, s.keys.hmac)
	var sum [sha1.Size]byte
	var count [4]byte
	for ; len(p) > 0; number++ {
		be.PutUint32(count[:], uint32(number))
		mac.Reset()
		mac.Write(count[:])
		iv := mac.Sum(sum[:0])[:s.keys.block.BlockSize()]
		cipher.NewCBCDecrypter(s.keys.block, iv).CryptBlocks(p[:bs], p[:bs])
		p = p[bs:]
	}
}
