//go:build linux && (amd64 || arm64)

package ceph

import (
	"errors"
	"runtime"
	"syscall"
	"unsafe"

	"github.com/cowl-disk/cowl/internal/native/link"
)

// most is the longest range of one call, in bytes: lengths that int has no room for are
// refused by the library.
const most = 1 << 30

// disk is an open image.
type disk struct {
	*cluster
	image     uintptr
	readOnly  bool
	encrypted bool
	size      int64 // when it was opened
	object    int64
	holes     bool
	started   started
}

// measure finds out what the image is like.
func (d *disk) measure(name string) error {
	var info imageInfo
	if err := failed("info", name, d.lib.stat(d.image, &info, imageInfoSize)); err != nil {
		return err
	}
	d.size, d.object = int64(info.size), int64(info.objectSize)
	var features uint64
	if d.lib.getFeatures(d.image, &features) < 0 || features&featureFastDiff == 0 || d.encrypted {
		// In encrypted images the library tells of places other than those that are read.
		return nil
	}
	var major, minor, extra int32
	d.lib.version(&major, &minor, &extra)
	if major == 1 && minor < 17 {
		// Before, it tells wrong offsets in images with stripes and in clones.
		if features&featureStriping != 0 || d.lib.getParentInfo == nil ||
			d.lib.getParentInfo(d.image, nil, 0, nil, 0, nil, 0) != -int32(syscall.ENOENT) {
			return nil
		}
	}
	d.holes = true
	return nil
}

// Facts implements serve.Disk.
func (d *disk) Facts() (link.Facts, error) {
	return link.Facts{Size: d.size, Object: d.object, ReadOnly: d.readOnly, Holes: d.holes, Zeroes: d.lib.writeZeroes != nil}, nil
}

// ReadAt implements serve.Disk.
func (d *disk) ReadAt(p []byte, off int64) error {
	if len(p) == 0 {
		return nil
	}
	n := d.lib.read(d.image, uint64(off), uint64(len(p)), unsafe.Pointer(&p[0]))
	runtime.KeepAlive(p)
	if n < 0 {
		return result(n)
	}
	clear(p[n:])
	return nil
}

// WriteAt implements serve.Disk.
func (d *disk) WriteAt(p []byte, off int64) error {
	if len(p) == 0 {
		return nil
	}
	n := d.lib.write(d.image, uint64(off), uint64(len(p)), unsafe.Pointer(&p[0]))
	runtime.KeepAlive(p)
	if n >= 0 && n != int64(len(p)) {
		return syscall.EIO
	}
	return result(n)
}

// Flush implements serve.Disk.
func (d *disk) Flush() error {
	if d.readOnly {
		return nil
	}
	return result(int64(d.lib.flush(d.image)))
}

// WriteZeroes implements serve.Disk.
func (d *disk) WriteZeroes(off, n int64, keep bool) error {
	if d.lib.writeZeroes == nil {
		return errors.ErrUnsupported
	}
	flags := int32(0)
	if keep {
		flags = thickProvision
	}
	return d.inParts(off, n, func(off, n uint64) int64 { return d.lib.writeZeroes(d.image, off, n, flags, 0) })
}

// Discard implements serve.Disk.
func (d *disk) Discard(off, n int64) error {
	return d.inParts(off, n, func(off, n uint64) int64 { return int64(d.lib.discard(d.image, off, n)) })
}

func (d *disk) inParts(off, n int64, f func(off, n uint64) int64) error {
	for n > 0 {
		part := min(n, most)
		if r := f(uint64(off), uint64(part)); r < 0 {
			return result(r)
		}
		off, n = off+part, n-part
	}
	return nil
}

// Resize implements serve.Disk.
func (d *disk) Resize(r link.Resize) error {
	return failed("resize", "", d.lib.resize(d.image, uint64(r.Size)))
}

// Usage implements serve.Disk: to know it, all objects would have to be asked.
func (*disk) Usage() (int64, error) { return -1, nil }

// Close implements serve.Disk.
func (d *disk) Close() error {
	err := d.Flush()
	err = errors.Join(err, d.unwatch(func() error { return failed("close", "", d.lib.closeImage(d.image)) }))
	if err != nil {
		d.close()
	} else {
		d.release()
	}
	return err
}

// Snapshots implements serve.Snapshotter.
func (d *disk) Snapshots() ([]link.Snapshot, error) {
	for room := int32(100); ; {
		infos := make([]snapInfo, room)
		n := d.lib.snapList(d.image, &infos[0], &room)
		if n == -int32(syscall.ERANGE) && int(room) > len(infos) {
			continue
		}
		if n < 0 {
			return nil, failed("list snapshots", "", n)
		}
		list := make([]link.Snapshot, n)
		for i := range list {
			list[i] = link.Snapshot{Name: goString(infos[i].name), Size: int64(infos[i].size)}
		}
		d.lib.snapListEnd(&infos[0])
		return list, nil
	}
}

// CreateSnapshot implements serve.Snapshotter.
func (d *disk) CreateSnapshot(name string) error {
	return failed("create snapshot", name, d.lib.snapCreate(d.image, name))
}

// ApplySnapshot implements serve.Snapshotter.
func (d *disk) ApplySnapshot(name string) (int64, error) {
	if err := failed("apply snapshot", name, d.lib.snapRollback(d.image, name)); err != nil {
		return 0, err
	}
	var size uint64
	err := failed("size", "", d.lib.getSize(d.image, &size))
	return int64(size), err
}

// DeleteSnapshot implements serve.Snapshotter.
func (d *disk) DeleteSnapshot(name string) error {
	return failed("remove snapshot", name, d.lib.snapRemove(d.image, name))
}
