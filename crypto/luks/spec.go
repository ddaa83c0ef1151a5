package luks

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cowl-disk/cowl/crypto/sector"
)

// Names that headers of version 1 and the options of a new volume may have. Some
// are known but supported by nothing.
var (
	hashNames  = []string{"md5", "sha1", "sha224", "sha256", "sha384", "sha512", "ripemd160", "sm3"}
	modeNames  = []string{"ecb", "cbc", "xts", "ctr"}
	ivgenNames = []string{"plain", "plain64", "essiv"}
	knownOther = []string{"des", "3des", "sm4"}
)

// algorithms maps the names of options to those of headers.
var algorithms = []algorithm{
	{"aes-128", "aes", 16}, {"aes-192", "aes", 24}, {"aes-256", "aes", 32},
	{"cast5-128", "cast5", 16},
	{"serpent-128", "serpent", 16}, {"serpent-192", "serpent", 24}, {"serpent-256", "serpent", 32},
	{"twofish-128", "twofish", 16}, {"twofish-192", "twofish", 24}, {"twofish-256", "twofish", 32},
}

type algorithm struct {
	option   string
	name     string
	keyBytes int
}

func contains(list []string, s string) bool { return slices.Contains(list, s) }

// keyFactor is how many keys of the cipher a mode needs.
func keyFactor(mode string) int {
	if mode == "xts" {
		return 2
	}
	return 1
}

// algorithmName names a cipher with the size of its key as options do, "" if there
// is none.
func algorithmName(spec sector.Spec, keyBytes int) string {
	for _, a := range algorithms {
		if a.name == spec.Cipher && a.keyBytes*keyFactor(spec.Mode) == keyBytes {
			return a.option
		}
	}
	return ""
}

// parseSpec1 reads the cipher of a header of version 1: a name, and
// "MODE-IVGEN[:HASH]".
func parseSpec1(cipher, mode string, keyBytes int) (sector.Spec, error) {
	name, iv, ok := strings.Cut(mode, "-")
	if !ok {
		return sector.Spec{}, errorf(ErrCorrupt, "unexpected cipher mode string format '%s'", mode)
	}
	unsupported := func(format, name string) (sector.Spec, error) {
		return sector.Spec{}, errorf(ErrUnsupported, format, name)
	}
	iv, hash, hasHash := strings.Cut(iv, ":")
	switch {
	case hasHash && !contains(hashNames, hash):
		return unsupported("hash algorithm '%s' not supported", hash)
	case !contains(modeNames, name):
		return unsupported("cipher mode '%s' not supported", name)
	}
	spec := sector.Spec{Cipher: cipher, Mode: name, IVGen: iv}
	if algorithmName(spec, keyBytes) == "" {
		return sector.Spec{}, errorf(ErrUnsupported, "algorithm '%s' with key size %d bytes not supported",
			cipher, keyBytes/keyFactor(name))
	}
	if !contains(ivgenNames, iv) {
		return unsupported("IV generator '%s' not supported", iv)
	}
	if iv == "essiv" {
		if !hasHash {
			return sector.Spec{}, errorf(ErrCorrupt, "missing IV generator hash specification")
		}
		spec.IVHash = hash
		if err := checkESSIV(spec, algorithmName(spec, keyBytes)); err != nil {
			return sector.Spec{}, err
		}
	}
	// The hash behind other generators means nothing, as it does to dm-crypt.
	return spec, nil
}

// checkESSIV refuses hashes whose digest is not a key of the cipher.
func checkESSIV(spec sector.Spec, option string) error {
	h, err := sector.Hash(spec.IVHash)
	if err != nil {
		return errorf(ErrUnsupported, "%w", err)
	}
	n := h().Size()
	for _, a := range algorithms {
		if a.name == spec.Cipher && a.keyBytes == n {
			return nil
		}
	}
	title, ok := map[string]string{"aes": "AES", "serpent": "Serpent", "twofish": "Twofish"}[spec.Cipher]
	if !ok {
		return errorf(ErrUnsupported, "cipher %s not supported with essiv", option)
	}
	return errorf(ErrUnsupported, "no %s cipher with key size %d available", title, n)
}

// parseSpec2 reads the cipher of version 2, "CIPHER-MODE-IVGEN[:HASH]". What sector
// does not know is refused when the cipher is made.
func parseSpec2(s string) (sector.Spec, error) {
	cipher, rest, ok := strings.Cut(s, "-")
	if !ok || cipher == "" || strings.HasPrefix(s, "capi:") || len(s) > 64 {
		return sector.Spec{}, errorf(ErrUnsupported, "cipher '%.64s' not supported", s)
	}
	mode, iv, _ := strings.Cut(rest, "-")
	iv, hash, _ := strings.Cut(iv, ":")
	spec := sector.Spec{Cipher: cipher, Mode: mode, IVGen: iv, IVHash: hash}
	if iv != "essiv" {
		spec.IVHash = ""
	}
	return spec, nil
}

// specMode writes the cipher mode of a header of version 1.
func specMode(mode, iv, hash string) string {
	if hash != "" {
		return fmt.Sprintf("%s-%s:%s", mode, iv, hash)
	}
	return mode + "-" + iv
}
