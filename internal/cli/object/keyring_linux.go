package object

import "golang.org/x/sys/unix"

// readKey reads a key of the kernel's key retention service.
func readKey(serial int32) ([]byte, error) {
	n, err := unix.KeyctlBuffer(unix.KEYCTL_READ, int(serial), nil, 0)
	if err != nil {
		return nil, err
	}
	b := make([]byte, n)
	got, err := unix.KeyctlBuffer(unix.KEYCTL_READ, int(serial), b, 0)
	if err != nil {
		return nil, err
	}
	return b[:min(n, got)], nil
}
