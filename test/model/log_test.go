package model

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// line is one line of the log of a run: a verb, and the seed of all that is decided by
// chance in it. What it does depends on that and on the state that it finds, so that any
// line but the first can be left out, and the others still say something.
type line struct {
	verb string
	seed uint64
	did  string // what it did, for people
}

func (l line) String() string {
	s := l.verb + " " + strconv.FormatUint(l.seed, 10)
	if l.did != "" {
		s += " # " + l.did
	}
	return s
}

// plan decides what a world goes through: batches of steps on the open image, each with
// a close or a crash after it, sometimes a change while it is closed, and the checks.
func plan(seed uint64, batches, steps int) []line {
	r := testkit.Rand(seed)
	log := []line{{verb: "world", seed: seed}}
	add := func(verb string) { log = append(log, line{verb: verb, seed: r.Uint64()}) }
	for range batches {
		add("open")
		for range 1 + r.IntN(steps*2) {
			add("step")
		}
		add(pick(r, "close", "close", "crash"))
		if r.IntN(4) == 0 {
			add("between")
		}
		add("check")
		add("original")
	}
	return log
}

// run does what a log says, and notes beside each line what it did. It returns the
// number of operations, and the first failure. A panic is one.
func run(ctx context.Context, log []line, dir string, change func(*world)) (ops int, err error) {
	var w *world
	at := 0
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
		if err != nil && w != nil {
			err = fmt.Errorf("line %d of the log: %w", at+1, err)
		}
	}()
	if len(log) == 0 || log[0].verb != "world" {
		return 0, fmt.Errorf("a log begins with a line world")
	}
	if w, err = newWorld(ctx, log[0].seed); err != nil {
		return 0, err
	}
	w.careful = *runAll
	if change != nil {
		change(w)
	}
	for i := 1; i < len(log); i++ {
		at = i
		w.r, w.did = testkit.Rand(log[i].seed), nil
		err := w.do(ctx, log[i].verb, dir)
		log[i].did = strings.ReplaceAll(strings.Join(w.did, "; "), "\n", " ")
		if err != nil {
			return w.ops, err
		}
	}
	if w.img != nil {
		if err := w.do(ctx, "close", dir); err != nil {
			return w.ops, err
		}
	}
	return w.ops, w.do(ctx, "check", dir)
}

// do does one line. Those that find the image open or closed when they need it otherwise
// do nothing.
func (w *world) do(ctx context.Context, verb, dir string) error {
	open := w.img != nil
	switch verb {
	case "open":
		if open {
			return nil
		}
		return w.start(ctx)
	case "step":
		if !open {
			return nil
		}
		if err := w.step(ctx); err != nil || !w.careful {
			return err
		}
		return w.readAll(ctx)
	case "close", "crash":
		if !open {
			return nil
		}
		if err := w.readAll(ctx); err != nil {
			return err
		}
		if verb == "crash" {
			return w.crash(ctx)
		}
		return w.close(ctx)
	case "between", "check", "original":
		if open {
			return nil
		}
		switch verb {
		case "between":
			return w.between(ctx)
		case "check":
			return w.check(ctx)
		}
		return w.original(ctx, dir)
	}
	return fmt.Errorf("the log has a line %q", verb)
}

// shrink leaves out lines of a log as long as it still fails: halves first, then smaller
// parts, down to single lines. The first line stays.
func shrink(log []line, fails func([]line) bool) []line {
	for n := max(1, len(log)/2); ; n /= 2 {
		for from := 1; from < len(log); {
			less := append(append([]line(nil), log[:from]...), log[min(from+n, len(log)):]...)
			if fails(less) {
				log = less
			} else {
				from += n
			}
		}
		if n == 1 {
			return log
		}
	}
}

func writeLog(name string, log []line) error {
	var b strings.Builder
	for _, l := range log {
		fmt.Fprintln(&b, l)
	}
	return os.WriteFile(name, []byte(b.String()), 0o644)
}

func readLog(name string) ([]line, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var log []line
	for s := bufio.NewScanner(f); s.Scan(); {
		text, _, _ := strings.Cut(s.Text(), "#")
		verb, num, _ := strings.Cut(strings.TrimSpace(text), " ")
		if verb == "" {
			continue
		}
		seed, err := strconv.ParseUint(num, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: line %d: %w", name, len(log)+1, err)
		}
		log = append(log, line{verb: verb, seed: seed})
	}
	return log, nil
}

// TestReplay does again what the log that -model.log names says. With -model.shrink it
// looks for the fewest lines that still fail, and writes them to the same name with
// ".min" after it.
func TestReplay(t *testing.T) {
	if *logName == "" {
		t.Skip("-model.log names no log")
	}
	testkit.Tool(t, "qemu-img")
	log, err := readLog(*logName)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	_, err = run(t.Context(), log, dir, nil)
	if err == nil {
		t.Log("the log passes")
		return
	}
	t.Error(err)
	if *shrinkLog {
		least := shrink(log, func(l []line) bool {
			_, err := run(t.Context(), l, dir, nil)
			return err != nil
		})
		if err := writeLog(*logName+".min", least); err != nil {
			t.Fatal(err)
		}
		t.Logf("%d of %d lines still fail: %s.min", len(least), len(log), *logName)
	}
}

// TestShrink: a fault of the model, which takes a discard for a write of ones, is found,
// written, read again and shrunk to a line that opens and one that discards.
func TestShrink(t *testing.T) {
	dir := t.TempDir()
	broken := func(w *world) {
		w.onDiscard = func(off, n int64) {
			if n > 0 {
				w.active.Write([]byte{1}, off)
			}
		}
	}
	var log []line
	var err error
	for seed := uint64(1); err == nil; seed++ {
		if seed > 20 {
			t.Fatal("20 worlds without a discard that is seen")
		}
		log = plan(seed, 2, 100)
		for i := range log {
			if log[i].verb == "original" {
				log[i].verb = "check" // without the program
			}
		}
		_, err = run(t.Context(), log, dir, broken)
	}
	name := filepath.Join(dir, "log")
	if err := writeLog(name, log); err != nil {
		t.Fatal(err)
	}
	again, err := readLog(name)
	if err != nil || len(again) != len(log) {
		t.Fatalf("read %d lines of %d: %v", len(again), len(log), err)
	}
	fails := func(l []line) bool {
		_, err := run(t.Context(), l, dir, broken)
		return err != nil
	}
	least := shrink(again, fails)
	if !fails(least) || len(least) != 3 || least[1].verb != "open" || !strings.HasPrefix(least[2].did, "discard") {
		t.Errorf("the least log is %v", least)
	}
	for i := 1; i < len(least); i++ {
		if fails(append(append([]line(nil), least[:i]...), least[i+1:]...)) {
			t.Errorf("line %d is not needed", i+1)
		}
	}
}
