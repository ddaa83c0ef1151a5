package guestagent

import (
	"context"
	"time"
)

// Freezer freezes and thaws file systems.
type Freezer interface {
	// Prepare finds out what is to be frozen while files can still be written:
	// all file systems, or those mounted at the given places. The result freezes
	// them and returns how many it froze; after an error some may be frozen.
	Prepare(all bool, mountpoints []string) (freeze func(ctx context.Context) (int64, error), err error)
	// Thaw thaws everything and returns how many file systems were frozen.
	Thaw() (int64, error)
}

// Hook runs what has to happen before freezing and after thawing: action is "freeze"
// or "thaw".
type Hook func(ctx context.Context, action string) error

type freezeListArgs struct {
	Mountpoints *[]string `qga:"mountpoints,optional"`
}

func (a *Agent) freezeCommands() []Command {
	status := New("guest-fsfreeze-status", "0.15", "Report whether file systems are frozen",
		func(context.Context, None) (string, error) {
			if a.Frozen() {
				return "frozen", nil
			}
			return "thawed", nil
		})
	thaw := New("guest-fsfreeze-thaw", "0.15", "Thaw all file systems",
		func(context.Context, None) (int64, error) { return a.thaw() })
	status.WhenFrozen, thaw.WhenFrozen = true, true
	return []Command{status, thaw,
		New("guest-fsfreeze-freeze", "0.15", "Freeze all local file systems",
			func(ctx context.Context, _ None) (int64, error) { return a.freeze(ctx, nil) }),
		New("guest-fsfreeze-freeze-list", "2.2", "Freeze the file systems mounted at some places",
			func(ctx context.Context, args freezeListArgs) (int64, error) { return a.freeze(ctx, args.Mountpoints) }),
	}
}

func (a *Agent) hook(ctx context.Context, action string) error {
	if a.cfg.Hook == nil {
		return nil
	}
	a.account("executing fsfreeze hook with arg '%s'", action)
	return a.cfg.Hook(ctx, action)
}

// freeze calls the hook and freezes. Whenever nothing is frozen at the end, the hook
// is told to thaw: what it has stopped must not wait for a thaw that nobody asks for.
func (a *Agent) freeze(ctx context.Context, only *[]string) (int64, error) {
	a.account("guest-fsfreeze called")
	// The end of the agent does not interrupt a freeze: what is frozen must be known.
	ctx = context.WithoutCancel(ctx)
	undoHook := func() {
		if err := a.hook(ctx, "thaw"); err != nil {
			a.account("the hook failed to thaw: %v", err)
		}
	}
	if err := a.hook(ctx, "freeze"); err != nil {
		undoHook()
		return 0, err
	}
	var places []string
	if only != nil {
		places = *only
	}
	freeze, err := a.cfg.Freezer.Prepare(only == nil, places)
	if err != nil {
		undoHook()
		return 0, err
	}
	a.setFrozen()
	if a.cfg.FreezeLimit > 0 {
		// Freezing itself can hang, too.
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, a.cfg.FreezeLimit)
		defer cancel()
	}
	n, err := freeze(ctx)
	switch {
	case err != nil:
		if _, terr := a.thaw(); terr != nil {
			a.account("thawing after a failed freeze: %v", terr)
		}
		return 0, err
	case n == 0:
		a.unsetFrozen()
		undoHook()
		return 0, nil
	}
	if a.cfg.FreezeLimit > 0 {
		a.freezes++
		this := a.freezes
		a.mu.Lock()
		a.timer = time.AfterFunc(a.cfg.FreezeLimit, func() { a.thawLate(this) })
		a.mu.Unlock()
	}
	return n, nil
}

// thawLate thaws because the time limit of a freeze is over.
func (a *Agent) thawLate(freeze int) {
	a.run.Lock()
	defer a.run.Unlock()
	if !a.Frozen() || a.freezes != freeze {
		return
	}
	n, err := a.thaw()
	a.logf(LevelWarning, "file systems were frozen for %v, the limit: thawed %d of them", a.cfg.FreezeLimit, n)
	if err != nil {
		a.logf(LevelWarning, "thawing: %v", err)
	}
}

// thaw thaws all file systems and calls the hook, even if nothing was frozen: what the
// hook stopped may be all there is to thaw.
func (a *Agent) thaw() (int64, error) {
	n, err := a.cfg.Freezer.Thaw()
	if err != nil {
		return 0, err
	}
	a.unsetFrozen()
	a.account("guest-fsthaw called")
	return n, a.hook(context.Background(), "thaw")
}

func (a *Agent) setFrozen() {
	a.logf(LevelWarning, "disabling logging due to filesystem freeze")
	if err := a.cfg.State.SetFrozen(true); err != nil {
		a.logf(LevelWarning, "fsfreeze may not function properly: %v", err)
	}
	a.mu.Lock()
	a.frozen = true
	a.mu.Unlock()
}

func (a *Agent) unsetFrozen() {
	a.mu.Lock()
	was := a.frozen
	a.frozen = false
	if a.timer != nil {
		a.timer.Stop()
		a.timer = nil
	}
	a.mu.Unlock()
	if !was {
		return
	}
	if a.cfg.OnThaw != nil {
		a.cfg.OnThaw()
	}
	a.logf(LevelWarning, "logging re-enabled due to filesystem unfreeze")
	if err := a.cfg.State.SetFrozen(false); err != nil {
		a.logf(LevelWarning, "fsfreeze may not function properly: %v", err)
	}
}
