package ops

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// check finds what cannot be done, before anything is changed.
func (c *copying) check(ctx context.Context) error {
	job := &c.job
	if job.Sparse == 0 {
		job.Sparse = DefaultSparse
	}
	switch {
	case job.ReaderSize < 0 || job.ReaderSize > 0 && job.Reader == nil:
		return driver.Errorf(driver.ErrInvalid, "CopyJob: ReaderSize is %d, which needs a Reader and cannot be negative", job.ReaderSize)
	case (len(job.Sources) > 0) == (job.Reader != nil):
		return driver.Errorf(driver.ErrInvalid, "CopyJob: one of Files, Sources and Reader must be set")
	case (job.New != nil) == (job.Target != nil):
		return driver.Errorf(driver.ErrInvalid, "CopyJob: one of New and Target must be set")
	case job.Reader != nil && (job.Bitmaps || job.Target != nil || job.CopyRange || job.Reflink == ReflinkAlways):
		return driver.Errorf(driver.ErrInvalid, "CopyJob: a Reader cannot be combined with Target, Bitmaps, CopyRange or ReflinkAlways")
	}
	c.size = (job.ReaderSize + 511) &^ 511
	for _, img := range job.Sources {
		c.size += (img.Size() + 511) &^ 511
	}
	var err error
	if job.New != nil {
		err = c.checkNew(ctx)
	} else {
		err = c.checkTarget(ctx)
	}
	if err != nil || !job.Bitmaps {
		return err
	}
	if len(job.Sources) > 1 {
		return driver.Errorf(driver.ErrInvalid, "copying bitmaps only possible with single source")
	}
	return CheckBitmaps(ctx, job.Sources[0], job.SkipInconsistent)
}

// checkNew checks what is said of the new image and sets c.options.
func (c *copying) checkNew(ctx context.Context) error {
	n := *c.job.New
	if err := n.check(); err != nil {
		return err
	}
	c.job.New = &n // the caller's is not changed
	schema, err := n.schema()
	if err != nil {
		return err
	}
	if err := schema.Check(n.Options, n.Order...); err != nil {
		return err
	}
	n.Size, n.Options = -1, n.Options.Clone()
	delete(n.Options, "size")
	if c.options, _, err = createOptions(n, schema); err != nil {
		return err
	}
	backing := c.options.String("backing_file") != ""
	switch {
	case c.job.TargetIsZero && backing:
		return errZeroBacking
	case c.job.TargetIsZero:
		return driver.Errorf(driver.ErrInvalid, "CopyJob.TargetIsZero is for a Target that exists")
	case len(c.job.Sources) > 1 && backing:
		return driver.Errorf(driver.ErrInvalid, "having a backing file for the target makes no sense when concatenating multiple input images")
	case c.job.Reader != nil && backing:
		return driver.Errorf(driver.ErrInvalid, "CopyJob: a Reader cannot be combined with a backing file")
	case c.job.Reader != nil && c.options.String("preallocation") != "" && c.options.String("preallocation") != string(driver.PreallocOff):
		return driver.Errorf(driver.ErrInvalid, "CopyJob: a Reader cannot be combined with preallocation")
	case backing && c.options.String("backing_fmt") == "":
		return driver.Errorf(driver.ErrInvalid, "use of backing file requires explicit backing format")
	}
	if c.job.Compress {
		if err := checkCompress(n.Registry.Lookup(n.Format), c.options); err != nil {
			return err
		}
	}
	if err := checkDataFile(ctx, n, c.options); err != nil {
		return err
	}
	if n.Storage != nil {
		return keepFromStorage(ctx, n.Registry, n.Storage, c.job.Sources)
	}
	if err := KeepSources(n.Filename, c.job.Sources...); err != nil {
		return &sourceInUse{err}
	}
	return nil
}

// keepFromStorage refuses to make an image in s if it holds a source.
func keepFromStorage(ctx context.Context, reg *block.Registry, s driver.Driver, sources []*block.Image) error {
	file, err := block.Open(ctx, reg, block.Source{Storage: s, Format: s.Desc().Name}, block.OpenOptions{Gate: driver.DenyAll, Use: block.Use{NoIO: true}, Sharing: block.Sharing{Force: true}})
	if err != nil {
		return err
	}
	return errors.Join(checkTargetNotSource(file, sources), file.Close(ctx))
}

