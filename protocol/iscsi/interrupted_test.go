package iscsi_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/internal/testkit/iscsid"
	"github.com/cowl-disk/cowl/protocol/iscsi"
)

// TestCreateInterrupted wants an end when the target answers no more, and the operation is given up.
func TestCreateInterrupted(t *testing.T) {
	u := iscsid.NewUnit(8<<20, 512)
	u.Cached = true
	ctx, cancel := context.WithCancel(testkit.Guard(t))
	var syncs atomic.Int32
	s := iscsid.Start(t, iscsid.Config{Intercept: func(_ uint32, cdb []byte) iscsid.Action {
		if cdb[0] == 0x35 || cdb[0] == 0x91 {
			// The first one is that of the driver, which makes the target ready.
			if syncs.Add(1) > 1 {
				cancel()
				return iscsid.Action{Do: iscsid.Forget}
			}
		}
		return iscsid.Action{}
	}}, map[uint32]*iscsid.Unit{1: u})
	_, err := block.Make(ctx, block.NewRegistry(iscsi.New(), qcow2.New()), block.CreateRequest{Filename: urlOf(s), Format: "qcow2", Size: 1 << 20, Gate: driver.DenyAll})
	if !errors.Is(err, context.Canceled) || syncs.Load() < 2 {
		t.Fatal(err, syncs.Load())
	}
}
