package words

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/nbd/client"
	"github.com/cowl-disk/cowl/nbd/wire"
	"github.com/cowl-disk/cowl/ops"
	"github.com/cowl-disk/cowl/opts"
)

type hinted struct{ error }

func (hinted) Hint() string { return "Is it on?" }

func TestText(t *testing.T) {
	open := &fs.PathError{Op: "open", Path: "x", Err: syscall.ENOENT}
	refused := driver.Errorf(driver.ErrUnsupported, "cannot grow NBD nodes")
	full := driver.Errorf(driver.ErrNoSpace, "could not write '%s' at offset %d: %w", "no such file or directory", 7, syscall.ENOSPC)
	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{"file", open, "Could not open 'x': No such file or directory"},
		{"file inside", fmt.Errorf("y: %w", open), "y: Could not open 'x': No such file or directory"},
		{"errno inside", fmt.Errorf("write: %w", syscall.EIO), "write: Input/output error"},
		{"errno of a connection", fmt.Errorf("a: %w", &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}),
			"a: read tcp: read: Connection reset by peer"},
		{"hint", fmt.Errorf("a: %w", hinted{errors.New("b")}), "a: b\nIs it on?"},
		{"size", &opts.ValueError{Name: "size", Want: "a non-negative number below 2^64"},
			"Parameter 'size' expects a non-negative number below 2^64\n" + sizeHelp},
		{"interrupted", fmt.Errorf("a: %w", context.Canceled), "Interrupted"},
		{"capital", refused, "Cannot grow NBD nodes"},
		{"capital inside a program's own text", fmt.Errorf("disk image: %w", refused), "disk image: Cannot grow NBD nodes"},
		{"in quotes", driver.Errorf(nil, "'data-file' is required for this image: %w", refused), "'data-file' is required for this image: Cannot grow NBD nodes"},
		{"acronym", driver.Errorf(nil, "L2 table offset %#x unaligned", 5), "L2 table offset 0x5 unaligned"},
		{"name", driver.Errorf(nil, "qcow2: unknown compression type: %d", 5), "qcow2: unknown compression type: 5"},
		{"name of an option", driver.Errorf(nil, "data-file: %d", 5), "data-file: 5"},
		{"argument first", driver.Errorf(nil, "%s: not here", "file"), "file: not here"},
		{"table", driver.Errorf(nil, "image size must be less than 8 EiB"), "Image size must be less than 8 EiB!"},
		{"table with arguments", driver.Errorf(nil, "backing file specified without backing format: it was detected as %s", "raw"),
			"Backing file specified without backing format\nDetected format of raw."},
		{"table, %w", driver.Errorf(nil, "failed to read %s: unable to read from socket: %w", "x", syscall.EPIPE), "Failed to read x: Unable to read from socket: Broken pipe"},
		{"argument with a capital", driver.Errorf(nil, "%s too large", "active L1 table"), "Active L1 table too large"},
		{"small", driver.Errorf(nil, "output file is smaller than input file"), "output file is smaller than input file"},
		{"names of files are no words", full, "Could not write 'no such file or directory' at offset 7: No space left on device"},
		{"said once", &block.IOError{Op: "write", Image: "no such file or directory", Offset: 7, Err: full}, "Could not write 'no such file or directory' at offset 7: No space left on device"},
		{"said twice", &block.IOError{Op: "write", Image: "a", Offset: 8, Err: full},
			"write a at offset 8: Could not write 'no such file or directory' at offset 7: No space left on device"},
		{"chain", &block.OpenError{Path: "a", Err: &block.OpenError{Role: "backing", Path: "b", Err: &block.OpenError{Role: "file", Path: "c", Err: refused}}},
			"Could not open 'a': Could not open backing file: Cannot grow NBD nodes"},
		{"joined", errors.Join(refused, syscall.EIO), "Cannot grow NBD nodes\nInput/output error"},
		{"two wrapped", fmt.Errorf("%w (%w)", refused, syscall.EIO), "Cannot grow NBD nodes (Input/output error)"},
		{"what remains", &ops.CopyError{Err: refused, Remains: &ops.IncompleteError{Target: "x"}}, "Cannot grow NBD nodes; the target 'x' is incomplete"},
		{"number of a server", &client.ServerError{Errno: wire.ENOSPC}, "No space left on device"},
		{"number of a server with a message", &client.ServerError{Errno: wire.EIO, Message: "no"}, "Input/output error (server reported: no)"},
		{"refused option", &client.OptionError{Option: wire.OptStartTLS, Reply: wire.RepErrTLSReqd, Message: "no"},
			"TLS negotiation required before option 5 (starttls)\nDid you forget a valid tls-creds?\nserver reported: no"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := Text(tt.err); got != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
	if got := Text(nil); got != "" {
		t.Errorf("nil: %q", got)
	}
	if got := System(full); got != "No space left on device" {
		t.Errorf("System: %q", got)
	}
	if got := System(refused); got != "Cannot grow NBD nodes" {
		t.Errorf("System without a number: %q", got)
	}
}

var verbs = regexp.MustCompile(`%[+# 0-9.\[\]-]*[a-zA-Z]`)

// TestTable checks that QEMU's templates take the arguments of ours, and that no entry
// says what would be said without it.
func TestTable(t *testing.T) {
	for ours, theirs := range qemu() {
		if a, b := verbs.FindAllString(ours, -1), verbs.FindAllString(strings.ReplaceAll(theirs, "%+s", "%s"), -1); !slices.Equal(a, b) {
			t.Errorf("%q has the arguments %q, %q has %q", ours, a, theirs, b)
		}
		if theirs == ours || beginsWithWord(ours) && theirs == upper(ours) {
			t.Errorf("%q needs no entry", ours)
		}
		if slices.Contains(small, ours) {
			t.Errorf("%q is in both tables", ours)
		}
	}
	for _, ours := range small {
		if !beginsWithWord(ours) {
			t.Errorf("%q needs no entry: it does not begin with an ordinary word", ours)
		}
	}
}
