package file_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/words"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/file"
)

const (
	cr, wr, rs = driver.PermConsistentRead, driver.PermWrite, driver.PermResize
	all        = driver.PermAll
)

// user is a way of using an image, by QEMU's programs and by us.
type user struct {
	name   string
	format string
	args   []string // of QEMU, which ends at once if it is given "-c quit"
	access driver.Access
}

var users = []user{
	{"raw, reading", "raw", []string{"qemu-io", "-r", "-f", "raw"}, driver.Access{Perm: cr, Shared: all}},
	{"raw, writing", "raw", []string{"qemu-io", "-f", "raw"}, driver.Access{Write: true, Perm: cr | wr, Shared: all}},
	{"qcow2, reading", "qcow2", []string{"qemu-io", "-r", "-f", "qcow2"}, driver.Access{Perm: cr, Shared: all &^ (wr | rs)}},
	{"qcow2, writing", "qcow2", []string{"qemu-io", "-f", "qcow2"}, driver.Access{Write: true, Perm: cr | wr | rs, Shared: all &^ (wr | rs)}},
	{"qcow2, anyway", "qcow2", []string{"qemu-io", "-r", "-U", "-f", "qcow2"}, driver.Access{NoLock: true, Perm: cr, Shared: all}},
}

var lockError = regexp.MustCompile(`Failed to get .* lock`)

// theirs tries to open path and returns QEMU's message of the refusal.
func (u user) theirs(t *testing.T, path string) string {
	_, errOut, code := testkit.Try(t, u.args[0], append(u.args[1:], "-c", "quit", path)...)
	msg := lockError.FindString(errOut)
	if (code != 0) != (msg != "") {
		t.Fatalf("%v: exit code %d, %s", u.args, code, errOut)
	}
	return msg
}

// ours does the same with this package.
func (u user) ours(t *testing.T, path string) string {
	s, err := tryOpen(file.New(), u.access, driver.Cache{}, opts.Dict{"filename": path})
	if err == nil {
		s.Close(ctx)
		return ""
	}
	var l *file.LockError
	if !errors.As(err, &l) || !errors.Is(err, driver.ErrLocked) || l.Hint() != "Is another process using the image ["+path+"]?" {
		t.Fatalf("not a lock error: %v", err)
	}
	return lockError.FindString(words.Text(l))
}

// hold starts QEMU on path and returns when it holds its locks.
func (u user) hold(t *testing.T, path string) (release func()) {
	cmd := exec.Command(testkit.Tool(t, u.args[0]), append(u.args[1:], path)...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if prompt, err := bufio.NewReader(out).ReadString('>'); err != nil {
		t.Fatalf("%v: %q, %v", u.args, prompt, err)
	}
	return func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
}

// TestLocksBesideTheOriginal holds an image in every way and uses it in every
// way, with QEMU and with this package on either side: all four
// combinations must say the same.
func TestLocksBesideTheOriginal(t *testing.T) {
	testkit.Tool(t, "qemu-io")
	conflicts := 0
	for _, holder := range users {
		t.Run(holder.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "image")
			testkit.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
			want := map[string]string{}
			release := holder.hold(t, path)
			for _, u := range users {
				want[u.name] = u.theirs(t, path)
				if want[u.name] != "" {
					conflicts++
				}
				if got := u.ours(t, path); got != want[u.name] {
					t.Errorf("they hold, we are %s: %q, want %q", u.name, got, want[u.name])
				}
			}
			release()
			s, err := tryOpen(file.New(), holder.access, driver.Cache{}, opts.Dict{"filename": path})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close(ctx)
			for _, u := range users {
				if got := u.theirs(t, path); got != want[u.name] {
					t.Errorf("we hold, they are %s: %q, want %q", u.name, got, want[u.name])
				}
				if got := u.ours(t, path); got != want[u.name] {
					t.Errorf("we hold, we are %s: %q, want %q", u.name, got, want[u.name])
				}
			}
		})
	}
	if conflicts < 5 {
		t.Errorf("only %d conflicts: the holders did not hold", conflicts)
	}
}

