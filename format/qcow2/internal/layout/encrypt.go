package layout

import (
	"encoding/binary"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/crypto/luks"
	"github.com/cowl-disk/cowl/format/qcow2/internal/keys"
	"github.com/cowl-disk/cowl/format/qcow2/internal/tableio"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// setEncryption checks the options of encryption.
func (p *createParams) setEncryption(o *createOptions) error {
	old := o.Encryption != nil && *o.Encryption
	if old && o.EncryptFormat != nil {
		return invalid("'encrypt.format' and its alias 'encryption' can't be used at the same time")
	}
	ofLUKS := []struct {
		name string
		s    *string
	}{{"cipher-alg", o.CipherAlg}, {"cipher-mode", o.CipherMode}, {"hash-alg", o.HashAlg}, {"ivgen-alg", o.IVGenAlg}, {"ivgen-hash-alg", o.IVGenHashAlg}}
	if !old && o.EncryptFormat == nil {
		given := o.IterTime != nil || o.KeySecret != nil
		for _, x := range ofLUKS {
			given = given || x.s != nil
		}
		if given {
			return invalid("parameter 'encrypt.format' is missing")
		}
		return nil
	}
	p.keySecret = text(o.KeySecret)
	switch {
	case old || *o.EncryptFormat == "aes":
		p.crypt = ondisk.CryptAES
		for _, x := range ofLUKS {
			if x.s != nil {
				return invalid("parameter 'encrypt.%s' is unexpected", x.name)
			}
		}
		if o.IterTime != nil {
			return invalid("parameter 'encrypt.iter-time' is unexpected")
		}
	case *o.EncryptFormat == "luks":
		p.crypt = ondisk.CryptLUKS
		p.luks = luks.CreateOptions{CipherAlg: text(o.CipherAlg), CipherMode: text(o.CipherMode), HashAlg: text(o.HashAlg),
			IVGenAlg: text(o.IVGenAlg), IVGenHashAlg: text(o.IVGenHashAlg)}
		if o.IterTime != nil {
			p.luks.IterTime = luks.IterTime(*o.IterTime)
		}
		if err := p.luks.Check(); err != nil {
			return keys.Error(err)
		}
	default:
		return invalid("parameter 'format' does not accept value '%s'", *o.EncryptFormat)
	}
	return nil
}

// secret returns the passphrase of a new encrypted image, nil without encryption.
func (p *createParams) secret(objects driver.Objects) ([]byte, error) {
	switch {
	case p.crypt == ondisk.CryptNone:
		return nil, nil
	case p.keySecret == "":
		return nil, keys.ErrRequired()
	}
	return keys.Passphrase(objects, p.keySecret)
}

// cryptoSize returns how many bytes of the file the LUKS header takes.
func (p *createParams) cryptoSize() (int64, error) {
	if p.crypt != ondisk.CryptLUKS {
		return 0, nil
	}
	n, err := luks.HeaderSize(p.luks)
	return tableio.AlignUp(n, 1<<p.clusterBits), keys.Error(err)
}

// cryptoExtension returns the full disk encryption header pointer, whose offset is
// not known yet; nothing without a LUKS header.
func (c *creation) cryptoExtension() ([]ondisk.Extension, error) {
	if c.crypt != ondisk.CryptLUKS {
		return nil, nil
	}
	n, err := luks.HeaderSize(c.luks)
	if err != nil {
		return nil, keys.Error(err)
	}
	return []ondisk.Extension{{Type: ondisk.ExtCrypto, Data: binary.BigEndian.AppendUint64(make([]byte, 8), uint64(n))}}, nil
}

// writeLUKS makes room for the LUKS header, writes it, and completes the pointer to
// it. All of its clusters are written: nothing that was in the file before shows.
// end is where the file must reach otherwise; the new end is returned.
func (c *creation) writeLUKS(pointer []byte, end int64) (int64, error) {
	n := int64(binary.BigEndian.Uint64(pointer[8:]))
	off, err := c.plan.alloc(n)
	if err != nil {
		return 0, err
	}
	binary.BigEndian.PutUint64(pointer, uint64(off))
	whole := tableio.AlignUp(n, c.plan.clusterSize())
	zero := make([]byte, min(whole, tableio.PieceBytes))
	for at := int64(0); at < whole; at += int64(len(zero)) {
		if _, err := c.file.WriteAt(c.ctx, zero[:min(int64(len(zero)), whole-at)], off+at); err != nil {
			return 0, err
		}
	}
	_, key, err := luks.Create(c.ctx, keys.NewArea(c.file, off, n), c.luks, c.secret)
	if err != nil {
		return 0, keys.Error(err)
	}
	key.Wipe()
	return max(end, off+whole), nil
}
