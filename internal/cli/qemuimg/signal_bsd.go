//go:build unix && !linux

package qemuimg

import (
	"os"
	"syscall"
)

var infoSignals = []os.Signal{syscall.SIGUSR1, syscall.Signal(0x1d)} // SIGINFO
