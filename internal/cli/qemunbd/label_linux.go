package qemunbd

import (
	"fmt"
	"os"
	"runtime"
)

// socketLabel makes the next socket of this thread have an SELinux label, until
// reset is called. The goroutine stays on its thread in between.
func socketLabel(label string) (reset func() error, err error) {
	if label == "" {
		return func() error { return nil }, nil
	}
	runtime.LockOSThread()
	const attr = "/proc/thread-self/attr/sockcreate"
	if err := os.WriteFile(attr, []byte(label), 0); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("Cannot set SELinux socket create context to %s: %w", label, cause(err))
	}
	return func() error {
		defer runtime.UnlockOSThread()
		return os.WriteFile(attr, nil, 0)
	}, nil
}
