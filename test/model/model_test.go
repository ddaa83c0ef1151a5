package model

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
)

var (
	runTime = flag.Duration("model.time", 0, "how long to run with ever new seeds; 0: a fixed number of them")
	runAll  = flag.Bool("model.readall", false, "read the whole disk after each operation, to find the one that is wrong")
	runSeed = flag.Uint64("model.seed", 1, "the first seed")

	logName   = flag.String("model.log", "", "replay this log of a run")
	shrinkLog = flag.Bool("model.shrink", false, "look for the fewest lines of the log that still fail")
)

// TestRandom runs worlds, one for each seed, several batches each. A run of a
// night's length:
//
//	go test -C test ./model -run TestRandom -timeout 0 -v -model.time 30m -model.seed 1
func TestRandom(t *testing.T) {
	testkit.Tool(t, "qemu-img")
	worlds, batches, steps := uint64(24), 4, 120
	if testing.Short() {
		worlds = 6
	}
	if *runTime > 0 {
		worlds, batches, steps = 1<<62, 12, 600
	}
	start, done, made := time.Now(), 0, uint64(0)
	for seed := *runSeed; made < worlds && (*runTime == 0 || time.Since(start) < *runTime); seed++ {
		made++
		n, err := runWorld(t.Context(), t, seed, batches, steps)
		done += n
		if err != nil {
			t.Fatal(err)
		}
		if *runTime > 0 && made%50 == 0 {
			t.Logf("%v: %d worlds, %d operations, seed %d", time.Since(start).Round(time.Second), made, done, seed)
		}
	}
	t.Logf("%d worlds from seed %d, %d operations, %v", made, *runSeed, done, time.Since(start).Round(time.Second))
}

func runWorld(ctx context.Context, t *testing.T, seed uint64, batches, steps int) (int, error) {
	dir, err := os.MkdirTemp(t.TempDir(), "world")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	log := plan(seed, batches, steps)
	n, err := run(ctx, log, dir, nil)
	if err != nil {
		left := filepath.Join(os.TempDir(), fmt.Sprintf("cowl-model-%d.log", seed))
		if e := writeLog(left, log); e == nil {
			err = fmt.Errorf("%w\n(again: go test ./model -run TestReplay -model.log %s, and -model.shrink)", err, left)
		}
	}
	return n, err
}
