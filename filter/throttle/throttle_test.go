package throttle_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/filter/throttle"
	"github.com/cowl-disk/cowl/format/qcow2"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// objects are groups by id.
type objects map[string]*driver.ThrottleGroup

func (o objects) Object(id string) driver.Object {
	if g := o[id]; g != nil {
		return g
	}
	return nil
}

func TestConformance(t *testing.T) {
	drivertest.RunFilter(t, drivertest.Filter{Driver: throttle.New(), Format: qcow2.New(), Options: opts.Dict{"throttle-group": "g"},
		Objects: objects{"g": {ID: "g", IOPS: driver.ThrottleLimit{Average: 1 << 30}}}})
}

// open opens a raw disk of 10 MiB through the group g.
func open(t *testing.T, reg *block.Registry, o objects, group string) (*block.Image, error) {
	d := opts.Dict{"driver": "throttle", "file.driver": "mem", "file.filename": "d"}
	if group != "" {
		d["throttle-group"] = group
	}
	return block.Open(t.Context(), reg, block.Source{Options: d}, block.OpenOptions{Write: true, Unmap: true, Gate: driver.DenyAll, Objects: o})
}

func registry() *block.Registry {
	m := mem.New().(*mem.Driver)
	m.Add("d", mem.NewDisk(10<<20))
	return block.NewRegistry(throttle.New(), raw.New(), m)
}

// TestRates measures, by a clock that runs while everybody waits, how long requests take.
func TestRates(t *testing.T) {
	write := func(n int) func(context.Context, *block.Image) error {
		return func(ctx context.Context, img *block.Image) error {
			_, err := img.WriteAt(ctx, make([]byte, n), 0)
			return err
		}
	}
	read := func(n int) func(context.Context, *block.Image) error {
		return func(ctx context.Context, img *block.Image) error {
			_, err := img.ReadAt(ctx, make([]byte, n), 0)
			return err
		}
	}
	for _, c := range []struct {
		name string
		g    driver.ThrottleGroup
		do   func(context.Context, *block.Image) error
		n    int
		want time.Duration
	}{
		{"requests", driver.ThrottleGroup{IOPS: driver.ThrottleLimit{Average: 10}}, write(512), 31, 3 * time.Second},
		{"reads alone", driver.ThrottleGroup{IOPSRead: driver.ThrottleLimit{Average: 10}}, write(512), 100, 0},
		{"bytes", driver.ThrottleGroup{BPSWrite: driver.ThrottleLimit{Average: 1 << 20}}, write(1 << 20), 3, 2900 * time.Millisecond},
		{"writes alone", driver.ThrottleGroup{BPSWrite: driver.ThrottleLimit{Average: 1 << 20}}, read(1 << 20), 9, 0},
		{"a burst", driver.ThrottleGroup{IOPS: driver.ThrottleLimit{Average: 10, Max: 100, Burst: 2}}, write(512), 200, 1900 * time.Millisecond},
		{"after a burst", driver.ThrottleGroup{IOPS: driver.ThrottleLimit{Average: 10, Max: 100, Burst: 1}}, write(512), 130, 3 * time.Second},
		{"large requests", driver.ThrottleGroup{IOPS: driver.ThrottleLimit{Average: 10}, IOPSSize: 4096}, write(40 << 10), 2, 1900 * time.Millisecond},
		{"discards", driver.ThrottleGroup{IOPSWrite: driver.ThrottleLimit{Average: 10}}, func(ctx context.Context, img *block.Image) error {
			return img.Discard(ctx, 0, 512)
		}, 11, time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				img, err := open(t, registry(), objects{"g": &c.g}, "g")
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				for range c.n {
					if err := c.do(t.Context(), img); err != nil {
						t.Fatal(err)
					}
				}
				if took := time.Since(start); took < c.want || took > c.want*11/10 {
					t.Errorf("%d requests took %v, want %v", c.n, took, c.want)
				}
				img.Close(t.Context())
			})
		})
	}
}

// TestGroup: nodes of one group share its limits.
func TestGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := objects{"g": {IOPS: driver.ThrottleLimit{Average: 10}}, "h": {IOPS: driver.ThrottleLimit{Average: 10}}}
		reg := registry()
		start := time.Now()
		var wg sync.WaitGroup
		for _, group := range []string{"g", "g", "h"} {
			img, err := open(t, reg, o, group)
			if err != nil {
				t.Fatal(err)
			}
			wg.Go(func() {
				defer img.Close(t.Context())
				for range 20 {
					if _, err := img.ReadAt(t.Context(), make([]byte, 512), 0); err != nil {
						t.Error(err)
					}
				}
				if took := time.Since(start); group == "h" && took > 2*time.Second {
					t.Errorf("a group of its own took %v", took)
				}
			})
		}
		wg.Wait()
		if took := time.Since(start); took < 3800*time.Millisecond || took > 4200*time.Millisecond {
			t.Errorf("40 requests of two nodes took %v", took)
		}
	})
}

// TestCancel: who waits can be called off.
func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		img, err := open(t, registry(), objects{"g": {BPS: driver.ThrottleLimit{Average: 1}}}, "g")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := img.ReadAt(ctx, make([]byte, 1000), 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		img.Close(t.Context())
	})
}

func TestNames(t *testing.T) {
	for group, want := range map[string]string{"": "please specify a throttle group", "x": "throttle group 'x' does not exist"} {
		if _, err := open(t, registry(), objects{}, group); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%q: %v", group, err)
		}
	}
}
