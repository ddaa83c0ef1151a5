// Command bench measures cowl beside QEMU's tool in one run and prints a
// table of ratios: original time divided by ours, and the peak memory of both.
//
//	go run ./bench                 # everything, on a real disk that it builds
//	go run ./bench -run convert    # the rows whose name matches; groups are start, sizes, processors, formats, nbd …
//	go run ./bench -newest PROGRAM # beside a second qemu-img, too; a qemu-nbd is expected in its folder
//	go run ./bench -against REV    # beside another revision of cowl instead of QEMU
//	go run ./bench -summary FILE   # README's table of one that was printed before
//
// It builds the disk from the machine's own files (an ext4 file system of 8 GiB
// virtual size with about 1.5 GiB of data), with mkfs.ext4, and needs about 15 GiB
// of room in -dir. Each program is run once unmeasured to fill the page cache, then
// all alternately, each of them first in turn; the table shows the
// medians and, in brackets, the fastest and the slowest run. Before each run that
// writes, the old output is removed, the device gets what is left to write, and free
// memory is touched (see warm).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// config is what the flags say.
type config struct {
	dir, ours string
	qemu      string // QEMU's program, which makes the images
	original  string // what is measured beside ours: qemu, or our program of another revision
	newest    string // a second QEMU's program, measured too; "" for none
	server    string // what serves beside ours: qemu-nbd
	launch    string // the program that measures a command, where the system has it
	revision  string // of cowl that is measured in the place of QEMU; "" for QEMU
	rounds    int
	warm      int64 // bytes
	only      *regexp.Regexp
	all       bool
}

// row is one line of the table.
type row struct {
	name string
	goal float64 // the ratio to reach, 0 for none
	// Each is a command line; {in names} are those of the fixtures, out is the
	// output file, removed before each run.
	original, ours []string
	out            string
	originalExit   int // exit code of the original that is no failure
	prepare        func() error
}

// sample is one run, or the median of several.
type sample struct {
	time             time.Duration
	fastest, slowest time.Duration // of several
	cpu              time.Duration
	peak             int64 // KiB, the highest of several
	room             int64 // bytes that the output takes on disk
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var c config
	flag.StringVar(&c.dir, "dir", filepath.Join(os.TempDir(), "cowl-bench"), "directory for the disk and the outputs; kept for the next run")
	flag.StringVar(&c.qemu, "original", "qemu-img", "QEMU's program")
	flag.StringVar(&c.newest, "newest", "", "another QEMU's program that is measured, too, where both would be called alike")
	flag.StringVar(&c.ours, "ours", "", "our program, to be called as qemu-img (default: built from this tree)")
	flag.IntVar(&c.rounds, "rounds", 3, "measured runs of each row, at least 3")
	flag.Int64Var(&c.warm, "warm", 4<<30, "bytes of free memory to touch before each run that writes; 0 for none")
	flag.BoolVar(&c.all, "all", false, "print every run, too, to the standard error")
	touch := flag.Int64("touch", 0, "touch so many bytes of free memory and end (for the program's own use)")
	revision := flag.String("against", "", "measure beside this revision of cowl, which is built, instead of QEMU")
	only := flag.String("run", "", "regular expression that selects rows")
	table := flag.String("summary", "", "measure nothing: print README's table of the table in this file, which an earlier run printed")
	flag.Parse()
	if *table != "" {
		return summary(os.Stdout, *table)
	}
	if *touch > 0 {
		return warm(*touch)
	}
	c.rounds, c.server = max(c.rounds, 3), "qemu-nbd"
	var err error
	if c.only, err = regexp.Compile(*only); err != nil {
		return err
	}
	if err := c.findPrograms(*revision); err != nil {
		return err
	}
	if c.dir, err = filepath.Abs(c.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return err
	}
	if c.ours == "" {
		if c.ours, err = build(ctx, ".", filepath.Join(c.dir, "bin")); err != nil {
			return err
		}
	}
	if c.launch, err = buildLaunch(ctx, &c); err != nil {
		return err
	}
	if err := makeDisk(ctx, c.path("disk.raw")); err != nil {
		return err
	}
	// Rows hold the names of both programs.
	c.original = c.qemu
	if *revision != "" {
		if err := c.against(ctx, *revision); err != nil {
			return err
		}
	}
	list := selected(&c, slices.Concat(rows(&c), changeRows(&c), processorRows(&c)))
	if len(list) > 0 || len(selectedNBD(&c)) > 0 {
		if err := errors.Join(makeFixtures(ctx, &c), makeChangeFixtures(ctx, &c)); err != nil {
			return err
		}
	}
	defer os.Remove(c.path("base.tmp"))
	fmt.Print(describeMachine(ctx, c))
	fmt.Print(c.head(ctx))
	for _, r := range list {
		if err := measureRow(ctx, &c, r); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	if err := errors.Join(measureFormats(ctx, &c), measureSizes(ctx, &c), measureNBD(ctx, &c), measureRemote(ctx, &c), measureIncus(ctx, &c)); err != nil {
		return err
	}
	return reflinkRows(ctx, &c)
}

// findPrograms says whether those are there that ours is measured beside.
func (c *config) findPrograms(revision string) error {
	if _, err := exec.LookPath(c.qemu); err != nil {
		return fmt.Errorf("QEMU is needed to compare with: %w", err)
	}
	if c.newest == "" {
		return nil
	}
	if revision != "" {
		return errors.New("-newest and -against cannot be used together")
	}
	if _, err := exec.LookPath(c.newest); err != nil {
		return fmt.Errorf("-newest: %w", err)
	}
	return nil
}

// selected are the rows that were asked for.
func selected(c *config, list []row) []row {
	return slices.DeleteFunc(list, func(r row) bool { return !c.only.MatchString(r.name) })
}

// buildLaunch builds the program that measures commands.
func buildLaunch(ctx context.Context, c *config) (string, error) {
	if runtime.GOOS == "windows" {
		return "", nil
	}
	bin := filepath.Join(c.dir, "bin", "launch")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin, "./bench/launch")
	cmd.Stderr = os.Stderr
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("go build ./bench/launch: %w", err)
	}
	return bin, nil
}

