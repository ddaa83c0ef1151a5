package fstree

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// ApplyPseudo changes the tree as a list of pseudo definitions says, in the form that
// mksquashfs takes with -pf: one a line, the path first, then
//
//	m MODE UID GID              change what is there
//	d MODE UID GID              a directory
//	c MODE UID GID MAJOR MINOR  a character device
//	b MODE UID GID MAJOR MINOR  a block device
//	i MODE UID GID p            a fifo; s for a socket
//	s MODE UID GID TARGET       a symbolic link
//	x NAME=VALUE                an extended attribute
//
// Modes are octal, owners are numbers. A path may be in double quotes, and a backslash
// makes the next character an ordinary one. Empty lines and lines that begin with # are
// skipped. Definitions that would run a program (f) are refused.
func (t *Tree) ApplyPseudo(r io.Reader) error {
	b := &builder{tree: t, use: NewMeter(Limits{})}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for i := 1; lines.Scan(); i++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if err := b.pseudo(line); err != nil {
			return fmt.Errorf("line %d: %w", i, err)
		}
	}
	return lines.Err()
}

func (b *builder) pseudo(line string) error {
	path, rest := pseudoPath(line)
	kind, rest, _ := strings.Cut(rest, " ")
	rest = strings.TrimSpace(rest)
	if kind == "x" {
		return b.pseudoXattr(path, rest)
	}
	fields := strings.Fields(rest)
	if len(fields) < 3 {
		return fmt.Errorf("%q has no mode, owner and group", path)
	}
	mode, err := strconv.ParseUint(fields[0], 8, 16)
	uid, err2 := strconv.ParseUint(fields[1], 10, 32)
	gid, err3 := strconv.ParseUint(fields[2], 10, 32)
	if err := errors.Join(err, err2, err3); err != nil || mode > 0o7777 {
		return fmt.Errorf("%q: mode, owner and group must be numbers: %q", path, rest)
	}
	n := &Node{Mode: uint16(mode), UID: uint32(uid), GID: uint32(gid), ModTime: NewDir(0).ModTime}
	arg := fields[3:]
	wants := map[string]int{"m": 0, "d": 0, "c": 2, "b": 2, "i": 1, "s": 1}
	if kind == "s" && len(arg) > 1 { // a target with spaces
		target := rest
		for _, f := range fields[:3] {
			target = strings.TrimSpace(strings.TrimPrefix(target, f))
		}
		arg = []string{target}
	}
	if count, known := wants[kind]; !known {
		return fmt.Errorf("%q: definitions of type %q are not supported", path, kind)
	} else if len(arg) != count {
		return fmt.Errorf("%q: a definition of type %q takes %d arguments after the group", path, kind, count)
	}
	switch kind {
	case "m":
		old := b.tree.Root.Lookup(path)
		if old == nil {
			return fmt.Errorf("%q is not in the tree", path)
		}
		old.Mode, old.UID, old.GID = n.Mode, n.UID, n.GID
		return nil
	case "d":
		n.Kind = Dir
	case "c", "b":
		n.Kind = map[string]Kind{"c": CharDevice, "b": BlockDevice}[kind]
		major, err := strconv.ParseUint(arg[0], 10, 32)
		minor, err2 := strconv.ParseUint(arg[1], 10, 32)
		if err := errors.Join(err, err2); err != nil {
			return fmt.Errorf("%q: device numbers: %w", path, err)
		}
		n.Major, n.Minor = uint32(major), uint32(minor)
	case "i":
		n.Kind = map[string]Kind{"p": FIFO, "s": Socket}[arg[0]]
		if n.Kind == 0 {
			return fmt.Errorf("%q: neither p nor s: %q", path, arg[0])
		}
	case "s":
		n.Kind, n.Target = Symlink, arg[0]
	}
	return b.add(path, n)
}

func (b *builder) pseudoXattr(path, setting string) error {
	n := b.tree.Root.Lookup(path)
	name, value, ok := strings.Cut(setting, "=")
	if n == nil || !ok || name == "" {
		return fmt.Errorf("%q is not in the tree, or %q is not NAME=VALUE", path, setting)
	}
	n.SetXattrs(append(n.Xattrs, Xattr{name, []byte(value)}))
	return nil
}

// pseudoPath parts the path at the beginning of a definition from the rest.
func pseudoPath(line string) (path, rest string) {
	var name strings.Builder
	quoted := false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '\\' && i+1 < len(line):
			i++
			name.WriteByte(line[i])
		case c == '"':
			quoted = !quoted
		case (c == ' ' || c == '\t') && !quoted:
			return name.String(), strings.TrimSpace(line[i:])
		default:
			name.WriteByte(c)
		}
	}
	return name.String(), ""
}
