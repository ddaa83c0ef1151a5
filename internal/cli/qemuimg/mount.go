package qemuimg

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/internal/cli/imageopt"
	"github.com/cowl-disk/cowl/internal/cli/program"
)

// Mounter shows a disk as a file. It is in a program of its own, cowl-mount: its
// library would open files at every start of all other commands.
type Mounter interface {
	// Mount shows length bytes of the disk of img from offset on as a file in dir,
	// and returns its name when it can be used. img stays open, and the caller's
	// to close, after the mount has ended.
	Mount(dir string, img *block.Image, offset, length int64, others bool) (Mounted, error)
}

// Mounted is a disk that is shown.
type Mounted interface {
	// Name is that of the file.
	Name() string
	// Wait returns when the file system has been unmounted.
	Wait()
	// Unmount unmounts the file system; it fails while a program uses it.
	Unmount() error
	// Detach takes the file system out of the tree of folders although programs use it:
	// it is unmounted when none of them does any more. Not every system can do that.
	Detach() error
	// Answered returns a channel that is closed when all that programs had asked for
	// before the call is answered.
	Answered() <-chan struct{}
}

// mounting is one run of mount.
type mounting struct {
	*call
	write, others bool
	partition     int
	snapshot      imageopt.Snapshot
}

func mountCommand(c *call) *program.Command {
	m := &mounting{call: c}
	return &program.Command{
		Name: "mount", Summary: "Show the disk of an image as a file",
		Usage: []string{"[-f FMT | --image-opts] [-w] [-P NUM] [-l SNAPSHOT] [-t CACHE] [-U]", "[--allow-other] [-q] [--object OBJDEF] FILENAME DIR"},
		About: "Shows the disk, as a guest sees it, as the file DIR/disk, by way of FUSE: losetup, mount -o loop\nand any program that reads a raw disk can work with it. The command runs until DIR is\n" +
			"unmounted, or interrupted; what was written is flushed then. Where a program uses the file when\n" +
			"the command is interrupted, DIR is free at once, and the command ends when the program is done.",
		Options: []program.Option{c.helpOption(), c.quietOption(), c.formatOption(), c.imageOptsOption(),
			program.Flag(&m.write, "-w, --writable", "let the file be written (default: it is read-only)"),
			program.Func("-P, --partition NUM", "show only this partition of the disk", func(arg string) error {
				n, err := strconv.Atoi(arg)
				if err != nil || n < 1 || n > imageopt.MaxPartitions {
					return fmt.Errorf("Invalid partition number '%s'. Must be between 1 and 128.", arg)
				}
				m.partition = n
				return nil
			}),
			program.Func("-l, --snapshot SNAPSHOT", "show the disk of an internal snapshot", func(arg string) (err error) {
				m.snapshot, err = imageopt.ParseSnapshot(arg)
				return err
			}),
			c.cacheOption("-t, --cache CACHE", "the cache mode (default: writeback)"),
			program.Flag(&m.others, "--allow-other", "let other users reach the file, too"),
			c.forceShareOption(), c.objectOption().InFull(),
		},
		Operands: []program.Operand{{Name: "FILENAME", Help: "the image"}, {Name: "DIR", Help: "a folder"}},
		Examples: []string{"disk.qcow2 /mnt/image", "-w -P 1 disk.qcow2 /mnt/image"},
		Rules: []program.Rule{
			{Broken: func(operands []string) bool { return len(operands) != 2 }, Says: "Expecting an image file name and a folder", Usage: true},
			program.Never(func() bool { _, ok := cacheMode(c.cache); return !ok }, "Invalid cache mode"),
			program.Never(func() bool { return m.write && m.snapshot.Given() }, "-w and -l cannot be combined: a snapshot is read-only"),
		},
		Run: m.run,
	}
}

func (m *mounting) run(_ context.Context, operands []string) int {
	c := m.call
	if c.Mounter == nil {
		return c.fail(errors.New("Disks are shown by the program cowl-mount, which is neither beside this one nor on PATH: install it, or build it from cmd/cowl-mount"))
	}
	cache, _ := cacheMode(c.cache)
	c.watch.Do(func() {}) // that a program uses the file is no reason to give up: end and close tell when there is one
	im := c.image(operands[0])
	img, err := c.open(im, block.OpenOptions{Write: m.write, Unmap: true, Cache: cache, Sharing: block.Sharing{FixedSize: true, Force: c.forceShare}})
	if err != nil {
		return c.fail(err)
	}
	code := m.show(img, operands[1])
	if err := m.close(img); err != nil {
		return c.fail(err)
	}
	return code
}

// close closes the image with all that was written to it.
func (m *mounting) close(img *block.Image) error {
	over := make(chan struct{})
	defer close(over)
	if imageopt.Served(img) {
		imageopt.AfterStop(m.ctx, over, m.giveUp)
	}
	return img.Close(context.WithoutCancel(m.ctx))
}

// giveUp ends the process: the server of the image does not answer.
func (m *mounting) giveUp() {
	loss := ""
	if m.write {
		loss = ": what was written last may be lost"
	}
	m.errorf("Interrupted; no answer in time%s", loss)
	m.die(m.ctx)
}

// show mounts, and waits for the end.
func (m *mounting) show(img *block.Image, dir string) int {
	c := m.call
	if err := m.snapshot.Load(c.ctx, img); err != nil {
		return c.fail(err)
	}
	offset, length := int64(0), img.Size()
	if m.partition > 0 {
		p, err := imageopt.FindPartition(c.ctx, img, m.partition)
		if err != nil {
			return c.fail(err)
		}
		offset, length = p.Start, p.Length
	}
	shown, err := c.Mounter.Mount(dir, img, offset, length, m.others)
	if err != nil {
		return c.fail(fmt.Errorf("Could not mount on '%s': %w", dir, err))
	}
	if !c.quiet {
		fmt.Fprintln(c.Stdout, shown.Name())
	}
	gone := make(chan struct{})
	go func() {
		shown.Wait()
		close(gone)
	}()
	select {
	case <-gone:
		return 0
	case <-c.ctx.Done():
	}
	if imageopt.Served(img) {
		go m.watchShown(shown, gone)
	}
	m.end(shown, dir)
	<-gone
	return 1
}

// watchShown gives up once the server of a disk that is shown does not answer in time. It is called when the command is
// told to end, and returns when the disk is shown no longer.
func (m *mounting) watchShown(shown Mounted, gone <-chan struct{}) {
	for {
		answered := shown.Answered()
		imageopt.AfterStop(m.ctx, answered, func() {
			_ = shown.Detach() // it is gone with the process then, and leaves no folder that cannot be used
			m.giveUp()
		})
		<-answered
		select {
		case <-gone:
			return
		case <-time.After(watchInterval):
		}
	}
}

// watchInterval is how long a request may be under way before it is watched.
const watchInterval = 50 * time.Millisecond

// end unmounts a disk that is shown, when the command is told to end.
func (m *mounting) end(shown Mounted, dir string) {
	if shown.Unmount() == nil {
		return
	}
	until := "it is unmounted"
	if shown.Detach() == nil {
		until = "no program uses it any more"
	}
	fmt.Fprintf(m.Stderr, "%s: %s is in use; the command ends when %s, or at a second signal\n", m.Name, dir, until)
}
