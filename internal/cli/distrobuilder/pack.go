package distrobuilder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/incus"
	"github.com/cowl-disk/cowl/incus/definition"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/internal/cli/render"
	"github.com/cowl-disk/cowl/ops"
)

// imaging has what pack-incus and build-incus have in common.
type imaging struct {
	*call
	kind         string // split or unified
	word         string // of the compression
	compression  incus.Compression
	vm           bool
	boot         string
	reproducible bool
	noVerify     bool
	skipActions  bool
	importing    bool
	alias        string
}

// packing is one run of pack-incus.
type packing struct {
	imaging
	owner     *fstree.Owner
	keepOwner bool
	ownership string
	ref       string
}

func newImaging(c *call) imaging {
	return imaging{call: c, kind: "split", word: "xz", boot: incus.BootAuto, reproducible: true}
}

const imagingUsage = "[--type split|unified] [--compression METHOD[-LEVEL]] [--vm[=BOOL]] [--boot WAY] [--reproducible[=BOOL]] [--no-verify] [--skip-actions] [--import-into-incus[=ALIAS]] [-p[=json]] [--output human|json]"

// options declares what makes an image.
func (m *imaging) options() []program.Option {
	return []program.Option{
		m.typeOption(),
		m.compressionOption(),
		boolean(&m.vm, "--vm", "make the disk of a virtual machine (qcow2) in place of a squashfs"),
		program.Text(&m.boot, "--boot WAY", "where the boot files of a virtual machine come from: what is in /boot/efi (esp),\nshim and signed GRUB, a unified kernel image (uki), systemd-boot, or none;\nauto takes the first that is there (default: auto)").Offering(incus.BootWays()...),
		boolean(&m.reproducible, "--reproducible", "depend on nothing but the source and the definition: the image's time is\nSOURCE_DATE_EPOCH, or that of the newest file; false takes the clock (default: true)"),
		program.Flag(&m.noVerify, "--no-verify", "do not read back and compare what was written"),
		program.Flag(&m.skipActions, "--skip-actions", "leave out actions and package management, and tell which"),
		program.Func("--import-into-incus[=ALIAS]", "import the image into the Incus server of this machine ($INCUS_SOCKET, $INCUS_DIR),\nand give it a name, which may be a template", func(arg string) error {
			if m.importing = true; arg != "-" {
				m.alias = arg
			}
			return nil
		}),
		m.progressOption(), m.outputOption(),
	}
}

func (m *imaging) typeOption() program.Option {
	return program.Text(&m.kind, "--type split|unified", "one archive with everything (unified), or the metadata and the root file\nsystem in files of their own (default: split)").Offering("split", "unified")
}

func (m *imaging) compressionOption() program.Option {
	return program.Text(&m.word, "--compression METHOD[-LEVEL]", "gzip, xz, zstd, lzma, lz4; for --type unified also bzip2 and none; levels\nof squashfs are for gzip and zstd only (default: xz)").Offering("gzip", "xz", "zstd", "lzma", "lz4", "bzip2", "none")
}

func (m *imaging) progressOption() program.Option {
	return program.Func("-p, --progress[=json]", "show progress; with =json as one object per line, with the members\ndone, total, bytes_per_second and phase", func(arg string) error {
		switch arg {
		case "":
			m.progress = render.ProgressText
		case "json":
			m.progress = render.ProgressJSON
		default:
			return program.Usagef("--progress expects 'json' or nothing, not '%s'", arg)
		}
		return nil
	}).Offering("json")
}

func (m *imaging) outputOption() program.Option {
	return program.Choice("--output human|json", "--output", "how to print what was made (default: human)", func(word string) {
		if m.json = word == "json"; m.json {
			m.logs = m.Stderr // the standard output is for the object
		}
	}, "human", "json")
}

func (m *imaging) rules() []program.Rule {
	return []program.Rule{
		program.Never(func() bool { return m.kind != "split" && m.kind != "unified" }, "--type needs to be one of ['split', 'unified']"),
	}
}