// build makes the program of a source tree in dir, and a link by which it answers as
// qemu-img.
func build(ctx context.Context, tree, dir string) (string, error) {
	bin := filepath.Join(dir, "cowl")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin, "./cmd/cowl")
	cmd.Dir, cmd.Stderr = tree, os.Stderr
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("go build: %w", err)
	}
	link := filepath.Join(dir, "qemu-img")
	if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	return link, os.Symlink("cowl", link)
}

func measureRow(ctx context.Context, c *config, r row) error {
	r.goal = c.goal(r.goal)
	commands := [sides][]string{r.original, r.ours, c.byNewest(r.original)}
	var samples [sides][]sample
	for i := range c.rounds + 1 {
		for k := range sides {
			side := (i + k) % sides
			if commands[side] == nil {
				continue
			}
			s, err := runOnce(ctx, c, r, commands[side], [sides]int{r.originalExit, 0, r.originalExit}[side])
			if err != nil && i == 0 && side == newestSide && ctx.Err() == nil {
				// It may be built without what the original has.
				fmt.Fprintf(os.Stderr, "%s: not beside %s: %v\n", r.name, c.newest, err)
				commands[side] = nil
				continue
			}
			if err != nil {
				return err
			}
			if i > 0 { // the first run fills the cache
				samples[side] = append(samples[side], s)
			}
		}
	}
	if r.out != "" {
		if err := os.RemoveAll(r.out); err != nil {
			return err
		}
	}
	if c.all {
		for i := range c.rounds {
			for side, name := range [sides]string{c.other(), "cowl", "newest"} {
				if i < len(samples[side]) {
					s := samples[side][i]
					fmt.Fprintf(os.Stderr, "%s: %s %s, processor time %s\n", r.name, name, seconds(s.time), seconds(s.cpu))
				}
			}
		}
	}
	c.printRow(r, median(samples[0]), median(samples[1]), median(samples[2]))
	return nil
}

const (
	sides      = 3 // programs that are measured: QEMU's, ours, and the newest of QEMU's
	newestSide = 2
)

// byNewest is the command line of the newest program for one of the original's, which another program may start;
// nil where there is none.
func (c *config) byNewest(original []string) []string {
	i := slices.Index(original, c.original)
	if c.newest == "" || i < 0 {
		return nil
	}
	args := slices.Clone(original)
	args[i] = c.newest
	return args
}

// head begins the table.
func (c *config) head(ctx context.Context) string {
	other, columns := c.other(), 9
	newest := ""
	if c.revision == "" {
		other += " " + version(ctx, c.original)
	}
	if c.newest != "" {
		newest, columns = " QEMU "+version(ctx, c.newest)+" | ratio |", columns+2
	}
	return fmt.Sprintf("\n| what | %[1]s | cowl | ratio | goal |%[2]s peak memory, %[1]s | cowl | output, %[1]s | cowl |\n|---|%[3]s\n", other, newest, strings.Repeat("---:|", columns-1))
}

