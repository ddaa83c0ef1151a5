package qemuimg

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"sync"

	"github.com/klauspost/compress/flate"

	"github.com/cowl-disk/cowl/internal/resources"
)

// gzipBlock is how many bytes are compressed on their own. The output does not depend on the number of processors.
const gzipBlock = 1 << 20

// gzipWriter writes one gzip member (RFC 1952), whose parts all processors compress: each ends at a byte with an
// empty stored block, so that parts can be put one behind the other.
type gzipWriter struct {
	buf   []byte
	sum   uint32
	size  uint32
	queue chan chan []byte // of parts in order
	pool  sync.Pool        // of *flate.Writer
	done  chan struct{}

	mu     sync.Mutex
	failed error
}

// newGzipWriter begins a member. Close must be called, also after an error.
func newGzipWriter(w io.Writer) *gzipWriter {
	z := &gzipWriter{queue: make(chan chan []byte, resources.Processors()), done: make(chan struct{})}
	go func() {
		defer close(z.done)
		_, err := w.Write([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff})
		for part := range z.queue {
			b := <-part
			if err == nil {
				_, err = w.Write(b)
			}
			if err != nil {
				z.fail(err)
			}
		}
	}()
	return z
}

func (z *gzipWriter) fail(err error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.failed == nil {
		z.failed = err
	}
}

func (z *gzipWriter) err() error {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.failed
}

// Write implements io.Writer. An error of the file can be that of what was written before.
func (z *gzipWriter) Write(p []byte) (int, error) {
	written := len(p)
	for len(p) > 0 {
		if z.buf == nil {
			z.buf = make([]byte, 0, gzipBlock)
		}
		n := min(len(p), gzipBlock-len(z.buf))
		z.buf = append(z.buf, p[:n]...)
		p = p[n:]
		if len(z.buf) == gzipBlock {
			z.part()
		}
	}
	return written, z.err()
}

// part hands over what is in the buffer.
func (z *gzipWriter) part() {
	b := z.buf
	z.buf = nil
	z.sum = crc32.Update(z.sum, crc32.IEEETable, b)
	z.size += uint32(len(b))
	done := make(chan []byte, 1)
	z.queue <- done
	go func() { done <- z.compress(b) }()
}

func (z *gzipWriter) compress(b []byte) []byte {
	var out bytes.Buffer
	w, ok := z.pool.Get().(*flate.Writer)
	if !ok {
		var err error
		if w, err = flate.NewWriter(&out, flate.DefaultCompression); err != nil {
			z.fail(err)
			return nil
		}
	} else {
		w.Reset(&out)
	}
	_, err := w.Write(b)
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		z.fail(err)
	}
	z.pool.Put(w)
	return out.Bytes()
}

// Close writes what is left, and the end. It does not close the file.
func (z *gzipWriter) Close() error {
	if len(z.buf) > 0 {
		z.part()
	}
	end := []byte{3, 0} // a last block, of no bytes
	end = binary.LittleEndian.AppendUint32(end, z.sum)
	end = binary.LittleEndian.AppendUint32(end, z.size)
	last := make(chan []byte, 1)
	last <- end
	z.queue <- last
	close(z.queue)
	<-z.done
	return z.err()
}
