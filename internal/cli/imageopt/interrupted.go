package imageopt

import (
	"context"
	"time"

	"github.com/cowl-disk/cowl/block"
)

// patience is how long a program that was interrupted goes on at most while it has an image on a server: longer
// than closing and undoing take.
const patience = 800 * time.Millisecond

// AfterInterruption calls f when ctx has ended and over is not closed soon after it: formats do some changes to the end
// that they have begun, and a server that does not answer must not hold up the end of the program. As after a
// crash, the image is consistent then.
func AfterInterruption(ctx context.Context, over <-chan struct{}, f func()) {
	context.AfterFunc(ctx, func() {
		select {
		case <-time.After(patience):
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
