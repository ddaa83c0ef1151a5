package iscsi

import (
	"context"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/iscsi"
)

// login tells apart sessions that are not as good as each other: it has all that decides which
// target it is, and who asks. A session reaches all units of its target.
type login struct {
	address, target, initiator string
	chap, targetCHAP           iscsi.Credentials // zero: none
	headerDigest, dataDigest   iscsi.Digest
	timeout, reconnect         time.Duration
}

func loginOf(cfg *iscsi.Config) login {
	l := login{address: cfg.Address, target: cfg.Target, initiator: cfg.Initiator, headerDigest: cfg.HeaderDigest, dataDigest: cfg.DataDigest,
		timeout: cfg.Timeout, reconnect: cfg.Reconnect}
	if cfg.CHAP != nil {
		l.chap = *cfg.CHAP
	}
	if cfg.TargetCHAP != nil {
		l.targetCHAP = *cfg.TargetCHAP
	}
	return l
}

// kept is a session that nobody uses, for driver.Connections.
type kept struct{ s *iscsi.Session }

// Close implements io.Closer.
func (k kept) Close() error { return k.s.Close(context.Background()) }

// keep leaves the session to the next request, unless that would find it in disorder, or
// something would still have to be written again after a loss.
func (n *node) keep(ctx context.Context) bool {
	if n.env == nil || n.env.Connections == nil || ctx.Err() != nil || !n.journal.empty() || !n.session.Reuse(nil) {
		return false
	}
	n.env.Connections.Keep(n.login, kept{n.session})
	return true
}

// take returns the session that an earlier request has left, if it works, or nil.
func (l login) take(env *driver.Env, ready iscsi.Ready) *iscsi.Session {
	if env == nil {
		return nil
	}
	k, _ := env.Connections.Take(l).(kept)
	if k.s == nil || k.s.Reuse(ready) {
		return k.s
	}
	_ = k.Close() // it is lost
	return nil
}
