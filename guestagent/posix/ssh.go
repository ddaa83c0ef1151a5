//go:build unix

package posix

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cowl-disk/cowl/guestagent"
)

// maxKeys bounds an authorized_keys file, in bytes.
const maxKeys = 16 << 20

// SSH changes the keys that may log in as a user of the system below Root.
type SSH struct{ Root string }

type sshUserArgs struct {
	User string `qga:"username"`
}

type sshAddArgs struct {
	User  string   `qga:"username"`
	Keys  []string `qga:"keys"`
	Reset *bool    `qga:"reset,optional"`
}

type sshRemoveArgs struct {
	User string   `qga:"username"`
	Keys []string `qga:"keys"`
}

// AuthorizedKeys is the reply of guest-ssh-get-authorized-keys.
type AuthorizedKeys struct {
	Keys []string `qga:"keys"`
}

// Commands returns the commands for keys.
func (s SSH) Commands() []guestagent.Command {
	return []guestagent.Command{
		guestagent.New("guest-ssh-get-authorized-keys", "5.2", "Report the keys that may log in as a user", s.get),
		guestagent.New("guest-ssh-add-authorized-keys", "5.2", "Let keys log in as a user", s.add),
		guestagent.New("guest-ssh-remove-authorized-keys", "5.2", "Let keys no longer log in as a user", s.remove),
	}
}

type account struct {
	home     string
	uid, gid int
}

// lookup finds a user in the password file, or by getent where users are kept elsewhere.
func (s SSH) lookup(name string) (account, error) {
	f, err := os.Open(filepath.Join(s.Root, "/etc/passwd"))
	if err != nil {
		return account{}, fmt.Errorf("failed to lookup user '%s': %w", name, guestagent.Cause(err))
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if a, ok := parseAccount(sc.Text(), name); ok {
			return a, nil
		}
	}
	if program, ok := Look(s.Root, "getent"); ok {
		ctx, cancel := context.WithTimeout(context.Background(), getentLimit)
		defer cancel()
		// It fails for a user that it does not know.
		out, _ := exec.CommandContext(ctx, program, "passwd", "--", name).Output()
		line, _, _ := strings.Cut(string(out), "\n")
		if a, ok := parseAccount(line, name); ok {
			return a, nil
		}
	}
	return account{}, fmt.Errorf("failed to lookup user '%s': no such user", name)
}

// getentLimit bounds the time that a directory service may take to answer.
const getentLimit = 10 * time.Second

// parseAccount reads a line of the password file that is about a user.
func parseAccount(line, name string) (account, bool) {
	p := strings.Split(line, ":")
	if len(p) < 7 || p[0] != name {
		return account{}, false
	}
	uid, err1 := strconv.Atoi(p[2])
	gid, err2 := strconv.Atoi(p[3])
	return account{p[5], uid, gid}, err1 == nil && err2 == nil && filepath.IsAbs(p[5])
}

func checkKeys(keys []string) error {
	for _, k := range keys {
		if strings.HasPrefix(k, "#") || strings.Contains(k, "\n") {
			return fmt.Errorf("invalid OpenSSH public key: '%s'", k)
		}
	}
	return nil
}

// sshDir is the open .ssh folder of a user. A link is not followed: the user may have
// made it, and the agent is root.
type sshDir struct {
	fd   int
	path string
	account
}

func (s SSH) open(a account, create bool) (*sshDir, error) {
	path := filepath.Join(a.home, ".ssh")
	home, err := unix.Open(filepath.Join(s.Root, a.home), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: a.home, Err: err}
	}
	defer unix.Close(home)
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(home, ".ssh", flags, 0)
	if errors.Is(err, unix.ENOENT) && create {
		if err := unix.Mkdirat(home, ".ssh", 0o700); err != nil {
			return nil, fmt.Errorf("failed to create directory '%s': %w", path, guestagent.Words(err))
		}
		if fd, err = unix.Openat(home, ".ssh", flags, 0); err == nil {
			if err := errors.Join(unix.Fchown(fd, a.uid, a.gid), unix.Fchmod(fd, 0o700)); err != nil {
				unix.Close(fd)
				return nil, fmt.Errorf("failed to set ownership of directory '%s': %w", path, err)
			}
		}
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return &sshDir{fd, path, a}, nil
}

