package file

import "golang.org/x/sys/unix"

// StartWriteback implements driver.WritebackStarter. It reports no error: what
// cannot be written is reported by the flush that comes after it, and file systems
// that do not know the call lose nothing.
func (n *node) StartWriteback() {
	if n.write && !n.cache.NoFlush {
		_ = unix.SyncFileRange(int(n.fd), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	}
}