// sourceInUse marks the refusal to replace a source, which reads as a failure to
// create the target.
type sourceInUse struct{ error }

func (e *sourceInUse) Unwrap() error { return e.error }

// ReplacesSource says whether a copy was refused since its target is its source.
func ReplacesSource(err error) bool {
	for ; err != nil; err = unwrap(err) {
		if _, ok := err.(*sourceInUse); ok {
			return true
		}
	}
	return false
}

func unwrap(err error) error {
	if u, ok := err.(interface{ Unwrap() error }); ok {
		return u.Unwrap()
	}
	return nil
}

// checkBitmaps refuses a target that cannot have the bitmaps that are to be copied.
func (c *copying) checkBitmaps(ctx context.Context, target *block.Image) error {
	if !c.job.Bitmaps {
		return nil
	}
	_, ok, err := target.Bitmaps().List(ctx)
	if _, lists := target.Tree().Node().(driver.Bitmapper); err == nil && !lists && target.Tree().Driver().Desc().StoresBitmaps {
		// Its format has bitmaps, which are not made here: it will do if there are none.
		var list []driver.BitmapInfo
		list, _, err = c.job.Sources[0].Bitmaps().List(ctx)
		ok = len(list) == 0
	}
	if err == nil && !ok {
		err = driver.Errorf(driver.ErrUnsupported, "format driver '%s' does not support bitmaps", target.Format())
	}
	return err
}

// checkTarget checks a target that exists.
func (c *copying) checkTarget(ctx context.Context) error {
	t := c.job.Target
	switch {
	case len(c.job.Sources) > 1 && c.job.UseBacking:
		return driver.Errorf(driver.ErrInvalid, "having a backing file for the target makes no sense when concatenating multiple input images")
	case c.job.TargetIsZero && c.job.UseBacking:
		return errZeroBacking
	}
	if c.job.Compress && !t.CanCompress() {
		return CompressionError(ctx, t)
	}
	if err := c.checkBitmaps(ctx, t); err != nil {
		return err
	}
	if t.Size() < c.size {
		return driver.Errorf(driver.ErrRange, "output file is smaller than input file")
	}
	if c.job.TargetIsZero {
		if err := checkCanBeZero(ctx, t); err != nil {
			return err
		}
	}
	return checkTargetNotSource(t, c.job.Sources)
}

var errZeroBacking = driver.Errorf(driver.ErrInvalid, "cannot use --target-is-zero when the destination image has a backing file")

// checkCanBeZero refuses a target that cannot read as zeroes without having been
// written: what is not written shows a backing file, or what a cipher makes of zeroes.
func checkCanBeZero(ctx context.Context, t *block.Image) error {
	for img := t; img != nil; {
		if img.Backing() != nil {
			return errZeroBacking
		}
		if t := img.Traits(); t.Encrypted && !t.ZeroInit {
			return driver.Errorf(driver.ErrInvalid, "cannot use --target-is-zero when the destination image is encrypted as a whole: it never reads as zeroes by itself")
		}
		img = img.Tree().PassedThrough()
	}
	return nil
}

// checkTargetNotSource refuses a target that is in a file which a source is read from, as
// far as nodes of this machine tell.
func checkTargetNotSource(target *block.Image, sources []*block.Image) error {
	written := map[string]bool{}
	identities(target, false, written)
	read := map[string]bool{}
	for _, s := range sources {
		identities(s, true, read)
	}
	for id := range written {
		if read[id] {
			return driver.Errorf(driver.ErrInvalid, "the target '%s' is also what is read", target.Filename())
		}
	}
	return nil
}

// identities collects the objects that hold an image.
func identities(img *block.Image, backing bool, into map[string]bool) {
	if img == nil {
		return
	}
	if id, ok := img.Unwrap().(driver.Identifier); ok {
		if s := id.Identity(); s != "" {
			into[s] = true
		}
	}
	for _, c := range img.Tree().Children() {
		identities(c.Image, backing, into)
	}
	if backing {
		identities(img.Backing(), true, into)
	}
}

// InUseError says that a file which is about to be replaced is being read. It reads as
// the refusal of an image lock does, which is what finds this where images are locked:
// not with force-share, and not on every system.
type InUseError struct{ Filename string }

func (e *InUseError) Error() string { return driver.Text(e) }

// Template implements driver.Message.
func (e *InUseError) Template() (string, []any) { return "failed to get \"%s\" lock", []any{"write"} }

