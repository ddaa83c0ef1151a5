//go:build unix

// Command launch runs a command and writes its peak memory in KiB, its processor time and its wall time, both
// in nanoseconds, to file descriptor 3.
//
// The kernel counts the memory of the process that forks as memory of the command that it executes. This program
// imports next to nothing, so that what it adds is less than any command of the table takes.
package main

import (
	"os"
	"strconv"
	"syscall"
	"time"
)

func main() {
	start := time.Now()
	pid, err := syscall.ForkExec(os.Args[1], os.Args[1:], &syscall.ProcAttr{Env: syscall.Environ(), Files: []uintptr{0, 1, 2}})
	if err != nil {
		fail(err)
	}
	var status syscall.WaitStatus
	var usage syscall.Rusage
	for {
		if _, err = syscall.Wait4(pid, &status, 0, &usage); err != syscall.EINTR {
			break
		}
	}
	wall := time.Since(start)
	if err != nil {
		fail(err)
	}
	line := strconv.FormatInt(int64(usage.Maxrss), 10) + " " + strconv.FormatInt(usage.Utime.Nano()+usage.Stime.Nano(), 10) + " " +
		strconv.FormatInt(wall.Nanoseconds(), 10) + "\n"
	if _, err := syscall.Write(3, []byte(line)); err != nil {
		fail(err)
	}
	if status.Signaled() {
		os.Exit(128 + int(status.Signal()))
	}
	os.Exit(status.ExitStatus())
}

func fail(err error) {
	_, _ = syscall.Write(2, []byte("launch: "+err.Error()+"\n"))
	os.Exit(127)
}
