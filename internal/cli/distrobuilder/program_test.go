package distrobuilder

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/drivers"
	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/incus"
	"github.com/cowl-disk/cowl/incus/guest"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/paxtar"
)

const tiny = `image:
  distribution: tiny
  release: "3.20"
  architecture: amd64
source:
  downloader: rootfs-http
packages:
  manager: apt
`

// run runs a command line in a clock that stands still.
func run(t *testing.T, name, stdin string, env map[string]string, args ...string) (code int, out, errs string) {
	t.Helper()
	return runAt(t, time.Unix(1800000000, 0), name, stdin, env, args...)
}

// runAt is run at another time.
func runAt(t *testing.T, now time.Time, name, stdin string, env map[string]string, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	p := &Program{Name: name, Streams: program.Streams{Stdin: strings.NewReader(stdin), Stdout: &o, Stderr: &e, Screen: &e}, Drivers: drivers.All(),
		Now: func() time.Time { return now.UTC() }, Getenv: func(k string) string { return env[k] }}
	code = p.Run(t.Context(), args)
	return code, o.String(), e.String()
}

// folder has a definition and a root file system.
func folder(t *testing.T, more string) (dir, definition, root string) {
	t.Helper()
	dir = t.TempDir()
	definition, root = filepath.Join(dir, "d.yaml"), filepath.Join(dir, "root")
	if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{definition: tiny + more, filepath.Join(root, "etc/hostname"): "x\n"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, time.Unix(1700000000, 0)); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{filepath.Join(root, "etc"), root} {
		if err := os.Chtimes(path, time.Time{}, time.Unix(1600000000, 0)); err != nil {
			t.Fatal(err)
		}
	}
	return dir, definition, root
}

func TestCommandLines(t *testing.T) {
	dir, definition, root := folder(t, "")
	_, acting, _ := folder(t, "actions:\n- {trigger: post-files, action: x}\n- {trigger: post-unpack, action: x}\n")
	_, unknown, _ := folder(t, "targets: {incus: {vm: {nope: 1}}}\n")
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"validate":           {[]string{"validate", definition}, 0, ""},
		"standard input":     {[]string{"validate", "-"}, 0, ""},
		"options before":     {[]string{"--debug", "-o", "image.release=1", "validate", definition}, 0, ""},
		"two options":        {[]string{"validate", definition, "-o", "image.release=1,image.variant=x"}, 0, ""},
		"no definition":      {[]string{"validate", dir + "/no.yaml"}, 1, "level=error msg=\"Failed running distrobuilder\" err=\"Failed to get definition: open " + dir + "/no.yaml: no such file or directory\"\n"},
		"no definition, too": {[]string{"build-incus", dir + "/no.yaml"}, 1, "Error: Failed to get definition: open " + dir + "/no.yaml: no such file or directory\n"},
		"no arguments":       {[]string{"validate"}, 1, "Failed running distrobuilder: accepts 1 arg(s), received 0\n"},
		"few arguments":      {[]string{"pack-incus", definition}, 1, "Error: accepts between 2 and 3 arg(s), received 1\n"},
		"type":               {[]string{"pack-incus", "--type", "x", definition, root}, 1, "Error: --type needs to be one of ['split', 'unified']\n"},
		"compression":        {[]string{"pack-incus", "--compression=xz-9", definition, root}, 1, "Error: Failed to parse compression level: Squashfs compression method \"xz\" does not"},
		"option":             {[]string{"validate", "-o", "image", definition}, 1, "err=\"Failed to get definition: Options need to be of type key=value\"\n"},
		"command":            {[]string{"pack"}, 1, "Error: unknown command \"pack\" for \"distrobuilder\"\n"},
		"flag":               {[]string{"pack-incus", "--no-such-thing", definition, root}, 1, "Failed running distrobuilder: unknown flag: --no-such-thing\n"},
		"letter":             {[]string{"validate", "-x", definition}, 1, "Failed running distrobuilder: unknown shorthand flag: 'x' in -x\n"},
		"no argument":        {[]string{"pack-incus", definition, root, "--type"}, 1, "Error: flag needs an argument: --type\nUsage:\n  distrobuilder pack-incus "},
		"part of a type":     {[]string{"validate", unknown}, 1, "field nope not found in type shared.DefinitionTargetIncusVM"},
		"topic":              {[]string{"help", "nope"}, 0, "Unknown help topic [`nope`]\n"},
		"boolean":            {[]string{"pack-incus", "--vm=perhaps", definition, root}, 1, "invalid argument \"perhaps\" for \"--vm\" flag"},
		"no source":          {[]string{"pack-incus", definition, dir + "/no"}, 1, "no such file or directory"},
		"version":            {[]string{"--version"}, 0, ""},
		"build of nothing":   {[]string{"build-incus", definition, dir + "/a", "--cache-dir", dir + "/c", "--sources-dir", dir + "/s"}, 1, "Error: Error while downloading source: rootfs-http: source.url: \"\" begins with none of"},
		"no target":          {[]string{"build-dir", definition}, 1, "Error: accepts 2 arg(s), received 1\n"},
		"leaves out":         {[]string{"pack-incus", "--skip-actions", acting, root, dir + "/a", "--compression", "lz4"}, 0, "msg=\"left out: actions.0 (post-files)\""},
		"owner":              {[]string{"pack-incus", "--owner", "me", definition, root}, 1, "--owner expects root, keep or UID:GID, not 'me'"},
		"timeout is no time": {[]string{"pack-incus", "-t", "soon", definition, root}, 1, "invalid argument \"soon\""},
	} {
		code, out, errs := run(t, "distrobuilder", tiny, nil, c.args...)
		if all := out + errs; code != c.code || !strings.Contains(all, c.says) || c.says == "" && errs != "" || strings.Contains(errs, "level=") {
			t.Errorf("%s: %d, %q, %q; want %d, %q", name, code, out, errs, c.code, c.says)
		}
		log := strings.Contains(out, `time="2027-01-15T08:00:00Z" level=error msg="Failed running distrobuilder" err="`)
		if early := strings.Contains(errs, "Failed running distrobuilder: "); c.code == 1 && log == early {
			t.Errorf("%s: a failure is logged or, where the command line is wrong, printed: %q %q", name, out, errs)
		}
		if validate := c.args[0] == "validate"; c.code == 1 && strings.Contains(errs, "Error: ") == validate {
			t.Errorf("%s: the error is for all commands but validate: %q", name, errs)
		}
	}
	if code, out, _ := run(t, "distrobuilder", "", nil, "--version"); code != 0 || out != "3.4.0\n" {
		t.Errorf("%d %q", code, out)
	}
}

