package qcow2

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/crypto/luks"
	"github.com/cowl-disk/cowl/crypto/sector"
	"github.com/cowl-disk/cowl/format/qcow2/internal/keys"
	"github.com/cowl-disk/cowl/format/qcow2/internal/tableio"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/internal/cryptio"
	"github.com/cowl-disk/cowl/opts"
)

// encryption is what reading and writing an encrypted disk needs (header bytes 32
// to 35; section "Data encryption"). Compressed clusters are not encrypted, and
// metadata never is.
type encryption struct {
	guest *cryptio.Storage // over image.data
	// byGuest: a sector is numbered by its place on the disk (method 1), else by
	// its place in the file that it is in.
	byGuest bool
}

// aesKeyBytes is the length of the key of method 1, which is the passphrase.
const aesKeyBytes = 16

// encrypted says whether the header names an encryption method.
func (im *image) encrypted() bool { return im.cryptMethod != ondisk.CryptNone }

// child returns the Storage in which the disk's bytes from off on are at host.
func (im *image) child(off, host int64) driver.Storage {
	switch {
	case im.crypto == nil:
		return im.data
	case im.crypto.byGuest:
		return im.crypto.guest.Shift(off - host)
	}
	return im.crypto.guest
}

// needKey refuses to look at the disk of an encrypted image that was opened for
// its metadata.
func (im *image) needKey() error {
	if im.crypto == nil && im.encrypted() {
		return keys.ErrRequired()
	}
	return nil
}

// cryptFormat is how options name an encryption method.
func cryptFormat(method uint32) string {
	if method == ondisk.CryptAES {
		return "aes"
	}
	return "luks"
}

// checkEncryptOptions refuses options that are not of the image's method.
func (im *image) checkEncryptOptions(options opts.Dict) error {
	asked := options.String("format")
	if !im.encrypted() {
		if asked != "" {
			return invalid("no encryption in image header, but options specified format '%s'", asked)
		}
		return nil
	}
	if have := cryptFormat(im.hdr.CryptMethod); asked != "" && asked != have {
		return invalid("header reported '%s' encryption format but options specify '%s'", have, asked)
	}
	names := make([]string, 0, len(options))
	for name := range options {
		if name != "format" && name != "key-secret" {
			names = append(names, name)
		}
	}
	if len(names) > 0 {
		return invalid("parameter '%s' is unexpected", slices.Min(names))
	}
	return nil
}

// openEncryption reads what the file says of encryption and, unless only metadata
// will be looked at, takes the key.
func (im *image) openEncryption(ctx context.Context, options opts.Dict) error {
	if !im.encrypted() {
		return nil
	}
	if im.hdr.CryptMethod == ondisk.CryptLUKS {
		if err := im.openLUKS(ctx); err != nil {
			return err
		}
	}
	im.describeEncryption()
	if im.access.NoIO {
		return nil
	}
	id := options.String("key-secret")
	if id == "" {
		return keys.ErrRequired()
	}
	secret, err := keys.Passphrase(im.env.Objects, id)
	if err != nil {
		return err
	}
	im.secretID = id
	if im.hdr.CryptMethod == ondisk.CryptAES {
		c, err := aesCipher(secret)
		if err != nil {
			return err
		}
		im.crypto = &encryption{guest: cryptio.New(im.data, c, 0), byGuest: true}
		return nil
	}
	key, err := im.luks.Unlock(ctx, secret)
	if err != nil {
		return keys.Error(err)
	}
	defer key.Wipe()
	c, err := im.luks.Cipher(key)
	if err != nil {
		return keys.Error(err)
	}
	im.crypto = &encryption{guest: cryptio.New(im.data, c, 0)}
	return nil
}

// aesCipher returns the cipher of method 1: the passphrase, cut or filled up with
// zeroes, is the key.
func aesCipher(secret []byte) (*sector.Cipher, error) {
	key := make([]byte, aesKeyBytes)
	copy(key, secret)
	return sector.New(sector.Spec{Cipher: "aes", Mode: "cbc", IVGen: "plain64"}, key, ondisk.SectorSize)
}

// openLUKS reads the header that the full disk encryption header pointer names.
func (im *image) openLUKS(ctx context.Context) error {
	for _, e := range im.exts {
		if e.Type != ondisk.ExtCrypto {
			continue
		}
		off, n := be64(e.Data), be64(e.Data[8:]) // useExtensions checked the length
		if off&uint64(im.clusterSize-1) != 0 {
			return driver.Errorf(driver.ErrCorrupt, "encryption header offset '%d' is not a multiple of cluster size '%d'", off, im.clusterSize)
		}
		size := uint64(im.file.Size())
		if off > size || n > size-off {
			return driver.Errorf(driver.ErrCorrupt, "encryption header of %d bytes at %d lies beyond the end of the file", n, off)
		}
		h, err := luks.Open(ctx, keys.NewArea(im.file, int64(off), int64(n)), int64(n))
		if err != nil {
			return keys.Error(err)
		}
		if h.Version != 1 {
			return driver.Errorf(driver.ErrUnsupported, "LUKS version %d is not supported", h.Version)
		}
		h.Reserve = func(n int64) (func(), error) {
			if err := im.env.Budget.Scratch("key derivation", n); err != nil {
				return nil, err
			}
			return func() { im.env.Budget.Release(n) }, nil
		}
		im.luks = h
		return nil
	}
	return driver.Errorf(driver.ErrCorrupt, "missing CRYPTO header for crypt method %d", im.hdr.CryptMethod)
}

// describeEncryption prepares what Info tells.
func (im *image) describeEncryption() {
	im.encrypt = json.RawMessage(`{"format":"` + cryptFormat(im.hdr.CryptMethod) + `"}`)
	if im.luks == nil {
		return
	}
	if out, err := json.Marshal(luksInfo(im.luks.Info())); err == nil {
		im.encrypt = out
	}
}

// zeroEncrypted makes n bytes of new room at host, of whole clusters for the disk
// from off on, read as zeroes: version 3 can say so of clusters (false), version 2
// cannot, and they are written (true).
func (im *image) zeroEncrypted(ctx context.Context, off, host, n int64) (bool, error) {
	if im.version >= 3 {
		return false, nil
	}
	child := im.child(off, host)
	zero := make([]byte, min(n, tableio.PieceBytes))
	for at := int64(0); at < n; at += int64(len(zero)) {
		if _, err := child.WriteAt(ctx, zero[:min(int64(len(zero)), n-at)], host+at); err != nil {
			return false, err
		}
	}
	return true, nil
}