// Is recognises the kind.
func (e *InUseError) Is(target error) bool { return target == driver.ErrLocked }

// Hint is a further line for the user.
func (e *InUseError) Hint() string {
	return "Is another process using the image [" + e.Filename + "]?"
}

// KeepSources returns an InUseError if creating the file target would replace one that
// an open image, or a layer of it, is in.
func KeepSources(target string, images ...*block.Image) error {
	st, err := os.Stat(strings.TrimPrefix(target, "file:"))
	if err != nil || !st.Mode().IsRegular() {
		return nil
	}
	for _, img := range images {
		if isIn(img, st) {
			return &InUseError{target}
		}
	}
	return nil
}

// isIn says whether any part of an image is in a file.
func isIn(img *block.Image, file os.FileInfo) bool {
	if img == nil {
		return false
	}
	if img.Unwrap() != nil {
		st, err := os.Stat(strings.TrimPrefix(img.Filename(), "file:"))
		return err == nil && os.SameFile(st, file)
	}
	for _, c := range img.Tree().Children() {
		if isIn(c.Image, file) {
			return true
		}
	}
	return isIn(img.Backing(), file)
}

var (
	errNoCompression       = driver.Errorf(driver.ErrUnsupported, "compression not supported for this file format")
	errCompressedEncrypted = driver.Errorf(driver.ErrUnsupported, "compression and encryption not supported at the same time")
)

// CompressionError says why an open image takes no compressed clusters.
func CompressionError(ctx context.Context, img *block.Image) error {
	if img.Traits().Encrypted && !img.Tree().Driver().Desc().NoCompression {
		return errCompressedEncrypted
	}
	return errNoCompression
}

// checkCompress refuses options that do not go with compression.
func checkCompress(drv driver.Driver, d opts.Dict) error {
	encrypted, _ := opts.ParseBool(d.String("encryption"))
	switch {
	case drv.Desc().PassesThrough() == "file" || drv.Desc().NoCompression || drv.Desc().Kind == driver.KindProtocol:
		return errNoCompression
	case encrypted || d.String("encrypt.format") != "":
		return errCompressedEncrypted
	case d.String("data_file") != "":
		return driver.Errorf(driver.ErrUnsupported, "images with an external data file hold no compressed clusters")
	case d.String("preallocation") != "" && d.String("preallocation") != string(driver.PreallocOff):
		return driver.Errorf(driver.ErrUnsupported, "compression and preallocation not supported at the same time")
	}
	return nil
}

// checkDataFile refuses an image whose external data file exists and holds something:
// creating the image would erase it, and it may be another name of a disk.
func checkDataFile(ctx context.Context, job CreateJob, d opts.Dict) error {
	name := d.String("data_file")
	if name == "" || job.ReplaceDataFile || keepsDataFile(d) {
		return nil
	}
	name = block.CombinePath(job.Filename, name)
	proto, err := job.Registry.FindProtocol(name)
	if err != nil {
		return err
	}
	file, err := block.Open(ctx, job.Registry, block.Source{Filename: name, Format: proto.Desc().Name},
		block.OpenOptions{Gate: driver.DenyAll, Objects: job.Objects, Use: block.Use{NoIO: true}, Sharing: block.Sharing{Force: true}})
	if err != nil {
		return nil // there is none yet, or creating it tells what is wrong
	}
	size := file.Size()
	if err := file.Close(ctx); err != nil {
		return err
	}
	if size > 0 {
		return &DataFileError{Filename: name, Size: size}
	}
	return nil
}

// keepsDataFile tells whether a new image is made over a data file that exists.
func keepsDataFile(d opts.Dict) bool {
	keep, _ := opts.ParseBool(d.String("keep_data_file"))
	return keep
}

// DataFileError says that a data file which is to be made exists and is not empty.
type DataFileError struct {
	Filename string
	Size     int64
}

func (e *DataFileError) Error() string { return driver.Text(e) }

// Template implements driver.Message.
func (e *DataFileError) Template() (string, []any) {
	return "the data file '%s' exists and is not empty: creating the image would erase it", []any{e.Filename}
}

// Is recognises the kind.
func (e *DataFileError) Is(target error) bool { return target == driver.ErrExists }

// Hint is a further line for the user.
func (e *DataFileError) Hint() string {
	return "--force erases it; create -o keep_data_file=on makes a disk of it."
}
