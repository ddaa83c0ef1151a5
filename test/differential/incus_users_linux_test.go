package differential

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// actions change the root file system by programs in it, before and after the generators.
const actions = `actions:
- {trigger: post-unpack, types: [container, vm], action: "#!/bin/sh\necho made >/made; chown 5:6 /made; chmod 4711 /made"}
- {trigger: post-files, action: "#!/bin/sh\ncat /etc/hostname >/seen"}
`

// asUser is the beginning of a shell command that runs what follows as a user without
// rights, who has numbers for users of its own or has none.
func asUser(t *testing.T, dir string, numbers bool) []string {
	t.Helper()
	ids := filepath.Join(dir, fmt.Sprintf("ids-%t", numbers))
	text := ""
	if numbers {
		text = "nobody:200000:65536\n"
	}
	if err := os.WriteFile(ids, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return []string{"unshare", "--mount", "--propagation", "private", "sh", "-c", `for f in /etc/subuid /etc/subgid; do
	[ -e $f ] || touch $f
	mount --bind "$0" $f || exit
done
exec setpriv --reuid nobody --regid nogroup --clear-groups "$@"`, ids}
}

// needUserNamespaces skips a test of programs in a user namespace where the kernel makes none.
func needUserNamespaces(t *testing.T) {
	t.Helper()
	if exec.Command("unshare", "--user", "true").Run() != nil {
		t.Skip("this system makes no user namespaces: it is a chroot, or they are turned off")
	}
}

// TestIncusUsers packs the same root file system as root and as another user, in other
// folders and with other numbers of processors. The images are the same, also where
// programs of the definition ran in a user namespace. Where the system has none, the parts
// that need one are named.
func TestIncusUsers(t *testing.T) {
	testkit.Root(t)
	for _, name := range []string{"unshare", "setpriv"} {
		testkit.Tool(t, name)
	}
	_, dir := packer(t)
	home := filepath.Join(dir, "user")
	tree := richRoot(t)
	bootable(t, tree)
	rootArchive(t, dir, tree)
	if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.Mkdir(home, 0o755), os.Chown(home, 65534, 65534),
		os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(definition+actions), 0o644)); err != nil {
		t.Fatal(err)
	}
	for name, built := range map[string]string{"cowl": needCLI(t).ours, "cowl-incus": filepath.Join(cliDir, "cowl-incus")} { // where the user reaches them
		succeed(t, dir, "cp", built, name)
	}
	t.Setenv("SOURCE_DATE_EPOCH", fmt.Sprint(time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC).Unix()))
	command := func(processors int, prefix []string, args string) []string {
		return append(append([]string{"env", fmt.Sprint("GOMAXPROCS=", processors)}, prefix...), append([]string{filepath.Join(dir, "cowl")}, strings.Fields(args)...)...)
	}
	fingerprint := func(folder string, line []string) string {
		t.Helper()
		var r struct{ Fingerprint string }
		if err := json.Unmarshal([]byte(succeed(t, folder, line[0], line[1:]...)), &r); err != nil || r.Fingerprint == "" {
			t.Fatalf("%q: %v", line, err)
		}
		return r.Fingerprint
	}
	with, without := asUser(t, dir, true), asUser(t, dir, false)
	pack := "pack-incus ../d.yaml ../root.tar out --output json "
	for _, options := range []string{"--compression zstd", "--type unified --compression gzip", "--vm --compression gzip-1"} {
		want := fingerprint(dir, command(1, nil, strings.ReplaceAll(pack, "../", "")+options))
		for i, prefix := range [][]string{nil, with, without} {
			t.Setenv("TMPDIR", home)
			if got := fingerprint(home, command(2+2*(i%2), prefix, pack+options)); got != want {
				t.Errorf("%s, user %d: %s, root has %s", options, i, got, want)
			}
			os.RemoveAll(filepath.Join(home, "out"))
		}
	}
	for _, n := range tree.Root.Walk() { // numbers that the user has, too
		n.GID = min(n.GID, 1000)
	}
	rootArchive(t, dir, tree)
	pack = strings.Replace(pack, "d.yaml", "a.yaml", 1) + "--compression zstd "
	o := runIn(t, home, "env", command(1, without, pack)[1:]...)
	if o.code != 1 || !strings.Contains(o.stderr, "newuidmap") || !strings.Contains(o.stderr, "actions") {
		t.Errorf("without numbers: %+v", o)
	}
	if got, want := fingerprint(home, command(1, without, pack+"--skip-actions")), fingerprint(dir, command(1, nil, strings.ReplaceAll(pack, "../", "")+"--skip-actions")); got != want {
		t.Errorf("actions left out: %s, root has %s", got, want)
	}
	if !testkit.Installed("newuidmap") {
		t.Skip("newuidmap of Debian's package uidmap is not installed: programs in a user namespace are left out")
	}
	needUserNamespaces(t)
	want := fingerprint(dir, command(1, nil, strings.ReplaceAll(pack, "../", "")))
	if got := fingerprint(home, command(1, with, pack)); got != want {
		t.Errorf("with programs: %s, root has %s", got, want)
	}
}
