package vmdk

import (
	"bufio"
	"context"
	"errors"
	"io"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/inflate"
)

var _ driver.SequentialReader = vmdkDriver{}

// maxSequentialGrain bounds the grains of images from a pipe, in bytes.
const maxSequentialGrain = 4 << 20

// ReadSequential implements driver.SequentialReader, for stream-optimized images: they are made for it. What the
// grain tables would say is in the markers.
func (vmdkDriver) ReadSequential(ctx context.Context, r io.Reader) (int64, io.Reader, error) {
	s := &sequential{ctx: ctx, in: bufio.NewReaderSize(r, 1<<20)}
	b := make([]byte, headerSize)
	if err := s.read(b); err != nil {
		return 0, nil, err
	}
	if string(b[:4]) != magicSparse {
		return 0, nil, driver.Errorf(driver.ErrFormat, "image not in VMDK format")
	}
	h := decodeSparse(b)
	grain := int64(h.grain) * sectorSize
	switch {
	case h.version > maxVersion:
		return 0, nil, driver.Errorf(driver.ErrUnsupported, "unsupported VMDK version %d", h.version)
	case !h.compressed() || h.flags&flagMarkers == 0:
		return 0, nil, driver.Errorf(driver.ErrUnsupported, "only streamOptimized images can be read from a pipe: store the image first")
	case h.grain == 0 || h.grain > maxSequentialGrain/sectorSize || h.capacity > maxStreamSize/sectorSize || h.overhead == 0 || h.overhead > 1<<32:
		return 0, nil, driver.Errorf(driver.ErrCorrupt, "a disk of %d sectors in grains of %d, from sector %d on, is impossible", h.capacity, h.grain, h.overhead)
	}
	s.grain, s.size, s.marked = grain, int64(h.capacity)*sectorSize, h.dir == directoryAtEnd
	s.whole = make([]byte, grain)
	if err := s.skip(int64(h.overhead)*sectorSize - headerSize); err != nil {
		return 0, nil, err
	}
	return s.size, s, nil
}

// sequential reads the disk of a stream-optimized image in order.
type sequential struct {
	ctx         context.Context
	in          *bufio.Reader
	grain, size int64
	marked      bool // the end of the stream has a marker

	pos   int64  // of the disk: what was read
	at    int64  // of the disk: where data begins; at the end, where the disk does
	whole []byte // the last grain that was decoded
	data  []byte // of it, what was not read
	enc   []byte
	ended bool
	zlib  inflate.Decoder
}

// read reads all of p from the image.
func (s *sequential) read(p []byte) error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	if _, err := io.ReadFull(s.in, p); err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return driver.Errorf(driver.ErrTruncated, "the image ends too early")
		}
		return err
	}
	return nil
}

func (s *sequential) skip(n int64) error {
	for n > 0 {
		if err := s.ctx.Err(); err != nil {
			return err
		}
		m, err := s.in.Discard(int(min(n, 1<<20)))
		if n -= int64(m); err == io.EOF {
			return driver.Errorf(driver.ErrTruncated, "the image ends too early")
		} else if err != nil {
			return err
		}
	}
	return nil
}

// Read implements io.Reader.
func (s *sequential) Read(p []byte) (int, error) {
	for len(p) > 0 {
		switch {
		case s.pos < s.at: // nothing was written here
			n := min(int64(len(p)), s.at-s.pos)
			clear(p[:n])
			s.pos += n
			return int(n), nil
		case len(s.data) > 0:
			n := copy(p, s.data)
			s.data = s.data[n:]
			s.pos += int64(n)
			s.at = s.pos
			return n, nil
		case s.ended:
			return 0, io.EOF
		}
		if err := s.next(); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// next reads what the next grain holds, or the end.
func (s *sequential) next() error {
	for {
		if _, err := s.in.Peek(1); err == io.EOF && !s.marked {
			s.at, s.ended = s.size, true
			return nil
		}
		var b [sectorSize]byte
		if err := s.read(b[:]); err != nil {
			return err
		}
		number, length := le.Uint64(b[:]), int64(le.Uint32(b[8:]))
		if length > 0 {
			return s.decode(number, length, b[grainMarkerSize:])
		}
		switch kind := le.Uint32(b[12:]); kind {
		case markerEnd:
			s.at, s.ended = s.size, true
			return nil
		case markerTable, markerDirectory, markerFooter:
			if err := s.skip(int64(min(number, 1<<40)) * sectorSize); err != nil {
				return err
			}
		default:
			return driver.Errorf(driver.ErrCorrupt, "a marker of kind %d is not known", kind)
		}
	}
}

// decode reads the grain of a sector of the disk. first is what its first sector holds of the compressed data.
func (s *sequential) decode(number uint64, length int64, first []byte) error {
	off := int64(min(number, 1<<53)) * sectorSize
	switch {
	case off%s.grain != 0 || off >= s.size || length > 2*s.grain:
		return driver.Errorf(driver.ErrCorrupt, "a grain of %d compressed bytes for sector %d is impossible", length, number)
	case off < s.pos:
		return driver.Errorf(driver.ErrUnsupported, "the grain of sector %d comes late: an image whose grains are not in order cannot be read from a pipe", number)
	}
	s.enc = append(s.enc[:0], first[:min(length, int64(len(first)))]...)
	if more := length - int64(len(s.enc)); more > 0 {
		from := len(s.enc)
		s.enc = append(s.enc, make([]byte, more)...)
		if err := s.read(s.enc[from:]); err != nil {
			return err
		}
		// Up to the end of the sector; some writers leave that out at the end of the file.
		if _, err := s.in.Discard(int(-(grainMarkerSize + length) & (sectorSize - 1))); err != nil && err != io.EOF {
			return err
		}
	}
	n, _, err := s.zlib.Zlib(s.whole, s.enc)
	want := min(s.grain, s.size-off)
	if err != nil || int64(n) < want {
		return driver.Errorf(driver.ErrCorrupt, "the grain of sector %d cannot be decoded: %w", number, errors.Join(err, short(n, want)))
	}
	s.at, s.data = off, s.whole[:want]
	return nil
}

func short(n int, want int64) error {
	if int64(n) < want {
		return io.ErrUnexpectedEOF
	}
	return nil
}
