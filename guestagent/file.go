package guestagent

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"strings"
)

// maxRead bounds one guest-file-read: in base64 it is what a client's reader takes.
const maxRead = 48 << 20

// defaultRead is how much guest-file-read reads if nothing is said.
const defaultRead = 4096

// fileTable has the open files. It is used by one command at a time.
type fileTable struct {
	agent *Agent
	open  map[int64]*stream
}

func (t *fileTable) init(a *Agent) {
	t.agent, t.open = a, map[int64]*stream{}
}

type fileOpenArgs struct {
	Path string  `qga:"path"`
	Mode *string `qga:"mode,optional"`
}

type fileArgs struct {
	Handle int64 `qga:"handle"`
}

type fileReadArgs struct {
	Handle int64  `qga:"handle"`
	Count  *int64 `qga:"count,optional"`
}

type fileWriteArgs struct {
	Handle int64  `qga:"handle"`
	Data   string `qga:"buf-b64"`
	Count  *int64 `qga:"count,optional"`
}

type fileSeekArgs struct {
	Handle int64  `qga:"handle"`
	Offset int64  `qga:"offset"`
	Whence whence `qga:"whence"`
}

// FileRead is the reply of guest-file-read.
type FileRead struct {
	Count int64  `qga:"count"`
	Data  string `qga:"buf-b64"`
	EOF   bool   `qga:"eof"`
}

// FileWrite is the reply of guest-file-write.
type FileWrite struct {
	Count int64 `qga:"count"`
	EOF   bool  `qga:"eof"`
}

// FileSeek is the reply of guest-file-seek.
type FileSeek struct {
	Position int64 `qga:"position"`
	EOF      bool  `qga:"eof"`
}

// whence is where guest-file-seek counts from: a number, or a name of one.
type whence int64

func (w *whence) decodeValue(path string, value any) error {
	switch v := value.(type) {
	case string:
		for i, name := range []string{"set", "cur", "end"} {
			if v == name {
				*w = whence(i)
				return nil
			}
		}
		return enumError(path, v)
	case int64:
		*w = whence(v)
		return nil
	case uint64, float64:
		return typeError(path, "integer")
	}
	return typeError(path, "GuestFileWhence")
}

func (t *fileTable) commands() []Command {
	return []Command{
		New("guest-file-open", "0.15", "Open a file in the guest and report a handle", t.openFile),
		New("guest-file-close", "0.15", "Close a file", t.closeFile),
		New("guest-file-read", "0.15", "Read from a file", t.read),
		New("guest-file-write", "0.15", "Write to a file", t.write),
		New("guest-file-seek", "0.15", "Move the position in a file", t.seek),
		New("guest-file-flush", "0.15", "Write what is buffered to a file", t.flush),
	}
}

// openModes are the ways of fopen to say what a file is opened for.
var openModes = map[string]string{
	"r": "r", "rb": "r", "w": "w", "wb": "w", "a": "a", "ab": "a",
	"r+": "r+", "rb+": "r+", "r+b": "r+", "w+": "w+", "wb+": "w+", "w+b": "w+", "a+": "a+", "ab+": "a+", "a+b": "a+",
}

func (t *fileTable) openFile(_ context.Context, args fileOpenArgs) (int64, error) {
	mode := "r"
	if args.Mode != nil {
		mode = *args.Mode
	}
	t.agent.account("guest-file-open called, filepath: %s, mode: %s", args.Path, mode)
	kind, ok := openModes[mode]
	if !ok {
		return 0, fmt.Errorf("invalid file open mode '%s'", mode)
	}
	if len(t.open) >= t.agent.cfg.Limits.Files {
		return 0, fmt.Errorf("failed to open file '%s' (mode: '%s'): %d files are open, close some", args.Path, mode, len(t.open))
	}
	f, err := openRaw(args.Path, kind)
	if err != nil {
		return 0, fmt.Errorf("failed to open file '%s' (mode: '%s'): %w", args.Path, mode, Cause(err))
	}
	handle, err := t.agent.cfg.State.NextHandle()
	if err != nil {
		f.Close()
		return 0, err
	}
	t.open[handle] = newStream(f, kind)
	t.agent.account("guest-file-open, handle: %d", handle)
	return handle, nil
}