func (d *sshDir) close() { unix.Close(d.fd) }

func (d *sshDir) file() string { return filepath.Join(d.path, "authorized_keys") }

// read returns the lines of the file.
func (d *sshDir) read() ([]string, error) {
	fd, err := unix.Openat(d.fd, "authorized_keys", unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("failed to read '%s': %w", d.file(), readError(d.file(), err))
	}
	f := os.NewFile(uintptr(fd), d.file())
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxKeys+1))
	if err == nil && len(data) > maxKeys {
		err = unix.EFBIG
	}
	if err != nil {
		return nil, fmt.Errorf("failed to read '%s': %w", d.file(), guestagent.Cause(err))
	}
	text := strings.TrimSuffix(string(data), "\n")
	if text == "" {
		return nil, nil
	}
	return strings.Split(text, "\n"), nil
}

// readError has GLib's words for a file that cannot be opened.
func readError(file string, err error) error {
	return fmt.Errorf("Failed to open file “%s”: %w", file, guestagent.Words(err))
}

// write replaces the file as a whole: whoever reads it sees the old or the new one.
func (d *sshDir) write(lines []string) error {
	text := strings.Join(lines, "\n")
	if text != "" {
		text += "\n"
	}
	const name = ".authorized_keys.new"
	fail := func(err error) error {
		_ = unix.Unlinkat(d.fd, name, 0)
		return fmt.Errorf("failed to write to '%s': %w", d.file(), guestagent.Cause(err))
	}
	_ = unix.Unlinkat(d.fd, name, 0) // left by an agent that was killed
	fd, err := unix.Openat(d.fd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fail(err)
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Chown(d.uid, d.gid), f.Chmod(0o600), f.Sync()); err != nil {
		f.Close()
		return fail(err)
	}
	if err := f.Close(); err != nil {
		return fail(err)
	}
	if err := unix.Renameat(d.fd, name, d.fd, "authorized_keys"); err != nil {
		return fail(err)
	}
	return nil
}

func (s SSH) get(_ context.Context, args sshUserArgs) (AuthorizedKeys, error) {
	a, err := s.lookup(args.User)
	if err != nil {
		return AuthorizedKeys{}, err
	}
	d, err := s.open(a, false)
	if err != nil {
		file := filepath.Join(a.home, ".ssh", "authorized_keys")
		return AuthorizedKeys{}, fmt.Errorf("failed to read '%s': %w", file, readError(file, err))
	}
	defer d.close()
	lines, err := d.read()
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

func (s SSH) add(_ context.Context, args sshAddArgs) (guestagent.None, error) {
	if err := checkKeys(args.Keys); err != nil {
		return guestagent.None{}, err
	}
	a, err := s.lookup(args.User)
	if err != nil {
		return guestagent.None{}, err
	}
	d, err := s.open(a, true)
	if err != nil {
		return guestagent.None{}, err
	}
	defer d.close()
	var lines []string
	if args.Reset == nil || !*args.Reset {
		if lines, err = d.read(); err != nil && !errors.Is(err, unix.ENOENT) {
			return guestagent.None{}, err
		}
	}
	for _, k := range args.Keys {
		if k != "" && !slices.Contains(lines, k) {
			lines = append(lines, k)
		}
	}
	return guestagent.None{}, d.write(lines)
}

func (s SSH) remove(_ context.Context, args sshRemoveArgs) (guestagent.None, error) {
	if err := checkKeys(args.Keys); err != nil {
		return guestagent.None{}, err
	}
	a, err := s.lookup(args.User)
	if err != nil {
		return guestagent.None{}, err
	}
	d, err := s.open(a, false)
	if errors.Is(err, unix.ENOENT) {
		return guestagent.None{}, nil
	}
	if err != nil {
		return guestagent.None{}, err
	}
	defer d.close()
	lines, err := d.read()
	if errors.Is(err, unix.ENOENT) {
		return guestagent.None{}, nil
	}
	if err != nil {
		return guestagent.None{}, err
	}
	return guestagent.None{}, d.write(slices.DeleteFunc(lines, func(l string) bool { return slices.Contains(args.Keys, l) }))
}
