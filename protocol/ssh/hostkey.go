package ssh

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/skeema/knownhosts"
	"golang.org/x/crypto/ssh"
	xknownhosts "golang.org/x/crypto/ssh/knownhosts"

	"github.com/cowl-disk/cowl/block/driver"
)

// hostKeyAlgorithms is the order of preference where nothing is known of a server: that
// of libssh, so that a hash that was made for QEMU is of the same key.
var hostKeyAlgorithms = []string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA521, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA256,
	ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}

// HostKeyError says that the key of a server is not one that is trusted.
type HostKeyError struct {
	template string
	args     []any
}

func (e *HostKeyError) Error() string { return driver.Text(e) }

// Template implements driver.Message.
func (e *HostKeyError) Template() (string, []any) { return e.template, e.args }

// Unwrap tells the kind.
func (e *HostKeyError) Unwrap() error { return driver.ErrInvalid }

func untrusted(template string, args ...any) error { return &HostKeyError{template, args} }

// checkHostKey prepares the check of the key of t: k is for the server of the disk. Keys
// of servers on the way, where through is set, have to be in the known_hosts files.
func (c *config) checkHostKey(k hostKey, t *target, through bool) (ssh.HostKeyCallback, []string, error) {
	algorithms := hostKeyAlgorithms
	if v := c.get(t.alias, "HostKeyAlgorithms"); v != "" {
		algorithms = chooseAlgorithms(v)
		if len(algorithms) == 0 {
			return nil, nil, invalid("none of the HostKeyAlgorithms of '%s' is supported", t.alias)
		}
	}
	switch {
	case k.Mode == "none" && !through:
		return ssh.InsecureIgnoreHostKey(), algorithms, nil
	case k.Mode == "hash" && !through:
		return k.checkHash, algorithms, nil
	}
	return c.checkKnownHosts(t, algorithms, c.get(t.alias, "HostKeyAlgorithms") != "")
}

// chooseAlgorithms applies a value of HostKeyAlgorithms: a list, or one with a sign that
// says what to do with the default.
func chooseAlgorithms(v string) []string {
	known := append(slices.Clone(ssh.SupportedAlgorithms().HostKeys), hostKeyAlgorithms...)
	list := strings.Split(strings.TrimLeft(v, "+-^"), ",")
	named := slices.DeleteFunc(slices.Clone(list), func(a string) bool { return !slices.Contains(known, a) })
	rest := slices.DeleteFunc(slices.Clone(hostKeyAlgorithms), func(a string) bool { return slices.Contains(list, a) })
	switch v[0] {
	case '+':
		return append(rest, named...)
	case '-':
		return rest
	case '^':
		return append(named, rest...)
	}
	return named
}

func (k hostKey) checkHash(_ string, _ net.Addr, key ssh.PublicKey) error {
	blob := key.Marshal()
	var got string
	switch k.Type {
	case "md5":
		sum := md5.Sum(blob)
		got = hex.EncodeToString(sum[:])
	case "sha1":
		sum := sha1.Sum(blob)
		got = hex.EncodeToString(sum[:])
	default:
		sum := sha256.Sum256(blob)
		got = hex.EncodeToString(sum[:])
	}
	if strings.EqualFold(strings.ReplaceAll(k.Hash, ":", ""), got) {
		return nil
	}
	return untrusted("remote host %s key fingerprint '%s:%s' does not match host_key_check '%s:%s'", key.Type(), k.Type, got, k.Type, k.Hash)
}

// knownHostsFiles are the files that there are.
func (c *config) knownHostsFiles(t *target) (files []string) {
	for _, source := range []struct{ key, names string }{
		{"UserKnownHostsFile", "~/.ssh/known_hosts ~/.ssh/known_hosts2"},
		{"GlobalKnownHostsFile", "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"},
	} {
		names := c.get(t.alias, source.key)
		if names == "" {
			names = source.names
		}
		for _, name := range strings.Fields(names) {
			name = c.path(c.expand(strings.Trim(name, `"`), t))
			if st, err := os.Stat(name); err == nil && st.Mode().IsRegular() {
				files = append(files, name)
			}
		}
	}
	return files
}

func (c *config) checkKnownHosts(t *target, algorithms []string, chosen bool) (ssh.HostKeyCallback, []string, error) {
	files := c.knownHostsFiles(t)
	if len(files) == 0 {
		return nil, nil, untrusted("known_hosts file not found")
	}
	db, err := knownhosts.NewDB(files...)
	if err != nil {
		return nil, nil, invalid("could not read the known_hosts files: %w", err)
	}
	name := address(t.host, t.port)
	if v := c.get(t.alias, "HostKeyAlias"); v != "" {
		name = address(v, defaultPort)
	}
	if known := db.HostKeyAlgorithms(name); len(known) > 0 && !chosen {
		// Keys that are known first; the others are asked for only to tell what is wrong.
		algorithms = slices.Clone(known)
		for _, a := range hostKeyAlgorithms {
			if !slices.Contains(algorithms, a) {
				algorithms = append(algorithms, a)
			}
		}
	}
	check := db.HostKeyCallback()
	return func(_ string, remote net.Addr, key ssh.PublicKey) error {
		return knownHostsError(check(name, nameOnly(name), key), key)
	}, algorithms, nil
}

// nameOnly stands for the address of the server: only the name that it was asked for by
// counts, as with OpenSSH's CheckHostIP=no.
type nameOnly string

func (nameOnly) Network() string  { return "tcp" }
func (n nameOnly) String() string { return string(n) }

// knownHostsError words what the library says of a key.
func knownHostsError(err error, key ssh.PublicKey) error {
	var ke *xknownhosts.KeyError
	var re *xknownhosts.RevokedError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &re):
		return untrusted("host key (%s key with fingerprint %s) is marked as revoked in %s", key.Type(), ssh.FingerprintSHA256(key), re.Revoked.Filename)
	case errors.As(err, &ke) && len(ke.Want) == 0:
		return untrusted("no host key was found in known_hosts")
	case ke != nil:
		for _, w := range ke.Want {
			if w.Key.Type() == key.Type() {
				return untrusted("host key (%s key with fingerprint %s) does not match the one in known_hosts; this may be a possible attack",
					key.Type(), ssh.FingerprintSHA256(key))
			}
		}
		return untrusted("host key for this server not found, another type exists")
	}
	return driver.Errorf(driver.ErrInvalid, "could not check the host key: %w", err)
}
