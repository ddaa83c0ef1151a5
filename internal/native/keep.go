package native

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/native/link"
)

// engineOf tells apart programs that are not as good as each other. The program itself keeps its
// connection where the next disk is reached by the same one.
type engineOf struct{ name, path string }

// kept is a program without a disk, for driver.Connections.
type kept struct{ p *Process }

// Close implements io.Closer.
func (k kept) Close() error {
	k.p.abandon(nil)
	return nil
}

// program returns a program that an earlier request has left, if it lives, or a new one.
func (e *Engine) program(ctx context.Context, env *driver.Env) (*Process, error) {
	if env == nil || env.Connections == nil {
		return e.Start(ctx)
	}
	path, err := find(e.Text)
	if err != nil {
		return nil, err
	}
	k, _ := env.Connections.Take(engineOf{e.Name, path}).(kept)
	if k.p == nil {
		return e.Start(ctx)
	}
	k.p.engine.Store(e)
	if k.p.gave() == nil {
		return k.p, nil
	}
	_ = k.Close()
	return e.Start(ctx)
}

// idle says whether the next request can have the program, once the disk is closed.
func (p *Process) idle(ctx context.Context, env *driver.Env) bool {
	return env != nil && env.Connections != nil && ctx.Err() == nil && !p.hurry.Load() && p.gave() == nil && len(p.slots.room) == link.SlotCount
}

// keep leaves a program without a disk to the next request, if there may be one.
func (p *Process) keep(ctx context.Context, env *driver.Env) bool {
	if !p.idle(ctx, env) {
		return false
	}
	env.Connections.Keep(engineOf{p.engine.Load().Name, p.cmd.Path}, kept{p})
	return true
}
