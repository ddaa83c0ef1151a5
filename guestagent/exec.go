package guestagent

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
)

// Modes of guest-exec's capture-output.
const (
	captureNone      = "none"
	captureStdout    = "stdout"
	captureStderr    = "stderr"
	captureSeparated = "separated"
	captureMerged    = "merged"
)

// captureOutput is a mode, or a boolean for separated and none.
type captureOutput string

func (c *captureOutput) decodeValue(path string, value any) error {
	switch v := value.(type) {
	case bool:
		*c = captureNone
		if v {
			*c = captureSeparated
		}
		return nil
	case string:
		switch v {
		case captureNone, captureStdout, captureStderr, captureSeparated, captureMerged:
			*c = captureOutput(v)
			return nil
		}
		return enumError(path, v)
	}
	return typeError(path, "GuestExecCaptureOutput")
}

type execArgs struct {
	Path    string         `qga:"path"`
	Args    *[]string      `qga:"arg,optional"`
	Env     *[]string      `qga:"env,optional"`
	Input   *string        `qga:"input-data,optional"`
	Capture *captureOutput `qga:"capture-output,optional"`
}

// Exec is the reply of guest-exec.
type Exec struct {
	PID int64 `qga:"pid"`
}

type execStatusArgs struct {
	PID int64 `qga:"pid"`
}

// ExecStatus is the reply of guest-exec-status.
type ExecStatus struct {
	Exited       bool    `qga:"exited"`
	ExitCode     *int64  `qga:"exitcode,optional"`
	Signal       *int64  `qga:"signal,optional"`
	Out          *string `qga:"out-data,optional"`
	Err          *string `qga:"err-data,optional"`
	OutTruncated *bool   `qga:"out-truncated,optional"`
	ErrTruncated *bool   `qga:"err-truncated,optional"`
}

// execTable has the processes that run or that nobody asked about after their end.
type execTable struct {
	agent *Agent

	mu        sync.Mutex
	processes []*process // the oldest first
	captured  int        // bytes of output of all processes
}

// process is a process that guest-exec started. Its fields are guarded by the table.
type process struct {
	pid      int64
	state    *os.ProcessState // nil while it runs
	out, err output
	open     int // streams that are captured and still open
}

type output struct {
	data      []byte
	truncated bool
}

func (t *execTable) init(a *Agent) { t.agent = a }

func (t *execTable) commands() []Command {
	return []Command{
		New("guest-exec", "2.5", "Start a program in the guest", t.start),
		New("guest-exec-status", "2.5", "Report whether a program has ended, and what it printed", t.status),
	}
}

func (t *execTable) start(_ context.Context, args execArgs) (Exec, error) {
	var input []byte
	if args.Input != nil {
		var err error
		if input, err = DecodeBase64(*args.Input); err != nil {
			return Exec{}, err
		}
	}
	argv := []string{args.Path}
	if args.Args != nil {
		argv = append(argv, *args.Args...)
	}
	t.agent.account("guest-exec called: \"%s\"", strings.Join(argv, " "))
	if err := t.makeRoom(); err != nil {
		return Exec{}, err
	}
	mode := captureOutput(captureNone)
	if args.Capture != nil {
		mode = *args.Capture
	}
	env := os.Environ()
	if args.Env != nil {
		env = *args.Env
	}
	pid, err := t.spawn(argv, env, args.Input != nil, input, mode)
	if err != nil {
		return Exec{}, fmt.Errorf("Failed to execute child process \u201c%s\u201d (%w)", args.Path, Cause(err))
	}
	return Exec{pid}, nil
}

// makeRoom forgets the process that ended first of those that nobody asked about, if
// there are too many.
func (t *execTable) makeRoom() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.processes) < t.agent.cfg.Limits.Processes {
		return nil
	}
	for i, p := range t.processes {
		if p.state != nil && p.open == 0 {
			t.forget(i)
			return nil
		}
	}
	return fmt.Errorf("%d programs that were started before still run", len(t.processes))
}

