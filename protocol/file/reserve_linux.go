package file

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/cowl-disk/cowl/block/driver"
)

// ExpectNewData implements driver.NewDataExpecter. ext4 does its bookkeeping block
// by block when a write finds no room reserved, and once for all of it when
// fallocate(2) came first; docs/decisions/008-reserve-before-writing.md has the
// figures. Other file systems are left alone: some write zeroes to reserve, some
// give up compression for what is reserved.
func (n *node) ExpectNewData() {
	if !n.write || n.device || n.align != 0 {
		return
	}
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Fstatfs(int(n.fd), &st) }); err == nil && int64(st.Type) == unix.EXT4_SUPER_MAGIC {
		n.reserve.Store(true)
	}
}

// reserveRoom gets the blocks that a write is about to fill. It reports no error:
// the write tells what is wrong.
func (n *node) reserveRoom(off, length int64) {
	err := n.fallocate(unix.FALLOC_FL_KEEP_SIZE, off, length, &n.features.noFallocate)
	if errors.Is(err, driver.ErrUnsupported) {
		n.reserve.Store(false) // ext2 and ext3 have the same magic number
	}
}