func TestPackIncus(t *testing.T) {
	dir, definition, root := folder(t, "files:\n- {generator: hostname, path: /etc/hostname}\n")
	pack := func(env map[string]string, args ...string) (r struct {
		Fingerprint, Name string
		Files             []struct{ Path string }
	}) {
		t.Helper()
		code, out, errs := run(t, "cowl", "", env, append([]string{"pack-incus", "--output", "json", "--owner", "root", definition, root, filepath.Join(dir, "out")}, args...)...)
		if code != 0 {
			t.Fatalf("%d %s", code, errs)
		}
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatalf("%q: %v", out, err)
		}
		return r
	}
	first := pack(nil, "--compression", "gzip")
	if first.Name != "tiny-3.20-amd64-default-20231114_2213" || len(first.Files) != 2 || first.Files[0].Path != filepath.Join(dir, "out", "incus.tar.gz") {
		t.Errorf("%+v", first)
	}
	if again := pack(nil, "--compression", "gzip"); again.Fingerprint != first.Fingerprint {
		t.Error("another fingerprint for the same input")
	}
	if at := pack(map[string]string{"SOURCE_DATE_EPOCH": "1500000000"}, "--compression", "gzip"); at.Name != "tiny-3.20-amd64-default-20170714_0240" || at.Fingerprint == first.Fingerprint {
		t.Errorf("%+v", at)
	}
	squashed, err := incus.OpenSource(filepath.Join(dir, "out", "rootfs.squashfs"), incus.SourceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer squashed.Close()
	if got := incus.Latest(squashed).Unix(); got != 1500000000 {
		t.Errorf("a file of an image of 1500000000 is of %d", got)
	}
	if now := pack(nil, "--reproducible=false", "--type=unified", "--compression", "none", "-o", "image.name=n"); now.Name != "n" || now.Files[0].Path != filepath.Join(dir, "out", "n.tar") {
		t.Errorf("%+v", now)
	}
	if code, _, errs := run(t, "cowl", "", map[string]string{"SOURCE_DATE_EPOCH": "x"}, "pack-incus", "--owner", "root", definition, root, dir); code != 1 || !strings.Contains(errs, "SOURCE_DATE_EPOCH") {
		t.Errorf("%d %q", code, errs)
	}
	code, out, errs := run(t, "cowl", "", nil, "pack-incus", "--owner", "7:8", "--compression", "lz4", "--progress=json", definition, root, dir)
	if code != 0 || errs != "" || !strings.Contains(out, "Fingerprint: ") || !strings.Contains(out, `"phase":`) {
		t.Errorf("%d %q %q", code, out, errs)
	}
	list, err := os.ReadDir(filepath.Join(dir, "out"))
	if err != nil || len(list) != 3 {
		t.Errorf("%v %v", list, err)
	}
}

