package vvfat

import (
	"context"
	"fmt"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

type openOptions struct {
	Dir     *string `opt:"dir" help:"Folder that the disk shows"`
	FATType int64   `opt:"fat-type" help:"Type of the file system: 12, 16 or 32 (default: by its size)"`
	Floppy  bool    `opt:"floppy" default:"off" help:"Whether it is a floppy disk, without partitions"`
	Label   *string `opt:"label" help:"Name of the file system (default: QEMU VVFAT)"`
	RW      bool    `opt:"rw" default:"off" help:"Whether changes reach the folder"`
}

const (
	scheme       = "fat"
	defaultLabel = "QEMU VVFAT"
	noLabel      = "NO NAME    "
	labelSize    = 11
)

var desc = driver.Desc{
	Name:        "vvfat",
	Kind:        driver.KindProtocol,
	Schemes:     []string{scheme},
	Summary:     "Folders as disks with a FAT file system",
	OpenOptions: opts.SchemaOf(openOptions{}),
}

// New returns the driver "vvfat".
func New() driver.Driver { return vvfatDriver{} }

type vvfatDriver struct{}

var _ driver.FilenameParser = vvfatDriver{}

// Desc implements driver.Driver.
func (vvfatDriver) Desc() *driver.Desc { return &desc }

// ParseFilename implements driver.FilenameParser, as QEMU does it: options may be anywhere
// between colons, and the folder is what follows the last colon. Folders with a colon in
// their names need the option dir.
func (vvfatDriver) ParseFilename(name string) (opts.Dict, error) {
	if !strings.HasPrefix(name, scheme+":") {
		return nil, invalid("file name string must start with 'fat:'")
	}
	bits := int64(0)
	for _, b := range []struct {
		mark string
		bits int64
	}{{":32:", 32}, {":16:", 16}, {":12:", 12}} {
		if strings.Contains(name, b.mark) {
			bits = b.bits
			break
		}
	}
	at := strings.LastIndexByte(name, ':')
	dir := name[at+1:]
	if name[at-2] == ':' && isLetter(name[at-1]) { // a drive of Windows
		dir = name[at-1:]
	}
	return opts.Dict{"dir": dir, "fat-type": bits, "floppy": strings.Contains(name, ":floppy:"), "rw": strings.Contains(name, ":rw:")}, nil
}

func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }

func invalid(format string, args ...any) error {
	return driver.Errorf(driver.ErrInvalid, format, args...)
}

// Open implements driver.Driver.
func (vvfatDriver) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	var o openOptions
	if err := desc.OpenOptions.Decode(req.Options, &o); err != nil {
		return nil, err
	}
	label, err := o.check()
	if err != nil {
		return nil, err
	}
	switch {
	case o.RW && !req.Access.Write:
		return nil, driver.Errorf(driver.ErrReadOnly, "unable to set VVFAT to 'rw' when drive is read-only")
	case !o.RW && req.Access.Write:
		return nil, driver.Errorf(driver.ErrReadOnly, "image is read-only")
	}
	return open(ctx, &o, label, req)
}

// check refuses what options cannot be, and returns the label as it is stored.
func (o *openOptions) check() (label [labelSize]byte, err error) {
	text := defaultLabel
	if o.Label != nil {
		text = strings.ToUpper(*o.Label)
	}
	switch {
	case o.Dir == nil:
		return label, invalid("vvfat block driver requires a 'dir' option")
	case len(text) > labelSize:
		return label, invalid("vvfat label cannot be longer than 11 bytes")
	case strings.HasPrefix(text, " ") || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' || strings.ContainsRune(`"*+,./:;<=>?[\]|`, r) }):
		return label, invalid("%q is no label of a FAT file system", text)
	case o.FATType != 0 && o.FATType != 12 && o.FATType != 16 && o.FATType != 32:
		return label, invalid("valid FAT types are only 12, 16 and 32")
	case o.Floppy && o.FATType == 32:
		return label, invalid("a floppy disk is too small for FAT32")
	}
	if strings.TrimSpace(text) == "" {
		text = noLabel
	}
	copy(label[:], fmt.Sprintf("%-*s", labelSize, text))
	return label, nil
}
