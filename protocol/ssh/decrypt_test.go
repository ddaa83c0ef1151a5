package ssh

import (
	"errors"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/cowl-disk/cowl/block/driver"
)

// TestDecryptPauses: the clock that gives up a silent server does not run while a key is decrypted.
func TestDecryptPauses(t *testing.T) {
	parse := parseEncrypted
	defer func() { parseEncrypted = parse }()
	running := true
	k := &encryptedKey{c: &credentials{d: &dialer{o: &openOptions{KeySecret: "p"}, env: &driver.Env{Objects: driver.Secrets{"p": "x"}}}, ctx: t.Context(), pause: func() func() {
		running = false
		return func() { running = true }
	}}}
	asked := false
	parseEncrypted = func(_, _ []byte) (ssh.Signer, error) {
		if asked = true; running {
			t.Error("the clock runs")
		}
		return nil, errors.New("no key")
	}
	if err := k.decrypt(); err == nil || !asked || !running {
		t.Errorf("%v, asked %v, the clock runs %v", err, asked, running)
	}
}
