package guest

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/paxtar"
)

//go:embed enter.sh
var enter string

// Guest is a root file system in which programs run. One goroutine at a time uses it.
type Guest struct {
	// Out takes what the programs print.
	Out io.Writer
	// Env is their environment, NAME=VALUE each.
	Env []string

	work    string // a folder of its own, which Remove removes
	root    string
	unshare []string // what makes the name spaces
	devices []device
}

// device is one that a user namespace cannot make.
type device struct {
	path string
	node *fstree.Node
}

// New prepares a folder below dir, which must be there. It fails where the system cannot
// run programs in another root file system, and says what is missing.
func New(ctx context.Context, dir string, out io.Writer) (*Guest, error) {
	g := &Guest{Out: out}
	if runtime.GOOS != "linux" {
		return nil, fmt.Errorf("programs run in a root file system on Linux only, not on %s", runtime.GOOS)
	}
	for _, name := range []string{"unshare", "tar", "chroot", "mount"} {
		if _, err := lookPath(name); err != nil {
			return nil, fmt.Errorf("to run programs in a root file system, the program %s is needed: %w", name, err)
		}
	}
	g.unshare = []string{"unshare", "--mount", "--pid", "--fork", "--kill-child", "--ipc", "--uts"}
	if os.Geteuid() != 0 {
		g.unshare = append(g.unshare, "--user", "--map-root-user", "--map-auto")
	}
	// sh, so that unshare does not take what follows for its own
	if err := g.command(ctx, nil, io.Discard, "true"); err != nil {
		return nil, fmt.Errorf("this system does not let programs run in a root file system (without root it takes newuidmap and numbers of the user in /etc/subuid): %w", err)
	}
	work, err := os.MkdirTemp(dir, "cowl-guest-*")
	if err != nil {
		return nil, err
	}
	if work, err = filepath.Abs(work); err != nil {
		return nil, err
	}
	if err := os.Chmod(work, 0o711); err != nil { // users of the user namespace pass through
		return nil, err
	}
	g.work, g.root = work, filepath.Join(work, "root")
	return g, nil
}

// waitDelay is how long the output of a program that was ended is waited for.
const waitDelay = 10 * time.Second

// path is where programs of the host are.
const path = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"

func lookPath(name string) (string, error) {
	for dir := range strings.SplitSeq(path, ":") {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p, nil
		}
	}
	return "", &exec.Error{Name: name, Err: exec.ErrNotFound}
}

// command runs a program of the host in the name spaces. Where out is nil, its output goes
// where its messages go.
func (g *Guest) command(ctx context.Context, in io.Reader, out io.Writer, args ...string) error {
	program, err := lookPath(g.unshare[0])
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, program, append(g.unshare[1:len(g.unshare):len(g.unshare)], args...)...)
	cmd.Env = []string{"PATH=" + path, "LC_ALL=C"}
	cmd.WaitDelay = waitDelay
	last := &tail{}
	messages := &locked{w: io.Writer(last)}
	if g.Out != nil {
		messages.w = io.MultiWriter(last, g.Out)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, messages
	if out == nil {
		cmd.Stdout = messages
	}
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%w: %s", err, last.String())
	}
	return nil
}

// locked is a writer for several goroutines.
type locked struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// tail keeps the end of what is written.
type tail struct{ bytes.Buffer }

func (t *tail) Write(p []byte) (int, error) {
	const most = 1000
	t.Buffer.Write(p[max(0, len(p)-most):])
	t.Next(max(0, t.Len()-most))
	return len(p), nil
}

func (t *tail) String() string { return strings.TrimSpace(t.Buffer.String()) }

// Unpack writes a tree into the folder, in place of what is there. The directories that
// the system mounts on are made where they are missing.
func (g *Guest) Unpack(ctx context.Context, tree *fstree.Tree) error {
	for _, dir := range []string{"proc", "sys", "dev", "run", "tmp"} {
		n := tree.Root.Child(dir)
		if n == nil {
			if err := tree.Root.Set(dir, fstree.NewDir(0o755)); err != nil {
				return err
			}
		} else if n.Kind != fstree.Dir {
			return fmt.Errorf("/%s of the root file system is a %s, not a directory", dir, n.Kind)
		}
	}
	if err := g.clear(ctx); err != nil {
		return err
	}
	if err := g.command(ctx, nil, io.Discard, "mkdir", g.root); err != nil {
		return err
	}
	return g.extract(ctx, tree, g.root)
}

