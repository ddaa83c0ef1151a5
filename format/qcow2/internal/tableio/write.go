package tableio

import (
	"context"
	"encoding/binary"
	"errors"

	"github.com/cowl-disk/cowl/block/driver"
)

// PieceBytes is the size of the pieces in which tables are written.
const PieceBytes = 1 << 20

// Writer writes to a file and joins neighbouring writes.
type Writer struct {
	ctx  context.Context
	file driver.Storage
	buf  []byte
	off  int64 // of buf
	end  int64 // of all writes
}

// NewWriter returns a writer to file. It is used by one goroutine.
func NewWriter(ctx context.Context, file driver.Storage) *Writer {
	return &Writer{ctx: ctx, file: file}
}

// End returns where the last byte of all writes is, plus one.
func (w *Writer) End() int64 { return w.end }

// Room returns n zeroed bytes that will be written at off by the next flush.
// They are valid until the next call.
func (w *Writer) Room(off, n int64) ([]byte, error) {
	if len(w.buf) > 0 && (w.off+int64(len(w.buf)) != off || int64(len(w.buf))+n > PieceBytes) {
		if err := w.Flush(); err != nil {
			return nil, err
		}
	}
	if len(w.buf) == 0 {
		w.off = off
	}
	if w.buf == nil {
		w.buf = make([]byte, 0, max(PieceBytes, n))
	}
	at := int64(len(w.buf))
	if at+n > int64(cap(w.buf)) {
		w.buf = make([]byte, 0, n)
		at = 0
	}
	w.buf = w.buf[:at+n]
	clear(w.buf[at:])
	w.end = max(w.end, off+n)
	return w.buf[at:], nil
}

// Flush writes what is waiting.
func (w *Writer) Flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	_, err := w.file.WriteAt(w.ctx, w.buf, w.off)
	w.buf = w.buf[:0]
	return err
}

// Write writes b at off. Large buffers are not copied.
func (w *Writer) Write(off int64, b []byte) error {
	if int64(len(b)) < PieceBytes {
		r, err := w.Room(off, int64(len(b)))
		copy(r, b)
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	w.end = max(w.end, off+int64(len(b)))
	_, err := w.file.WriteAt(w.ctx, b, off)
	return err
}

// Words writes a table of big-endian 64-bit words at off.
func (w *Writer) Words(off int64, words []uint64) error {
	for len(words) > 0 {
		n := min(len(words), PieceBytes/8)
		b, err := w.Room(off, int64(n)*8)
		if err != nil {
			return err
		}
		for i, v := range words[:n] {
			binary.BigEndian.PutUint64(b[8*i:], v)
		}
		words, off = words[n:], off+int64(n)*8
	}
	return nil
}

// EncodeWords returns a table of big-endian 64-bit words.
func EncodeWords(words []uint64) []byte {
	b := make([]byte, 0, len(words)*8)
	for _, v := range words {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return b
}

// Extend makes file at least size bytes long; new bytes read as zeroes and have
// room as mode says.
func Extend(ctx context.Context, file driver.Storage, size int64, mode driver.Prealloc) error {
	old := file.Size()
	if old >= size {
		return nil
	}
	if r, ok := file.(driver.Resizer); ok {
		err := r.Resize(ctx, size, driver.ResizeOptions{Prealloc: mode})
		if err == nil || !errors.Is(err, driver.ErrUnsupported) {
			return err
		}
		// It may be the mode that it does not know.
		if err := r.Resize(ctx, size, driver.ResizeOptions{}); err != nil {
			return err
		}
	}
	if mode == driver.PreallocOff || mode == driver.PreallocMetadata {
		// One byte at the end: what is between is a hole or zeroes.
		_, err := file.WriteAt(ctx, []byte{0}, size-1)
		return err
	}
	zero := make([]byte, min(PieceBytes, size-old))
	for off := old; off < size; off += int64(len(zero)) {
		if _, err := file.WriteAt(ctx, zero[:min(int64(len(zero)), size-off)], off); err != nil {
			return err
		}
	}
	return nil
}