// check reads the compression.
func (m *imaging) check() error {
	var err error
	if m.compression, err = incus.ParseCompression(m.word); err == nil && m.kind == "split" && !m.vm {
		_, _, err = m.compression.Squashfs()
	}
	if err != nil {
		return usageError{fmt.Errorf("failed to parse compression level: %w", err)}
	}
	return nil
}

func packCommand(c *call) *program.Command {
	m := &packing{imaging: newImaging(c)}
	options := append(c.common(), m.options()...)
	options = append(options,
		program.Func("--owner root|keep|UID:GID", "the owner of all files of the source; keep takes those of a folder as they are", m.setOwner).Offering("root", "keep"),
		program.Text(&m.ownership, "--ownership FILE", "owners, modes and devices that the source lacks, one definition a line as\nmksquashfs takes them with -pf"),
		program.Text(&m.ref, "--ref NAME", "the name of the image in an OCI layout or a \"docker save\" archive with several"))
	return &program.Command{
		Name: "pack-incus", Summary: "Create an Incus image from a root file system",
		Usage: []string{imagingUsage, "[--owner root|keep|UID:GID] [--ownership FILE] [--ref NAME]", globalUsage, "FILENAME|- SOURCE [TARGET_DIR]"},
		About: "Makes an image for Incus of a definition and a root file system. It needs no root and no other\nprogram, and the same input gives the same image. The source is not changed.",
		Operands: []program.Operand{{Name: "FILENAME", Help: "the definition in YAML; - is the standard input"},
			{Name: "SOURCE", Help: "a folder, a tar archive, a squashfs, an OCI layout or a \"docker save\" archive"},
			{Name: "TARGET_DIR", Help: "where the files of the image come (default: the working directory)"}},
		Examples: []string{"image.yaml rootfs.tar.xz out", "--vm --compression zstd image.yaml rootfs.tar out", "--type unified --owner root image.yaml rootfs/"},
		Options:  options,
		Rules:    append([]program.Rule{count(2, 3)}, m.rules()...),
		Run: func(ctx context.Context, operands []string) int {
			c.ctx = ctx
			return c.finish(m.run(operands))
		},
	}
}

func (m *packing) setOwner(arg string) error {
	switch arg {
	case "keep":
		m.keepOwner = true
		return nil
	case "root":
		m.owner = &fstree.Owner{}
		return nil
	}
	u, g, ok := strings.Cut(arg, ":")
	uid, err := strconv.ParseUint(u, 10, 32)
	gid, err2 := strconv.ParseUint(g, 10, 32)
	if errors.Join(err, err2) != nil || !ok {
		return program.Usagef("--owner expects root, keep or UID:GID, not '%s'", arg)
	}
	m.owner = &fstree.Owner{UID: uint32(uid), GID: uint32(gid)}
	return nil
}

func (m *packing) run(operands []string) error {
	if err := m.check(); err != nil {
		return err
	}
	text, err := m.definition(operands[0])
	if err != nil {
		return fmt.Errorf("failed to get definition: %w", err)
	}
	// mistakes are told before anything is read
	if _, err := m.parse(text, time.Unix(0, 0)); err != nil {
		return err
	}
	if err := m.temporary(); err != nil {
		return err
	}
	if err := m.foreign(operands[1]); err != nil {
		return err
	}
	tree, err := incus.OpenSource(operands[1], incus.SourceOptions{Tree: fstree.Options{Owner: m.owner, TempDir: m.cacheDir}, Ownership: m.ownership, Platform: fstree.Platform{Ref: m.ref}})
	if err != nil {
		return err
	}
	d, when, err := m.definitionAt(text, tree)
	if err != nil {
		return errors.Join(err, tree.Close())
	}
	target := ""
	if len(operands) == 3 {
		target = operands[2]
	}
	return m.image(d, tree, when, definition.Pack, target)
}

