package vvfat

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/fat"
)

const (
	maxEntries  = 200_000 // files and folders of a plan
	maxDepth    = 100     // folders within each other
	maxFile     = 1<<32 - 1
	maxWarnings = 10
)

// item is a file or folder that the disk shows.
type item struct {
	parent   *item // nil: the folder itself
	name     string
	dir      bool
	children []*item

	// Of a file, as they were when the plan was made or the file written.
	size  int64
	mtime time.Time
	mode  fs.FileMode

	short [11]byte // its short name
	long  bool     // it has a long one, too
	first uint32   // cluster, 0 for none
	runs  []fat.Run
}

// path is the name below the folder, with slashes.
func (it *item) path() string {
	if it.parent == nil {
		return "."
	}
	return path.Join(it.parent.path(), it.name)
}

// scanner reads a folder.
type scanner struct {
	ctx     context.Context
	root    *os.Root
	dir     string // the folder's name, for messages
	links   bool   // show files that links name
	warn    func(string)
	entries int
	left    int // what was left out
}

// scan makes the tree of a folder, in the order of names.
func (s *scanner) scan() (*item, error) {
	top := &item{dir: true}
	if info, err := s.root.Stat("."); err == nil {
		top.mtime = info.ModTime()
	}
	if err := s.folder(top, 0); err != nil {
		return nil, err
	}
	if s.left > maxWarnings {
		s.warn(fmt.Sprintf("vvfat: %d further names of '%s' are left out", s.left-maxWarnings, s.dir))
	}
	return top, nil
}

// leaveOut warns of a name that the disk does not show.
func (s *scanner) leaveOut(name, why string) {
	if s.left++; s.left <= maxWarnings {
		s.warn(fmt.Sprintf("vvfat: '%s' is left out: %s", path.Join(s.dir, name), why))
	}
}

func (s *scanner) folder(dir *item, depth int) error {
	where := dir.path()
	if depth > maxDepth {
		return driver.Errorf(driver.ErrTooLarge, "'%s' has more than %d folders within each other", s.dir, maxDepth)
	}
	names, err := s.names(where)
	if errors.Is(err, errTooMany) {
		return driver.Errorf(driver.ErrTooLarge, "'%s' has more than %d files and folders", s.dir, maxEntries)
	}
	if err != nil {
		return driver.Errorf(err, "could not read directory %s", path.Join(s.dir, where))
	}
	folded := map[string]string{}
	for _, name := range names {
		full := path.Join(where, name)
		if err := fat.CheckName(name); err != nil {
			s.leaveOut(full, err.Error())
			continue
		}
		if other, ok := folded[fat.Fold(name)]; ok {
			s.leaveOut(full, "FAT does not tell the name from '"+other+"'")
			continue
		}
		it, why, err := s.item(full)
		switch {
		case errors.Is(err, fs.ErrNotExist): // it went away meanwhile
			continue
		case err != nil:
			return err
		case it == nil:
			s.leaveOut(full, why)
			continue
		}
		folded[fat.Fold(name)] = name
		it.parent, it.name = dir, name
		dir.children = append(dir.children, it)
	}
	for _, it := range dir.children {
		if it.dir {
			if err := s.folder(it, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

var errTooMany = errors.New("too many names")

// names reads the names in a folder, in their order.
func (s *scanner) names(where string) ([]string, error) {
	f, err := s.root.Open(where)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var names []string
	for {
		if err := s.ctx.Err(); err != nil {
			return nil, err
		}
		some, err := f.Readdirnames(1000)
		names = append(names, some...)
		if s.entries += len(some); s.entries > maxEntries {
			return nil, errTooMany
		}
		if err == io.EOF {
			slices.Sort(names)
			return names, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// item looks at what a name means. It returns nil and a reason for what is not shown.
func (s *scanner) item(full string) (it *item, why string, err error) {
	info, err := s.root.Lstat(full)
	if err != nil {
		return nil, "", fmt.Errorf("could not look at '%s': %w", path.Join(s.dir, full), err)
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		if !s.links {
			return nil, "it is a symbolic link", nil
		}
		// Root follows links as long as they stay within the folder.
		if info, err = s.root.Stat(full); err != nil || !info.Mode().IsRegular() {
			return nil, "the symbolic link does not lead to a file in the folder", nil
		}
	}
	switch {
	case info.IsDir():
		return &item{dir: true, mtime: info.ModTime(), mode: info.Mode()}, "", nil
	case !info.Mode().IsRegular():
		return nil, "it is neither a file nor a folder", nil
	case info.Size() > maxFile:
		return nil, "", driver.Errorf(driver.ErrTooLarge, "file %s is larger than 4 GiB", path.Join(s.dir, full))
	}
	return &item{size: info.Size(), mtime: info.ModTime(), mode: info.Mode()}, "", nil
}
