package iscsi

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// Limits of trying a command again.
const (
	maxAttention = 16 // unit attentions, one after the other
	maxBusy      = 7  // other conditions that pass, each waited for longer than that before
	firstBusy    = 8 * time.Millisecond
	busyGrowth   = 4 // 8 ms, 32 ms … 32 s
)

// retry counts how often one command was tried again.
type retry struct {
	attentions, busy int
}

// wait returns nil when the command may be sent again, else the error that it ends with.
func (r *retry) wait(ctx context.Context, err error) error {
	var sense *SenseError
	var status *StatusError
	switch {
	case errors.Is(err, ErrLost):
		return err
	case errors.As(err, &sense) && sense.Key == SenseUnitAttention:
		if r.attentions++; r.attentions > maxAttention {
			return err
		}
		return nil
	case errors.As(err, &sense) && (sense.Key == SenseNotReady && sense.Code == asNotReadyBecoming || sense.Key == SenseAborted):
	case errors.As(err, &status) && status.passing():
	default:
		return err
	}
	if r.busy++; r.busy > maxBusy {
		return err
	}
	mean := firstBusy
	for range r.busy - 1 {
		mean *= busyGrowth
	}
	// At random, so that initiators do not come back all at once.
	if !sleep(ctx, mean/2+rand.N(mean)) {
		return context.Cause(ctx)
	}
	return nil
}
