//go:build !linux

package file

import (
	"context"
	"os"
	"syscall"

	"github.com/cowl-disk/cowl/block/driver"
)

func deviceWritable(*os.File) error { return nil }

func fileSize(f *os.File, _ bool) (int64, error) { return statFileSize(f) }

func deviceSector(*os.File) int64 { return 512 }

func fsBlockSize(*os.File) int64 { return 4096 }

func extentSizeHint(*os.File) int64 { return 0 }

func setExtentSizeHint(*os.File, int64) error { return syscall.ENOSYS }

func setNoCOW(*os.File) {}

// syncData has no cheaper form that is safe here.
func syncData(f *os.File) error { return f.Sync() }

func allocateRange(*os.File, int64, int64) error { return driver.ErrUnsupported }

func (n *node) punch(int64, int64) error { return driver.ErrUnsupported }

func (n *node) discardDevice(int64, int64) error { return driver.ErrUnsupported }

func (n *node) zeroDevice(int64, int64, driver.ZeroFlags) error { return driver.ErrUnsupported }

// zeroFile can extend a file; anything else is written.
func (n *node) zeroFile(off, length int64, _ driver.ZeroFlags) error {
	if off < n.Size() {
		return driver.ErrUnsupported
	}
	return n.extend(off + length)
}

func (n *node) reflink(*node, int64, int64, int64) (int64, error) {
	return 0, driver.ErrUnsupported
}

func (n *node) offload(context.Context, *node, int64, int64, int64) (int64, error) {
	return 0, driver.ErrUnsupported
}

func (n *node) reserveRoom(int64, int64) {}