// extract writes a tree into an empty folder.
func (g *Guest) extract(ctx context.Context, tree *fstree.Tree, dir string) error {
	return g.feed(ctx, tree, "tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "--same-owner", "--same-permissions", "--delay-directory-restore", "-xf", "-", "-C", dir)
}

// feed runs a program of the host that reads the archive of a tree.
func (g *Guest) feed(ctx context.Context, tree *fstree.Tree, args ...string) error {
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := g.archive(w, tree.Root)
		w.CloseWithError(err)
		done <- err
	}()
	err := g.command(ctx, r, io.Discard, args...)
	r.Close()
	if err := errors.Join(<-done, err); err != nil {
		return fmt.Errorf("unpack the root file system: %w", err)
	}
	return nil
}

// Extract writes a tree into a folder, which must be there and empty, with owners and
// devices. It needs root.
func Extract(ctx context.Context, tree *fstree.Tree, dir string) error {
	if os.Geteuid() != 0 {
		return errors.New("a folder gets owners and devices from root only")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return fmt.Errorf("the folder %s is not empty", dir)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	g, err := New(ctx, os.TempDir(), nil)
	if err != nil {
		return err
	}
	return errors.Join(g.extract(ctx, tree, dir), g.Remove())
}

// archive writes the tree for tar, without devices in a user namespace.
func (g *Guest) archive(w io.Writer, root *fstree.Node) error {
	out, user := paxtar.NewWriter(w, paxtar.Options{Sparse: true}), os.Geteuid() != 0
	g.devices = nil
	for p, n := range root.Walk() {
		if user && (n.Kind == fstree.CharDevice || n.Kind == fstree.BlockDevice) {
			g.devices = append(g.devices, device{p, n})
			continue
		}
		if err := out.Add("./"+p, n); err != nil {
			return err
		}
	}
	return out.Close()
}

// Export reads the root file system back.
func (g *Guest) Export(ctx context.Context, o fstree.Options) (*fstree.Tree, error) {
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := g.command(ctx, nil, w, "tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "--format=posix", "--pax-option=delete=atime,delete=ctime", "--sparse", "--sort=name", "-cf", "-", "-C", g.root, ".")
		w.CloseWithError(err)
		done <- err
	}()
	tree, err := fstree.FromTar(struct{ io.Reader }{r}, o)
	r.Close()
	if waitErr := <-done; err == nil {
		err = waitErr
	}
	if err != nil {
		if tree != nil {
			err = errors.Join(err, tree.Close())
		}
		return nil, fmt.Errorf("read the root file system back: %w", err)
	}
	for _, d := range g.devices {
		if dir, name, n, err := tree.Find(d.path); err == nil && n == nil && dir != nil {
			if err := dir.Set(name, d.node); err != nil {
				return nil, errors.Join(err, tree.Close())
			}
		}
	}
	return tree, nil
}

// Run runs a program of the root file system.
func (g *Guest) Run(ctx context.Context, args ...string) error {
	if err := g.enter(ctx, nil, "--command", args...); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// Script runs a script in the root file system, by the program that its first line names.
func (g *Guest) Script(ctx context.Context, text string) error {
	if !strings.HasPrefix(text, "#!") {
		text = "#!/bin/sh\n" + text
	}
	return g.enter(ctx, strings.NewReader(text), "--script", "/tmp/cowl-action")
}

func (g *Guest) enter(ctx context.Context, in io.Reader, kind string, args ...string) error {
	words := append([]string{"sh", "-c", enter, "sh", g.root, kind}, g.Env...)
	return g.command(ctx, in, nil, append(words, args...)...)
}

func (g *Guest) clear(ctx context.Context) error {
	return g.command(ctx, nil, io.Discard, "rm", "-rf", "--one-file-system", g.root)
}

// Remove removes the folder.
func (g *Guest) Remove() error {
	if err := g.clear(context.Background()); err != nil {
		return err
	}
	return os.Remove(g.work)
}
