//go:build linux && (amd64 || arm64)

package gfapi

import (
	"encoding/json"
	"errors"
	"math"
	"sync"
	"syscall"

	"github.com/cowl-disk/cowl/internal/native/link"
	"github.com/cowl-disk/cowl/internal/native/serve"
)

const createMode = 0o600

// engine opens files.
type engine struct {
	load func() (*library, error)
	last *volume // not nil: the volume of the last call
}

// New returns Gluster's engine. The library is loaded when it is first asked for something.
// Connections are not closed again: the library takes ten seconds for that, and they end with
// the process.
func New() serve.Engine { return &engine{load: sync.OnceValues(load)} }

// volume is a connection to a volume.
type volume struct {
	lib *library
	fs  uintptr
	of  string // args without what they say of a file
}

// connect connects to the volume that args name, unless the last call did.
func (e *engine) connect(raw json.RawMessage) (*volume, *link.Gluster, error) {
	args := &link.Gluster{}
	if err := json.Unmarshal(raw, args); err != nil {
		return nil, nil, err
	}
	bare := *args
	bare.Path, bare.Write, bare.Direct, bare.Size, bare.Prealloc = "", false, false, 0, ""
	of, err := json.Marshal(bare)
	if err != nil {
		return nil, nil, err
	}
	if e.last != nil && e.last.of == string(of) {
		return e.last, args, nil
	}
	lib, err := e.load()
	if err != nil {
		return nil, nil, err
	}
	v := &volume{lib: lib, of: string(of)}
	if v.fs, err = lib.handle(func() uintptr { return lib.new(args.Volume) }); err != nil {
		return nil, nil, failed("initialize", err)
	}
	for _, s := range args.Servers {
		if _, err := lib.call(func() int64 { return int64(lib.setServer(v.fs, s.Transport, s.Host, int32(s.Port))) }); err != nil {
			return nil, nil, failed("server", err)
		}
	}
	if _, err := lib.call(func() int64 { return int64(lib.setLogging(v.fs, args.LogFile, int32(args.Debug))) }); err != nil {
		return nil, nil, failed("logging", err)
	}
	if _, err := lib.call(func() int64 {
		if r := lib.init(v.fs); r != 0 {
			return -1
		}
		return 0
	}); err != nil {
		return nil, nil, failed("connect", err)
	}
	// What could not be synchronised stays in the cache for another try: volumes that do not know
	// the option have no such cache.
	lib.setOption(v.fs, "*-write-behind", "resync-failed-syncs-after-fsync", "on")
	e.last = v
	return v, args, nil
}

// Create implements serve.Engine: a file that exists is emptied.
func (e *engine) Create(raw json.RawMessage) (made bool, err error) {
	v, args, err := e.connect(raw)
	if err != nil {
		return false, err
	}
	var st syscall.Stat_t
	_, err = v.lib.call(func() int64 { return int64(v.lib.stat(v.fs, args.Path, &st)) })
	existed := err == nil
	f := &file{volume: v}
	f.fd, err = v.lib.handle(func() uintptr {
		return v.lib.creat(v.fs, args.Path, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_TRUNC, createMode)
	})
	if err != nil {
		return false, failed("create", err)
	}
	err = f.Resize(link.Resize{Size: args.Size, Prealloc: args.Prealloc})
	err = errors.Join(err, f.Close())
	if err != nil && !existed {
		v.lib.unlink(v.fs, args.Path)
	}
	return !existed, err
}

// Delete implements serve.Engine.
func (e *engine) Delete(raw json.RawMessage) error {
	v, args, err := e.connect(raw)
	if err != nil {
		return err
	}
	_, err = v.lib.call(func() int64 { return int64(v.lib.unlink(v.fs, args.Path)) })
	return failed("remove", err)
}

// Open implements serve.Engine.
func (e *engine) Open(raw json.RawMessage) (serve.Disk, error) {
	v, args, err := e.connect(raw)
	if err != nil {
		return nil, err
	}
	flags := syscall.O_RDONLY
	if args.Write {
		flags = syscall.O_RDWR
	}
	if args.Direct {
		flags |= syscall.O_DIRECT
	}
	f := &file{volume: v, write: args.Write}
	if f.fd, err = v.lib.handle(func() uintptr { return v.lib.open(v.fs, args.Path, int32(flags)) }); err != nil {
		return nil, failed("open", err)
	}
	if f.size, err = f.length(); err != nil {
		return nil, failed("size", err)
	}
	// Versions that know of holes answer so at the end of a file, and no others.
	_, err = f.seek(f.size, seekData)
	f.holes = err == syscall.ENXIO
	if f.size > math.MaxInt64/2 {
		return nil, failed("size", syscall.EFBIG)
	}
	return f, nil
}
