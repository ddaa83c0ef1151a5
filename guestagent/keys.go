package guestagent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// MaxKeyFile bounds a file of authorized keys, in bytes.
const MaxKeyFile = 16 << 20

// KeyFile is the file with the keys that may log in as a user by SSH.
type KeyFile interface {
	// Read returns the lines of the file. Where there is none, the error is
	// fs.ErrNotExist.
	Read() ([]string, error)
	// Write replaces the file as a whole: whoever reads it sees the old or the new one.
	Write(lines []string) error
	Close()
}

// AuthorizedKeys is the reply of guest-ssh-get-authorized-keys.
type AuthorizedKeys struct {
	Keys []string `qga:"keys"`
}

type keyUserArgs struct {
	User string `qga:"username"`
}

type keyAddArgs struct {
	User  string   `qga:"username"`
	Keys  []string `qga:"keys"`
	Reset *bool    `qga:"reset,optional"`
}

type keyRemoveArgs struct {
	User string   `qga:"username"`
	Keys []string `qga:"keys"`
}

// keyCommands are the commands for keys of a system with open.
type keyCommands struct {
	open func(user string, create bool) (KeyFile, error)
}

// KeyCommands returns the commands for SSH keys. open finds the file of a user; with
// create it makes the folder of the file, and without it returns fs.ErrNotExist where
// there is none.
func KeyCommands(open func(user string, create bool) (KeyFile, error)) []Command {
	k := keyCommands{open}
	return []Command{
		New("guest-ssh-get-authorized-keys", "5.2", "Report the keys that may log in as a user", k.get),
		New("guest-ssh-add-authorized-keys", "5.2", "Let keys log in as a user", k.add),
		New("guest-ssh-remove-authorized-keys", "5.2", "Let keys no longer log in as a user", k.remove),
	}
}

func checkKeys(keys []string) error {
	for _, k := range keys {
		if strings.HasPrefix(k, "#") || strings.Contains(k, "\n") {
			return fmt.Errorf("invalid OpenSSH public key: '%s'", k)
		}
	}
	return nil
}

// KeyLines cuts the content of a file of keys into lines.
func KeyLines(data []byte) []string {
	text := strings.TrimSuffix(string(data), "\n")
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

// KeyText is the content of a file of keys with these lines.
func KeyText(lines []string) string {
	text := strings.Join(lines, "\n")
	if text != "" {
		text += "\n"
	}
	return text
}

func (k keyCommands) get(_ context.Context, args keyUserArgs) (AuthorizedKeys, error) {
	f, err := k.open(args.User, false)
	if err != nil {
		return AuthorizedKeys{}, err
	}
	defer f.Close()
	lines, err := f.Read()
	if err != nil {
		return AuthorizedKeys{}, err
	}
	keys := []string{}
	for _, l := range lines {
		if l = strings.TrimSpace(l); l != "" && l[0] != '#' {
			keys = append(keys, l)
		}
	}
	return AuthorizedKeys{keys}, nil
}

func (k keyCommands) add(_ context.Context, args keyAddArgs) (None, error) {
	if err := checkKeys(args.Keys); err != nil {
		return None{}, err
	}
	f, err := k.open(args.User, true)
	if err != nil {
		return None{}, err
	}
	defer f.Close()
	var lines []string
	if args.Reset == nil || !*args.Reset {
		if lines, err = f.Read(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return None{}, err
		}
	}
	for _, key := range args.Keys {
		if key != "" && !slices.Contains(lines, key) {
			lines = append(lines, key)
		}
	}
	return None{}, f.Write(lines)
}

func (k keyCommands) remove(_ context.Context, args keyRemoveArgs) (None, error) {
	if err := checkKeys(args.Keys); err != nil {
		return None{}, err
	}
	f, err := k.open(args.User, false)
	if errors.Is(err, fs.ErrNotExist) {
		return None{}, nil
	}
	if err != nil {
		return None{}, err
	}
	defer f.Close()
	lines, err := f.Read()
	if errors.Is(err, fs.ErrNotExist) {
		return None{}, nil
	}
	if err != nil {
		return None{}, err
	}
	return None{}, f.Write(slices.DeleteFunc(lines, func(l string) bool { return slices.Contains(args.Keys, l) }))
}
