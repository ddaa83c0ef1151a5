//go:build linux && (amd64 || arm64)

package ceph

import (
	"encoding/json"
	"sync"
	"syscall"

	"github.com/cowl-disk/cowl/internal/native/link"
	"github.com/cowl-disk/cowl/internal/native/serve"
)

// engine opens disks.
type engine struct {
	load func() (*library, error)
	kept *cluster // not nil: a connection that nobody uses
}

// New returns Ceph's engine. The library is loaded when it is first asked for something.
func New() serve.Engine { return &engine{load: sync.OnceValues(load)} }

// cluster is a connection to a cluster, and in it a pool.
type cluster struct {
	engine *engine
	lib    *library
	rados  uintptr
	ioctx  uintptr
	of     string // args without what they say of an image
}

// connect connects to the cluster that args name, unless the connection is there from the last call.
func (e *engine) connect(raw json.RawMessage) (*cluster, *link.RBD, error) {
	args := &link.RBD{}
	if err := json.Unmarshal(raw, args); err != nil {
		return nil, nil, err
	}
	bare := *args
	bare.Image, bare.Snapshot, bare.Write, bare.Encryption, bare.Size, bare.Order = "", "", false, nil, 0, 0
	of, err := json.Marshal(bare)
	if err != nil {
		return nil, nil, err
	}
	c := e.kept
	e.kept = nil
	if c != nil && c.of == string(of) {
		return c, args, nil
	}
	if c != nil {
		c.close()
	}
	lib, err := e.load()
	if err != nil {
		return nil, nil, err
	}
	c = &cluster{engine: e, lib: lib, of: string(of)}
	return c, args, c.connect(args)
}

// connect connects. After an error there is nothing to close.
func (c *cluster) connect(args *link.RBD) (err error) {
	lib := c.lib
	if err := failed("initialize", "", lib.radosCreate(&c.rados, cString(args.User))); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	// Without a name the library looks in its usual places, where nothing has to be.
	if r := lib.radosConfReadFile(c.rados, cString(args.Conf)); r < 0 && args.Conf != "" {
		return failed("conf", args.Conf, r)
	}
	set := func(step, key, value string) {
		if err == nil {
			err = failed(step, key, lib.radosConfSet(c.rados, key, value))
		}
	}
	for _, p := range args.Pairs {
		set("option", p[0], p[1])
	}
	for _, s := range [][2]string{{"mon_host", args.Monitors}, {"key", args.Key}, {"auth_client_required", args.Auth}} {
		if s[1] != "" {
			set("set", s[0], s[1])
		}
	}
	if err != nil {
		return err
	}
	// The library's cache is why a write does not wait for the cluster. cowl flushes what it
	// writes: the cache need not wait for the first flush to believe that. Older names
	// of options are no reason to fail.
	lib.radosConfSet(c.rados, "rbd_cache", map[bool]string{true: "true", false: "false"}[args.Cache])
	lib.radosConfSet(c.rados, "rbd_cache_writethrough_until_flush", "false")
	if err := failed("connect", "", lib.radosConnect(c.rados)); err != nil {
		return err
	}
	if err := failed("pool", args.Pool, lib.ioctxCreate(c.rados, args.Pool, &c.ioctx)); err != nil {
		return err
	}
	if args.Namespace != "" && lib.namespaceExists != nil {
		var exists bool
		if err := failed("namespace", args.Namespace, lib.namespaceExists(c.ioctx, args.Namespace, &exists)); err != nil {
			return err
		}
		if !exists {
			return &link.Error{Step: "no namespace", Name: args.Namespace, Errno: int(syscall.ENOENT)}
		}
	}
	lib.ioctxSetNamespace(c.ioctx, args.Namespace)
	return nil
}

// close ends the connection.
func (c *cluster) close() {
	if c.ioctx != 0 {
		c.lib.ioctxDestroy(c.ioctx)
	}
	c.lib.radosShutdown(c.rados)
}

// release keeps the connection for the next call.
func (c *cluster) release() {
	if k := c.engine.kept; k != nil {
		k.close()
	}
	c.engine.kept = c
}

// Close ends the connection that is kept.
func (e *engine) Close() error {
	if e.kept != nil {
		e.kept.close()
		e.kept = nil
	}
	return nil
}

// Create implements serve.Engine: an image that exists is left alone.
func (e *engine) Create(raw json.RawMessage) (made bool, err error) {
	c, args, err := e.connect(raw)
	if err != nil {
		return false, err
	}
	defer c.release()
	order := int32(args.Order)
	if err := failed("create", args.Image, c.lib.create(c.ioctx, args.Image, uint64(args.Size), &order)); err != nil {
		return false, err
	}
	if len(args.Encryption) == 0 {
		return true, nil
	}
	err = c.encrypt(args)
	if err != nil {
		c.lib.remove(c.ioctx, args.Image)
	}
	return err == nil, err
}

// encrypt makes a new image an encrypted one, with room for the size that was asked for.
func (c *cluster) encrypt(args *link.RBD) error {
	var image uintptr
	if err := failed("open for encryption", args.Image, c.lib.open(c.ioctx, args.Image, &image, nil)); err != nil {
		return err
	}
	defer c.lib.closeImage(image)
	if err := c.lib.format(image, &args.Encryption[0]); err != nil {
		return err
	}
	var usable uint64
	if err := failed("size", "", c.lib.getSize(image, &usable)); err != nil {
		return err
	}
	return failed("resize after encryption", "", c.lib.resize(image, uint64(args.Size)+uint64(args.Size)-usable))
}

// Delete implements serve.Engine.
func (e *engine) Delete(raw json.RawMessage) error {
	c, args, err := e.connect(raw)
	if err != nil {
		return err
	}
	defer c.close()
	return failed("remove", args.Image, c.lib.remove(c.ioctx, args.Image))
}

// Open implements serve.Engine.
func (e *engine) Open(raw json.RawMessage) (serve.Disk, error) {
	c, args, err := e.connect(raw)
	if err != nil {
		return nil, err
	}
	d := &disk{cluster: c, readOnly: args.Snapshot != "" || !args.Write, encrypted: len(args.Encryption) > 0}
	open := c.lib.open
	if d.readOnly {
		open = c.lib.openReadOnly
	}
	if err := failed("header", args.Image, open(c.ioctx, args.Image, &d.image, cString(args.Snapshot))); err != nil {
		c.close()
		return nil, err
	}
	if d.encrypted {
		if err := c.lib.unlock(d.image, args.Encryption); err != nil {
			return nil, d.give(err)
		}
	}
	err = d.measure(args.Image)
	if err == nil {
		err = d.watch()
	}
	if err != nil {
		return nil, d.give(err)
	}
	return d, nil
}

// give closes the disk after an error, which it returns.
func (d *disk) give(err error) error {
	d.lib.closeImage(d.image)
	d.close()
	return err
}
