package sheepdog

import (
	"context"
	"testing"
	"time"
)

// TestParting wants a last message to have a bound of its own, which is short where the operation was given up.
func TestParting(t *testing.T) {
	ctx, giveUp := context.WithCancel(t.Context())
	began := time.Now()
	own, cancel := parting(ctx)
	defer cancel()
	if end, ok := own.Deadline(); !ok || end.Before(began.Add(farewell)) || own.Err() != nil {
		t.Error(end, own.Err())
	}
	giveUp()
	<-own.Done()
	own, cancel = parting(ctx)
	defer cancel()
	ended := time.Now()
	if end, ok := own.Deadline(); !ok || end.After(ended.Add(lateFarewell)) {
		t.Error(end)
	}
	<-own.Done()
}

// TestSettled wants what there is no way back from to go on when the operation is given up, but not for ever.
func TestSettled(t *testing.T) {
	ctx, giveUp := context.WithCancel(t.Context())
	own, cancel := settled(ctx)
	defer cancel()
	began := time.Now()
	giveUp()
	<-own.Done()
	if time.Since(began) < settling {
		t.Error("it ends with the operation")
	}
	own, cancel = settled(ctx)
	cancel()
	<-own.Done()
}
