package http

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// ftpOptions are the options of the drivers for FTP: those of the web that mean
// something there.
type ftpOptions struct {
	URL            string `opt:"url" help:"URL of the disk"`
	Readahead      int64  `opt:"readahead" type:"size" default:"262144" help:"Size of the pieces that small reads fetch, a multiple of 512"`
	Timeout        int64  `opt:"timeout" default:"5" help:"Seconds without any progress after which a request is given up"`
	SSLVerify      bool   `opt:"sslverify" default:"on" help:"Verify the server's certificate"`
	CACert         string `opt:"cacert" help:"File of certificates (PEM) to trust in place of the system's"`
	Username       string `opt:"username" help:"User name for the server (default: anonymous)"`
	PasswordSecret string `opt:"password-secret" help:"ID of the secret that holds the password of the user"`
}

var ftpSchema = opts.SchemaOf(ftpOptions{})

type ftpDriver struct{ desc *driver.Desc }

// NewFTP returns the driver "ftp".
func NewFTP() driver.Driver { return newFTP("ftp", "Disks on FTP servers") }

// NewFTPS returns the driver "ftps".
func NewFTPS() driver.Driver { return newFTP("ftps", "Disks on FTP servers, over TLS") }

func newFTP(scheme, summary string) driver.Driver {
	return &ftpDriver{&driver.Desc{Name: scheme, Kind: driver.KindProtocol, Schemes: []string{scheme}, Summary: summary, OpenOptions: ftpSchema}}
}

var _ driver.FilenameParser = (*ftpDriver)(nil)

// Desc implements driver.Driver.
func (d *ftpDriver) Desc() *driver.Desc { return d.desc }

// ParseFilename implements driver.FilenameParser: the whole name is the URL.
func (d *ftpDriver) ParseFilename(name string) (opts.Dict, error) {
	return opts.Dict{"url": name}, nil
}

// Open implements driver.Driver.
func (d *ftpDriver) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	var o ftpOptions
	if err := ftpSchema.Decode(req.Options, &o); err != nil {
		return nil, err
	}
	if req.Access.Write {
		return nil, driver.Errorf(driver.ErrReadOnly, "curl driver does not support writes")
	}
	// What both kinds of server have is checked, and named, in the same way.
	common := &openOptions{URL: o.URL, Readahead: o.Readahead, Timeout: o.Timeout, SSLVerify: o.SSLVerify, CACert: o.CACert,
		Username: o.Username, PasswordSecret: o.PasswordSecret}
	u, err := common.check(d.desc.Name)
	if err != nil {
		return nil, err
	}
	c, err := newFTPClient(u, common, req.Env.Objects)
	if err != nil {
		return nil, err
	}
	n := &node{src: c, name: common.name(d.desc.Name)}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	if n.size, err = c.open(ctx); err != nil {
		n.release()
		return nil, driver.Errorf(driver.ErrInvalid, "error opening file: %w", err)
	}
	n.cache = newCache(n.ctx, n.src, n.size, windowOf(o.Readahead))
	return n, nil
}
