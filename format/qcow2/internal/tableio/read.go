package tableio

import (
	"context"
	"encoding/binary"
	"errors"
	"io"

	"github.com/cowl-disk/cowl/block/driver"
)

// ReadPadded fills p from offset off. What is beyond the end of the file
// is zero.
func ReadPadded(ctx context.Context, file driver.Storage, p []byte, off int64) error {
	if off < 0 {
		return driver.Errorf(nil, "invalid argument")
	}
	n, err := file.ReadAt(ctx, p, off)
	if n == len(p) {
		return nil
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	clear(p[n:])
	return nil
}

// ReadWords reads n big-endian 64-bit words at off.
func ReadWords(ctx context.Context, file driver.Storage, off, n int64) ([]uint64, error) {
	words := make([]uint64, n)
	buf := make([]byte, min(n*8, PieceBytes))
	for i := int64(0); i < n; {
		p := buf[:min(int64(len(buf)), (n-i)*8)]
		if err := ReadPadded(ctx, file, p, off+i*8); err != nil {
			return nil, err
		}
		for ; len(p) > 0; p = p[8:] {
			words[i] = binary.BigEndian.Uint64(p)
			i++
		}
	}
	return words, nil
}

// The reader of many tables keeps so many reads under way, each of at most so
// many bytes unless one table is larger.
const (
	readAhead      = 8
	readAheadBytes = 256 << 10
	readWorkers    = 4
)

// tableBatch is some tables that are read together.
type tableBatch struct {
	first, count int // indices
	buf          []byte
	err          error
	done         chan struct{}
}

// ReadTables reads tables of size bytes at the given offsets and calls fn with
// each, in order, while following ones are being read. Tables that are
// neighbours in the file are read in one piece. b is valid during the call.
func ReadTables(ctx context.Context, file driver.Storage, offsets []int64, size int64, fn func(i int, b []byte, err error) error) error {
	if len(offsets) == 0 {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	perBatch := int(max(1, readAheadBytes/size))
	work := make(chan *tableBatch)
	order := make(chan *tableBatch, readAhead)
	free := make(chan []byte, readAhead+readWorkers+2)
	go func() {
		defer close(order)
		defer close(work)
		for first := 0; first < len(offsets); first += perBatch {
			b := &tableBatch{first: first, count: min(perBatch, len(offsets)-first), done: make(chan struct{})}
			select {
			case order <- b:
			case <-ctx.Done():
				return
			}
			select {
			case work <- b:
			case <-ctx.Done():
				return
			}
		}
	}()
	for range min(readWorkers, (len(offsets)+perBatch-1)/perBatch) {
		go func() {
			for b := range work {
				select {
				case b.buf = <-free:
				default:
					b.buf = make([]byte, int64(perBatch)*size)
				}
				b.err = readBatch(ctx, file, offsets[b.first:b.first+b.count], size, b.buf)
				close(b.done)
			}
		}()
	}
	for b := range order {
		select {
		case <-b.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		for i := range b.count {
			if err := fn(b.first+i, b.buf[int64(i)*size:int64(i+1)*size], b.err); err != nil {
				return err
			}
		}
		free <- b.buf
	}
	return ctx.Err()
}

// readBatch reads the tables at offsets into buf, neighbours at once.
func readBatch(ctx context.Context, file driver.Storage, offsets []int64, size int64, buf []byte) error {
	for i := 0; i < len(offsets); {
		n := 1
		for i+n < len(offsets) && offsets[i+n] == offsets[i]+int64(n)*size {
			n++
		}
		if err := ReadPadded(ctx, file, buf[int64(i)*size:int64(i+n)*size], offsets[i]); err != nil {
			return err
		}
		i += n
	}
	return nil
}
