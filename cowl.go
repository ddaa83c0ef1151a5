// Package cowl opens and creates virtual disk images: the front door of the
// library, with every driver wired in. To choose drivers yourself, so that no
// other code is linked, use package block with a Registry of your own.
//
//	img, err := cowl.Open(ctx, cowl.Source{Filename: "disk.qcow2", Format: "qcow2"},
//		cowl.OpenOptions{Gate: cowl.DenyAll()})
//
// An Image reads through backing files and compressed clusters (ReadAt, Reader),
// writes with the format's metadata kept consistent (WriteAt, WriteZeroes,
// Discard, Flush), and tells what is stored where (Status). The work behind each
// command, such as converting and comparing, is in package ops.
package cowl

import (
	"context"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/drivers"
	"github.com/cowl-disk/cowl/ops"
)

// The types of the block layer that callers meet.
type (
	// Image is an open disk image. It may be used by several goroutines.
	Image = block.Image
	// Source names an image, by file name, by options, or both.
	Source = block.Source
	// OpenOptions say how to open an image. The Gate must be set.
	OpenOptions = block.OpenOptions
	// Gate decides whether an image may refer to another file.
	Gate = driver.Gate
	// GateFunc makes a Gate of a function.
	GateFunc = driver.GateFunc
	// Budget bounds what an image that comes from a stranger may cost.
	Budget = driver.Budget
	// CreateJob says what image to create. A nil Registry means every driver.
	CreateJob = ops.CreateJob
	// CopyJob says what disk to copy where. Nil registries mean every driver.
	CopyJob = ops.CopyJob
	// Progress says how far an operation is.
	Progress = ops.Progress
	// OverlayJob describes an overlay to be made. A nil Registry means every driver.
	OverlayJob = ops.OverlayJob
)

// AllowAll returns a Gate that lets an image refer to any file. It is not for
// images of strangers: a backing file can be any file that you can read.
func AllowAll() Gate { return driver.AllowAll }

// DenyAll returns a Gate that refuses every reference.
func DenyAll() Gate { return driver.DenyAll }

// Registry returns a set of all drivers.
func Registry() *block.Registry { return block.NewRegistry(drivers.All()...) }

// Open opens an image; the caller closes it. Without a format in src the format
// is probed, which an image of a stranger can abuse: give it where you know it.
func Open(ctx context.Context, src Source, o OpenOptions) (*Image, error) {
	return block.Open(ctx, Registry(), src, o)
}

// Create makes an image, replacing a file of that name, as "qemu-img create"
// does: a backing file needs its format, and gives its size where job.Size is
// not set. The gate, DenyAll if job has none, is asked about the backing file
// before it is opened.
func Create(ctx context.Context, job CreateJob) error {
	if job.Registry == nil {
		job.Registry = Registry()
	}
	return ops.Create(ctx, job)
}

// Overlay makes an overlay over an image and opens it for writing; the caller closes
// it. What is written goes into the overlay, and the image below stays as it is. This
// is what "qemu-img create -b BASE -F FORMAT" does, and the opening after it.
func Overlay(ctx context.Context, job OverlayJob) (*Image, error) {
	if job.Registry == nil {
		job.Registry = Registry()
	}
	return ops.Overlay(ctx, job)
}

// Copy copies a disk to another image as "qemu-img convert" does. Sources that are
// opened by name, and a new target, meet DenyAll where the job has no gate. Progress is
// reported at most 20 times a second, and at the start and the end, with the rate and the
// time left.
func Copy(ctx context.Context, job CopyJob) (ops.ConvertResult, error) {
	if job.Registry == nil {
		job.Registry = Registry()
	}
	job.Progress = ops.Paced(job.Progress)
	if job.Open.Gate == nil {
		job.Open.Gate = DenyAll()
	}
	if job.New != nil && job.New.Registry == nil {
		n := *job.New
		n.Registry, job.New = job.Registry, &n
	}
	return ops.Copy(ctx, job)
}
