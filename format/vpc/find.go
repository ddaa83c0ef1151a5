package vpc

import (
	"context"
	"errors"
	"io"

	"github.com/cowl-disk/cowl/block/driver"
)

// copies are the copies of a footer that a file has.
type copies struct {
	*footer
	end              int64 // where the one at the end begins, -1 if it is missing or damaged
	frontOK, trailer bool  // which copies are good
}

// readAt fills p from offset off of a file, with zeroes for what lies behind its end.
func readAt(ctx context.Context, file driver.Storage, p []byte, off int64) error {
	n, err := file.ReadAt(ctx, p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	clear(p[n:])
	return nil
}

// findFooter returns the best copy of the footer: the one at the front, or that at the end
// where there is none in front or it is damaged.
func findFooter(ctx context.Context, file driver.Storage) (*copies, error) {
	b := make([]byte, footerSize)
	if err := readAt(ctx, file, b, 0); err != nil {
		return nil, err
	}
	front, frontOK := decodeFooter(b)
	size := file.Size()
	if size == 0 {
		return nil, corrupt("file too small for a VHD header")
	}
	var last *footer
	lastOK, end := false, int64(-1)
	for _, n := range []int64{footerSize, footerSize - 1} { // early versions of Virtual PC write 511 bytes
		if size < n {
			continue
		}
		if err := readAt(ctx, file, b, size-n); err != nil {
			return nil, err
		}
		if last, lastOK = decodeFooter(b); last != nil {
			end = size - n
			break
		}
	}
	if !lastOK {
		end = -1
	}
	isDynamic := func(f *footer) bool { return f.diskType == typeDynamic || f.diskType == typeDiff }
	switch {
	case frontOK && isDynamic(front):
		return &copies{footer: front, frontOK: true, trailer: lastOK, end: end}, nil
	case lastOK && (isDynamic(last) || last.diskType == typeFixed):
		return &copies{footer: last, trailer: true, end: end}, nil
	case front != nil || last != nil:
		return nil, corrupt("incorrect header checksum")
	}
	return nil, driver.Errorf(driver.ErrFormat, "invalid VPC image")
}
