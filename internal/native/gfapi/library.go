//go:build linux && (amd64 || arm64)

package gfapi

import (
	"runtime"
	"syscall"
	"unsafe"

	"github.com/ebitengine/purego"

	"github.com/cowl-disk/cowl/internal/native/link"
)

const (
	gfapiFile = "libgfapi.so.0"
	libcFile  = "libc.so.6"
)

// library are the functions that are used, by their names in C. Where the library has
// several versions of one, that of Gluster 6 is meant; older ones take fewer arguments of the same.
type library struct {
	new           func(volume string) uintptr
	setServer     func(fs uintptr, transport, host string, port int32) int32
	setLogging    func(fs uintptr, file string, level int32) int32
	init          func(fs uintptr) int32
	setOption     func(fs uintptr, translator, key, value string) int32
	open          func(fs uintptr, path string, flags int32) uintptr
	creat         func(fs uintptr, path string, flags int32, mode uint32) uintptr
	unlink        func(fs uintptr, path string) int32
	stat          func(fs uintptr, path string, st *syscall.Stat_t) int32
	closeFile     func(fd uintptr) int32
	pread         func(fd uintptr, p unsafe.Pointer, n uintptr, off int64, flags int32, after uintptr) int64
	pwrite        func(fd uintptr, p unsafe.Pointer, n uintptr, off int64, flags int32, before, after uintptr) int64
	lseek         func(fd uintptr, off int64, whence int32) int64
	fstat         func(fd uintptr, st *syscall.Stat_t) int32
	ftruncate     func(fd uintptr, size int64, before, after uintptr) int32
	fsync         func(fd uintptr, before, after uintptr) int32
	fallocate     func(fd uintptr, keepSize int32, off int64, n uintptr) int32
	discard       func(fd uintptr, off int64, n uintptr) int32
	zerofill      func(fd uintptr, off, n int64) int32
	errnoLocation func() *int32
}

// load loads the library.
func load() (*library, error) {
	l := &library{}
	handles := map[string]uintptr{}
	for _, file := range []string{libcFile, gfapiFile} {
		h, err := purego.Dlopen(file, purego.RTLD_NOW|purego.RTLD_GLOBAL)
		if err != nil {
			return nil, &link.Error{Step: link.StepLibrary, Name: file, Text: err.Error()}
		}
		handles[file] = h
	}
	for _, f := range []struct {
		file, name string
		function   any
	}{
		{gfapiFile, "glfs_new", &l.new},
		{gfapiFile, "glfs_set_volfile_server", &l.setServer},
		{gfapiFile, "glfs_set_logging", &l.setLogging},
		{gfapiFile, "glfs_init", &l.init},
		{gfapiFile, "glfs_set_xlator_option", &l.setOption},
		{gfapiFile, "glfs_open", &l.open},
		{gfapiFile, "glfs_creat", &l.creat},
		{gfapiFile, "glfs_unlink", &l.unlink},
		{gfapiFile, "glfs_stat", &l.stat},
		{gfapiFile, "glfs_close", &l.closeFile},
		{gfapiFile, "glfs_pread", &l.pread},
		{gfapiFile, "glfs_pwrite", &l.pwrite},
		{gfapiFile, "glfs_lseek", &l.lseek},
		{gfapiFile, "glfs_fstat", &l.fstat},
		{gfapiFile, "glfs_ftruncate", &l.ftruncate},
		{gfapiFile, "glfs_fsync", &l.fsync},
		{gfapiFile, "glfs_fallocate", &l.fallocate},
		{gfapiFile, "glfs_discard", &l.discard},
		{gfapiFile, "glfs_zerofill", &l.zerofill},
		{libcFile, "__errno_location", &l.errnoLocation},
	} {
		address, err := purego.Dlsym(handles[f.file], f.name)
		if err != nil {
			return nil, &link.Error{Step: link.StepLibrary, Name: f.file, Text: err.Error()}
		}
		purego.RegisterFunc(f.function, address)
	}
	return l, nil
}

// call calls f, whose result is negative if it failed, and returns what errno is then.
func (l *library) call(f func() int64) (int64, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	*l.errnoLocation() = 0
	r := f()
	if r >= 0 {
		return r, nil
	}
	no := *l.errnoLocation()
	if no == 0 {
		no = int32(syscall.EINVAL) // the library forgets it sometimes
	}
	return r, syscall.Errno(no)
}

// handle is call for functions that return a pointer, nil if they failed.
func (l *library) handle(f func() uintptr) (h uintptr, err error) {
	_, err = l.call(func() int64 {
		if h = f(); h == 0 {
			return -1
		}
		return 0
	})
	return h, err
}

// failed is the error of a step; nil if err is.
func failed(step string, err error) error {
	if err == nil {
		return nil
	}
	return &link.Error{Step: step, Errno: int(err.(syscall.Errno))}
}
