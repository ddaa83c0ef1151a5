package fstree

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"strings"
)

// verified reads a file from its start and fails at its end if it has another digest.
type verified struct {
	*io.SectionReader
	file   Reader
	path   string
	digest string // "" for any
	sum    hash.Hash
	done   bool
}

func newVerified(f Reader, size int64, path, digest string) *verified {
	v := &verified{SectionReader: io.NewSectionReader(f, 0, size), file: f, path: path, digest: digest}
	switch {
	case strings.HasPrefix(digest, "sha512:"):
		v.sum = sha512.New()
	case digest != "":
		v.sum = sha256.New()
	}
	return v
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.SectionReader.Read(p)
	if v.sum == nil {
		return n, err
	}
	v.sum.Write(p[:n])
	if err == io.EOF && !v.done {
		v.done = true
		if _, want, _ := strings.Cut(v.digest, ":"); hex.EncodeToString(v.sum.Sum(nil)) != want {
			return n, fmt.Errorf("%s: the file does not have the digest that the image names", v.path)
		}
	}
	return n, err
}

func (v *verified) Close() error { return v.file.Close() }
