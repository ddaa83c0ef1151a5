package incus

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/incus/definition"
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

// when is the time of images in tests.
func when() time.Time { return time.Unix(1700000000, 0).UTC() }

// testTree has the files that generators look at.
func testTree(t *testing.T) *fstree.Tree {
	t.Helper()
	tree := fstree.New()
	for path, text := range map[string]string{"etc/hostname": "old\n", "etc/hosts": "127.0.0.1 localhost\n::1 distrobuilder\n",
		"etc/passwd": "root:x:0:0::/:\nrunner:x:81:82::/:\n", "etc/group": "root:x:0:\nstaff:x:50:\n", "bin/tool": "#!/bin/sh\n", "old/a": "a"} {
		if _, err := tree.PutFile(path, []byte(text), when()); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

// newImage makes an image of testTree with a definition that goes on as text says.
func newImage(t *testing.T, text string) *Image {
	t.Helper()
	return imageOf(t, text, testTree(t))
}

func imageOf(t *testing.T, text string, tree *fstree.Tree) *Image {
	t.Helper()
	d, err := definition.Parse([]byte(tiny+text), definition.Options{Now: when()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tree.Close() })
	return New(d, tree, when())
}

// text is the content of a file.
func text(t *testing.T, tree *fstree.Tree, path string) string {
	t.Helper()
	b, err := tree.ReadFile(path, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestMetadata(t *testing.T) {
	i := newImage(t, `files:
- {generator: hostname, path: /etc/hostname, template: {when: [start], properties: {a: "b: c", "1": "x\ny"}}}
- {generator: hosts, path: /etc/hosts}
`)
	if err := i.Generate(); err != nil {
		t.Fatal(err)
	}
	tree, _, err := i.metadataTree()
	if err != nil {
		t.Fatal(err)
	}
	want := `architecture: amd64
creation_date: 1700000000
expiry_date: 1702592000
properties:
  architecture: amd64
  description: Tiny 3.20 amd64 (20231114_2213)
  name: tiny-3.20-amd64-default-20231114_2213
  os: tiny
  release: "3.20"
  serial: "20231114_2213"
  variant: default
templates:
  /etc/hostname:
    when:
    - start
    create_only: false
    template: hostname.tpl
    properties:
      "1": |-
        x
        y
      a: 'b: c'
  /etc/hosts:
    when:
    - create
    - copy
    create_only: false
    template: hosts.tpl
    properties: {}
`
	if got := text(t, tree, "metadata.yaml"); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	if got := text(t, tree, "templates/hosts.tpl"); got != "127.0.0.1 localhost\n::1 {{ container.name }}\n" {
		t.Errorf("hosts: %q", got)
	}
}

func TestExpiry(t *testing.T) {
	for period, seconds := range map[string]int64{"30d": 30 * 86400, "1w2d3h4m5s": 7*86400 + 2*86400 + 3*3600 + 4*60 + 5, "": 0, "never": 0, "2d x 3s": 2*86400 + 3} {
		if got := expiry(when(), period).Unix() - when().Unix(); got != seconds {
			t.Errorf("%q: %d seconds, want %d", period, got, seconds)
		}
	}
	if y := expiry(when(), strings.Repeat("9", 30)+"w").Year(); y < 2100 || y > 9999 {
		t.Errorf("a very long period ends in the year %d", y)
	}
}

func TestGenerators(t *testing.T) {
	host := t.TempDir()
	for name, content := range map[string]string{"one.conf": "1", "two.conf": "2", "sub/x": "x"} {
		os.MkdirAll(filepath.Dir(filepath.Join(host, name)), 0o755)
		if err := os.WriteFile(filepath.Join(host, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	i := newImage(t, `files:
- {generator: dump, path: /new/dir/f, content: "release {{ image.release }}", pongo: true, mode: "4750", uid: runner, gid: staff}
- {generator: dump, path: /plain, content: "{{ image.release }}\n", uid: "5"}
- {generator: dump, path: /other, content: x, releases: ["4"]}
- {generator: dump, path: /machine, content: x, types: [vm]}
- {generator: remove, path: /old}
- {generator: hosts, path: /missing}
- {generator: copy, source: "HOST/*.conf", path: /conf, mode: "0640"}
- {generator: copy, source: HOST/one.conf, path: /conf/renamed}
- {generator: copy, source: HOST/sub, path: /copied}
- {generator: template, name: foo, path: /foo, content: "<{{ incus.VM.Size }}> {{ container.name }}", pongo: false}
- {generator: cloud-init, name: user-data, content: "#cloud-config\na: 1"}
- {generator: cloud-init, name: network-config, path: /net}
- {generator: fstab}
`)
	for k := range i.Definition.Files {
		i.Definition.Files[k].Source = strings.Replace(i.Definition.Files[k].Source, "HOST", host, 1)
	}
	if err := i.Generate(); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"new/dir/f": "release 3.20\n", "plain": "{{ image.release }}\n", "conf/one.conf": "1", "conf/two.conf": "2",
		"conf/renamed": "1", "copied/x": "x", "etc/fstab": "LABEL=rootfs  /         ext4  defaults  0 0\nLABEL=UEFI    /boot/efi vfat  defaults  0 0\n"} {
		if got := text(t, i.Tree, path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	if n := i.Tree.Root.Lookup("new/dir/f"); n.Mode != 0o4750 || n.UID != 81 || n.GID != 50 || !n.ModTime.Equal(when()) {
		t.Errorf("%o %d:%d %v", n.Mode, n.UID, n.GID, n.ModTime)
	}
	if n := i.Tree.Root.Lookup("plain"); n.UID != 5 || n.Mode != 0o644 {
		t.Errorf("%o %d", n.Mode, n.UID)
	}
	if n := i.Tree.Root.Lookup("conf/two.conf"); n.Mode != 0o640 {
		t.Errorf("%o", n.Mode)
	}
	for _, path := range []string{"other", "machine", "old", "missing"} {
		if i.Tree.Root.Lookup(path) != nil {
			t.Errorf("%s is there", path)
		}
	}
	for path, want := range map[string]string{"/foo": "foo.tpl", "/var/lib/cloud/seed/nocloud-net/user-data": "cloud-init-user-data.tpl", "/net": "cloud-init-network-config.tpl"} {
		if x := i.templates[path]; x == nil || x.Template != want {
			t.Errorf("%s: %+v", path, x)
		}
	}
	if got := i.templates["/var/lib/cloud/seed/nocloud-net/user-data"].Properties["default"]; got != "#cloud-config\na: 1" {
		t.Errorf("user-data: %q", got)
	}
	if got := string(i.files["foo.tpl"]); got != "<{{ incus.VM.Size }}> {{ container.name }}\n" {
		t.Errorf("foo: %q", got)
	}
}

func TestGeneratorMistakes(t *testing.T) {
	for file, says := range map[string]string{
		"{generator: dump, path: /f, mode: rwx}":                                     "failed to parse file mode",
		"{generator: dump, path: /f, uid: nobody}":                                   `has no "nobody"`,
		"{generator: dump, path: /bin, content: x}":                                  "is a directory",
		"{generator: dump, path: /bin/tool/x}":                                       "not a directory",
		"{generator: remove, path: /}":                                               "whole root file system",
		"{generator: remove, path: .}":                                               "whole root file system",
		"{generator: copy, source: /does/not/exist, path: /x}":                       "failed to copy file(s)",
		"{generator: copy, path: /x}":                                                "has no source",
		"{generator: cloud-init, name: other}":                                       "unknown cloud-init configuration: other",
		"{generator: template, name: ../x, path: /x}":                                "is no name for a template",
		"{generator: incus-agent}":                                                   "/sbin/init",
		"{generator: template, name: a, path: /x, content: '{% if %}', pongo: true}": "failed to execute template",
	} {
		i := newImage(t, "files:\n- "+file+"\n")
		if err := i.Generate(); err == nil || !strings.Contains(err.Error(), says) || !strings.HasPrefix(err.Error(), "failed to create Incus data: ") {
			t.Errorf("%s: %v, want %q", file, err, says)
		}
	}
}

func TestAgent(t *testing.T) {
	for name, c := range map[string]struct {
		init  *fstree.Node
		files map[string]string
		want  []string
	}{
		"systemd": {&fstree.Node{Kind: fstree.Symlink, Target: "/lib/systemd/systemd"}, map[string]string{"lib/systemd/systemd": "x", "lib/udev/y": ""},
			[]string{"lib/systemd/system/incus-agent.service", "lib/systemd/incus-agent-setup", "lib/udev/rules.d/99-incus-agent.rules"}},
		"merged /usr": {&fstree.Node{Kind: fstree.Symlink, Target: "../lib/systemd/systemd"}, map[string]string{"usr/lib/systemd/systemd": "x"},
			[]string{"usr/lib/systemd/system/incus-agent.service", "usr/lib/systemd/incus-agent-setup", "usr/lib/udev/rules.d/99-incus-agent.rules"}},
		"openrc": {&fstree.Node{Kind: fstree.Symlink, Target: "/bin/busybox"}, map[string]string{"etc/inittab": "::sysinit:/sbin/openrc sysinit\n"},
			[]string{"etc/init.d/incus-agent", "etc/runlevels/default/incus-agent-setup", "usr/local/bin/incus-agent-setup"}},
		"procd": {&fstree.Node{Kind: fstree.File}, map[string]string{"etc/openwrt_version": "23\n"},
			[]string{"etc/init.d/incus-agent", "etc/rc.d/S05incus-agent", "usr/local/sbin/incus-agent-setup"}},
	} {
		i := newImage(t, "files:\n- {generator: incus-agent}\n")
		for path, content := range c.files {
			if _, err := i.Tree.PutFile(path, []byte(content), when()); err != nil {
				t.Fatal(err)
			}
		}
		dir, err := i.Tree.MakeDirs("sbin", 0o755, when())
		if err == nil {
			err = dir.Set("init", c.init)
		}
		if err == nil {
			err = i.Generate()
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, path := range c.want {
			if i.Tree.Root.Lookup(path) == nil {
				t.Errorf("%s: no %s", name, path)
			}
		}
	}
	if i := newImage(t, ""); strings.Contains(agentUnit, "ExecStartPre=SYSTEMD/") == false || i == nil {
		t.Error("the unit has no place for the directory of systemd")
	}
}

func TestFinish(t *testing.T) {
	i := newImage(t, "")
	var said []string
	i.Warn = func(s string) { said = append(said, s) }
	for _, path := range []string{"dev/null", "dev/pts/x", "etc/systemd/a"} {
		if _, err := i.Tree.PutFile(path, nil, when()); err != nil {
			t.Fatal(err)
		}
	}
	if err := i.Finish(); err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]uint16{"dev": 0o755, "proc": 0o755, "tmp": 0o1777, "etc/systemd/system-generators/lxc": 0o755} {
		if n := i.Tree.Root.Lookup(path); n == nil || n.Mode != mode {
			t.Errorf("%s: %+v", path, n)
		}
	}
	if i.Tree.Root.Lookup("dev").Len() > 0 || !slices.ContainsFunc(said, func(s string) bool { return strings.Contains(s, "/dev is emptied") }) {
		t.Errorf("/dev: %q", said)
	}
}
