package render

import (
	"fmt"
	"io"
	"strings"

	"github.com/cowl-disk/cowl/qapi"
)

// Info prints images the way "info" does: one after the other with an empty
// line between, each with its children.
func Info(w io.Writer, images []*qapi.ImageInfo) error {
	p := &printer{w: w}
	for i, img := range images {
		p.indent = ""
		if i > 0 {
			p.line("")
		}
		p.image(img, 0, "/")
	}
	return p.err
}

// printer writes lines and keeps the first error. Text among the arguments is made
// printable.
type printer struct {
	w      io.Writer
	indent string
	err    error
}

func (p *printer) line(format string, args ...any) {
	if p.err != nil {
		return
	}
	for i, a := range args {
		if text, ok := a.(string); ok {
			args[i] = Printable(text)
		}
	}
	_, p.err = fmt.Fprintf(p.w, p.indent+format+"\n", args...)
}

// image prints one node and its children. Below the top, nodes without
// children are protocols and are described in other words.
func (p *printer) image(img *qapi.ImageInfo, depth int, path string) {
	p.indent = strings.Repeat("    ", depth)
	size := "unavailable"
	if img.ActualSize != nil {
		size = Size(*img.ActualSize)
	}
	if depth > 0 && len(img.Children) == 0 {
		p.line("filename: %s", Filename(img.Filename))
		p.line("protocol type: %s", img.Format)
		p.line("file length: %s (%d bytes)", Size(img.VirtualSize), img.VirtualSize)
	} else {
		p.line("image: %s", Filename(img.Filename))
		p.line("file format: %s", img.Format)
		p.line("virtual size: %s (%d bytes)", Size(img.VirtualSize), img.VirtualSize)
	}
	p.line("disk size: %s", size)
	if img.Encrypted {
		p.line("encrypted: yes")
	}
	if img.ClusterSize != 0 {
		p.line("cluster_size: %d", img.ClusterSize)
	}
	if img.DirtyFlag != nil && *img.DirtyFlag {
		p.line("cleanly shut down: no")
	}
	p.backing(img)
	if img.Limits != nil {
		p.tree("Block limits:", img.Limits)
	}
	if len(img.Snapshots) > 0 {
		p.line("Snapshot list:")
		p.snapshots(img.Snapshots)
	}
	p.specific(img.FormatSpecific)
	for _, c := range img.Children {
		p.indent = strings.Repeat("    ", depth)
		p.line("Child node '%s%s':", path, c.Name)
		p.image(&c.Info, depth+1, path+c.Name+"/")
	}
}

func (p *printer) backing(img *qapi.ImageInfo) {
	if img.Backing == "" {
		return
	}
	note := ""
	switch {
	case img.FullBacking == "":
		note = " (cannot determine actual path)"
	case img.FullBacking != img.Backing:
		note = " (actual path: " + Filename(img.FullBacking) + ")"
	}
	p.line("backing file: %s%s", img.Backing, note)
	if img.BackingFormat != "" {
		p.line("backing file format: %s", img.BackingFormat)
	}
}

// Snapshots prints the table of "snapshot -l".
func Snapshots(w io.Writer, list []qapi.SnapshotInfo) error {
	p := &printer{w: w}
	p.line("Snapshot list:")
	p.snapshots(list)
	return p.err
}

func (p *printer) snapshots(list []qapi.SnapshotInfo) {
	p.line("%-7s %-16s %8s %19s %15s %10s", "ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT")
	for _, s := range list {
		icount := "--"
		if s.Icount != nil {
			icount = number(*s.Icount)
		}
		sec := s.VMClockSec
		clock := fmt.Sprintf("%04d:%02d:%02d.%03d", sec/3600, sec/60%60, sec%60, s.VMClockNsec/1e6)
		p.line("%s %s %8s %19s %15s %10s", padded(s.ID, 7), padded(s.Name, 16), Size(s.VMStateSize), date(s.DateSec), clock, icount)
	}
}

// padded fills text up to n bytes, as printf of the C library does: package fmt counts
// characters.
func padded(text string, n int) string {
	text = Printable(text)
	return text + strings.Repeat(" ", max(0, n-len(text)))
}

// Specific prints what only a format has, as qemu-img info does.
func Specific(w io.Writer, s *qapi.ImageInfoSpecific) error {
	p := &printer{w: w}
	p.specific(s)
	return p.err
}

// specific prints what only this format has, unless that is nothing.
func (p *printer) specific(s *qapi.ImageInfoSpecific) {
	if s != nil {
		p.tree("Format specific information:", s.Data)
	}
}

// tree prints data under a heading, unless there are none.
func (p *printer) tree(heading string, data any) {
	if p.err != nil {
		return
	}
	t, err := tree(data)
	if err != nil {
		p.err = err
		return
	}
	if emptyDump(t) {
		return
	}
	p.line("%s", heading)
	p.dump(t, "    ")
}

func emptyDump(t any) bool {
	switch t := t.(type) {
	case object:
		for _, m := range t {
			if !emptyDump(m.val) {
				return false
			}
		}
		return true
	case []any:
		for _, e := range t {
			if !emptyDump(e) {
				return false
			}
		}
		return true
	}
	return false
}

// dump prints a tree as indented lines.
func (p *printer) dump(t any, in string) {
	item := func(key string, val any) {
		switch val := val.(type) {
		case object, []any:
			p.line("%s%s:", in, key)
			p.dump(val, in+"    ")
		case nil:
			p.line("%s%s: null", in, key)
		default:
			p.line("%s%s: %v", in, key, val)
		}
	}
	switch t := t.(type) {
	case object:
		for _, m := range t {
			item(strings.ReplaceAll(m.key, "-", " "), m.val)
		}
	case []any:
		for i, e := range t {
			item("["+number(int64(i))+"]", e)
		}
	}
}
