package driver

import (
	"context"
	"testing"
	"time"
)

func TestFarewell(t *testing.T) {
	type key struct{}
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), key{}, 1))
	own, done := Farewell(ctx, time.Millisecond)
	defer done()
	if own.Err() != nil || own.Value(key{}) != 1 {
		t.Fatal(own.Err(), own.Value(key{}))
	}
	long, longDone := Farewell(ctx, time.Hour)
	cancel()
	<-own.Done()
	if long.Err() != nil {
		t.Fatal("it ends with the operation")
	}
	longDone()
	<-long.Done()
	// What has ended already.
	own, done = Farewell(ctx, time.Millisecond)
	defer done()
	<-own.Done()
}