// TestDays packs copies of a root file system in other folders, years apart: the images are
// the same. One byte that differs, in a file of the same size and time, makes another.
func TestDays(t *testing.T) {
	generators := "files:\n- {generator: hostname, path: /etc/hostname}\n- {generator: dump, path: /etc/new, content: x}\n- {generator: fstab}\n"
	for _, options := range [][]string{{"--compression=zstd"}, {"--type=unified", "--compression=gzip"}, {"--vm", "--boot=none", "--compression=gzip"}, {"--vm", "--boot=none", "--type=unified", "--compression=none"}} {
		pack := func(now int64, change bool) string {
			t.Helper()
			dir, definition, root := folder(t, generators)
			if change {
				file := filepath.Join(root, "etc/hostname")
				if err := errors.Join(os.WriteFile(file, []byte("y\n"), 0o644), os.Chtimes(file, time.Time{}, time.Unix(1700000000, 0))); err != nil {
					t.Fatal(err)
				}
			}
			args := []string{"pack-incus", "--output=json", "--owner=root", definition, root, filepath.Join(dir, "out")}
			code, out, errs := runAt(t, time.Unix(now, 0), "cowl", "", nil, append(args, options...)...)
			var r struct{ Fingerprint string }
			if err := json.Unmarshal([]byte(out), &r); code != 0 || err != nil || r.Fingerprint == "" {
				t.Fatalf("%q: %d %q %q %v", options, code, out, errs, err)
			}
			return r.Fingerprint
		}
		first := pack(1800000000, false)
		if later := pack(1950000001, false); later != first {
			t.Errorf("%q: %s, and years later %s", options, first, later)
		}
		if other := pack(1800000000, true); other == first {
			t.Errorf("%q: a changed byte does not change the fingerprint", options)
		}
	}
}

func TestDeclarations(t *testing.T) {
	p := &Program{Name: "cowl"}
	for _, c := range p.Commands() {
		for _, problem := range c.Problems() {
			t.Error(problem)
		}
		if !p.Has(c.Name) {
			t.Errorf("%s is not found", c.Name)
		}
	}
	if p.Has("convert") {
		t.Error("convert is ours")
	}
	code, out, _ := run(t, "distrobuilder", "", nil, "help", "pack-incus")
	if code != 0 || !strings.Contains(out, "--compression METHOD") {
		t.Errorf("%d %q", code, out)
	}
}