// version is that of a program of QEMU's.
func version(ctx context.Context, program string) string {
	out, _ := exec.CommandContext(ctx, program, "--version").Output()
	_, rest, _ := strings.Cut(string(out), " version ")
	if words := strings.Fields(rest); len(words) > 0 {
		return words[0]
	}
	return "of an unknown version"
}

// besideNewest is the part of a row that tells of the newest program: its result and the ratio.
func (c *config) besideNewest(result fmt.Stringer, ratio float64) string {
	switch {
	case c.newest == "":
		return ""
	case result == nil:
		return " – | – |"
	}
	return fmt.Sprintf(" %v | %.2f |", result, ratio)
}

// runOnce prepares one run and times it.
func runOnce(ctx context.Context, c *config, r row, args []string, accept int) (sample, error) {
	if r.out != "" {
		if err := os.RemoveAll(r.out); err != nil {
			return sample{}, err
		}
	}
	if r.prepare != nil {
		if err := r.prepare(); err != nil {
			return sample{}, err
		}
	}
	if r.out != "" {
		if err := c.waitIdle(ctx, filepath.Dir(r.out)); err != nil {
			return sample{}, err
		}
	}
	s, err := timeCommand(ctx, c, args, accept)
	if err == nil && r.out != "" {
		s.room, err = roomOf(r.out)
	}
	return s, err
}

// waitIdle makes runs that write alike: the device is idle, and the memory that they
// get is there.
func (c *config) waitIdle(ctx context.Context, dir string) error {
	if err := command(ctx, "sync", "-f", dir); err != nil {
		return err
	}
	if c.warm <= 0 {
		return nil
	}
	// In a process of its own, which gives the memory back.
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return command(ctx, self, "-touch", fmt.Sprint(c.warm))
}

func (c *config) printRow(r row, o, u, n sample) {
	newest := c.besideNewest(nil, 0)
	if n.time != 0 {
		newest = c.besideNewest(n, n.time.Seconds()/u.time.Seconds())
	}
	goal := ""
	if r.goal > 0 {
		goal = fmt.Sprintf("%.1f", r.goal)
	}
	if o.time == 0 {
		fmt.Printf("| %s | – | %v | – | %s |%s – | %s | – | %s |\n", r.name, u, goal, newest, mib(u.peak), megabytes(u.room))
		return
	}
	fmt.Printf("| %s | %v | %v | %.2f | %s |%s %s | %s | %s | %s |\n", r.name, o, u,
		o.time.Seconds()/u.time.Seconds(), goal, newest, mib(o.peak), mib(u.peak), megabytes(o.room), megabytes(u.room))
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.3f s", d.Seconds()) }

// String tells the time, and the range of several.
func (s sample) String() string {
	if s.fastest == s.slowest {
		return seconds(s.time)
	}
	return fmt.Sprintf("%s (%.3f to %.3f)", seconds(s.time), s.fastest.Seconds(), s.slowest.Seconds())
}

func mib(kib int64) string { return fmt.Sprintf("%.0f MiB", float64(kib)/1024) }

// megabytes tells the size of an output, nothing where there is none.
func megabytes(n int64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%.1f MB", float64(n)/1e6)
}

func median(s []sample) sample {
	if len(s) == 0 {
		return sample{}
	}
	times := make([]time.Duration, len(s))
	peak := int64(0)
	for i, x := range s {
		times[i] = x.time
		peak = max(peak, x.peak)
	}
	slices.Sort(times)
	return sample{time: times[len(times)/2], fastest: times[0], slowest: times[len(times)-1], peak: peak, room: s[len(s)-1].room}
}

func describeMachine(ctx context.Context, c config) string {
	out := func(name string, args ...string) string {
		b, err := exec.CommandContext(ctx, name, args...).Output()
		if err != nil {
			return "unknown"
		}
		line, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
		return line
	}
	cpu := out("sh", "-c", "grep -m1 'model name' /proc/cpuinfo | cut -d: -f2")
	newest := ""
	if c.newest != "" {
		newest = " and " + out(c.newest, "--version")
	}
	return fmt.Sprintf("%s, %s cores, Linux %s, %s on %s; beside %s%s\n", strings.TrimSpace(cpu), out("nproc"), out("uname", "-r"),
		out("go", "version"), out("stat", "-f", "-c", "%T", c.dir), out(c.original, "--version"), newest)
}
