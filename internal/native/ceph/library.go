//go:build linux && (amd64 || arm64)

package ceph

import (
	"sync"
	"syscall"
	"unsafe"

	"github.com/ebitengine/purego"

	"github.com/cowl-disk/cowl/internal/native/link"
)

// What the library calls its own.
const (
	radosFile = "librados.so.2"
	rbdFile   = "librbd.so.1"

	featureStriping = 1 << 1
	featureFastDiff = 1 << 4
	fastDiffInvalid = 1 << 1
	thickProvision  = 1 << 0 // of zeroes
	notifyEventFD   = 2

	formatLUKS1 = 0
	formatLUKS2 = 1
	formatLUKS  = 2

	algorithmAES128 = 0
	algorithmAES256 = 1
)

// library are the functions that are used, by their names in C. Those that older versions
// lack are nil there.
type library struct {
	radosCreate       func(cluster *uintptr, id *byte) int32
	radosConfReadFile func(cluster uintptr, path *byte) int32
	radosConfSet      func(cluster uintptr, option, value string) int32
	radosConnect      func(cluster uintptr) int32
	radosShutdown     func(cluster uintptr)
	ioctxCreate       func(cluster uintptr, pool string, ioctx *uintptr) int32
	ioctxDestroy      func(ioctx uintptr)
	ioctxSetNamespace func(ioctx uintptr, namespace string)

	version          func(major, minor, extra *int32)
	namespaceExists  func(ioctx uintptr, name string, exists *bool) int32
	create           func(ioctx uintptr, name string, size uint64, order *int32) int32
	remove           func(ioctx uintptr, name string) int32
	open             func(ioctx uintptr, name string, image *uintptr, snapshot *byte) int32
	openReadOnly     func(ioctx uintptr, name string, image *uintptr, snapshot *byte) int32
	closeImage       func(image uintptr) int32
	stat             func(image uintptr, info *imageInfo, size uintptr) int32
	getSize          func(image uintptr, size *uint64) int32
	getFeatures      func(image uintptr, features *uint64) int32
	getFlags         func(image uintptr, flags *uint64) int32
	getParentInfo    func(image uintptr, pool *byte, poolLen uintptr, name *byte, nameLen uintptr, snapshot *byte, snapshotLen uintptr) int32
	resize           func(image uintptr, size uint64) int32
	read             func(image uintptr, off, n uint64, p unsafe.Pointer) int64
	write            func(image uintptr, off, n uint64, p unsafe.Pointer) int64
	notify           func(image uintptr, fd, kind int32) int32
	poll             func(image uintptr, completions *uintptr, most int32) int32
	newCompletion    func(arg, callback uintptr, completion *uintptr) int32
	argument         func(completion uintptr) uintptr
	returned         func(completion uintptr) int64
	release          func(completion uintptr)
	startRead        func(image uintptr, off, n uint64, p unsafe.Pointer, completion uintptr) int32
	startWrite       func(image uintptr, off, n uint64, p unsafe.Pointer, completion uintptr) int32
	writeZeroes      func(image uintptr, off, n uint64, zeroFlags, opFlags int32) int64
	discard          func(image uintptr, off, n uint64) int32
	flush            func(image uintptr) int32
	diffIterate      func(image uintptr, from *byte, off, n uint64, parent, whole uint8, callback, arg uintptr) int32
	snapList         func(image uintptr, snaps *snapInfo, most *int32) int32
	snapListEnd      func(snaps *snapInfo)
	snapCreate       func(image uintptr, name string) int32
	snapRemove       func(image uintptr, name string) int32
	snapRollback     func(image uintptr, name string) int32
	encryptionFormat func(image uintptr, format int32, options unsafe.Pointer, size uintptr) int32
	encryptionLoad   func(image uintptr, format int32, options unsafe.Pointer, size uintptr) int32
	encryptionLoad2  func(image uintptr, specs *encryptionSpec, count uintptr) int32

	callback uintptr // of diffIterate: looks its arg up in iterations

	mu         sync.Mutex
	iterations map[uintptr]*iteration
	next       uintptr
}

// imageInfo is rbd_image_info_t; of its members only the first ones are of use.
type imageInfo struct {
	size, objectSize uint64
	_                [256]byte
}

// imageInfoSize is its size in C.
const imageInfoSize = 160

// snapInfo is rbd_snap_info_t.
type snapInfo struct {
	_, size uint64
	name    *byte
}

// luksOptions is rbd_encryption_luks1_format_options_t and the same for LUKS2.
type luksOptions struct {
	algorithm  int32
	passphrase *byte
	size       uintptr
}

// anyOptions is rbd_encryption_luks_format_options_t.
type anyOptions struct {
	passphrase *byte
	size       uintptr
}

// encryptionSpec is rbd_encryption_spec_t.
type encryptionSpec struct {
	format  int32
	options unsafe.Pointer
	size    uintptr
}