func TestRepackAndIndex(t *testing.T) {
	dir, definition, root := folder(t, "")
	out := filepath.Join(dir, "out")
	fingerprint := func(args ...string) string {
		t.Helper()
		code, out, errs := run(t, "cowl", "", nil, args...)
		_, sum, ok := strings.Cut(out, "Fingerprint: ")
		if code != 0 || !ok {
			t.Fatalf("%v: %d %q %q", args, code, out, errs)
		}
		return sum
	}
	first := fingerprint("pack-incus", "--owner=root", "--compression=gzip", definition, root, out)
	archive, rootfs := filepath.Join(out, "incus.tar.gz"), filepath.Join(out, "rootfs.squashfs")
	fingerprint("repack-incus", "--type", "unified", "--compression", "zstd", archive, rootfs, out)
	unified := filepath.Join(out, "tiny-3.20-amd64-default-20231114_2213.tar.zst")
	if again := fingerprint("repack-incus", "--compression=gzip", unified, filepath.Join(dir, "again")); again != first {
		t.Errorf("%q, before %q", again, first)
	}
	code, text, errs := run(t, "cowl", "", nil, "incus-index", archive, rootfs)
	if code != 0 || !strings.Contains(text, strings.TrimSpace(first)) {
		t.Errorf("%d %q %q", code, text, errs)
	}
	index := filepath.Join(dir, "images.json")
	if err := os.WriteFile(index, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if code, text, errs := run(t, "cowl", "", nil, "incus-index", "--merge", index, "--prefix", "u/", unified); code != 0 || !strings.Contains(text, "u/tiny") || !strings.Contains(text, strings.TrimSpace(first)) {
		t.Errorf("%d %q %q", code, text, errs)
	}
	if code, _, errs := run(t, "distrobuilder", "", nil, "repack-incus", archive, out); code != 1 || !strings.Contains(errs, "unknown command") {
		t.Errorf("%d %q", code, errs)
	}
}

// TestBuild builds of an archive that is in a file, with programs where the system lets
// them run.
func TestBuild(t *testing.T) {
	dir, _, root := folder(t, "")
	archive := filepath.Join(dir, "a.tar")
	tree, err := fstree.FromDir(root, fstree.Options{Owner: &fstree.Owner{UID: 5, GID: 6}})
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile("/bin/busybox")
	if err == nil {
		n, err := tree.PutFile("bin/busybox", program, time.Unix(1600000000, 0))
		if err != nil {
			t.Fatal(err)
		}
		n.Mode = 0o755
		for _, name := range []string{"sh", "env", "cat", "mkdir", "rm"} {
			tree.Root.Lookup("bin").Set(name, &fstree.Node{Kind: fstree.Symlink, Mode: 0o777, Target: "busybox", ModTime: time.Unix(1600000000, 0)})
		}
	}
	var b bytes.Buffer
	w := paxtar.NewWriter(&b, paxtar.Options{})
	if err := errors.Join(w.AddTree("./", tree.Root), w.Close(), os.WriteFile(archive, b.Bytes(), 0o644)); err != nil {
		t.Fatal(err)
	}
	definition := filepath.Join(dir, "build.yaml")
	text := strings.Replace(tiny, "rootfs-http", "rootfs-http\n  url: file://"+filepath.ToSlash(archive), 1)
	actions := `files:
- {generator: dump, path: /etc/dumped, content: x}
- {generator: hostname, path: /etc/hostname}
actions:
- {trigger: post-unpack, action: "echo {{ image.release }} >/etc/unpacked", pongo: true}
- {trigger: post-files, action: "cat /etc/dumped /etc/unpacked >/etc/both; echo $DISTROBUILDER_ROOT_UUID >/etc/uuid"}
- {trigger: post-files, action: "exit 1", types: [vm], releases: ["4"]}
`
	if err := os.WriteFile(definition, []byte(text+actions), 0o644); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out")
	build := func(args ...string) string {
		t.Helper()
		code, text, errs := run(t, "cowl", "", nil, append([]string{args[0], "--cache-dir", filepath.Join(dir, "cache"), "--sources-dir", filepath.Join(dir, "sources"), definition, out}, args[1:]...)...)
		if code != 0 {
			t.Fatalf("%v: %d %s", args, code, errs)
		}
		return text + errs
	}
	first := build("build-incus", "--skip-actions", "--compression", "lz4")
	if !strings.Contains(first, "left out: actions.0 (post-unpack), actions.1 (post-files)") {
		t.Errorf("%q", first)
	}
	if again := build("build-incus", "--skip-actions", "--compression", "lz4"); again != first {
		t.Errorf("%q and %q", first, again)
	}
	g, err := guest.New(t.Context(), t.TempDir(), nil)
	if err != nil || program == nil {
		t.Skipf("no programs run in a root file system here, or there is no busybox: %v", err)
	}
	if err := g.Remove(); err != nil {
		t.Error(err)
	}
	first = build("build-incus", "--compression", "lz4")
	if again := build("build-incus", "--compression", "lz4"); again != first {
		t.Errorf("%q and %q", first, again)
	}
	image, err := incus.OpenSource(filepath.Join(out, "rootfs.squashfs"), incus.SourceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	if text, err := image.ReadFile("etc/both", 100); err != nil || string(text) != "x\n3.20\n" {
		t.Errorf("%q, %v", text, err)
	}
	if n := image.Root.Lookup("etc/hostname"); n == nil || n.UID != 5 || n.GID != 6 {
		t.Errorf("%+v", n)
	}
	if !testing.Short() {
		build("build-incus", "--vm", "--compression", "zstd-1", "--boot", "none", "-o", "targets.incus.vm.size=400000000")
	}
	if os.Geteuid() == 0 {
		out = filepath.Join(dir, "folder")
		build("build-dir", "--with-post-files")
		if text, err := os.ReadFile(filepath.Join(out, "etc/both")); err != nil || string(text) != "x\n3.20\n" {
			t.Errorf("%q, %v", text, err)
		}
		if code, _, errs := run(t, "cowl", "", nil, "build-dir", definition, out); code != 1 || !strings.Contains(errs, "is not empty") {
			t.Errorf("%d %q", code, errs)
		}
	}
	if list, _ := os.ReadDir(filepath.Join(dir, "cache")); len(list) > 0 {
		t.Errorf("left behind: %v", list)
	}
}
