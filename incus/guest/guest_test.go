package guest

import (
	"bytes"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/incus/definition"
)

func parse(t *testing.T, more string) *definition.Definition {
	t.Helper()
	d, err := definition.Parse([]byte("image: {distribution: x, release: 1}\nsource: {downloader: rootfs-http}\n"+more), definition.Options{Now: time.Unix(1, 0)})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// busybox is a root file system with one program.
func busybox(t *testing.T) *fstree.Tree {
	t.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("busybox (the static one) is not installed")
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	tree := fstree.New()
	when := time.Unix(1700000000, 0)
	n, err := tree.PutFile("bin/busybox", program, when)
	if err != nil {
		t.Fatal(err)
	}
	n.Mode = 0o755
	for _, name := range []string{"sh", "env", "cat", "mkdir", "id", "ls", "rm", "printf", "chmod", "hostname", "ps", "wc", "ln"} {
		tree.Root.Lookup("bin").Set(name, &fstree.Node{Kind: fstree.Symlink, Mode: 0o777, Target: "busybox", ModTime: when})
	}
	owned, err := tree.PutFile("etc/owned", []byte("text"), when)
	if err != nil {
		t.Fatal(err)
	}
	owned.UID, owned.GID, owned.Mode = 12, 34, 0o4640
	owned.SetXattrs([]fstree.Xattr{{Name: "user.a", Value: []byte("b")}})
	tree.Root.Lookup("etc").Set("again", owned)
	tree.Root.Set("zero", &fstree.Node{Kind: fstree.CharDevice, Mode: 0o600, Major: 1, Minor: 5, ModTime: when})
	if _, err := tree.MakeDirs("usr/sbin", 0o755, when); err != nil {
		t.Fatal(err)
	}
	return tree
}

// start makes a guest, where the system has them.
func start(t *testing.T, tree *fstree.Tree) (*Guest, *bytes.Buffer) {
	t.Helper()
	out := &bytes.Buffer{}
	g, err := New(t.Context(), t.TempDir(), out)
	if err != nil {
		t.Skipf("no programs run in a root file system here: %v", err)
	}
	t.Cleanup(func() {
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
	})
	if err := g.Unpack(t.Context(), tree); err != nil {
		t.Fatal(err)
	}
	return g, out
}

func TestRoundTrip(t *testing.T) {
	before := busybox(t)
	g, _ := start(t, before)
	after, err := g.Export(t.Context(), fstree.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer after.Close()
	ignore := func(path string, n *fstree.Node) { // the directory of the folder itself, and those that Unpack made
		if n.Kind == fstree.Dir {
			n.ModTime = time.Time{}
		}
		n.SetXattrs(slices.DeleteFunc(slices.Clone(n.Xattrs), func(x fstree.Xattr) bool { return strings.HasPrefix(x.Name, "security.") }))
	}
	list, err := fstree.Comparison{Ignore: ignore}.Compare(before.Root, after.Root)
	if err != nil || len(list) > 0 {
		t.Errorf("%v, %v", list, err)
	}
}

func TestPrograms(t *testing.T) {
	t.Setenv("LEAK", "1")
	g, out := start(t, busybox(t))
	g.Env = []string{"PATH=/bin:/sbin", "A=b c"}
	if err := g.Script(t.Context(), "echo $A-$LEAK; cat /proc/self/mounts | wc -l >/dev/null; cat /proc/sys/kernel/hostname; ls /dev /usr/sbin; echo 1 >/made; echo x >/tmp/gone; echo $$"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"b c-\n", "distrobuilder\n", "null\n", "policy-rc.d\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q lacks %q", out, want)
		}
	}
	if err := g.Script(t.Context(), "#!/bin/sh\nexit 3\n"); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Error(err)
	}
	if err := g.Run(t.Context(), "no-such-program"); err == nil || !strings.Contains(err.Error(), "no-such-program") {
		t.Error(err)
	}
	tree, err := g.Export(t.Context(), fstree.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	if text, err := tree.ReadFile("made", 10); err != nil || string(text) != "1\n" {
		t.Errorf("%q, %v", text, err)
	}
	for _, gone := range []string{"tmp/gone", "usr/sbin/policy-rc.d", "dev/null", "etc/resolv.conf", "proc/self"} {
		if tree.Root.Lookup(gone) != nil {
			t.Errorf("%s is there", gone)
		}
	}
	if err := g.Script(t.Context(), "rm -r /run; ln -s / /run"); err == nil { // a mount is busy
		if err := g.Run(t.Context(), "id"); err == nil || !strings.Contains(err.Error(), "/run of the root file system is no directory") {
			t.Error(err)
		}
	}
}