// Cause returns the error of the system that is inside of the errors of package os.
func Cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return Words(err)
}

func (t *fileTable) find(handle int64) (*stream, error) {
	if s := t.open[handle]; s != nil {
		return s, nil
	}
	return nil, fmt.Errorf("handle '%d' has not been found", handle)
}

func (t *fileTable) closeFile(_ context.Context, args fileArgs) (None, error) {
	s, err := t.find(args.Handle)
	t.agent.account("guest-file-close called, handle: %d", args.Handle)
	if err != nil {
		return None{}, err
	}
	delete(t.open, args.Handle)
	if err := s.close(); err != nil {
		return None{}, fmt.Errorf("failed to close handle: %w", Cause(err))
	}
	return None{}, nil
}

func (t *fileTable) closeAll() {
	for h, s := range t.open {
		if err := s.close(); err != nil {
			t.agent.logf(LevelWarning, "closing the file of handle %d: %v", h, err)
		}
		delete(t.open, h)
	}
}

func (t *fileTable) read(_ context.Context, args fileReadArgs) (FileRead, error) {
	s, err := t.find(args.Handle)
	if err != nil {
		return FileRead{}, err
	}
	count := int64(defaultRead)
	if args.Count != nil {
		count = *args.Count
	}
	if count < 0 || count > maxRead {
		return FileRead{}, fmt.Errorf("value '%d' is invalid for argument count", count)
	}
	if err := s.readable(); err != nil {
		return FileRead{}, fmt.Errorf("failed to flush file: %w", Cause(err))
	}
	data, eof, err := s.read(int(count))
	if err != nil {
		t.agent.account("guest-file-read failed, handle: %d", args.Handle)
		return FileRead{}, fmt.Errorf("failed to read file: %w", Cause(err))
	}
	return FileRead{int64(len(data)), base64.StdEncoding.EncodeToString(data), eof}, nil
}

func (t *fileTable) write(_ context.Context, args fileWriteArgs) (FileWrite, error) {
	s, err := t.find(args.Handle)
	if err != nil {
		return FileWrite{}, err
	}
	if err := s.writable(); err != nil {
		return FileWrite{}, fmt.Errorf("failed to seek file: %w", Cause(err))
	}
	data, err := DecodeBase64(args.Data)
	if err != nil {
		return FileWrite{}, err
	}
	if args.Count != nil {
		if *args.Count < 0 || *args.Count > int64(len(data)) {
			return FileWrite{}, fmt.Errorf("value '%d' is invalid for argument count", *args.Count)
		}
		data = data[:*args.Count]
	}
	if err := s.write(data); err != nil {
		t.agent.account("guest-file-write failed, handle: %d", args.Handle)
		return FileWrite{}, fmt.Errorf("failed to write to file: %w", Cause(err))
	}
	return FileWrite{Count: int64(len(data))}, nil
}

func (t *fileTable) seek(_ context.Context, args fileSeekArgs) (FileSeek, error) {
	s, err := t.find(args.Handle)
	if err != nil {
		return FileSeek{}, err
	}
	if args.Whence < io.SeekStart || args.Whence > io.SeekEnd {
		return FileSeek{}, fmt.Errorf("invalid whence code %d", args.Whence)
	}
	pos, err := s.seek(args.Offset, int(args.Whence))
	if err != nil {
		return FileSeek{}, fmt.Errorf("failed to seek file: %w", Cause(err))
	}
	return FileSeek{Position: pos}, nil
}

