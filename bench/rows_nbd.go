package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// nbdRow is a line about servers: each program's qemu-nbd serves a file while
// clients work with it. The peak memory shown is that of the server.
type nbdRow struct {
	name         string
	goal         float64
	format, file string   // what is served
	options      []string // of the server
	prepare      func() error
	clients      int // at the same time
	// client is the command of one client; self is the program of the server's side.
	client func(self, uri string, i int) []string
	fio    bool // clients are fio, which tell operations per second
}

// nbdRun is what one run of a row came to.
type nbdRun struct {
	wall time.Duration
	ops  float64       // per second, with fio
	cpu  time.Duration // of the server
	peak int64         // of the server, KiB
}

// score is larger for better runs.
func (r nbdRun) score() float64 {
	if r.ops > 0 {
		return r.ops
	}
	return 1 / r.wall.Seconds()
}

func (r nbdRun) String() string {
	if r.ops > 0 {
		return fmt.Sprintf("%.0f ops/s", r.ops)
	}
	return seconds(r.wall)
}

// nbdRows are the rows about servers and their clients.
func nbdRows(c *config) []nbdRow {
	ctx := context.Background()
	disk, plain, out := c.path("disk.raw"), c.path("plain.qcow2"), c.path("out.img")
	var list []nbdRow
	for _, format := range []string{"raw", "qcow2"} {
		for _, rw := range []string{"randread", "randwrite"} {
			list = append(list, nbdRow{
				name: fmt.Sprintf("nbd: fio %s of 4 KiB, depth 32, %s", rw, format), goal: 1.3,
				format: format, file: c.path("random." + format), fio: true,
				client: func(_, uri string, _ int) []string {
					return []string{"fio", "--name=b", "--ioengine=nbd", "--uri=" + uri, "--rw=" + rw, "--bs=4k", "--iodepth=32",
						"--size=512m", "--runtime=3", "--time_based", "--output-format=json", "--output=" + c.path("fio.json")}
				},
			})
		}
	}
	readOnly := []string{"-r"}
	nbdcopy := func(to string) func(string, string, int) []string {
		return func(_, uri string, i int) []string {
			if to == "null:" {
				return []string{"nbdcopy", uri, "null:"}
			}
			return []string{"nbdcopy", uri, fmt.Sprintf("%s.%d", to, i)}
		}
	}
	for _, f := range [][2]string{{"raw", disk}, {"qcow2", plain}} {
		for _, n := range []int{1, 4} {
			what := fmt.Sprintf("%s, %d clients", f[0], n)
			list = append(list,
				nbdRow{name: "nbd: nbdcopy to null, " + what, goal: 1.2, format: f[0], file: f[1], options: readOnly, clients: n, client: nbdcopy("null:")},
				nbdRow{name: "nbd: nbdcopy to files, " + what, goal: 1.2, format: f[0], file: f[1], options: readOnly, clients: n, client: nbdcopy(out)})
		}
	}
	convert := func(format string) func(self, uri string, _ int) []string {
		return func(self, uri string, _ int) []string {
			return []string{self, "convert", "-f", "raw", "-O", format, uri, out + ".0"}
		}
	}
	target := func(format string) func() error {
		return func() error {
			return command(ctx, c.qemu, "create", "-q", "-f", format, c.path("target.tmp"), "8G")
		}
	}
	into := func(self, uri string, _ int) []string {
		return []string{self, "convert", "-n", "-f", "raw", "-O", "raw", disk, uri}
	}
	return append(list,
		nbdRow{name: "nbd: convert from raw to raw", goal: 1, format: "raw", file: disk, options: readOnly, client: convert("raw")},
		nbdRow{name: "nbd: convert from raw to qcow2", goal: 1, format: "raw", file: disk, options: readOnly, client: convert("qcow2")},
		nbdRow{name: "nbd: convert from qcow2 to raw", goal: 1, format: "qcow2", file: plain, options: readOnly, client: convert("raw")},
		nbdRow{name: "nbd: convert raw to raw", goal: 1, format: "raw", file: c.path("target.tmp"), prepare: target("raw"), client: into},
		nbdRow{name: "nbd: convert raw to qcow2", goal: 1, format: "qcow2", file: c.path("target.tmp"), prepare: target("qcow2"), client: into},
		nbdRow{name: "nbd: memory with 16 clients that copy", format: "qcow2", file: plain, options: readOnly, clients: 16, client: nbdcopy("null:")})
}

// selectedNBD are the rows about servers that were asked for.
func selectedNBD(c *config) []nbdRow {
	return slices.DeleteFunc(nbdRows(c), func(r nbdRow) bool { return !c.only.MatchString(r.name) })
}