func (t *execTable) forget(i int) {
	p := t.processes[i]
	t.captured -= len(p.out.data) + len(p.err.data)
	t.processes = append(t.processes[:i], t.processes[i+1:]...)
}

// spawn starts a program with its streams.
func (t *execTable) spawn(argv, env []string, hasInput bool, input []byte, mode captureOutput) (int64, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	files := []*os.File{null, null, null}
	theirs := []*os.File{null} // closed here once the program has them
	var ours []*os.File
	defer func() {
		for _, f := range theirs {
			f.Close()
		}
	}()
	fail := func(err error) (int64, error) {
		for _, f := range ours {
			f.Close()
		}
		return 0, err
	}
	p := &process{}
	var stdin *os.File
	if hasInput {
		r, w, err := os.Pipe()
		if err != nil {
			return fail(err)
		}
		files[0], stdin = r, w
		theirs, ours = append(theirs, r), append(ours, w)
	}
	type capture struct {
		from *os.File
		to   *output
	}
	var captures []capture
	for _, c := range []struct {
		wanted bool
		fds    []int
		to     *output
	}{
		{mode == captureStdout || mode == captureSeparated, []int{1}, &p.out},
		{mode == captureStderr || mode == captureSeparated, []int{2}, &p.err},
		{mode == captureMerged, []int{1, 2}, &p.out},
	} {
		if !c.wanted {
			continue
		}
		r, w, err := os.Pipe()
		if err != nil {
			return fail(err)
		}
		for _, fd := range c.fds {
			files[fd] = w
		}
		theirs, ours = append(theirs, w), append(ours, r)
		captures = append(captures, capture{r, c.to})
	}
	proc, err := startProcess(argv, env, files)
	if err != nil {
		return fail(err)
	}
	p.pid, p.open = int64(proc.Pid), len(captures)
	t.mu.Lock()
	for i, old := range t.processes {
		if old.pid == p.pid {
			t.forget(i) // its number is in use again
			break
		}
	}
	t.processes = append(t.processes, p)
	t.mu.Unlock()
	if stdin != nil {
		go func() {
			// The program may end without reading all.
			_, _ = stdin.Write(input)
			stdin.Close()
		}()
	}
	for _, c := range captures {
		go t.capture(p, c.from, c.to)
	}
	go func() {
		state, err := proc.Wait()
		if err != nil {
			t.agent.logf(LevelWarning, "waiting for process %d: %v", p.pid, err)
			state = &os.ProcessState{}
		}
		t.mu.Lock()
		p.state = state
		t.mu.Unlock()
	}()
	return p.pid, nil
}

// capture keeps what a program prints, within the limits; the rest is read and
// dropped, so that the program does not wait.
func (t *execTable) capture(p *process, from io.ReadCloser, to *output) {
	defer from.Close()
	limits := t.agent.cfg.Limits
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		t.mu.Lock()
		keep := max(0, min(n, limits.OutputBytes-len(to.data), limits.TotalOutputBytes-t.captured))
		to.data = append(to.data, buf[:keep]...)
		t.captured += keep
		to.truncated = to.truncated || keep < n
		if err != nil {
			p.open--
		}
		t.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (t *execTable) status(_ context.Context, args execStatusArgs) (ExecStatus, error) {
	t.agent.account("guest-exec-status called, pid: %d", uint32(args.PID))
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, p := range t.processes {
		if p.pid != args.PID {
			continue
		}
		if p.state == nil || p.open > 0 {
			return ExecStatus{}, nil
		}
		t.forget(i)
		s := ExecStatus{Exited: true}
		s.ExitCode, s.Signal = exitOf(p.state)
		s.Out, s.OutTruncated = p.out.reply()
		s.Err, s.ErrTruncated = p.err.reply()
		return s, nil
	}
	return ExecStatus{}, fmt.Errorf("PID %d does not exist", args.PID)
}

func (o *output) reply() (data *string, truncated *bool) {
	if len(o.data) == 0 {
		return nil, nil
	}
	s := base64.StdEncoding.EncodeToString(o.data)
	return &s, &o.truncated
}