func (t *fileTable) flush(_ context.Context, args fileArgs) (None, error) {
	s, err := t.find(args.Handle)
	if err != nil {
		return None{}, err
	}
	if err := s.flush(); err != nil {
		return None{}, fmt.Errorf("failed to flush file: %w", Cause(err))
	}
	return None{}, nil
}

// rawFile is an open file without buffers. Reading and writing do not wait.
type rawFile interface {
	io.ReadWriteCloser
	io.Seeker
}

// streamBytes is the size of a stream's buffers.
const streamBytes = 4096

// stream buffers a file as the C library does, so that the same writes reach the file
// at the same time, and the same requests report what went wrong.
type stream struct {
	f       rawFile
	reads   bool
	writes  bool
	unread  []byte // read from the file ahead
	pending []byte // not yet written
	began   bool   // pending has its buffer: something was written since the last flush
}

func newStream(f rawFile, kind string) *stream {
	plus := strings.HasSuffix(kind, "+")
	return &stream{f: f, reads: plus || kind == "r", writes: plus || kind != "r"}
}

// flush writes what is pending. What cannot be written is dropped.
func (s *stream) flush() error {
	p := s.pending
	s.pending, s.began = nil, false
	return s.put(p)
}

func (s *stream) put(p []byte) error {
	for len(p) > 0 {
		n, err := s.f.Write(p)
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// readable makes ready for reading.
func (s *stream) readable() error { return s.flush() }

// writable makes ready for writing: the file's position is where reading ended.
func (s *stream) writable() error {
	if len(s.unread) == 0 {
		return nil
	}
	_, err := s.f.Seek(-int64(len(s.unread)), io.SeekCurrent)
	if err == nil {
		s.unread = nil
	}
	return err
}

// read reads up to n bytes. eof reports that the file ended before. What was read
// before an error is returned without it: a pipe that is empty again loses nothing.
func (s *stream) read(n int) (data []byte, eof bool, err error) {
	if n == 0 {
		return nil, false, nil
	}
	if !s.reads {
		return nil, false, errBadFile
	}
	data = append(data, s.unread[:min(n, len(s.unread))]...)
	s.unread = s.unread[len(data):]
	var piece [64 << 10]byte
	for len(data) < n {
		// Whole blocks go to the reader; the rest of the last one is kept.
		want := min((n-len(data)+streamBytes-1)/streamBytes*streamBytes, len(piece))
		got, err := s.f.Read(piece[:want])
		take := min(got, n-len(data))
		data = append(data, piece[:take]...)
		if got > take {
			s.unread = append([]byte(nil), piece[take:got]...)
		}
		switch {
		case err != nil && err != io.EOF:
			if len(data) > 0 {
				return data, false, nil
			}
			return nil, false, err
		case got == 0:
			return data, true, nil
		}
	}
	return data, false, nil
}

// write takes data. What fills the buffer is written; whole blocks go to the file.
func (s *stream) write(data []byte) error {
	if len(data) == 0 {
		return nil
	}
	if !s.writes {
		return errBadFile
	}
	if s.began {
		n := min(len(data), streamBytes-len(s.pending))
		s.pending = append(s.pending, data[:n]...)
		data = data[n:]
		if len(data) == 0 {
			return nil
		}
	}
	if err := s.flush(); err != nil {
		return err
	}
	s.began = true
	whole := len(data) / streamBytes * streamBytes
	if err := s.put(data[:whole]); err != nil {
		return err
	}
	s.pending = append(s.pending, data[whole:]...)
	return nil
}

func (s *stream) seek(offset int64, whence int) (int64, error) {
	if err := s.flush(); err != nil {
		return 0, err
	}
	if whence == io.SeekCurrent {
		back := int64(len(s.unread))
		if offset < math.MinInt64+back {
			return 0, errInvalid
		}
		offset -= back
	}
	pos, err := s.f.Seek(offset, whence)
	if err == nil {
		s.unread = nil
	}
	return pos, err
}

func (s *stream) close() error { return errors.Join(s.flush(), s.f.Close()) }
