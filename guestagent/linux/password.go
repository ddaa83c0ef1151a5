//go:build linux

package linux

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cowl-disk/cowl/guestagent"
	"github.com/cowl-disk/cowl/guestagent/posix"
)

type passwordArgs struct {
	User     string `qga:"username"`
	Password string `qga:"password"`
	Crypted  bool   `qga:"crypted"`
}

func (s *System) setPassword(ctx context.Context, args passwordArgs) (guestagent.None, error) {
	password, err := guestagent.DecodeBase64(args.Password)
	if err != nil {
		return guestagent.None{}, err
	}
	text, _, _ := strings.Cut(string(password), "\x00")
	if strings.Contains(text, "\n") {
		return guestagent.None{}, errors.New("forbidden characters in raw password")
	}
	if strings.ContainsAny(args.User, "\n:") {
		return guestagent.None{}, errors.New("forbidden characters in username")
	}
	if program, ok := posix.Look(s.Root, "chpasswd"); ok {
		argv := []string{program}
		if args.Crypted {
			argv = append(argv, "-e")
		}
		return guestagent.None{}, posix.Run(ctx, "set user password", []byte(args.User+":"+text+"\n"), 0, argv...)
	}
	if err := s.editShadow(args.User, text, args.Crypted); err != nil {
		return guestagent.None{}, fmt.Errorf("failed to set user password: %w", err)
	}
	return guestagent.None{}, nil
}

// lockWait is how long lckpwdf waits for the lock of the password files.
const lockWait = 15 * time.Second

// lockPasswords takes the lock that lckpwdf takes.
func (s *System) lockPasswords() (unlock func(), err error) {
	fd, err := unix.Open(s.path("/etc/.pwd.lock"), unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, cause(err, "/etc/.pwd.lock")
	}
	for end := time.Now().Add(lockWait); ; {
		err := unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
		if err == nil {
			return func() { unix.Close(fd) }, nil
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) || time.Now().After(end) {
			unix.Close(fd)
			return nil, cause(err, "/etc/.pwd.lock")
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// editShadow sets a password where there is no program for it.
func (s *System) editShadow(user, password string, crypted bool) error {
	if crypted && strings.Contains(password, ":") {
		return errors.New("forbidden characters in an encrypted password")
	}
	unlock, err := s.lockPasswords()
	if err != nil {
		return err
	}
	defer unlock()
	const name = "/etc/shadow"
	f, err := os.OpenFile(s.path(name), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return cause(err, "%s", name)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	data, err := io.ReadAll(io.LimitReader(f, 64<<20))
	if err != nil {
		return err
	}
	if !crypted {
		if password, err = cryptSHA512(password, randomSalt(), cryptRounds); err != nil {
			return err
		}
	}
	lines := strings.Split(string(data), "\n")
	found := false
	for i, line := range lines {
		p := strings.Split(line, ":")
		if p[0] != user || len(p) < 3 {
			continue
		}
		p[1] = password
		p[2] = strconv.FormatInt(time.Now().Unix()/86400, 10)
		lines[i], found = strings.Join(p, ":"), true
		break
	}
	if !found {
		return fmt.Errorf("user '%s' is not in %s", user, name)
	}
	return replaceFile(s.path(name), strings.Join(lines, "\n"), &st)
}

// replaceFile replaces a file as a whole by one with the same owner and mode.
func replaceFile(name, text string, st *unix.Stat_t) error {
	tmp := name + ".cowl-new"
	_ = os.Remove(tmp) // left by an agent that was killed; the lock is ours
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	err = errors.Join(err, f.Chown(int(st.Uid), int(st.Gid)), f.Chmod(os.FileMode(st.Mode&0o777)), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(tmp, name)
	}
	if err != nil {
		_ = os.Remove(tmp)
	}
	return err
}