// load loads the library.
func load() (*library, error) {
	l := &library{iterations: map[uintptr]*iteration{}}
	rados, err := open(radosFile)
	if err != nil {
		return nil, err
	}
	rbd, err := open(rbdFile)
	if err != nil {
		return nil, err
	}
	for _, f := range []struct {
		handle   uintptr
		file     string
		optional bool
		name     string
		function any
	}{
		{rados, radosFile, false, "rados_create", &l.radosCreate},
		{rados, radosFile, false, "rados_conf_read_file", &l.radosConfReadFile},
		{rados, radosFile, false, "rados_conf_set", &l.radosConfSet},
		{rados, radosFile, false, "rados_connect", &l.radosConnect},
		{rados, radosFile, false, "rados_shutdown", &l.radosShutdown},
		{rados, radosFile, false, "rados_ioctx_create", &l.ioctxCreate},
		{rados, radosFile, false, "rados_ioctx_destroy", &l.ioctxDestroy},
		{rados, radosFile, false, "rados_ioctx_set_namespace", &l.ioctxSetNamespace},
		{rbd, rbdFile, false, "rbd_version", &l.version},
		{rbd, rbdFile, true, "rbd_namespace_exists", &l.namespaceExists},
		{rbd, rbdFile, false, "rbd_create", &l.create},
		{rbd, rbdFile, false, "rbd_remove", &l.remove},
		{rbd, rbdFile, false, "rbd_open", &l.open},
		{rbd, rbdFile, false, "rbd_open_read_only", &l.openReadOnly},
		{rbd, rbdFile, false, "rbd_close", &l.closeImage},
		{rbd, rbdFile, false, "rbd_stat", &l.stat},
		{rbd, rbdFile, false, "rbd_get_size", &l.getSize},
		{rbd, rbdFile, false, "rbd_get_features", &l.getFeatures},
		{rbd, rbdFile, false, "rbd_get_flags", &l.getFlags},
		{rbd, rbdFile, true, "rbd_get_parent_info", &l.getParentInfo},
		{rbd, rbdFile, false, "rbd_resize", &l.resize},
		{rbd, rbdFile, false, "rbd_read", &l.read},
		{rbd, rbdFile, false, "rbd_write", &l.write},
		{rbd, rbdFile, false, "rbd_set_image_notification", &l.notify},
		{rbd, rbdFile, false, "rbd_poll_io_events", &l.poll},
		{rbd, rbdFile, false, "rbd_aio_create_completion", &l.newCompletion},
		{rbd, rbdFile, false, "rbd_aio_get_arg", &l.argument},
		{rbd, rbdFile, false, "rbd_aio_get_return_value", &l.returned},
		{rbd, rbdFile, false, "rbd_aio_release", &l.release},
		{rbd, rbdFile, false, "rbd_aio_read", &l.startRead},
		{rbd, rbdFile, false, "rbd_aio_write", &l.startWrite},
		{rbd, rbdFile, true, "rbd_write_zeroes", &l.writeZeroes},
		{rbd, rbdFile, false, "rbd_discard", &l.discard},
		{rbd, rbdFile, false, "rbd_flush", &l.flush},
		{rbd, rbdFile, false, "rbd_diff_iterate2", &l.diffIterate},
		{rbd, rbdFile, false, "rbd_snap_list", &l.snapList},
		{rbd, rbdFile, false, "rbd_snap_list_end", &l.snapListEnd},
		{rbd, rbdFile, false, "rbd_snap_create", &l.snapCreate},
		{rbd, rbdFile, false, "rbd_snap_remove", &l.snapRemove},
		{rbd, rbdFile, false, "rbd_snap_rollback", &l.snapRollback},
		{rbd, rbdFile, true, "rbd_encryption_format", &l.encryptionFormat},
		{rbd, rbdFile, true, "rbd_encryption_load", &l.encryptionLoad},
		{rbd, rbdFile, true, "rbd_encryption_load2", &l.encryptionLoad2},
	} {
		address, err := purego.Dlsym(f.handle, f.name)
		if err != nil {
			if f.optional {
				continue
			}
			return nil, &link.Error{Step: link.StepLibrary, Name: f.file, Text: err.Error()}
		}
		purego.RegisterFunc(f.function, address)
	}
	l.callback = purego.NewCallback(func(off, n uint64, exists int32, arg uintptr) int32 {
		l.mu.Lock()
		it := l.iterations[arg]
		l.mu.Unlock()
		return it.take(int64(off), int64(n), exists != 0)
	})
	return l, nil
}

func open(file string) (uintptr, error) {
	h, err := purego.Dlopen(file, purego.RTLD_NOW|purego.RTLD_GLOBAL)
	if err != nil {
		return 0, &link.Error{Step: link.StepLibrary, Name: file, Text: err.Error()}
	}
	return h, nil
}

// cString is a string of C, nil for an empty one: what was not given.
func cString(s string) *byte {
	if s == "" {
		return nil
	}
	return &append([]byte(s), 0)[0]
}

// goString copies a string of C.
func goString(p *byte) string {
	if p == nil {
		return ""
	}
	n := 0
	for *(*byte)(unsafe.Add(unsafe.Pointer(p), n)) != 0 {
		n++
	}
	return string(unsafe.Slice(p, n))
}

// failed is the error of a step, whose result is negative then; nil if it is not.
func failed(step, name string, result int32) error {
	if result >= 0 {
		return nil
	}
	return &link.Error{Step: step, Name: name, Errno: int(-result)}
}

// result is the error of a request, as failed.
func result(r int64) error {
	if r >= 0 {
		return nil
	}
	return syscall.Errno(-r)
}