// TestPrepare has a package manager that writes down how it is called.
func TestPrepare(t *testing.T) {
	d := parse(t, `packages:
  custom_manager:
    flags: [-g]
    install: {cmd: /bin/pm, flags: [in]}
    remove: {cmd: /bin/pm, flags: [rm]}
    refresh: {cmd: /bin/pm, flags: [re]}
    update: {cmd: /bin/pm, flags: [up]}
    clean: {cmd: /bin/pm, flags: [cl]}
  update: true
  cleanup: true
  sets:
  - {action: install, packages: [a, b]}
  - {action: install, packages: [c]}
  - {action: install, packages: [no], types: [vm]}
  - {action: install, packages: [d], flags: [-f]}
  - {action: remove, packages: [e]}
actions:
- {trigger: post-packages, action: "echo packages {{ image.release }} $K >>/log", pongo: true}
- {trigger: post-unpack, action: "echo unpack >>/log"}
- {trigger: post-update, action: "echo update >>/log"}
- {trigger: post-files, action: "echo files >>/log"}
environment:
  variables:
  - {key: K, value: v}
  - {key: SHELL, value: /bin/other}
  - {key: V, value: no, types: [vm]}
`)
	env := Environment(d)
	if want := []string{"PATH=/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin", "TERM=xterm", "DEBIAN_FRONTEND=noninteractive", "K=v", "SHELL=/bin/other"}; !slices.Equal(env, want) {
		t.Errorf("%q", env)
	}
	tree := busybox(t)
	n, err := tree.PutFile("bin/pm", []byte("#!/bin/sh\necho pm $* >>/log\n"), time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	n.Mode = 0o755
	g, _ := start(t, tree)
	g.Env = env
	var said []string
	say := func(text string, fields ...string) {
		said = append(said, strings.Join(append([]string{text}, fields...), " "))
	}
	if err := g.Prepare(t.Context(), d, definition.Build.Before(), say); err != nil {
		t.Fatal(err)
	}
	if err := g.Finish(t.Context(), d, definition.Build.After(), say); err != nil {
		t.Fatal(err)
	}
	after, err := g.Export(t.Context(), fstree.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer after.Close()
	want := "unpack\npm -g re\npm -g up\nupdate\npm -g in a b c\npm -g in -f d\npm -g rm e\npm -g cl\npackages 1 v\nfiles\n"
	if text, err := after.ReadFile("log", 1000); err != nil || string(text) != want {
		t.Errorf("%s, %v, want %s", text, err, want)
	}
	if want := []string{"Managing repositories", "Running hooks trigger post-unpack", "Managing packages", "Running hooks trigger post-update", "Running hooks trigger post-packages", "Running hooks trigger post-files"}; !slices.Equal(said, want) {
		t.Errorf("%q", said)
	}
}

// TestRepositories writes the files of package managers.
func TestRepositories(t *testing.T) {
	g, _ := start(t, busybox(t))
	for manager, want := range map[string]map[string]string{
		"apt": {"etc/apt/sources.list.d/r.list": "deb http://x 1\n", "etc/apt/trusted.gpg.d/r.asc": "KEY"},
		"dnf": {"etc/yum.repos.d/r.repo": "[r]\nname=r\nbaseurl=deb http://x 1\nenabled=1\ngpgcheck=1\ngpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-r\n", "etc/pki/rpm-gpg/RPM-GPG-KEY-r": "KEY"},
	} {
		d := parse(t, "packages:\n  manager: "+manager+"\n  repositories:\n  - {name: r, url: 'deb http://x {{ image.release }}', key: KEY}\n  - {name: v, url: x, types: [vm]}\n")
		g.Env = Environment(d)
		if err := g.Prepare(t.Context(), d, definition.Build.Before(), nil); err != nil {
			t.Fatal(err)
		}
		tree, err := g.Export(t.Context(), fstree.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for path, text := range want {
			if got, err := tree.ReadFile(path, 1000); err != nil || string(got) != text {
				t.Errorf("%s: %s: %q, %v", manager, path, got, err)
			}
		}
		tree.Close()
	}
	d := parse(t, "packages:\n  manager: apt\n  repositories:\n  - {name: ../../x, url: a}\n")
	if err := g.Prepare(t.Context(), d, definition.Build.Before(), nil); err == nil || !strings.Contains(err.Error(), "invalid repository name") {
		t.Error(err)
	}
}

func TestManagers(t *testing.T) {
	for _, name := range []string{"apk", "apt", "dnf", "egoportage", "opkg", "pacman", "portage", "yum", "equo", "xbps", "zypper", "anise", "slackpkg"} {
		if m, ok := managerOf(name); !ok || m.install == nil || m.remove == nil {
			t.Errorf("%s: %+v", name, m)
		}
	}
}

func TestExtract(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	start(t, busybox(t)) // skips where the system cannot
	tree, dir := busybox(t), t.TempDir()
	if err := Extract(t.Context(), tree, dir); err != nil {
		t.Fatal(err)
	}
	after, err := fstree.FromDir(dir, fstree.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ignore := func(path string, n *fstree.Node) {
		n.SetXattrs(slices.DeleteFunc(slices.Clone(n.Xattrs), func(x fstree.Xattr) bool { return strings.HasPrefix(x.Name, "security.") }))
	}
	list, err := fstree.Comparison{Ignore: ignore}.Compare(tree.Root, after.Root)
	if err != nil || len(list) > 0 {
		t.Errorf("%v, %v", list, err)
	}
	if err := Extract(t.Context(), tree, dir); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Error(err)
	}
}
