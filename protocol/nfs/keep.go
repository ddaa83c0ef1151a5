package nfs

import (
	"context"
	"fmt"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/nfs"
)

// mounted tells apart clients that are not as good as each other: all that decides which
// directory of which server it is, and who asks.
type mounted string

func (o *openOptions) mounted(env *driver.Env) mounted {
	cfg := o.config(env)
	cfg.Log = nil // it is Debug, and whom to tell
	directory, _ := o.split()
	return mounted(fmt.Sprintf("%q %+v %d", directory, cfg, o.Debug))
}

// kept is a client without an open file, for driver.Connections.
type kept struct{ c *nfs.Client }

// Close implements io.Closer.
func (k kept) Close() error {
	k.c.Close(context.Background())
	return nil
}

// keep leaves a client to the next request, unless there was an error.
func (o *openOptions) keep(ctx context.Context, env *driver.Env, c *nfs.Client, failed error) {
	if failed != nil || env == nil || ctx.Err() != nil {
		c.Close(ctx)
		return
	}
	env.Connections.Keep(o.mounted(env), kept{c})
}

// take returns the client that an earlier request has left, or nil. It makes its connections
// again by itself, if they are lost.
func (o *openOptions) take(env *driver.Env) *nfs.Client {
	if env == nil {
		return nil
	}
	k, _ := env.Connections.Take(o.mounted(env)).(kept)
	return k.c
}