// measureNBD runs the rows that were asked for.
func measureNBD(ctx context.Context, c *config) error {
	list := selectedNBD(c)
	if len(list) == 0 {
		return nil
	}
	for _, tool := range []string{c.server, "fio", "nbdcopy"} {
		if _, err := exec.LookPath(tool); err != nil {
			fmt.Println("\nrows of NBD left out:", err)
			return nil
		}
	}
	if err := makeRandom(ctx, c); err != nil {
		return err
	}
	for _, r := range list {
		if err := measureNBDRow(ctx, c, r); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	return nil
}

// makeRandom makes what fio works on: 512 MiB without holes or zeroes.
func makeRandom(ctx context.Context, c *config) error {
	raw, qcow2 := c.path("random.raw"), c.path("random.qcow2")
	if _, err := os.Stat(qcow2); err == nil {
		return nil
	}
	return errors.Join(command(ctx, "sh", "-c", `head -c 512M /dev/urandom >"$1"`, "sh", raw),
		command(ctx, c.qemu, "convert", "-f", "raw", "-O", "qcow2", raw, qcow2))
}

func measureNBDRow(ctx context.Context, c *config, r nbdRow) error {
	r.clients, r.goal = max(r.clients, 1), c.goal(r.goal)
	dir, err := os.MkdirTemp(c.dir, "nbd")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	server := filepath.Join(dir, "qemu-nbd")
	ours, err := filepath.EvalSymlinks(c.ours)
	if err != nil {
		return err
	}
	if err := os.Symlink(ours, server); err != nil {
		return err
	}
	pairs := [][2]string{{c.server, c.original}, {server, c.ours}}
	if c.newest != "" {
		pairs = append(pairs, [2]string{filepath.Join(filepath.Dir(c.newest), "qemu-nbd"), c.newest})
	}
	var runs [sides][]nbdRun
	for i := range c.rounds + 1 {
		for k := range pairs {
			side := (i + k) % len(pairs)
			pair := pairs[side]
			run, err := runNBD(ctx, c, r, pair[0], pair[1], filepath.Join(dir, "s"))
			if err != nil {
				return err
			}
			if i > 0 { // the first run fills the cache
				runs[side] = append(runs[side], run)
			}
		}
	}
	if c.all {
		for i := range c.rounds {
			o, u := runs[0][i], runs[1][i]
			fmt.Fprintf(os.Stderr, "%s: %v | %v | %.2f; processor time of the server %s | %s\n", r.name, o, u, u.score()/o.score(), seconds(o.cpu), seconds(u.cpu))
		}
	}
	o, u := middle(runs[0]), middle(runs[1])
	goal := ""
	if r.goal > 0 {
		goal = fmt.Sprintf("%.1f", r.goal)
	}
	newest := ""
	if c.newest != "" {
		n := middle(runs[2])
		newest = c.besideNewest(n, u.score()/n.score())
	}
	fmt.Printf("| %s | %v | %v | %.2f | %s |%s %s | %s | | |\n", r.name, o, u, u.score()/o.score(), goal, newest, mib(o.peak), mib(u.peak))
	return nil
}

// middle is the median of runs, with the highest peak.
func middle(runs []nbdRun) nbdRun {
	s := slices.Clone(runs)
	slices.SortFunc(s, func(a, b nbdRun) int {
		if a.score() < b.score() {
			return -1
		}
		return 1
	})
	m := s[len(s)/2]
	for _, r := range s {
		m.peak = max(m.peak, r.peak)
	}
	return m
}

// runNBD serves, runs the clients, and ends the server.
func runNBD(ctx context.Context, c *config, r nbdRow, server, self, sock string) (run nbdRun, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends what is left of the processes
	if r.prepare != nil {
		if err := r.prepare(); err != nil {
			return run, err
		}
	}
	for i := range r.clients {
		os.Remove(fmt.Sprintf("%s.%d", c.path("out.img"), i))
		defer os.Remove(fmt.Sprintf("%s.%d", c.path("out.img"), i))
	}
	defer os.Remove(c.path("target.tmp"))
	os.Remove(sock)
	if !r.fio {
		if err := c.waitIdle(ctx, c.dir); err != nil {
			return run, err
		}
	}
	args := append([]string{"--persistent", "-e", "64", "-x", "", "-k", sock, "-f", r.format}, r.options...)
	srv := exec.CommandContext(ctx, server, append(args, r.file)...)
	var srvText strings.Builder
	srv.Stderr = &srvText
	if err := srv.Start(); err != nil {
		return run, err
	}
	defer func() {
		if err != nil {
			cancel()
			srv.Wait()
			err = fmt.Errorf("%w: %s", err, srvText.String())
		}
	}()
	if err := await(ctx, sock); err != nil {
		return run, err
	}
	start := time.Now()
	errs := make(chan error, r.clients)
	for i := range r.clients {
		go func() {
			args := r.client(self, "nbd+unix:///?socket="+sock, i)
			errs <- command(ctx, args[0], args[1:]...)
		}()
	}
	for range r.clients {
		err = errors.Join(err, <-errs)
	}
	run.wall = time.Since(start)
	if err != nil {
		return run, err
	}
	if r.fio {
		if run.ops, err = fioOps(c.path("fio.json")); err != nil {
			return run, err
		}
	}
	run.peak = highWater(srv.Process.Pid)
	if err := srv.Process.Signal(syscall.SIGTERM); err != nil {
		return run, err
	}
	if err := srv.Wait(); err != nil && !strings.Contains(err.Error(), "signal: terminated") {
		return run, err
	}
	run.cpu = srv.ProcessState.UserTime() + srv.ProcessState.SystemTime()
	return run, nil
}

// await waits until somebody listens on a socket.
func await(ctx context.Context, sock string) error {
	var d net.Dialer
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		nc, err := d.DialContext(ctx, "unix", sock)
		if err == nil {
			return nc.Close()
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
	}
}

// fioOps reads what fio says of its operations per second.
func fioOps(name string) (float64, error) {
	defer os.Remove(name)
	b, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	var report struct {
		Jobs []struct {
			Read, Write struct{ IOPS float64 }
		}
	}
	if err := json.Unmarshal(b, &report); err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	if len(report.Jobs) != 1 {
		return 0, fmt.Errorf("%s: %d jobs", name, len(report.Jobs))
	}
	return report.Jobs[0].Read.IOPS + report.Jobs[0].Write.IOPS, nil
}
