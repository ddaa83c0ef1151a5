package main

import (
	"bytes"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// warmStep is how much memory is mapped at once.
const warmStep = 256 << 20

// warm touches free memory, at most n bytes and at most half of what is free, and
// leaves it to the end of the process to give it back: half in huge pages, half in small ones, so that the system hands
// out next what was touched. Virtual machines often return free memory to their
// host, which takes milliseconds per MiB to give it again. Without this a program
// that fills the page cache is fast or ten times slower by what ran before it.
func warm(n int64) error {
	free, err := freeMemory()
	if err != nil {
		return err
	}
	n = min(n, free/2)
	for done := int64(0); done+warmStep <= n; done += warmStep {
		m, err := unix.Mmap(-1, 0, warmStep, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return fmt.Errorf("mmap: %w", err)
		}
		size := unix.MADV_HUGEPAGE
		if done >= n/2 {
			size = unix.MADV_NOHUGEPAGE
		}
		_ = unix.Madvise(m, size) // a kernel without huge pages has small ones
		if unix.Madvise(m, unix.MADV_POPULATE_WRITE) != nil {
			for i := 0; i < len(m); i += 4096 { // Linux before 5.14
				m[i] = 1
			}
		}
	}
	return nil
}

// freeMemory is MemFree of /proc/meminfo, in bytes.
func freeMemory() (int64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(b) {
		var kib int64
		if n, _ := fmt.Sscanf(string(line), "MemFree: %d kB", &kib); n == 1 {
			return kib << 10, nil
		}
	}
	return 0, nil
}

// highWater is the peak memory of a running process, in KiB, 0 if it cannot be told. What Wait says of it includes
// the memory of the process that started it.
func highWater(pid int) (kib int64) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(b) {
		if n, _ := fmt.Sscanf(string(line), "VmHWM: %d kB", &kib); n == 1 {
			return kib
		}
	}
	return 0
}
