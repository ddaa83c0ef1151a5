package differential

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// dataAt returns where the next data begins at or after a place, and where it ends.
func dataAt(f *os.File, at, size int64) (start, end int64, err error) {
	if start, err = f.Seek(at, unix.SEEK_DATA); errors.Is(err, syscall.ENXIO) {
		return size, size, nil
	} else if err != nil {
		return 0, 0, err
	}
	end, err = f.Seek(start, unix.SEEK_HOLE)
	return start, min(end, size), err
}
