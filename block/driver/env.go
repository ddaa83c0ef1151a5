package driver

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/cowl-disk/cowl/opts"
)

// Env is what every image that may come from a stranger meets.
type Env struct {
	Gate   Gate
	Budget *Budget
	Log    *slog.Logger
	// Warn takes warnings that a user should see ("warning: " is not part of
	// them). Never nil.
	Warn func(msg string)
	// Report takes lines about what opening changes in the image, for users to see:
	// a repair. They are no warnings and may be very many. Never nil.
	Report func(line string)
	// Words puts an error into the words in which Warn and Report tell of it. Nil: its text.
	Words func(err error) string
	// Guard orders the freeing of room after reads that may still use it.
	Guard *Guard
	// Objects holds what options refer to by id. Nil if there are none.
	Objects Objects
	// Connections keeps connections for the next request of the same operation. Nil keeps none.
	Connections *Connections
	// OpenChild opens a node that the image names: an external data file, an
	// extent. It asks the gate, resolves relative names, counts the budget. The
	// child is closed by the block layer, after the node. Nil for protocols.
	OpenChild func(ctx context.Context, ref ChildRef) (Storage, error)
	// OpenPart opens a file as OpenChild does, by ref.Filename, but the file does not become a
	// child: the driver closes it. It is for images in thousands of files, few of
	// which are open at a time: a file that a mapping names is closed by Guard.Defer.
	// It may be called at any time, concurrently. Nil for protocols.
	OpenPart func(ctx context.Context, ref ChildRef) (Storage, error)
	// Neighbours lists the files of a folder, which is given relative to the one that the
	// image lies in. Nil where the protocol cannot.
	Neighbours func(dir string) ([]string, error)
}

// InWords is the text of an error for a line of Warn or Report.
func (e *Env) InWords(err error) string {
	if e.Words == nil {
		return err.Error()
	}
	return e.Words(err)
}

// Secret returns the secret that an option names.
func (e *Env) Secret(id string) ([]byte, error) { return FindObject[Secret](e.Objects, id) }

// ChildRef names a further child of a node.
type ChildRef struct {
	Role     string // "data-file", "extents.0"
	Filename string // as the image stores it; "" if only options name it
	Format   string // "" means: open the protocol, add no format
	// Options given by the user for this child ("data-file.filename=…"); they
	// win over Filename.
	Options opts.Dict
	// ReadOnly opens the child for reading whatever the parent's mode.
	ReadOnly bool
}

// Gate decides about references that an image itself makes. parent is the name
// of the image, role is "backing", "data-file" or "extents.N", target the name
// it refers to, as resolved. An error refuses it; it is wrapped with ErrGate.
type Gate interface {
	Allow(ctx context.Context, parent, role, target string) error
}

// GateFunc makes a Gate of a function.
type GateFunc func(ctx context.Context, parent, role, target string) error

// Allow calls f.
func (f GateFunc) Allow(ctx context.Context, parent, role, target string) error {
	return f(ctx, parent, role, target)
}

// AllowAll lets an image refer to anything. The command line uses it, as people
// expect of these tools; do not use it for images of strangers.
var AllowAll Gate = GateFunc(func(context.Context, string, string, string) error { return nil })

// DenyAll refuses every reference.
var DenyAll Gate = GateFunc(func(_ context.Context, parent, role, target string) error {
	return Errorf(ErrGate, "%s names a %s file (%s), which is not allowed here", parent, role, target)
})

// Budget bounds what opening and reading an image may cost. The fields are
// limits, set before use; the zero value of a field means the default. One
// Budget may serve a whole chain: the count of nodes and of bytes is shared.
type Budget struct {
	MaxNodes       int64 // open nodes in the tree, default 1000
	MaxTableBytes  int64 // one metadata table held in memory, default 512 MiB
	MaxMemory      int64 // all metadata tables held at once, default 2 GiB
	MaxDescriptor  int64 // text descriptors and header extensions, default 1 MiB
	MaxExtentFiles int64 // extent files of one image, default 1000

	nodes, memory atomic.Int64
}

func limit(v, def int64) int64 {
	if v > 0 {
		return v
	}
	return def
}

