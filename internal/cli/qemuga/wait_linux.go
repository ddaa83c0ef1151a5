package qemuga

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// watch tells of a change in the folder of a path, or in the nearest one above it that
// exists. changed is nil where that is not possible.
func watch(path string) (changed <-chan struct{}, stop func()) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, func() {}
	}
	const events = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_ATTRIB | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR
	for {
		dir, below := filepath.Dir(path), path
		for {
			_, err = unix.InotifyAddWatch(fd, dir, events)
			up := filepath.Dir(dir)
			if !errors.Is(err, unix.ENOENT) || up == dir {
				break
			}
			dir, below = up, dir
		}
		if err != nil || below == path {
			break
		}
		// What was missing below the folder may have come before it was watched.
		if _, e := os.Lstat(below); e != nil {
			break
		}
	}
	if err != nil {
		unix.Close(fd)
		return nil, func() {}
	}
	f := os.NewFile(uintptr(fd), "inotify")
	c := make(chan struct{})
	go func() {
		defer close(c)
		_, _ = f.Read(make([]byte, unix.SizeofInotifyEvent+unix.NAME_MAX+1))
	}()
	return c, func() { f.Close() }
}
