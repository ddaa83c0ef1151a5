package imageopt

import (
	"context"
	"time"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/internal/cli/program"
)

// patience is how long a program that was interrupted goes on at most while it has an image on a server: longer
// than closing and undoing take.
const patience = 800 * time.Millisecond

// stopping is how long a program that serves an image of a server goes on at most once it is told to end by another
// signal than that of a terminal: longer than clients may take for their answers, and what is written then to reach the server.
const stopping = 45 * time.Second

// AfterInterruption calls f when ctx has ended and over is not closed soon after it: formats do some changes to the end
// that they have begun, and a server that does not answer must not hold up the end of the program. As after a
// crash, the image is consistent then.
func AfterInterruption(ctx context.Context, over <-chan struct{}, f func()) {
	after(ctx, over, func() time.Duration { return patience }, f)
}

// AfterStop is AfterInterruption for a program that shows a disk to others until it is told to end, which then writes
// what it has of it to a server: only who waits at a terminal gets no more than a moment.
func AfterStop(ctx context.Context, over <-chan struct{}, f func()) {
	after(ctx, over, func() time.Duration {
		if program.Interrupted(ctx) {
			return patience
		}
		return stopping
	}, f)
}

func after(ctx context.Context, over <-chan struct{}, limit func() time.Duration, f func()) {
	context.AfterFunc(ctx, func() {
		wait := time.NewTimer(limit())
		defer wait.Stop()
		select {
		case <-wait.C:
			f()
		case <-over:
		}
	})
}

// Served says whether an image or one below it is not in a file or device of this machine.
func Served(img *block.Image) bool {
	for ; img != nil; img = img.Backing() {
		if !Local(img.Tree().Protocol().Format()) {
			return true
		}
	}
	return false
}

// Local says whether a protocol is that of files, folders or devices of this machine.
func Local(protocol string) bool {
	switch protocol {
	case "file", "host_device", "host_cdrom", "vvfat":
		return true
	}
	return false
}