// AddNode counts an opened node.
func (b *Budget) AddNode() error {
	if n := b.nodes.Add(1); n > limit(b.MaxNodes, 1000) {
		b.nodes.Add(-1)
		return Errorf(ErrBudget, "too many nodes: an image chain may have %d", limit(b.MaxNodes, 1000))
	}
	return nil
}

// RemoveNode takes back AddNode.
func (b *Budget) RemoveNode() { b.nodes.Add(-1) }

// Table reserves n bytes for a table read from an image. Call before allocating
// memory, and Release when it is given back.
func (b *Budget) Table(what string, n int64) error {
	if n < 0 || n > limit(b.MaxTableBytes, 512<<20) {
		return Errorf(ErrBudget, "%s too large: %d bytes, limit %d", what, n, limit(b.MaxTableBytes, 512<<20))
	}
	if b.memory.Add(n) > limit(b.MaxMemory, 2<<30) {
		b.memory.Add(-n)
		return Errorf(ErrBudget, "%s (%d bytes) exceeds the memory limit of %d for image metadata", what, n, limit(b.MaxMemory, 2<<30))
	}
	return nil
}

// Scratch reserves n bytes of working memory that a computation needs as an image
// asks for it (a key derivation): all at once, but no longer than a call. Release
// gives it back.
func (b *Budget) Scratch(what string, n int64) error {
	most := limit(b.MaxMemory, 2<<30)
	if n >= 0 && n <= most {
		if b.memory.Add(n) <= most {
			return nil
		}
		b.memory.Add(-n)
	}
	return Errorf(ErrBudget, "%s needs %d bytes of memory, limit %d", what, n, most)
}

// Release gives back what Table or Scratch reserved.
func (b *Budget) Release(n int64) { b.memory.Add(-n) }

// Descriptor checks the size of a text or of a header extension.
func (b *Budget) Descriptor(what string, n int64) error {
	if n < 0 || n > limit(b.MaxDescriptor, 1<<20) {
		return Errorf(ErrBudget, "%s too large: %d bytes, limit %d", what, n, limit(b.MaxDescriptor, 1<<20))
	}
	return nil
}

// Guard orders the freeing of host room after requests that may still use it.
// A request calls Enter before it asks for a mapping and Exit after its I/O;
// Defer runs a function once every request that was under way at the call has
// exited. The zero value is ready.
type Guard struct {
	mu      sync.Mutex
	epoch   uint64
	active  [2]int
	waiting [2][]func()
}

// Enter starts a request.
func (g *Guard) Enter() uint64 {
	g.mu.Lock()
	e := g.epoch
	g.active[e&1]++
	g.mu.Unlock()
	return e
}

// Exit ends the request that Enter returned e for. It may run deferred
// functions.
func (g *Guard) Exit(e uint64) {
	g.mu.Lock()
	g.active[e&1]--
	run := g.drain()
	g.mu.Unlock()
	for _, f := range run {
		f()
	}
}

// Defer runs f once all requests under way have exited: at once if there are
// none, else in the goroutine of the last one's Exit. f must not call Enter.
// It may take locks that no caller of Exit holds.
func (g *Guard) Defer(f func()) {
	g.mu.Lock()
	if g.active[0] == 0 && g.active[1] == 0 {
		g.mu.Unlock()
		f()
		return
	}
	g.waiting[g.epoch&1] = append(g.waiting[g.epoch&1], f)
	run := g.drain()
	g.mu.Unlock()
	for _, f := range run {
		f()
	}
}

// drain advances the epoch when the previous one has ended and returns what may
// run now. Functions wait in the slot of the epoch they were deferred in, and
// run when no request of that epoch or an older one is active. Called with mu.
func (g *Guard) drain() (run []func()) {
	for range 2 {
		old := (g.epoch + 1) & 1 // slot of the previous epoch
		if g.active[old] != 0 {
			return run
		}
		run = append(run, g.waiting[old]...)
		g.waiting[old] = nil
		if len(g.waiting[g.epoch&1]) == 0 {
			return run
		}
		g.epoch++
	}
	return run
}
