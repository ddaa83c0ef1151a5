package serve

import (
	"errors"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/cowl-disk/cowl/internal/native/link"
)

// Inherited returns what the process was started with.
func Inherited() (e Ends, err error) {
	for _, s := range []struct {
		fd   uintptr
		name string
		to   *net.Conn
	}{{link.ControlFD, "control", &e.Control}, {link.DataFD, "data", &e.Data}, {link.SlotsFD, "slots", &e.Slots}} {
		f := os.NewFile(s.fd, s.name)
		*s.to, err = net.FileConn(f)
		f.Close()
		if err != nil {
			return Ends{}, err
		}
	}
	f := os.NewFile(link.MemoryFD, "memory")
	defer f.Close()
	if e.Memory, err = mapSealed(f, link.SlotCount*link.SlotSize); err != nil {
		return Ends{}, err
	}
	return e, nil
}

// mapSealed maps the memory that is in f, if it will always have that size.
func mapSealed(f *os.File, size int) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	if info.Size() != int64(size) || seals&unix.F_SEAL_SHRINK == 0 {
		return nil, errors.New("the memory of the slots has another size, or can lose it")
	}
	return unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
}
