package qcow

import (
	"bytes"
	"context"
	"encoding/binary"
	"strings"
	"unicode/utf8"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/crypto/sector"
	"github.com/cowl-disk/cowl/opts"
)

type qcowDriver struct{}

// New returns the driver "qcow".
func New() driver.Driver { return qcowDriver{} }

type openOptions struct {
	Format    string `opt:"encrypt.format" help:"Encryption format of the image ('aes')"`
	KeySecret string `opt:"encrypt.key-secret" help:"ID of the secret that provides the AES encryption key"`
}

// createOptions declares what Create and Measure accept.
type createOptions struct {
	BackingFile   string  `opt:"backing_file" help:"File name of a base image"`
	BackingFormat string  `opt:"backing_fmt" help:"Format of the backing image"`
	EncryptFormat *string `opt:"encrypt.format" help:"Encrypt the image, format choices: 'aes'"`
	KeySecret     *string `opt:"encrypt.key-secret" help:"ID of the secret that provides the AES encryption key"`
	Encryption    *bool   `opt:"encryption" help:"Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)"`
	Size          int64   `opt:"size" type:"size" help:"Virtual disk size"`
}

var desc = driver.Desc{
	Name: "qcow",
	Kind: driver.KindFormat,
	Children: []driver.ChildDesc{
		{Role: "file", Use: driver.UseMetadata},
		{Role: "backing", Use: driver.UseBacking, Optional: true},
	},
	CreateOrder:   strings.Fields("size backing_file backing_fmt encryption encrypt.format encrypt.key-secret preallocation nocow extent_size_hint"),
	Summary:       "QEMU copy-on-write image, version 1",
	OpenOptions:   opts.SchemaOf(openOptions{}),
	CreateOptions: opts.SchemaOf(createOptions{}),
}

var (
	_ driver.Prober   = qcowDriver{}
	_ driver.Creator  = qcowDriver{}
	_ driver.Measurer = qcowDriver{}

	_ driver.Allocator  = (*image)(nil)
	_ driver.ZeroWriter = (*image)(nil)
	_ driver.Compressor = (*image)(nil)
	_ driver.Emptier    = (*image)(nil)
	_ driver.Stater     = (*image)(nil)
	_ driver.Describer  = (*image)(nil)
)

// Desc implements driver.Driver.
func (qcowDriver) Desc() *driver.Desc { return &desc }

// Probe implements driver.Prober.
func (qcowDriver) Probe(head []byte, _ int64, _ string) int {
	if len(head) >= headerSize && string(head[:4]) == magic && binary.BigEndian.Uint32(head[4:]) == version {
		return 100
	}
	return 0
}

// Open implements driver.Driver.
func (qcowDriver) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	var o openOptions
	if err := desc.OpenOptions.Decode(req.Options, &o); err != nil {
		return nil, err
	}
	return open(ctx, req, &o)
}

// newCipher returns the cipher for a passphrase that an option names: the key is the
// passphrase, cut or filled up with zeroes.
func newCipher(objects driver.Objects, id string) (*sector.Cipher, error) {
	if id == "" {
		return nil, invalid("parameter 'encrypt.key-secret' is required for cipher")
	}
	env := driver.Env{Objects: objects}
	secret, err := env.Secret(id)
	if err != nil {
		return nil, err
	}
	if !utf8.Valid(secret) || bytes.IndexByte(secret, 0) >= 0 {
		return nil, invalid("data from secret %s is not valid UTF-8", id)
	}
	key := make([]byte, 16)
	copy(key, secret)
	return sector.New(sector.Spec{Cipher: "aes", Mode: "cbc", IVGen: "plain64"}, key, sectorSize)
}
