package qemuimg

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/internal/cli/render"
	"github.com/cowl-disk/cowl/internal/cli/words"
	"github.com/cowl-disk/cowl/ops"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/ova"
)

// appliance is one run of ova.
type appliance struct {
	*call
	pack, check bool
	out         string
	o           ova.PackOptions
}

func ovaCommand(c *call) *program.Command {
	a := &appliance{call: c}
	number := func(to *int, what string) func(string) error {
		return func(arg string) error {
			n, err := strconv.Atoi(arg)
			if err != nil || n < 1 {
				return fmt.Errorf("Invalid %s '%s'", what, arg)
			}
			*to = n
			return nil
		}
	}
	return &program.Command{
		Name: "ova", Summary: "List, verify or make an appliance (OVA)",
		Usage: []string{"[--check] [--output human|json] [--object OBJDEF] FILENAME", "--pack -o OUT.ova [--name NAME] [--cpus N] [--memory MIB] [-f FMT] [-p] [-q] [--object OBJDEF] DISK [DISK2 [...]]"},
		About: "Lists the members and the disks of an appliance. FILENAME:DISK is the name of a disk in it for all\ncommands that read: DISK is its number from 1, its identifier or the name of its file.\n" +
			"A pipe ('-' for the standard input) is read once; of a pipe convert reads a disk, too: /dev/stdin:DISK.\n" +
			"With --pack, makes an appliance of disks in any format: an OVF 1.0 descriptor, a manifest and\nstream-optimized disks. SOURCE_DATE_EPOCH is the time of its members (default: that of 1970).",
		Options: []program.Option{c.helpOption(), c.formatOption(), c.outputOption(), c.progressOption(), c.quietOption(), c.objectOption(),
			program.Flag(&a.check, "--check", "read all of it and compare with the manifest; exit code 2 if they differ"),
			program.Flag(&a.pack, "--pack", "make an appliance"),
			program.Text(&a.out, "-o, --out OUT", "the appliance to make, which must not exist"),
			program.Text(&a.o.Name, "--name NAME", "name of the virtual machine, and start of the names of members (default: appliance)"),
			program.Func("--cpus N", "how many processors it has (default: 1)", number(&a.o.CPUs, "number of processors")),
			program.Func("--memory MIB", "its memory in MiB (default: 1024)", number(&a.o.Memory, "memory")),
		},
		Operands: []program.Operand{{Name: "FILENAME", Help: "the appliance, or the disks to pack"}},
		Examples: []string{"appliance.ova", "--pack -o appliance.ova disk.qcow2"},
		Rules: []program.Rule{
			{Broken: func(operands []string) bool { return len(operands) == 0 || !a.pack && len(operands) != 1 }, Says: "Expecting the name of an appliance, or with --pack of disks", Usage: true},
			program.Never(func() bool { return a.pack && a.out == "" }, "--pack needs -o OUT.ova"),
			program.Never(func() bool { return a.pack && (a.check || c.json) }, "--pack cannot be combined with --check and --output=json"),
			program.Never(func() bool { return !a.pack && (a.out != "" || a.o.Name != "" || a.o.CPUs != 0 || a.o.Memory != 0) }, "-o, --name, --cpus and --memory need --pack"),
		},
		Run: func(context.Context, []string) int {
			if a.pack {
				return a.make()
			}
			return a.list()
		},
	}
}

// openArchive opens an appliance as a plain file. The caller closes the image.
func (c *call) openArchive(name string) (*ova.Appliance, *block.Image, error) {
	img, err := c.openPlain(c.ctx, block.Source{Filename: name, Format: "raw"}, name, block.OpenOptions{})
	if err != nil {
		return nil, nil, err
	}
	a, err := ova.Open(img.ReaderAt(c.ctx), img.Size())
	if err != nil {
		return nil, nil, errors.Join(openError(name, err), c.close(img))
	}
	return a, img, nil
}

// listing is what is printed of an appliance.
type listing struct {
	Descriptor string         `json:"descriptor"`
	Members    []ova.Member   `json:"members"`
	Disks      []ova.Disk     `json:"disks"`
	Manifest   string         `json:"manifest,omitempty"`
	Check      []ova.Verified `json:"check,omitempty"`
}

