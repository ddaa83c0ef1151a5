package distrobuilder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/incus"
	"github.com/cowl-disk/cowl/incus/definition"
	"github.com/cowl-disk/cowl/incus/guest"
	"github.com/cowl-disk/cowl/incus/source"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/internal/cli/render"
	"github.com/cowl-disk/cowl/ops"
)

// building is one run of build-incus or build-dir.
type building struct {
	imaging
	keepSources bool
	sourcesDir  string
	postFiles   bool
}

const sourcesUsage = "[--keep-sources[=BOOL]] [--sources-dir DIR]"

// sources declares the options about what is downloaded.
func (b *building) sources() []program.Option {
	return []program.Option{
		boolean(&b.keepSources, "--keep-sources", "keep what was downloaded, to use it again (default: true)"),
		program.Text(&b.sourcesDir, "--sources-dir DIR", "where what is downloaded is kept (default: in the user's cache)"),
	}
}

func buildCommand(c *call) *program.Command {
	b := &building{imaging: newImaging(c), keepSources: true}
	return &program.Command{
		Name: "build-incus", Summary: "Build an Incus image from scratch",
		Usage: []string{imagingUsage, sourcesUsage, globalUsage, "FILENAME|- [TARGET_DIR]"},
		About: "Gets a root file system from where the definition says, does in it what the definition says, and makes\nan image of it. Programs run in it as root, or in a user namespace, on Linux; elsewhere, and without\nnewuidmap, definitions that run none are built, or others with --skip-actions.",
		Operands: []program.Operand{{Name: "FILENAME", Help: "the definition in YAML; - is the standard input"},
			{Name: "TARGET_DIR", Help: "where the files of the image come (default: the working directory)"}},
		Examples: []string{"alpine.yaml out", "--vm --compression zstd -o image.release=3.20 alpine.yaml out"},
		Options:  append(append(c.common(), b.options()...), b.sources()...),
		Rules:    append([]program.Rule{count(1, 2)}, b.rules()...),
		Run: func(ctx context.Context, operands []string) int {
			c.ctx = ctx
			return c.finish(b.run(operands))
		},
	}
}

func buildDirCommand(c *call) *program.Command {
	b := &building{imaging: newImaging(c), keepSources: true}
	return &program.Command{
		Name: "build-dir", Summary: "Build a root file system in a folder",
		Usage:    []string{"[--with-post-files[=BOOL]] [--skip-actions] [--reproducible[=BOOL]] [-p[=json]]", sourcesUsage, globalUsage, "FILENAME|- TARGET_DIR"},
		About:    "Does what build-incus does, without the parts of the definition that name types, and leaves the root\nfile system in a folder. It needs root.",
		Operands: []program.Operand{{Name: "FILENAME", Help: "the definition in YAML; - is the standard input"}, {Name: "TARGET_DIR", Help: "the folder; it is made, or must be empty"}},
		Examples: []string{"alpine.yaml rootfs"},
		Options: append(append(c.common(), b.sources()...),
			boolean(&b.postFiles, "--with-post-files", "run the actions post-files, too"),
			program.Flag(&b.skipActions, "--skip-actions", "leave out actions and package management, and tell which"),
			boolean(&b.reproducible, "--reproducible", "no file is younger than SOURCE_DATE_EPOCH, or than the newest one of the source;\nfalse leaves times as they come (default: true)"),
			b.progressOption()),
		Rules: []program.Rule{{Broken: func(operands []string) bool { return len(operands) != 2 }, Says: "accepts 2 arg(s), received "}},
		Run: func(ctx context.Context, operands []string) int {
			c.ctx = ctx
			return c.finish(b.runDir(operands))
		},
	}
}

// cacheDirOrTemp is where folders for work come.
func (c *call) cacheDirOrTemp() string {
	if c.cacheDir != "" {
		return c.cacheDir
	}
	return os.TempDir()
}

// fetch reads the definition and gets its source.
func (b *building) fetch(name string) (d *definition.Definition, tree *fstree.Tree, when time.Time, err error) {
	text, err := b.definition(name)
	if err != nil {
		return nil, nil, when, fmt.Errorf("failed to get definition: %w", err)
	}
	if d, err = b.parse(text, b.Now()); err != nil {
		return nil, nil, when, err
	}
	if err := b.temporary(); err != nil {
		return nil, nil, when, err
	}
	var work string // a folder only where one is used: it stays when the program is killed
	if source.NeedsWork(d) || !b.keepSources {
		if work, err = os.MkdirTemp(b.cacheDirOrTemp(), "cowl-build-*"); err != nil {
			return nil, nil, when, err
		}
	}
	if b.vm {
		d.Targets.Type = definition.VMImage
	}
	o := source.Options{Dir: b.sourcesDir, Work: work, Tree: fstree.Options{TempDir: b.cacheDir}, Warn: b.Program.warn}
	if !b.keepSources {
		o.Dir = filepath.Join(work, "sources")
	} else if o.Dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return nil, nil, when, fmt.Errorf("%w: say --sources-dir", err)
		}
		o.Dir = filepath.Join(cache, "cowl", "sources")
	}
	b.log("info", "Downloading source")
	progress := render.NewProgress(b.Screen, b.progress, 1)
	progress.Start()
	o.Progress = func(name string, done, total int64) {
		progress.Report(ops.Progress{Phase: name, Done: done, Total: total})
	}
	tree, err = source.Get(b.ctx, d, o)
	progress.Done(err != nil)
	remove := func() error {
		if b.keepCache || work == "" {
			return nil
		}
		return os.RemoveAll(work)
	}
	if err != nil {
		return nil, nil, when, errors.Join(err, remove())
	}
	tree.OnClose(closer(remove))
	if d, when, err = b.definitionAt(text, tree); err != nil {
		err = errors.Join(err, tree.Close())
	}
	return d, tree, when, err
}

// closer is a function that closes.
type closer func() error

func (c closer) Close() error { return c() }

func (b *building) run(operands []string) error {
	if err := b.check(); err != nil {
		return err
	}
	d, tree, when, err := b.fetch(operands[0])
	if err != nil {
		return err
	}
	target := ""
	if len(operands) == 2 {
		target = operands[1]
	}
	return b.image(d, tree, when, definition.Build, target)
}

func (b *building) runDir(operands []string) error {
	target := operands[1]
	if os.Geteuid() != 0 {
		return errors.New("build-dir needs root, which alone can give files to others")
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("failed to create directory %q: %w", target, err)
	}
	if entries, err := os.ReadDir(target); err != nil || len(entries) > 0 {
		return errors.Join(err, fmt.Errorf("the folder %s is not empty: nothing in it is changed", target))
	}
	d, tree, when, err := b.fetch(operands[0])
	if err != nil {
		return err
	}
	r := &rooted{imaging: &b.imaging, d: d, tree: tree, when: when, work: definition.BuildDir, afterToo: b.postFiles}
	defer r.close()
	if err := r.before(); err != nil {
		return err
	}
	image := incus.New(d, r.tree, when)
	image.Warn = b.Program.warn
	if err := image.GenerateFiles(); err != nil {
		return err
	}
	if err := r.after(); err != nil {
		return err
	}
	return guest.Extract(b.ctx, r.tree, target)
}
