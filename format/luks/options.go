package luks

import (
	"bytes"
	"errors"
	"unicode/utf8"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/crypto/luks"
	"github.com/cowl-disk/cowl/opts"
)

// openOptions are the options of an open image. Those of the child "header" are taken
// before.
type openOptions struct {
	KeySecret *string `opt:"key-secret" help:"ID of the secret that provides the keyslot passphrase"`
}

// createOptions are in the order in which they are announced.
type createOptions struct {
	Size           int64   `opt:"size" type:"size" help:"Virtual disk size"`
	KeySecret      *string `opt:"key-secret" help:"ID of the secret that provides the keyslot passphrase"`
	CipherAlg      string  `opt:"cipher-alg" help:"Name of encryption cipher algorithm"`
	CipherMode     string  `opt:"cipher-mode" help:"Name of encryption cipher mode"`
	IVGenAlg       string  `opt:"ivgen-alg" help:"Name of IV generator algorithm"`
	IVGenHashAlg   string  `opt:"ivgen-hash-alg" help:"Name of IV generator hash algorithm"`
	HashAlg        string  `opt:"hash-alg" help:"Name of encryption hash algorithm"`
	IterTime       *int64  `opt:"iter-time" help:"Time to spend in PBKDF in milliseconds"`
	DetachedHeader bool    `opt:"detached-header" help:"Create a detached LUKS header"`
	// Ours: QEMU makes version 1 only, and lists what it has.
	Version    int64  `opt:"version" hidden:"on" help:"LUKS version: 1 (default) or 2"`
	PBKDF      string `opt:"pbkdf" hidden:"on" help:"Key derivation of version 2: argon2id (default), argon2i or pbkdf2"`
	Memory     int64  `opt:"pbkdf-memory" type:"size" hidden:"on" help:"Memory that argon2 takes"`
	Parallel   int64  `opt:"pbkdf-parallel" hidden:"on" help:"Threads that argon2 takes"`
	SectorSize int64  `opt:"sector-size" type:"size" hidden:"on" help:"Sector size of version 2, 512 to 4096"`
	Label      string `opt:"label" hidden:"on" help:"Label of version 2"`
	// Listed by the protocol, which knows what it can do.
	Preallocation string `opt:"preallocation" hidden:"on" help:"Preallocation mode (allowed values: off, falloc, full)"`
}

// amendOptions declares what Amend accepts.
type amendOptions struct {
	State     *string `opt:"state" help:"Select new state of affected keyslots (active/inactive)"`
	NewSecret *string `opt:"new-secret" help:"New secret to set in the matching keyslots. Empty string to erase"`
	OldSecret *string `opt:"old-secret" help:"Select all keyslots that match this password"`
	Keyslot   *int64  `opt:"keyslot" help:"Select a single keyslot to modify explicitly"`
	IterTime  *int64  `opt:"iter-time" help:"Time to spend in PBKDF in milliseconds"`
}

var (
	openSchema   = opts.SchemaOf(openOptions{})
	createSchema = opts.SchemaOf(createOptions{})
	amendSchema  = opts.SchemaOf(amendOptions{})
)

// maxSector is the largest sector size, in bytes.
const maxSector = 4096

// roundUp gives a disk whole sectors, where those are larger than 512 bytes.
func (o *createOptions) roundUp(size int64) int64 {
	if o.SectorSize <= sectorSize {
		return size
	}
	return (size + o.SectorSize - 1) / o.SectorSize * o.SectorSize
}

// small makes an int of a number; what is out of range stays so.
func small(n int64) int { return int(max(-1, min(n, 1<<30))) }

func (o *createOptions) volume() luks.CreateOptions {
	v := luks.CreateOptions{CipherAlg: o.CipherAlg, CipherMode: o.CipherMode, IVGenAlg: o.IVGenAlg,
		IVGenHashAlg: o.IVGenHashAlg, HashAlg: o.HashAlg, Detached: o.DetachedHeader, PBKDF: o.PBKDF, Memory: o.Memory, Label: o.Label,
		Version: small(o.Version), Parallel: small(o.Parallel), SectorSize: small(o.SectorSize)}
	if o.IterTime != nil {
		v.IterTime = luks.IterTime(*o.IterTime)
	}
	return v
}

// prealloc reads the preallocation mode. There is no metadata to preallocate, so that
// mode means none.
func (o *createOptions) prealloc() (driver.Prealloc, error) {
	switch p := driver.Prealloc(o.Preallocation); p {
	case "", driver.PreallocMetadata:
		return driver.PreallocOff, nil
	case driver.PreallocOff, driver.PreallocFalloc, driver.PreallocFull:
		return p, nil
	}
	return "", driver.Errorf(driver.ErrInvalid, "invalid parameter value: %s", o.Preallocation)
}

var errNoSecret = driver.Errorf(driver.ErrInvalid, "parameter 'key-secret' is required for cipher")

// passphrase returns what a secret holds, which must be text: passphrases that no one
// could type would be lost with the file they are in.
func passphrase(objects driver.Objects, ref *string) ([]byte, error) {
	if ref == nil {
		return nil, errNoSecret
	}
	id := *ref
	p, err := (&driver.Env{Objects: objects}).Secret(id)
	if err != nil {
		return nil, err
	}
	if !utf8.Valid(p) || bytes.IndexByte(p, 0) >= 0 {
		return nil, driver.Errorf(driver.ErrInvalid, "data from secret %s is not valid UTF-8", id)
	}
	return p, nil
}

// failure gives errors of the header the kinds that callers of drivers know.
func failure(err error) error {
	for _, k := range []struct{ from, to error }{
		{luks.ErrFormat, driver.ErrFormat}, {luks.ErrCorrupt, driver.ErrCorrupt}, {luks.ErrUnsupported, driver.ErrUnsupported},
		{luks.ErrLimit, driver.ErrBudget}, {luks.ErrPassphrase, driver.ErrInvalid}, {luks.ErrInvalid, driver.ErrInvalid},
		{luks.ErrLastKey, driver.ErrInvalid},
	} {
		if errors.Is(err, k.from) {
			return driver.Errorf(k.to, "%w", err)
		}
	}
	return err
}
