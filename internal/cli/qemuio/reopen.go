package qemuio

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/internal/cli/words"
	"github.com/cowl-disk/cowl/opts"
)

// reopen opens the image again with other options. If that fails it is opened as before.
func (s *session) reopen(c *command, args []string) error {
	o, given, err := s.reopening(c, args)
	if err != nil {
		return err
	}
	if err := s.unchanged(given); err != nil {
		return err
	}
	if j, ok := s.img.Tree().Driver().(driver.OptionJoiner); ok {
		j.JoinOptions(o.options, given)
	} else {
		maps.Copy(o.options, given)
	}
	before := s.opened
	if err := s.close(); err != nil {
		return err
	}
	img, err := s.openImage(o)
	if err == nil {
		s.img, s.opened = img, o
		return nil
	}
	// The name is that of the image that was open: only the reason is new.
	var top *block.OpenError
	if errors.As(err, &top) && error(top) == err {
		err = top.Err
	}
	failed := s.errorf("%s", words.Text(err))
	if err := s.open(before); err != nil {
		return err
	}
	return failed
}

// reopening reads the arguments of reopen: how the image is to be opened, apart from the
// options of its driver, and those.
func (s *session) reopening(c *command, args []string) (o opening, given opts.Dict, err error) {
	o, given = s.opened, opts.Dict{}
	o.options = o.options.Clone()
	access, cache := "", false
	set := func(which string) func(string) error {
		return func(string) error {
			if access != "" {
				return s.errorf("Only one -r/-w option may be given")
			}
			access = which
			return nil
		}
	}
	_, err = s.parse(c, args, 0, 0, program.Func("-r", "", set("r")), program.Func("-w", "", set("w")),
		program.Func("-c CACHE", "", func(arg string) error { cache = true; return o.setCache(arg) }),
		program.Func("-o OPTIONS", "", func(arg string) error { return given.ParseList(arg, "") }))
	if err != nil {
		return o, nil, s.reported(err)
	}
	if access != "" {
		o.readOnly = access == "r"
	}
	if _, both := given["read-only"]; both {
		if access != "" {
			return o, nil, s.errorf("Cannot set both -r/-w and 'read-only'")
		}
		o.readOnly = false
	}
	if cache && (given["cache.direct"] != nil || given["cache.no-flush"] != nil) {
		return o, nil, s.errorf("Cannot set both -c and the cache options")
	}
	return o, given, nil
}

// unchanged refuses another driver and another name for a node of the open image.
func (s *session) unchanged(given opts.Dict) error {
	for _, key := range slices.Sorted(maps.Keys(given)) {
		path, name, nested := cutLast(key)
		if !nested {
			path, name = "", key
		}
		img := s.descendant(path)
		if img == nil {
			continue
		}
		var is any
		switch name {
		case "driver":
			is = img.Format()
		case "node-name":
			is = s.opened.options[key] // nil, which no value is, if the node has no name
		default:
			continue
		}
		if is == nil || fmt.Sprint(given[key]) != fmt.Sprint(is) {
			return s.errorf("Cannot change the option '%s'", name)
		}
	}
	return nil
}

// cutLast parts the option of a child from the path to it.
func cutLast(key string) (path, name string, nested bool) {
	i := strings.LastIndexByte(key, '.')
	if i < 0 {
		return "", "", false
	}
	return key[:i], key[i+1:], true
}

// descendant returns the node at the end of a path of roles, nil if there is none.
func (s *session) descendant(path string) *block.Image {
	img := s.img
	for role := range strings.SplitSeq(path, ".") {
		switch {
		case img == nil || path == "":
			return img
		case role == "backing":
			img = img.Backing()
		default:
			img = img.Tree().Child(role)
		}
	}
	return img
}