func (a *appliance) list() int {
	name := a.operands[0]
	if name == "-" || isPipe(name) {
		return a.listPiped(name)
	}
	app, img, err := a.openArchive(name)
	if err != nil {
		return a.fail(err)
	}
	defer a.close(img)
	var check []ova.Verified
	if a.check && app.Manifest != nil {
		if check, err = app.Verify(a.ctx, img.ReaderAt(a.ctx)); err != nil {
			return a.fail(err)
		}
	}
	return a.show(app, check)
}

// show prints an appliance, and what became of its manifest if that is asked for.
func (a *appliance) show(app *ova.Appliance, check []ova.Verified) (code int) {
	if a.check && app.Manifest == nil {
		return a.errorf("The appliance has no manifest to compare with")
	}
	var err error
	l := listing{Descriptor: app.Descriptor.Name, Members: app.Members, Disks: app.Disks}
	if app.Manifest != nil {
		l.Manifest = app.Manifest.Name
	}
	wrong := false
	l.Check = check
	for _, v := range l.Check {
		wrong = wrong || !v.OK
	}
	if a.json {
		err = render.JSON(a.Stdout, l)
	} else {
		err = a.printListing(l)
	}
	if code := a.print(err); code != 0 {
		return code
	}
	if wrong {
		return 2
	}
	return 0
}

func (a *appliance) printListing(l listing) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%-40s %16s %16s\n", "MEMBER", "OFFSET", "SIZE")
	for _, m := range l.Members {
		fmt.Fprintf(&b, "%-40s %16d %16d\n", render.Printable(m.Name), m.Offset, m.Size)
	}
	fmt.Fprintf(&b, "%-4s %-20s %16s  %s\n", "DISK", "ID", "CAPACITY", "FILE")
	for i, d := range l.Disks {
		size, file := strconv.FormatInt(d.Capacity, 10), d.File
		if d.Capacity < 0 {
			size = "unknown"
		}
		switch {
		case file == "":
			file = "(empty)"
		case d.Member == nil:
			file += " (missing)"
		case d.Compression != "":
			file += " (compressed: " + d.Compression + ")"
		}
		fmt.Fprintf(&b, "%-4d %-20s %16s  %s\n", i+1, render.Printable(d.ID), size, render.Printable(file))
	}
	for _, v := range l.Check {
		if v.OK {
			fmt.Fprintf(&b, "%s: OK\n", render.Printable(v.Name))
		} else {
			fmt.Fprintf(&b, "%s: %s\n", render.Printable(v.Name), v.Problem)
		}
	}
	_, err := a.Stdout.Write(b.Bytes())
	return err
}

// make packs disks.
func (a *appliance) make() int {
	if text := os.Getenv("SOURCE_DATE_EPOCH"); text != "" {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 || n >= 1<<33 {
			return a.errorf("Invalid SOURCE_DATE_EPOCH '%s'", text)
		}
		a.o.Time = time.Unix(n, 0)
	}
	drv := a.reg.Lookup("vmdk")
	if drv == nil {
		return a.errorf("Unknown file format 'vmdk'")
	}
	progress, stop := a.startProgress(1)
	for i, name := range a.operands {
		img, err := a.open(a.image(name), block.OpenOptions{Use: block.Use{Sequential: true}})
		if err != nil {
			stop(true)
			return a.fail(err)
		}
		defer a.close(img)
		a.o.Disks = append(a.o.Disks, ova.PackDisk{Capacity: (img.Size() + 511) / 512 * 512, Write: func(w io.Writer) error {
			named := &identifier{w: w, cid: uint32(i + 1)}
			_, err := ops.ConvertToWriter(a.ctx, named, drv, opts.Dict{"subformat": "streamOptimized", "adapter_type": "lsilogic"},
				ops.ConvertJob{Sources: []*block.Image{img}, Sparse: 4096, Progress: progress.Report, Warn: func(msg string) { a.warnf("%s", msg) }})
			if err != nil {
				return fmt.Errorf("Could not pack '%s': %w", driver.HidePassword(name), err)
			}
			return named.flush()
		}})
	}
	f, err := os.OpenFile(a.out, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		stop(true)
		return a.errorf("Could not create '%s': %s", a.out, words.System(err))
	}
	if _, err = ova.Pack(f, a.o); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	stop(err != nil)
	if err != nil {
		return a.fail(errors.Join(err, os.Remove(a.out)))
	}
	return 0
}

