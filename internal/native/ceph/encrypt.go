//go:build linux && (amd64 || arm64)

package ceph

import (
	"runtime"
	"syscall"
	"unsafe"

	"github.com/cowl-disk/cowl/internal/native/link"
)

// options makes the structure of the library for a layer.
func options(e *link.Encryption) (format int32, p unsafe.Pointer, size uintptr, err error) {
	passphrase := &append(e.Passphrase, 0)[0]
	n := uintptr(len(e.Passphrase))
	algorithm := int32(algorithmAES256)
	if e.Cipher == "aes-128" {
		algorithm = algorithmAES128
	}
	switch e.Format {
	case "luks":
		format = formatLUKS1
	case "luks2":
		format = formatLUKS2
	case "luks-any":
		o := &anyOptions{passphrase, n}
		return formatLUKS, unsafe.Pointer(o), unsafe.Sizeof(*o), nil
	default:
		return 0, nil, 0, &link.Error{Step: "encryption format", Name: e.Format, Errno: int(syscall.ENOTSUP)}
	}
	o := &luksOptions{algorithm, passphrase, n}
	return format, unsafe.Pointer(o), unsafe.Sizeof(*o), nil
}

// format makes an image an encrypted one.
func (l *library) format(image uintptr, e *link.Encryption) error {
	if l.encryptionFormat == nil {
		return &link.Error{Step: "no encryption"}
	}
	format, p, size, err := options(e)
	if err != nil {
		return err
	}
	r := l.encryptionFormat(image, format, p, size)
	runtime.KeepAlive(p)
	return failed("format encryption", "", r)
}

// unlock opens the layers of encryption of an image and those below it.
func (l *library) unlock(image uintptr, layers []link.Encryption) error {
	if l.encryptionLoad == nil {
		return &link.Error{Step: "no encryption"}
	}
	specs := make([]encryptionSpec, len(layers))
	for i := range layers {
		format, p, size, err := options(&layers[i])
		if err != nil {
			return err
		}
		if format == formatLUKS && l.encryptionLoad2 == nil {
			return &link.Error{Step: "encryption format", Name: layers[i].Format, Errno: int(syscall.ENOTSUP)}
		}
		specs[i] = encryptionSpec{format, p, size}
	}
	var err error
	switch {
	case len(specs) == 1:
		err = failed("load encryption", "", l.encryptionLoad(image, specs[0].format, specs[0].options, specs[0].size))
	case l.encryptionLoad2 == nil:
		err = &link.Error{Step: "no layers"}
	default:
		err = failed("load layers", "", l.encryptionLoad2(image, &specs[0], uintptr(len(specs))))
	}
	runtime.KeepAlive(specs)
	return err
}
