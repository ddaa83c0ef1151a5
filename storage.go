package cowl

import (
	"io"
	"io/fs"
	"os"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/protocol/caller"
	"github.com/cowl-disk/cowl/protocol/file"
)

// Storage holds the bytes of an image in place of a file name: for Source.Storage and
// CreateJob.Storage. What it is made of stays the caller's, and is closed by the caller
// after the images on it.
//
// The format should be named with it: it is probed otherwise.
type Storage = driver.Driver

// ReadWriterAt is what FromReadWriterAt takes. If it has the methods Truncate(int64)
// error and Sync() error as well, they are used.
type ReadWriterAt = caller.ReadWriterAt

// FromReaderAt makes read-only Storage of the first size bytes of r, which is read
// by several goroutines.
func FromReaderAt(r io.ReaderAt, size int64) Storage { return caller.ReaderAt(r, size) }

// FromReadWriterAt makes Storage of rw, which has size bytes now. Without a method
// Truncate its size is fixed; without Sync, Image.Flush promises nothing.
func FromReadWriterAt(rw ReadWriterAt, size int64) Storage { return caller.Writable(rw, size) }

// FromFile makes Storage of an open regular file or block device. One image at a time
// can be open on it. To write, f must be open for reading and writing.
func FromFile(f *os.File) (Storage, error) { return file.Handle(f) }

// FromFS makes read-only Storage of a regular file of any file system, which must have
// ReadAt or Seek: those of embed.FS and os.DirFS have.
func FromFS(f fs.File) (Storage, error) {
	if f, ok := f.(*os.File); ok {
		return FromFile(f)
	}
	return caller.FSFile(f)
}
