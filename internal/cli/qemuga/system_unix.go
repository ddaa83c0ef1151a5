//go:build unix

package qemuga

import (
	"errors"
	"fmt"
	"io"
	"log/syslog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cowl-disk/cowl/guestagent"
	"github.com/cowl-disk/cowl/guestagent/posix"
)

const (
	defaultConfig    = "/etc/qemu/qemu-ga.conf"
	defaultHook      = "/etc/qemu/fsfreeze-hook"
	defaultState     = "/var/run"
	defaultSerial    = "/dev/ttyS0"
	serviceSupported = false
)

func (p *invocation) service(string) int { return 1 } // there is no such option

// underManager runs the agent: there is no manager to report to.
func (p *invocation) underManager(serve func() error) error { return serve() }

func newHook(program string, limit time.Duration) guestagent.Hook { return posix.Hook(program, limit) }

// sysLog connects to the system's log when there is something to say.
type sysLog struct {
	mu   sync.Mutex
	w    *syslog.Writer
	next time.Time // when to try again
}

func newAccounter() accounter { return &sysLog{} }

// sysLogRetry is the time between attempts to reach a log that is not there.
const sysLogRetry = 10 * time.Second

func (l *sysLog) Info(message string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.w == nil {
		if time.Now().Before(l.next) {
			return nil
		}
		w, err := syslog.New(syslog.LOG_INFO|syslog.LOG_USER, "qemu-ga")
		if err != nil {
			l.next = time.Now().Add(sysLogRetry)
			return err
		}
		l.w = w
	}
	return l.w.Info(message)
}

// ignoreBrokenPipes makes writing to a client that is gone an error, and nothing more.
// Programs that the agent starts have the signal's usual effect.
func ignoreBrokenPipes() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }

// inheritedSockets looks for listening sockets of the service manager.
func inheritedSockets() (n int, method string, err error) {
	pid, err1 := strconv.Atoi(os.Getenv("LISTEN_PID"))
	n, err2 := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	ours := pid == os.Getpid() || isDaemon() && pid == os.Getppid()
	if err1 != nil || err2 != nil || !ours || n <= 0 {
		return 0, "", nil
	}
	if n > 1 {
		return n, "", nil
	}
	unix.CloseOnExec(firstInherited)
	sa, err := unix.Getsockname(firstInherited)
	if err == nil {
		method = socketMethod(sa)
	}
	if method == "" {
		return n, "", errors.New("unsupported listen fd type")
	}
	return n, method, nil
}

// A daemon is a second process of the program: Go cannot fork. The variable tells it
// which descriptor its parent waits at.
const daemonVariable = "COWL_GUEST_AGENT_DAEMON"

func isDaemon() bool { return os.Getenv(daemonVariable) != "" }

// daemonReady is what a daemon writes to its parent when it is set up.
const daemonReady = 'r'

// daemonize starts the daemon and waits until it serves or fails.
func (p *invocation) daemonize() int {
	fail := func(err error) int {
		p.log.critical(fmt.Errorf("failed to daemonize: %w", err))
		return 1
	}
	exe, err := os.Executable()
	if err != nil {
		return fail(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fail(err)
	}
	defer r.Close()
	files := []*os.File{os.Stdin, os.Stdout, os.Stderr}
	if p.cfg.inherited {
		files = append(files, os.NewFile(firstInherited, "socket"))
	}
	files = append(files, w)
	proc, err := os.StartProcess(exe, os.Args, &os.ProcAttr{Files: files, Sys: &syscall.SysProcAttr{Setsid: true},
		Env: append(os.Environ(), daemonVariable+"="+strconv.Itoa(len(files)-1))})
	w.Close()
	if err != nil {
		return fail(err)
	}
	var b [1]byte
	if _, err := io.ReadFull(r, b[:]); err == nil && b[0] == daemonReady {
		return 0
	}
	st, err := proc.Wait()
	if err != nil || st.ExitCode() == 0 {
		return 1
	}
	return st.ExitCode()
}

// detach ends what a daemon has in common with its parent.
func detach() error {
	fd, err := strconv.Atoi(os.Getenv(daemonVariable))
	if err != nil {
		return fmt.Errorf("failed to daemonize: %w", err)
	}
	os.Unsetenv(daemonVariable)
	unix.Umask(0o077)
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("failed to daemonize: %w", err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("failed to daemonize: %w", err)
	}
	defer null.Close()
	for i := range 3 {
		if err := dup(int(null.Fd()), i); err != nil {
			return fmt.Errorf("failed to daemonize: %w", err)
		}
	}
	ready := os.NewFile(uintptr(fd), "parent")
	_, err = ready.Write([]byte{daemonReady})
	return errors.Join(err, ready.Close())
}

// pidFile is the locked pid file of a daemon.
type pidFile struct {
	f    *os.File
	name string
}

// write makes and locks a pid file. A file that another process removes meanwhile is
// made again.
func (p *pidFile) write(name string) error {
	for {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return fmt.Errorf("Cannot open pid file: %w", guestagent.Cause(err))
		}
		if err := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
			f.Close()
			return fmt.Errorf("Cannot lock pid file: %w", guestagent.Words(err))
		}
		mine, err := f.Stat()
		there, serr := os.Stat(name)
		if err != nil || serr != nil || !os.SameFile(mine, there) {
			f.Close()
			continue
		}
		if err = f.Truncate(0); err == nil {
			_, err = fmt.Fprintf(f, "%d\n", os.Getpid())
		}
		if err != nil {
			f.Close()
			return fmt.Errorf("Failed to write pid file: %w", guestagent.Cause(err))
		}
		abs, aerr := filepath.Abs(name)
		if aerr != nil {
			abs = name
		}
		p.f, p.name = f, abs
		return nil
	}
}

func (p *pidFile) remove() {
	if p.f != nil {
		os.Remove(p.name)
		p.f.Close()
	}
}
