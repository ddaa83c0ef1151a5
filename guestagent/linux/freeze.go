//go:build linux

package linux

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/cowl-disk/cowl/guestagent"
)

// Prepare implements guestagent.Freezer.
func (s *System) Prepare(all bool, mountpoints []string) (func(context.Context) (int64, error), error) {
	mounts, err := s.mounts()
	if err != nil {
		return nil, err
	}
	if !all {
		mounts = slices.DeleteFunc(mounts, func(m mount) bool { return !slices.Contains(mountpoints, m.dir) })
	}
	// What was mounted last may lie on what was mounted before.
	slices.Reverse(mounts)
	return func(ctx context.Context) (int64, error) { return s.freeze(ctx, mounts) }, nil
}

func (s *System) freeze(ctx context.Context, mounts []mount) (int64, error) {
	var n int64
	for _, m := range mounts {
		// A file that something was bind mounted on is no file system of its own;
		// opening a socket would fail.
		if st, err := os.Stat(s.path(m.dir)); err == nil && !st.IsDir() {
			continue
		}
		err := s.freezeOne(ctx, m.dir)
		switch {
		case err == nil:
			n++
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EBUSY):
			// It cannot be frozen, or is.
		default:
			return n, err
		}
	}
	return n, nil
}

// freezeOne freezes a file system. The kernel may not come back: when the context ends
// before it does, the file system is thawed once it does.
func (s *System) freezeOne(ctx context.Context, dir string) error {
	done := make(chan error, 1)
	var mu sync.Mutex
	abandoned := false
	go func() {
		err := s.Kernel.Freeze(s.path(dir))
		mu.Lock()
		defer mu.Unlock()
		if abandoned && err == nil {
			_ = s.Kernel.Thaw(s.path(dir))
		}
		done <- err
	}()
	select {
	case err := <-done:
		return freezeError(dir, err)
	case <-ctx.Done():
	}
	mu.Lock()
	defer mu.Unlock()
	select {
	case err := <-done:
		return freezeError(dir, err)
	default:
		abandoned = true
		return fmt.Errorf("failed to freeze %s: it took longer than the time limit", dir)
	}
}

func freezeError(dir string, err error) error {
	var pe *os.PathError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &pe) && pe.Op == "open":
		return cause(err, "failed to open %s", dir)
	}
	return cause(err, "failed to freeze %s", dir)
}

// Thaw implements guestagent.Freezer. A file system that was frozen several times is
// thawed as often.
func (s *System) Thaw() (int64, error) {
	mounts, err := s.mounts()
	if err != nil {
		return 0, err
	}
	var n int64
	for _, m := range mounts {
		thawed := false
		for s.Kernel.Thaw(s.path(m.dir)) == nil {
			thawed = true
		}
		if thawed {
			n++
		}
	}
	return n, nil
}

// Trimmed is the reply of guest-fstrim.
type Trimmed struct {
	Paths []TrimmedPath `qga:"paths"`
}

// TrimmedPath is what guest-fstrim did to one file system.
type TrimmedPath struct {
	Path    string  `qga:"path"`
	Trimmed *int64  `qga:"trimmed,optional"`
	Minimum *int64  `qga:"minimum,optional"`
	Error   *string `qga:"error,optional"`
}

func (s *System) trim(_ context.Context, args trimArgs) (Trimmed, error) {
	mounts, err := s.mounts()
	if err != nil {
		return Trimmed{}, err
	}
	var minimum uint64
	if args.Minimum != nil {
		minimum = uint64(*args.Minimum)
	}
	slices.Reverse(mounts)
	reply := Trimmed{Paths: []TrimmedPath{}}
	for _, m := range mounts {
		p := TrimmedPath{Path: m.dir}
		trimmed, used, err := s.Kernel.Trim(s.path(m.dir), minimum)
		var pe *os.PathError
		var text string
		switch {
		case err == nil:
			t, u := int64(trimmed), int64(used)
			p.Trimmed, p.Minimum = &t, &u
		case errors.As(err, &pe) && pe.Op == "open":
			text = "failed to open: " + guestagent.Cause(err).Error()
		case errors.Is(err, unix.ENOTTY), errors.Is(err, unix.EOPNOTSUPP):
			text = "trim not supported"
		default:
			text = "failed to trim: " + guestagent.Cause(err).Error()
		}
		if err != nil {
			p.Error = &text
		}
		reply.Paths = append(reply.Paths, p)
	}
	return reply, nil
}
