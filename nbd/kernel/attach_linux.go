package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cowl-disk/cowl/internal/message"
)

// poll is how often the state of a device is looked at while it changes.
const poll = 2 * time.Millisecond

// index returns N of /dev/nbdN.
func index(device string) (uint32, error) {
	name := filepath.Base(device)
	n, err := strconv.ParseUint(strings.TrimPrefix(name, "nbd"), 10, 31)
	if !strings.HasPrefix(name, "nbd") || err != nil {
		return 0, fmt.Errorf("%s is not the name of an nbd device (/dev/nbd0, /dev/nbd1, …)", device)
	}
	return uint32(n), nil
}

// sys names a file of the device in sysfs.
func sys(device, name string) string {
	return filepath.Join("/sys/block", filepath.Base(device), name)
}

// owner identifies the process that attached the device: the kernel shows its number
// as long as it is attached. It is "" for a device that is not attached.
func owner(device string) string {
	b, err := os.ReadFile(sys(device, "pid"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func attached(device string) bool { return owner(device) != "" }

func size(device string) int64 {
	b, err := os.ReadFile(sys(device, "size"))
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0
	}
	return n * 512
}

// until waits until f says so.
func until(ctx context.Context, f func() bool) error {
	t := time.NewTicker(poll)
	defer t.Stop()
	for !f() {
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// open opens a device and says what is wrong where there is none.
func open(device string, flags int) (*os.File, error) {
	f, err := os.OpenFile(device, flags, 0)
	switch {
	case err == nil:
		return f, nil
	case errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENXIO):
		if _, e := os.Stat("/sys/module/nbd"); e != nil {
			return nil, message.Errorf(nil, "failed to open %s: %w", device, ErrUnsupported)
		}
	}
	var pe *os.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return nil, message.Errorf(nil, "failed to open %s: %w", device, err)
}

// Attach attaches a connection to a device and returns when the device has its
// size and its partitions. When ctx ends before, the device is detached again.
func Attach(ctx context.Context, c Config) (*Attachment, error) {
	n, err := index(c.Device)
	if err != nil {
		return nil, err
	}
	if len(c.Conns) == 0 || c.Size <= 0 {
		return nil, fmt.Errorf("%s: nothing to attach", c.Device)
	}
	if c.BlockSize == 0 {
		c.BlockSize = 512
	}
	a := &Attachment{device: c.Device, done: make(chan struct{}), method: c.Method}
	if c.Method != Ioctl {
		a.method = Netlink
		err := connectNetlink(n, c)
		if err != nil && c.Method == Auto && errors.Is(err, ErrUnsupported) {
			a.method = Ioctl
		} else if err != nil {
			return nil, fmt.Errorf("%s: %w", c.Device, err)
		}
	}
	if a.method == Ioctl {
		if err := a.connectIoctl(c); err != nil {
			return nil, err
		}
	} else if a.owner = owner(c.Device); a.owner == "" {
		return nil, fmt.Errorf("%s: the device was detached while it was being attached", c.Device)
	} else {
		go a.watch()
	}
	if err := a.ready(ctx, c.Size/c.BlockSize*c.BlockSize); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", c.Device, err), Detach(context.WithoutCancel(ctx), c.Device))
	}
	return a, nil
}

// ready waits until the device has its size, and lets the kernel look for
// partitions.
func (a *Attachment) ready(ctx context.Context, want int64) error {
	gone := false
	err := until(ctx, func() bool {
		select {
		case <-a.done:
			gone = true
			return true
		default:
			return attached(a.device) && size(a.device) == want
		}
	})
	if gone {
		return errors.Join(errors.New("the device was detached while it was being attached"), a.err)
	}
	if err != nil {
		return err
	}
	// The first open reads the partition table.
	f, err := open(a.device, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.IoctlSetInt(int(f.Fd()), unix.BLKRRPART, 0); err != nil && err != unix.EINVAL && err != unix.EBUSY {
		return fmt.Errorf("reading the partition table: %w", err)
	}
	return nil
}

// watch closes done when the device is detached. Another process may have attached it
// again at once.
func (a *Attachment) watch() {
	t := time.NewTicker(50 * time.Millisecond)
	defer t.Stop()
	for range t.C {
		if owner(a.device) != a.owner {
			close(a.done)
			return
		}
	}
}

// Detach detaches the device that Attach attached, and waits until it is gone. It
// leaves a device alone that another process has attached since.
func (a *Attachment) Detach(ctx context.Context) error {
	select {
	case <-a.done:
		return nil
	default:
	}
	if a.owner == "" || owner(a.device) == a.owner {
		if err := Detach(ctx, a.device); err != nil {
			return err
		}
	}
	select {
	case <-a.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Detach detaches a device, whichever process attached it, and returns when it is gone. A
// device that is not attached is not an error.
func Detach(ctx context.Context, device string) error {
	n, err := index(device)
	if err != nil {
		return err
	}
	f, err := open(device, os.O_RDWR)
	if err != nil {
		return err
	}
	defer f.Close()
	if !attached(device) {
		return nil
	}
	if err := disconnectNetlink(n); err != nil {
		if !errors.Is(err, ErrUnsupported) {
			return fmt.Errorf("%s: %w", device, err)
		}
		if err := ioctl(f, nbdClearQueue, 0); err != nil && err != unix.EINVAL && err != unix.ENOTTY {
			return message.Errorf(nil, "failed to clear the queue of %s: %w", device, err)
		}
		if err := ioctl(f, nbdDisconnect, 0); err != nil && err != unix.EINVAL {
			return message.Errorf(nil, "failed to disconnect %s: %w", device, err)
		}
		if err := ioctl(f, nbdClearSock, 0); err != nil && err != unix.EINVAL {
			return message.Errorf(nil, "failed to disconnect %s: %w", device, err)
		}
	}
	// The kernel releases the device when no process has it open.
	f.Close()
	return until(ctx, func() bool { return !attached(device) })
}
