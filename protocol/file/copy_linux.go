package file

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/trace"
)

// offloadSize bounds one call, so that a cancelled context is noticed.
const offloadSize = 64 << 20

// cannotCopy tells whether err means that this pair of files cannot be copied
// so, rather than that copying failed.
func cannotCopy(err error) bool {
	switch {
	case unsupported(err), errors.Is(err, unix.EXDEV), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EPERM),
		errors.Is(err, unix.ETXTBSY), errors.Is(err, unix.EBADF):
		return true
	}
	return false
}

// reflink makes whole blocks of n share those of from.
func (n *node) reflink(from *node, srcOff, dstOff, length int64) (int64, error) {
	b := n.fsBlock
	if b == 0 || srcOff%b != 0 || dstOff%b != 0 {
		return 0, driver.ErrUnsupported
	}
	// The last block may be a part of one only where both files end with it.
	if length%b != 0 && (srcOff+length < from.Size() || dstOff+length < n.Size()) {
		length -= length % b
	}
	if length == 0 { // would mean: all the rest
		return 0, driver.ErrUnsupported
	}
	r := unix.FileCloneRange{Src_fd: int64(from.fd), Src_offset: uint64(srcOff), Src_length: uint64(length), Dest_offset: uint64(dstOff)}
	err := retry(func() error { return unix.IoctlFileCloneRange(int(n.fd), &r) })
	switch {
	case err == nil:
		n.grown(dstOff + length)
		return length, nil
	case cannotCopy(err):
		return 0, driver.ErrUnsupported
	}
	return 0, sysErrorf(err, "could not share blocks of '%s' with '%s'", from.name, n.name)
}

// offload lets the kernel (or the server) copy.
func (n *node) offload(ctx context.Context, from *node, srcOff, dstOff, length int64) (int64, error) {
	var done int64
	for done < length {
		if err := ctx.Err(); err != nil {
			return done, err
		}
		in, out := srcOff+done, dstOff+done
		m, err := unix.CopyFileRange(int(from.fd), &in, int(n.fd), &out, int(min(length-done, offloadSize)), 0)
		trace.FileCopyFileRange.Log(srcOff+done, dstOff+done, int64(m))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil && cannotCopy(err) || err == nil && m == 0:
			if done == 0 {
				return 0, driver.ErrUnsupported
			}
			return done, nil
		case err != nil:
			return done, sysErrorf(err, "could not copy '%s' to '%s' at offset %d", from.name, n.name, dstOff+done)
		}
		done += int64(m)
		n.grown(dstOff + done)
	}
	return done, nil
}
