package native

import (
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// socketPair makes two connected sockets: one for here, one for a child.
func socketPair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), program), os.NewFile(uintptr(fds[1]), program)
	defer ours.Close()
	c, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return c, theirs, nil
}

// sharedMemory makes memory that a child can have, too, and maps it. Its size cannot be changed: a
// child that made it smaller would end this process, which reads and writes it.
func sharedMemory(size int) (mem []byte, f *os.File, err error) {
	fd, err := unix.MemfdCreate(program, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, nil, os.NewSyscallError("memfd_create", err)
	}
	f = os.NewFile(uintptr(fd), program)
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if err = f.Truncate(int64(size)); err != nil {
		return nil, nil, err
	}
	if _, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		return nil, nil, os.NewSyscallError("fcntl", err)
	}
	mem, err = unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, os.NewSyscallError("mmap", err)
	}
	return mem, f, nil
}

func unmap(mem []byte) { _ = unix.Munmap(mem) }
