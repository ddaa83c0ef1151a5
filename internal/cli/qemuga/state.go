package qemuga

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/cowl-disk/cowl/guestagent"
	"github.com/cowl-disk/cowl/internal/cli/words"
	"github.com/cowl-disk/cowl/internal/keyfile"
)

// firstHandle is the number of the first file handle ever.
const firstHandle = 1000

// stateFiles keeps what outlives the agent in its state folder: the next file handle
// in qga.state, and qga.state.isfrozen while file systems are frozen.
type stateFiles struct {
	path string
	next int64
}

func (s *stateFiles) frozenPath() string { return s.path + ".isfrozen" }

// openState reads the state. A new file is not made while file systems are frozen.
func openState(dir string) (s *stateFiles, frozen bool, err error) {
	s = &stateFiles{path: filepath.Join(dir, "qga.state"), next: firstHandle}
	if strings.HasPrefix(dir, ".") || dir == "" {
		s.path = dir + "/qga.state"
	}
	if runtime.GOOS == "windows" {
		// The folder is the agent's own there. What fails is told of when the file is made.
		_ = os.MkdirAll(dir, 0o700)
	}
	if _, err := os.Stat(s.frozenPath()); err == nil {
		frozen = true
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, false, fmt.Errorf("unable to access state file at path %s: %w", s.frozenPath(), guestagent.Cause(err))
	}
	data, err := os.ReadFile(s.path)
	switch {
	case errors.Is(err, os.ErrNotExist) && frozen:
		return s, frozen, nil
	case errors.Is(err, os.ErrNotExist):
		if err := s.write(); err != nil {
			return nil, false, fmt.Errorf("unable to create state file at path %s: %w", s.path, err)
		}
		return s, frozen, nil
	case err != nil:
		return nil, false, fmt.Errorf("unable to access state file at path %s: %w", s.path, guestagent.Cause(err))
	}
	f, err := keyfile.Parse(string(data))
	if err != nil {
		return nil, false, fmt.Errorf("error loading persistent state from path: %s, %s", s.path, words.Text(err))
	}
	if v, ok := f.Value("global", "fd_counter"); ok {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			n = 0
		}
		s.next = n
	}
	return s, frozen, nil
}

// write replaces the file as a whole.
func (s *stateFiles) write() error {
	tmp := s.path + ".new"
	text := fmt.Sprintf("[global]\nfd_counter=%d\n", s.next)
	if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil {
		return guestagent.Cause(err)
	}
	return os.Rename(tmp, s.path)
}

// NextHandle implements guestagent.State.
func (s *stateFiles) NextHandle() (int64, error) {
	s.next++
	if err := s.write(); err != nil {
		return 0, fmt.Errorf("failed to commit persistent state to disk: %w", err)
	}
	return s.next - 1, nil
}

// SetFrozen implements guestagent.State.
func (s *stateFiles) SetFrozen(frozen bool) error {
	if !frozen {
		return os.Remove(s.frozenPath())
	}
	f, err := os.OpenFile(s.frozenPath(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}
