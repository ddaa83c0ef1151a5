package differential

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/internal/testkit/tgt"
)

// TestISCSILs compares "cowl iscsi-ls" with iscsi-ls of libiscsi.
func TestISCSILs(t *testing.T) {
	tools := needCLI(t)
	theirs := testkit.Tool(t, "iscsi-ls")
	dir := t.TempDir()
	// The program by its own name: the other one has no such command.
	cowl := filepath.Join(dir, "cowl")
	if err := os.Symlink(tools.ours, cowl); err != nil {
		t.Fatal(err)
	}
	var units []tgt.Unit
	for i, u := range []struct {
		size  int64
		block int
		typ   string
	}{{64 << 20, 0, ""}, {3 << 30, 4096, ""}, {1 << 20, 0, "cd"}, {512, 0, ""}, {1<<20 + 1024, 0, ""}} {
		path := filepath.Join(dir, "unit"+string(rune('0'+i)))
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, u.size); err != nil {
			t.Fatal(err)
		}
		units = append(units, tgt.Unit{Number: i + 1, Path: path, Block: u.block, Type: u.typ})
	}
	plain := tgt.Start(t, units...)
	locked := tgt.New(t)
	locked.User, locked.Secret = "joe", "secret12chars"
	locked.Run(t, units[:1]...)
	for _, args := range [][]string{
		{"iscsi://" + plain.Address}, {"-s", "iscsi://" + plain.Address}, {"--show-luns", "-i", "iqn.2026-01.test:me", "iscsi://" + plain.Address},
		{"--url", "iscsi://" + plain.Address}, {"iscsi://" + plain.Address + "/"}, {"-s", "iscsi://joe%secret12chars@" + locked.Address}, {"iscsi://joe%wrong@" + locked.Address},
	} {
		want := runIn(t, dir, theirs, args...)
		got := runIn(t, dir, cowl, append([]string{"iscsi-ls"}, args...)...)
		if got.code != 0 || want.code != 0 || got.stdout != want.stdout || got.stdout == "" || got.stderr != "" {
			t.Errorf("%v:\n%+v\nwant\n%+v", args, got, want)
		}
	}
	for _, c := range []struct {
		url, why string
	}{
		{"iscsi://joe%wrong12chars@" + locked.Address, "cowl: target " + tgt.Name + " at " + locked.Address + ": Failed to log in to target. Status: Authentication failure(513)\n"},
		{"iscsi://127.0.0.1:1", "cowl: Failed to connect to '127.0.0.1:1': Connection refused\n"},
		{"x", "cowl: The name of a portal is iscsi://[USER[%PASSWORD]@]HOST[:PORT]\n"},
	} {
		want, got := runIn(t, dir, theirs, "-s", c.url), runIn(t, dir, cowl, "iscsi-ls", "-s", c.url)
		if want.code == 0 || got.code != 1 || got.stderr != c.why {
			t.Errorf("%s: %+v, libiscsi %+v", c.url, got, want)
		}
	}
	// What libiscsi has no way for: a password in a file.
	if err := os.WriteFile(filepath.Join(dir, "password"), []byte(locked.Secret), 0o600); err != nil {
		t.Fatal(err)
	}
	o := runIn(t, dir, cowl, "iscsi-ls", "-s", "--object", "secret,id=pw,file=password", "--iscsi", "user=joe,password-secret=pw", "iscsi://"+locked.Address)
	if o.code != 0 || !strings.Contains(o.stdout, "Lun:1    Type:DIRECT_ACCESS (Size:63M)\n") || o.stderr != "" {
		t.Errorf("%+v", o)
	}
	if help := runIn(t, dir, cowl, "iscsi-ls", "--help"); help.code != 0 || !strings.Contains(help.stdout, "--show-luns") {
		t.Errorf("%+v", help)
	}
}
