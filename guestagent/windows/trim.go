//go:build windows

package windows

import (
	"context"
	"os/exec"

	"golang.org/x/sys/windows"
)

type trimArgs struct {
	Minimum *int64 `qga:"minimum,optional"`
}

// Trimmed is the reply of guest-fstrim.
type Trimmed struct {
	Paths []TrimResult `qga:"paths"`
}

// TrimResult is what became of one volume.
type TrimResult struct {
	Path  string  `qga:"path"`
	Error *string `qga:"error,optional"`
}

// trim has the system's own program discard what is free on each fixed volume. The
// program takes no smallest length.
func trim(ctx context.Context, _ trimArgs) (Trimmed, error) {
	paths, err := fixedPaths()
	if err != nil {
		return Trimmed{}, err
	}
	reply := Trimmed{Paths: []TrimResult{}}
	for _, path := range paths {
		r := TrimResult{Path: path}
		// It ends with 0 in any case, and names errors in what it prints.
		out, err := exec.CommandContext(ctx, "defrag.exe", "/L", path).Output()
		if text := trimError(string(out), err); text != "" {
			r.Error = &text
		}
		// QEMU's agent has the last volume first.
		reply.Paths = append([]TrimResult{r}, reply.Paths...)
	}
	return reply, nil
}

// fixedPaths returns where the fixed volumes are mounted.
func fixedPaths() ([]string, error) {
	names, err := volumes()
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, name := range names {
		wide, err := windows.UTF16PtrFromString(name)
		if err != nil {
			continue
		}
		path := mountedAt(wide)
		root, err := windows.UTF16PtrFromString(path)
		if path != "" && err == nil && windows.GetDriveType(root) == windows.DRIVE_FIXED {
			paths = append(paths, path)
		}
	}
	return paths, nil
}
