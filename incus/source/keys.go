package source

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"regexp"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
)

// keyring has the keys that signatures are verified with.
type keyring struct{ list openpgp.EntityList }

var keyID = regexp.MustCompile(`^(?:0x)?([0-9a-fA-F]{16,40})$`)

// secure decides how what comes from an address is verified: with keys, or, over https and
// without any, without. It fails where neither is possible.
func (g *getter) secure(address string) (signatures bool, err error) {
	u, err := url.Parse(address)
	if err != nil {
		return false, err
	}
	switch {
	case g.d.Source.SkipVerification:
		g.Warn("source.skip_verification: what is downloaded from " + u.Host + " is not verified")
		return false, nil
	case len(g.d.Source.Keys) > 0:
		if g.keys == nil {
			g.keys, err = g.loadKeys()
		}
		return true, err
	case u.Scheme != "https":
		return false, errors.New("GPG keys are required if downloading from HTTP: set source.keys or source.skip_verification")
	}
	return false, nil
}

// loadKeys reads the keys of the definition. Those that are named by their fingerprints
// come from the key server.
func (g *getter) loadKeys() (*keyring, error) {
	k := &keyring{}
	for _, text := range g.d.Source.Keys {
		text, err := g.d.Render(text)
		if err != nil {
			return nil, fmt.Errorf("failed to render source keys: %w", err)
		}
		if text = strings.TrimSpace(text); strings.HasPrefix(text, "-----BEGIN PGP") {
			list, err := openpgp.ReadArmoredKeyRing(strings.NewReader(text))
			if err != nil {
				return nil, fmt.Errorf("source.keys: %w", err)
			}
			k.list = append(k.list, list...)
			continue
		}
		m := keyID.FindStringSubmatch(strings.ReplaceAll(text, " ", ""))
		if m == nil {
			return nil, fmt.Errorf("source.keys: %.60q is neither a key nor the fingerprint of one, of 16 to 40 digits", text)
		}
		if err := g.fetchKey(k, m[1]); err != nil {
			return nil, fmt.Errorf("source.keys: key %s: %w", m[1], err)
		}
	}
	return k, nil
}

func (g *getter) fetchKey(k *keyring, id string) error {
	server := g.d.Source.Keyserver
	scheme, host, ok := strings.Cut(server, "://")
	switch {
	case !ok:
		server = "https://" + server
	case scheme == "hkps":
		server = "https://" + host
	case scheme == "hkp":
		server = "http://" + host
		if !strings.Contains(host, ":") {
			server += ":11371"
		}
	}
	text, err := g.text(strings.TrimRight(server, "/") + "/pks/lookup?op=get&options=mr&search=0x" + id)
	if err != nil {
		return err
	}
	list, err := openpgp.ReadArmoredKeyRing(bytes.NewReader(text))
	if err != nil {
		return err
	}
	for _, e := range list { // servers may send others
		if strings.HasSuffix(hex.EncodeToString(e.PrimaryKey.Fingerprint), strings.ToLower(id)) {
			k.list = append(k.list, e)
			return nil
		}
	}
	return errors.New("the key server sent another one")
}

// verify checks a detached signature, armored or not, of what r has.
func (g *getter) verify(name string, r io.Reader, signature []byte) error {
	check := openpgp.CheckDetachedSignature
	if bytes.HasPrefix(bytes.TrimSpace(signature), []byte("-----BEGIN")) {
		check = openpgp.CheckArmoredDetachedSignature
	}
	if _, err := check(g.keys.list, r, bytes.NewReader(signature), nil); err != nil {
		return fmt.Errorf("invalid signature for %q: %w", name, err)
	}
	return nil
}

// verifyFile is verify for a file, with the signature at an address.
func (g *getter) verifyFile(path, address string) error {
	signature, err := g.text(address)
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return g.verify(path, f, signature)
}

// signedText returns what a text with a signature in it says. Without keys any text is
// taken.
func (g *getter) signedText(name string, text []byte, signatures bool) ([]byte, error) {
	block, _ := clearsign.Decode(text)
	if block == nil {
		if signatures {
			return nil, fmt.Errorf("%s is not signed", name)
		}
		return text, nil
	}
	if !signatures {
		return block.Plaintext, nil
	}
	if _, err := block.VerifySignature(g.keys.list, nil); err != nil {
		return nil, fmt.Errorf("invalid signature for %q: %w", name, err)
	}
	return block.Plaintext, nil
}
