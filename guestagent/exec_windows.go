package guestagent

import (
	"os"
	"os/exec"
)

func startProcess(argv, env []string, files []*os.File) (*os.Process, error) {
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return nil, err
	}
	return os.StartProcess(path, argv, &os.ProcAttr{Env: env, Files: files})
}

// exitOf returns the exit code, or the exception that ended the process.
func exitOf(s *os.ProcessState) (code, signal *int64) {
	n := int64(uint32(s.ExitCode()))
	if n < 0xC0000000 {
		return &n, nil
	}
	return nil, &n
}
