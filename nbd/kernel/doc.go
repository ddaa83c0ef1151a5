// Package kernel attaches NBD connections to block devices of the Linux kernel
// (/dev/nbd0 …) and detaches them, by the netlink interface of the kernel's nbd
// driver, or by its older ioctls where that is missing.
//
// Elsewhere than on Linux every call fails with ErrUnsupported.
package kernel

import (
	"errors"
	"os"
	"time"
)

// ErrUnsupported is returned where the kernel has no nbd driver, or it is not
// loaded.
var ErrUnsupported = errors.New("the kernel's nbd driver is not there: load it with 'modprobe nbd'")

// ErrBusy is returned for a device that is attached already.
var ErrBusy = errors.New("the device is in use")

// ErrOneConn is returned where several connections are given and the kernel takes
// one only.
var ErrOneConn = errors.New("this kernel takes one connection only")

// Method is a way to talk to the kernel.
type Method uint8

// The methods. Auto is Netlink where the kernel has it, else Ioctl.
const (
	Auto Method = iota
	Netlink
	Ioctl
)

// Config says what to attach.
type Config struct {
	Device string // "/dev/nbd0"
	// Conns are sockets on which the negotiation is done, in the transmission phase
	// with simple replies. Several are used as one (multi-conn); Ioctl wants one.
	// The kernel takes its own references: they may be closed after Attach.
	Conns     []*os.File
	Size      int64  // bytes
	BlockSize int64  // bytes, a power of two from 512 to the page size; 0: 512. Partition tables count in it
	Flags     uint16 // the export's transmission flags
	// Timeout is how long the kernel waits for the answer to a request before it
	// gives the connection up; 0: for ever.
	Timeout time.Duration
	Method  Method
}

// Attachment is a device that Attach has attached.
type Attachment struct {
	device string
	owner  string // Netlink: the identifier that the kernel keeps of the attachment
	done   chan struct{}
	err    error
	// detach of the method by which it was attached
	method Method
	file   *os.File // Ioctl: the device
}

// Device returns the device's path.
func (a *Attachment) Device() string { return a.device }

// Done is closed when the device has been detached, by whomever.
func (a *Attachment) Done() <-chan struct{} { return a.done }