func TestCreateRespectsLocks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	testkit.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
	holder := users[3]
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	release := holder.hold(t, path)
	_, errOut, _ := testkit.Try(t, "qemu-img", "create", "-f", "raw", path, "2M")
	err = create(t, path, 2<<20, nil)
	if err == nil || lockError.FindString(words.Text(err)) != lockError.FindString(errOut) {
		t.Errorf("%v, want %q", err, errOut)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the image in use has changed: %v", err)
	}
	release()
	if err := create(t, path, 2<<20, nil); err != nil {
		t.Error(err)
	}
}

func TestRelock(t *testing.T) {
	path := mustCreate(t, filepath.Join(t.TempDir(), "image"), 4096)
	name := opts.Dict{"filename": path}
	must := func(a driver.Access) storage {
		t.Helper()
		s, err := tryOpen(file.New(), a, driver.Cache{}, name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close(ctx) })
		return s
	}
	a := must(driver.Access{Shared: all})
	b := must(driver.Access{Write: true, Perm: wr, Shared: all})
	// Refused: and nothing of the attempt stays.
	if err := a.Relock(ctx, driver.Access{Perm: cr, Shared: all &^ wr}); !errors.Is(err, driver.ErrLocked) {
		t.Fatal(err)
	}
	if err := b.Relock(ctx, driver.Access{Perm: cr | wr | rs, Shared: 0}); err != nil {
		t.Fatal(err)
	}
	if _, err := tryOpen(file.New(), driver.Access{Perm: cr, Shared: all}, driver.Cache{}, name); !errors.Is(err, driver.ErrLocked) {
		t.Fatal(err)
	}
	// Given up again.
	if err := b.Relock(ctx, driver.Access{Shared: all}); err != nil {
		t.Fatal(err)
	}
	if err := a.Relock(ctx, driver.Access{Perm: cr, Shared: all &^ wr}); err != nil {
		t.Fatal(err)
	}
}

func TestLockingOffAndOn(t *testing.T) {
	path := mustCreate(t, filepath.Join(t.TempDir(), "image"), 4096)
	exclusive := driver.Access{Write: true, Perm: all, Shared: 0}
	s, err := tryOpen(file.New(), exclusive, driver.Cache{}, opts.Dict{"filename": path, "locking": "on"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(context.Background())
	for locking, conflict := range map[string]bool{"on": true, "auto": true, "off": false} {
		o, err := tryOpen(file.New(), exclusive, driver.Cache{}, opts.Dict{"filename": path, "locking": locking})
		if errors.Is(err, driver.ErrLocked) != conflict {
			t.Errorf("locking=%s: %v", locking, err)
		}
		if err == nil {
			o.Close(ctx)
		}
	}
}

// TestCloseUnlocks closes a file that another descriptor of the same open file
// description keeps open, as a child process does that was forked but did not
// execute its program yet.
func TestCloseUnlocks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, make([]byte, 4096), 0o644); err != nil {
		t.Fatal(err)
	}
	exclusive := driver.Access{Write: true, Perm: cr | wr | rs, Shared: 0}
	s, err := tryOpen(file.New(), exclusive, driver.Cache{}, opts.Dict{"filename": path})
	if err != nil {
		t.Fatal(err)
	}
	dups := duplicate(t, path)
	if len(dups) == 0 {
		t.Fatal("found no descriptor to duplicate")
	}
	if err := s.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if s, err = tryOpen(file.New(), exclusive, driver.Cache{}, opts.Dict{"filename": path}); err != nil {
		t.Fatal(err)
	}
	s.Close(ctx)
}

// duplicate duplicates the descriptors of this process that have path open.
func duplicate(t *testing.T, path string) (dups []int) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range fds {
		if name, err := os.Readlink("/proc/self/fd/" + e.Name()); err != nil || name != path {
			continue
		}
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		dup, err := syscall.Dup(fd)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { syscall.Close(dup) })
		dups = append(dups, dup)
	}
	return dups
}
