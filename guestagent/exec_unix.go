//go:build unix

package guestagent

import (
	"errors"
	"os"
	"strings"
	"syscall"
)

// defaultPath is where programs are looked for without PATH.
const defaultPath = "/bin:/usr/bin:."

// startProcess starts argv[0], which is looked for in the PATH of env. What is
// executable and no program is a script for /bin/sh.
func startProcess(argv, env []string, files []*os.File) (*os.Process, error) {
	attr := &os.ProcAttr{Env: env, Files: files}
	if attr.Env == nil {
		attr.Env = []string{}
	}
	run := func(path string) (*os.Process, error) {
		p, err := os.StartProcess(path, argv, attr)
		if errors.Is(err, syscall.ENOEXEC) {
			return os.StartProcess("/bin/sh", append([]string{"/bin/sh", path}, argv[1:]...), attr)
		}
		return p, err
	}
	if argv[0] == "" {
		return nil, syscall.ENOENT
	}
	if strings.Contains(argv[0], "/") {
		return run(argv[0])
	}
	path, ok := "", false
	for _, e := range env {
		if v, is := strings.CutPrefix(e, "PATH="); is && !ok {
			path, ok = v, true
		}
	}
	if !ok {
		path = defaultPath
	}
	denied := false
	for _, dir := range strings.Split(path, ":") {
		file := argv[0]
		if dir != "" {
			file = dir + "/" + argv[0]
		}
		if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
			continue // saves a process that would fail
		}
		if !strings.Contains(file, "/") {
			file = "./" + file
		}
		p, err := run(file)
		switch {
		case err == nil:
			return p, nil
		case errors.Is(err, syscall.EACCES):
			denied = true
		case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ESTALE), errors.Is(err, syscall.ETIMEDOUT):
		default:
			return nil, err
		}
	}
	if denied {
		return nil, syscall.EACCES
	}
	return nil, syscall.ENOENT
}

// exitOf returns how a process ended.
func exitOf(s *os.ProcessState) (code, signal *int64) {
	ws, ok := s.Sys().(syscall.WaitStatus)
	var n int64
	switch {
	case ok && ws.Signaled():
		n = int64(ws.Signal())
		return nil, &n
	case ok && ws.Exited():
		n = int64(ws.ExitStatus())
		return &n, nil
	}
	return nil, nil
}
