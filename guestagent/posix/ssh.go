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
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cowl-disk/cowl/guestagent"
)

// SSH changes the keys that may log in as a user of the system below Root.
type SSH struct{ Root string }

// Commands returns the commands for keys.
func (s SSH) Commands() []guestagent.Command { return guestagent.KeyCommands(s.keyFile) }

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

// keyFile opens the folder of a user's keys.
func (s SSH) keyFile(user string, create bool) (guestagent.KeyFile, error) {
	a, err := s.lookup(user)
	if err != nil {
		return nil, err
	}
	d, err := s.open(a, create)
	if err != nil && !create {
		file := filepath.Join(a.home, ".ssh", "authorized_keys")
		return nil, fmt.Errorf("failed to read '%s': %w", file, readError(file, err))
	}
	if err != nil {
		return nil, err
	}
	return d, nil
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

// Close closes the folder.
func (d *sshDir) Close() { unix.Close(d.fd) }

func (d *sshDir) file() string { return filepath.Join(d.path, "authorized_keys") }

// Read returns the lines of the file.
func (d *sshDir) Read() ([]string, error) {
	fd, err := unix.Openat(d.fd, "authorized_keys", unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("failed to read '%s': %w", d.file(), readError(d.file(), err))
	}
	f := os.NewFile(uintptr(fd), d.file())
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, guestagent.MaxKeyFile+1))
	if err == nil && len(data) > guestagent.MaxKeyFile {
		err = unix.EFBIG
	}
	if err != nil {
		return nil, fmt.Errorf("failed to read '%s': %w", d.file(), guestagent.Cause(err))
	}
	return guestagent.KeyLines(data), nil
}

// readError has GLib's words for a file that cannot be opened.
func readError(file string, err error) error {
	return fmt.Errorf("Failed to open file “%s”: %w", file, guestagent.Words(err))
}

// Write replaces the file as a whole: whoever reads it sees the old or the new one.
func (d *sshDir) Write(lines []string) error {
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
	_, err = f.WriteString(guestagent.KeyText(lines))
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
