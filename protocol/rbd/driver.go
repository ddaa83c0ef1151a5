package rbd

import (
	"context"
	"math"
	"math/bits"
	"syscall"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/native"
	"github.com/cowl-disk/cowl/internal/native/link"
	"github.com/cowl-disk/cowl/opts"
)

const (
	sectorSize = 512
	minObject  = 4096
)

// createOptions are the options of a new image.
type createOptions struct {
	ObjectSize int64  `opt:"cluster_size" type:"size" help:"RBD object size"`
	Secret     string `opt:"password-secret" help:"ID of secret providing the password"`
	Format     string `opt:"encrypt.format" help:"Encrypt the image, format choices: 'luks', 'luks2'"`
	Cipher     string `opt:"encrypt.cipher-alg" help:"Name of encryption cipher algorithm (allowed values: aes-128, aes-256)"`
	KeySecret  string `opt:"encrypt.key-secret" help:"ID of secret providing LUKS passphrase"`
}

var createSchema = opts.SchemaOf(createOptions{})

var desc = driver.Desc{
	Name:          "rbd",
	Kind:          driver.KindProtocol,
	Schemes:       []string{"rbd"},
	Summary:       "Images of Ceph",
	OpenOptions:   openSchema,
	CreateOptions: createSchema,
}

// New returns the driver "rbd".
func New() driver.Driver { return rbdDriver{} }

type rbdDriver struct{}

var (
	_ driver.FilenameParser = rbdDriver{}
	_ driver.Creator        = rbdDriver{}
	_ driver.Deleter        = rbdDriver{}
)

// Desc implements driver.Driver.
func (rbdDriver) Desc() *driver.Desc { return &desc }

// ParseFilename implements driver.FilenameParser.
func (rbdDriver) ParseFilename(name string) (opts.Dict, error) { return parseName(name) }

// Open implements driver.Driver.
func (rbdDriver) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	o, err := decode(req.Options, req.Env)
	if err != nil {
		return nil, err
	}
	args, err := o.args(req.Env)
	if err != nil {
		return nil, err
	}
	if req.Access.Write && args.Snapshot != "" {
		return nil, driver.Errorf(syscall.EACCES, "rbd snapshots are read-only")
	}
	args.Write, args.Cache = req.Access.Write, !req.Cache.Direct
	d, err := engine().Open(ctx, req.Env, args, native.Options{Write: req.Access.Write, NoFlush: req.Cache.NoFlush, Sequential: req.Sequential,
		Timeout: o.timeout(), Subject: "the image '" + args.Image + "'"})
	if err != nil {
		return nil, err
	}
	return &node{Disk: d, o: o}, nil
}

// named reads the options in a file name.
func named(name string, env *driver.Env) (*openOptions, *link.RBD, error) {
	given, err := parseName(name)
	if err != nil {
		return nil, nil, err
	}
	o, err := decode(given, env)
	if err != nil {
		return nil, nil, err
	}
	args, err := o.args(env)
	return o, args, err
}

// Create implements driver.Creator. An image that exists is not replaced.
func (rbdDriver) Create(ctx context.Context, req *driver.CreateRequest) error {
	var c createOptions
	if err := createSchema.Decode(req.Options, &c); err != nil {
		return err
	}
	o, args, err := named(req.Filename, req.Env)
	switch {
	case err != nil:
		return err
	case o.Snapshot != nil:
		return invalid("can't use snapshot name for image creation")
	case req.Size < 0 || req.Size > math.MaxInt64/4:
		return driver.Errorf(driver.ErrTooLarge, "image size %d is too large", req.Size)
	case c.ObjectSize&(c.ObjectSize-1) != 0:
		return invalid("obj size needs to be power of 2")
	case c.ObjectSize != 0 && c.ObjectSize < minObject:
		return invalid("obj size too small")
	}
	args.Size = (req.Size + sectorSize - 1) / sectorSize * sectorSize
	if c.ObjectSize != 0 {
		args.Order = bits.TrailingZeros64(uint64(c.ObjectSize))
	}
	if c.Secret != "" {
		o.KeySecret = c.Secret
		a, err := o.args(req.Env)
		if err != nil {
			return err
		}
		args.Key = a.Key
	}
	if err := c.encryption(args, req.Env); err != nil {
		return err
	}
	args.Cache = true // so that what opens the image next has the same connection
	return engine().Create(ctx, req.Env, args, req.Made)
}

// encryption adds the encryption of a new image.
func (c *createOptions) encryption(args *link.RBD, env *driver.Env) error {
	switch {
	case c.Format == "" && c.Cipher == "" && c.KeySecret == "":
		return nil
	case c.Format == "":
		return invalid("parameter '%s' is missing", "format")
	case c.Format != "luks" && c.Format != "luks2":
		return invalid("parameter '%s' does not accept value '%s'", "format", c.Format)
	case c.Cipher != "" && c.Cipher != "aes-128" && c.Cipher != "aes-256":
		return invalid("parameter '%s' does not accept value '%s'", "cipher-alg", c.Cipher)
	case c.KeySecret == "":
		return invalid("parameter '%s' is missing", "key-secret")
	}
	passphrase, err := env.Secret(c.KeySecret)
	if err != nil {
		return err
	}
	args.Encryption = []link.Encryption{{Format: c.Format, Cipher: c.Cipher, Passphrase: passphrase}}
	return nil
}

// removing bounds the removal of an image. One that is needed since the work was cancelled must
// not take long, and may not be possible yet: the cluster waits for a program that
// wrote and has not said goodbye.
const removing = 300 * time.Millisecond

// Delete implements driver.Deleter.
func (rbdDriver) Delete(ctx context.Context, filename string) error {
	_, args, err := named(filename, nil)
	if err != nil {
		return err
	}
	return engine().Delete(ctx, args, removing)
}