// identifier gives a stream-optimized image a content identifier that does not change from run to
// run: that which the driver gives is by chance.
type identifier struct {
	w    io.Writer
	cid  uint32
	head []byte
	done bool
}

const (
	vmdkDescOffset = 28 // of the fields of the header, which count in sectors
	vmdkDescSize   = 36
	vmdkHeader     = 512
	vmdkMaxDesc    = 1 << 20
)

// Write implements io.Writer.
func (c *identifier) Write(p []byte) (int, error) {
	if c.done {
		return c.w.Write(p)
	}
	c.head = append(c.head, p...)
	if len(c.head) < vmdkHeader {
		return len(p), nil
	}
	off, size := binary.LittleEndian.Uint64(c.head[vmdkDescOffset:]), binary.LittleEndian.Uint64(c.head[vmdkDescSize:])
	if off > vmdkMaxDesc/512 || size > vmdkMaxDesc/512 {
		return 0, errors.New("the descriptor of the disk is not where it was expected")
	}
	start, end := int(off*512), int((off+size)*512)
	if len(c.head) < end {
		return len(p), nil
	}
	text, _, _ := bytes.Cut(c.head[start:end], []byte{0})
	before, rest, ok := bytes.Cut(text, []byte("\nCID="))
	_, after, ok2 := bytes.Cut(rest, []byte("\n"))
	text = fmt.Appendf(nil, "%s\nCID=%08x\n%s", before, c.cid, after)
	if !ok || !ok2 || len(text) > end-start {
		return 0, errors.New("the descriptor of the disk has no identifier")
	}
	clear(c.head[start:end])
	copy(c.head[start:end], text)
	c.done = true
	_, err := c.w.Write(c.head)
	c.head = nil
	return len(p), err
}

// flush fails if the image ended before its descriptor.
func (c *identifier) flush() error {
	if !c.done {
		return io.ErrUnexpectedEOF
	}
	return nil
}

// splitOVA splits "ARCHIVE.ova:DISK".
func splitOVA(name string) (archive, disk string, ok bool) {
	const ending = ".ova:"
	i := strings.LastIndex(strings.ToLower(name), ending)
	if i < 0 || strings.HasPrefix(name, "json:") {
		return "", "", false
	}
	i += len(ending) - 1
	return name[:i], name[i+1:], true
}

// inOVA makes of a name of a disk in an appliance the range of its file.
func (c *call) inOVA(src block.Source, archive, disk string) (block.Source, error) {
	app, img, err := c.openArchive(archive)
	if err != nil {
		return src, err
	}
	defer c.close(img)
	d, err := app.Find(disk)
	if err != nil {
		return src, openError(archive, err)
	}
	o := src.Options.Clone()
	if o == nil {
		o = opts.Dict{}
	}
	o["file.driver"], o["file.offset"], o["file.size"] = "raw", strconv.FormatInt(d.Member.Offset, 10), strconv.FormatInt((d.Member.Size+511)/512*512, 10)
	if err := nameFile(o, img.Tree().File()); err != nil {
		return src, openError(archive, err)
	}
	src.Filename, src.Options = "", o
	return src, nil
}

// nameFile adds the options that open a file again, as the child of the child "file".
func nameFile(o opts.Dict, file *block.Image) error {
	const prefix = "file.file."
	drv := file.Tree().Driver()
	o[prefix+"driver"] = drv.Desc().Name
	p, ok := drv.(driver.FilenameParser)
	if !ok {
		o[prefix+"filename"] = strings.TrimPrefix(file.Filename(), drv.Desc().Name+":")
		return nil
	}
	d, err := p.ParseFilename(file.Filename())
	for k, v := range d {
		o[prefix+k] = v
	}
	return err
}
