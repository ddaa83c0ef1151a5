package main

import "golang.org/x/sys/unix"

// primed is how much memory prime takes: what the largest row puts in the page cache,
// and then some.
const primed = 3 << 30

// prime takes memory from the system and gives it back. On a virtual machine whose
// balloon reports free pages, memory that has been free for two seconds goes back to the
// host, and the next to touch it waits for the host: up to fifteen times as long for
// the same write. After prime, either program finds memory that is there.
func prime() error {
	m, err := unix.Mmap(-1, 0, primed, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	for i := 0; i < len(m); i += 4096 {
		m[i] = 1
	}
	return unix.Munmap(m)
}
