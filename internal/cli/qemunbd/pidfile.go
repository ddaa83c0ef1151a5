package qemunbd

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// maxPIDFile is longer than any file with the number of a process.
const maxPIDFile = 32

// errNoPIDFile says that a file which exists holds something else.
var errNoPIDFile = errors.New("the file exists and is no pid file")

// writePID writes the number of this process to a file: a new one, or one that holds a
// number already. It replaces nothing else.
func writePID(name string) error {
	if err := replacePID(name); err != nil {
		var pe *os.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return fmt.Errorf("Could not create '%s': %w", name, err)
	}
	return nil
}

func replacePID(name string) (err error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	switch {
	case err != nil:
		return err
	case st.Mode().IsRegular():
		text, err := io.ReadAll(io.LimitReader(f, maxPIDFile))
		if err != nil {
			return err
		}
		if !isPID(string(text)) {
			return errNoPIDFile
		}
		if err := f.Truncate(0); err != nil {
			return err
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
	case st.Mode().Type()&(fs.ModeNamedPipe|fs.ModeCharDevice) == 0:
		return errNoPIDFile
	}
	_, err = f.WriteString(strconv.Itoa(os.Getpid()) + "\n")
	return err
}

// isPID tells whether a text is the number of a process, or nothing.
func isPID(text string) bool {
	if len(text) >= maxPIDFile {
		return false
	}
	text = strings.TrimSpace(text)
	if text == "" {
		return true
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return err == nil && n > 0
}