// foreign refuses a folder whose files belong to the user, who has not said whose they
// shall be: an image of them would hardly work.
func (m *packing) foreign(source string) error {
	info, err := os.Stat(source)
	if err != nil || !info.IsDir() || m.owner != nil || m.keepOwner || m.ownership != "" || os.Getuid() <= 0 {
		return err
	}
	if _, err := os.Stat(source + "/oci-layout"); err == nil {
		return nil
	}
	return fmt.Errorf("%s is a folder whose files belong to users of this machine: say whose they shall be with --owner root, --owner keep or --ownership FILE, or pack an archive", source)
}

// definitionAt reads the definition for an image of a tree, and returns the time of the
// image: SOURCE_DATE_EPOCH, of which no file is younger, that of the newest file, or now.
func (m *imaging) definitionAt(text []byte, tree *fstree.Tree) (*definition.Definition, time.Time, error) {
	when, given, err := m.epoch()
	switch {
	case err != nil:
		return nil, when, err
	case given:
		tree.ClampTimes(when)
	case m.reproducible:
		when = incus.Latest(tree)
	default:
		when = m.Now()
	}
	d, err := m.parse(text, when)
	if err == nil && m.vm {
		d.Targets.Type = definition.VMImage
	}
	return d, when, err
}

// image runs what the definition says in the root file system, generates and writes the
// image, and imports it where that is asked for. It closes the tree.
func (m *imaging) image(d *definition.Definition, tree *fstree.Tree, when time.Time, work definition.Work, target string) error {
	r := &rooted{imaging: m, d: d, tree: tree, when: when, work: work}
	defer r.close()
	if err := r.before(); err != nil {
		return err
	}
	image := incus.New(d, r.tree, when)
	image.Warn = m.Program.warn
	image.Running = func(generator string) { m.log("info", "Running generator", "generator", generator) }
	if err := image.Finish(); err != nil {
		return err
	}
	if err := image.Generate(); err != nil {
		return err
	}
	if err := r.after(); err != nil {
		return err
	}
	image.Tree = r.tree
	m.log("info", "Creating Incus image", "compression", m.word, "type", m.kind, "vm", strconv.FormatBool(m.vm))
	o := incus.PackOptions{Dir: target, Unified: m.kind == "unified", Compression: m.compression, NoVerify: m.noVerify}
	if m.vm {
		o.VM, o.Registry = &incus.VMOptions{Boot: m.boot, UUID: r.uuid}, m.registry()
	}
	result, err := m.write(o, image.Pack)
	if err != nil {
		return err
	}
	if m.importing {
		if err := m.importImage(image, result); err != nil {
			return err
		}
	}
	return m.print(result)
}

// write packs an image, shows progress and tells what is not kept.
func (m *imaging) write(o incus.PackOptions, pack func(context.Context, incus.PackOptions) (*incus.Result, error)) (*incus.Result, error) {
	mode, show := m.progress, m.Stdout
	if mode == render.ProgressOff && m.own() && m.Terminal {
		mode = render.ProgressBar
	}
	if mode == render.ProgressBar || m.json {
		show = m.Screen
	}
	progress := render.NewProgress(show, mode, 1)
	progress.Start()
	o.Progress = func(step string, done, total int64) {
		progress.Report(ops.Progress{Phase: step, Done: done, Total: total})
	}
	result, err := pack(m.ctx, o)
	progress.Done(err != nil)
	if err != nil {
		return nil, err
	}
	for _, l := range result.Lost {
		m.Program.warn("not kept: " + l)
	}
	return result, nil
}

// print tells what was made.
func (m *imaging) print(r *incus.Result) error {
	if m.json {
		return render.JSON(m.Stdout, r)
	}
	if !m.own() {
		return nil
	}
	for _, f := range r.Files {
		fmt.Fprintf(m.Stdout, "%s: %d bytes, SHA-256 %s\n", f.Path, f.Size, f.SHA256)
	}
	_, err := fmt.Fprintf(m.Stdout, "Fingerprint: %s\n", r.Fingerprint)
	return err
}
