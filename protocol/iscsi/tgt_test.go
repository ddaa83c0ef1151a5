package iscsi_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/internal/testkit/tgt"
	"github.com/cowl-disk/cowl/opts"
)

// TestTgt logs in to tgt with CHAP in both directions and with digests.
func TestTgt(t *testing.T) {
	ctx := testkit.Guard(t)
	path := filepath.Join(t.TempDir(), "disk")
	want := make([]byte, 1<<20)
	testkit.Fill(testkit.Rand(1), want)
	if err := os.WriteFile(path, want, 0o644); err != nil {
		t.Fatal(err)
	}
	s := tgt.New(t)
	s.User, s.Secret, s.TargetUser, s.TargetSecret = "joe", "secret of joe", "target", "secret of the target"
	s.Params["HeaderDigest"], s.Params["DataDigest"] = "CRC32C,None", "CRC32C,None"
	s.Run(t, tgt.Unit{Number: 1, Path: path})
	joe := opts.Dict{"user": "joe", "password-secret": "joe"}
	for name, c := range map[string]struct {
		more  opts.Dict
		works bool
	}{
		"one way":             {opts.Dict{}, true},
		"digest":              {opts.Dict{"header-digest": "crc32c"}, true},
		"both ways":           {opts.Dict{"target-user": "target", "target-password-secret": "target"}, true},
		"another target":      {opts.Dict{"target-user": "target", "target-password-secret": "joe"}, false},
		"wrong password":      {opts.Dict{"password-secret": "target"}, false},
		"wrong user":          {opts.Dict{"user": "jim"}, false},
		"digest and both":     {opts.Dict{"header-digest": "crc32c", "target-user": "target", "target-password-secret": "target"}, true},
		"another target user": {opts.Dict{"target-user": "other", "target-password-secret": "target"}, false},
	} {
		o := joe.Clone()
		for k, v := range c.more {
			o[k] = v
		}
		n, err := open(t, ctx, s.URL(1), false, o)
		if (err == nil) != c.works {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil {
			continue
		}
		got := make([]byte, len(want))
		if _, err := n.ReadAt(ctx, got, 0); err != nil || string(got) != string(want) {
			t.Errorf("%s: other data, %v", name, err)
		}
	}
}
