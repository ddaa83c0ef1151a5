package iscsi_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/internal/testkit/iscsid"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/iscsi"
)

func urlOf(s *iscsid.Server) string { return "iscsi://" + s.Address + "/" + s.Name + "/1" }

// open opens a unit by its URL, with more options.
func open(t testing.TB, ctx context.Context, url string, write bool, more opts.Dict) (driver.Storage, error) {
	t.Helper()
	o, err := iscsi.New().(driver.FilenameParser).ParseFilename(url)
	if err != nil {
		return nil, err
	}
	for k, v := range more {
		o[k] = v
	}
	env := &driver.Env{Warn: func(string) {}, Objects: driver.Secrets{"joe": "secret of joe", "target": "secret of the target"}}
	n, err := iscsi.New().Open(ctx, &driver.OpenRequest{Name: url, Options: o, Access: driver.Access{Write: write}, Env: env})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { n.Close(context.Background()) })
	return n.(driver.Storage), nil
}

func mustOpen(t testing.TB, ctx context.Context, url string, write bool, more opts.Dict) driver.Storage {
	t.Helper()
	n, err := open(t, ctx, url, write, more)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestParseFilename(t *testing.T) {
	parse := iscsi.New().(driver.FilenameParser).ParseFilename
	for name, want := range map[string]string{
		"iscsi://h/iqn.x:y/1":                             "lun=1 portal=h target=iqn.x:y transport=tcp",
		"iscsi://h:99/iqn/0x10":                           "lun=16 portal=h:99 target=iqn transport=tcp",
		"iscsi://[::1]:99/iqn/1":                          "lun=1 portal=[::1]:99 target=iqn transport=tcp",
		"iscsi://joe%p@ss@h/iqn/1":                        "lun=1 password=p@ss portal=h target=iqn transport=tcp user=joe",
		"iser://joe@h/iqn/1":                              "lun=1 portal=h target=iqn transport=iser user=joe",
		"iscsi://h/iqn/1?iser":                            "lun=1 portal=h target=iqn transport=iser",
		"iscsi://h/iqn/1?header_digest=crc32c":            "header-digest=crc32c lun=1 portal=h target=iqn transport=tcp",
		"iscsi://h/iqn/1?target_user=t&target_password=p": "lun=1 portal=h target=iqn target-password=p target-user=t transport=tcp",
		"iscsi://h/iqn":                                   "",
		"iscsi://h/iqn/":                                  "",
		"iscsi://h/iqn/1x":                                "",
		"iscsi://h/iqn/-1":                                "",
		"iscsi://h/iqn/1/2":                               "",
		"iscsi://h/iqn/99999999":                          "",
		"iscsi:///iqn/1":                                  "",
		"iscsi:x":                                         "",
		"iscsi://joe%secret@h/iqn":                        "",
	} {
		d, err := parse(name)
		var got []string
		for _, k := range d.Keys() {
			if k != "from-url" {
				got = append(got, k+"="+d.String(k))
			}
		}
		if strings.Join(got, " ") != want || (err != nil) != (want == "") {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the password is shown: %v", err)
		}
	}
}

// TestCredentials: where they come from, and that they are not shown.
func TestCredentials(t *testing.T) {
	ctx := testkit.Guard(t)
	u := map[uint32]*iscsid.Unit{1: iscsid.NewUnit(1<<20, 512)}
	s := iscsid.Start(t, iscsid.Config{User: "joe", Secret: "secret of joe", TargetUser: "t", TargetSecret: "secret of the target"}, u)
	url := urlOf(s)
	for name, c := range map[string]struct {
		user    string
		options opts.Dict
		env     []string
		works   bool
	}{
		"nothing":      {},
		"secret":       {options: opts.Dict{"user": "joe", "password-secret": "joe"}, works: true},
		"wrong secret": {options: opts.Dict{"user": "joe", "password-secret": "target"}},
		"no secret":    {options: opts.Dict{"user": "joe", "password-secret": "none"}},
		"URL":          {user: "joe%secret of joe@", works: true},
		"environment":  {env: []string{"joe", "secret of joe"}, works: true},
		"both":         {options: opts.Dict{"user": "joe", "password": "x", "password-secret": "joe"}},
		"no password":  {options: opts.Dict{"user": "joe"}},
		"target":       {options: opts.Dict{"user": "joe", "password-secret": "joe", "target-user": "t", "target-password-secret": "target"}, works: true},
		"wrong target": {options: opts.Dict{"user": "joe", "password-secret": "joe", "target-user": "t", "target-password-secret": "joe"}},
		"target alone": {options: opts.Dict{"target-user": "t", "target-password-secret": "target"}},
	} {
		t.Run(name, func(t *testing.T) {
			if c.env != nil {
				t.Setenv("LIBISCSI_CHAP_USERNAME", c.env[0])
				t.Setenv("LIBISCSI_CHAP_PASSWORD", c.env[1])
			}
			n, err := open(t, ctx, strings.Replace(url, "://", "://"+c.user, 1), false, c.options)
			if (err == nil) != c.works {
				t.Fatal(err)
			}
			if err == nil && strings.Contains(n.(driver.Named).Filename(), "secret of") {
				t.Error("the name shows the password")
			}
		})
	}
}

// TestLost: what was answered, and not yet synchronised, survives a target that forgets it.
func TestLost(t *testing.T) {
	ctx := testkit.Guard(t)
	u := iscsid.NewUnit(1<<20, 512)
	u.Cached, u.Thin = true, true
	var broken atomic.Bool // the connection ends with the next command
	s := iscsid.Start(t, iscsid.Config{Intercept: func(_ uint32, cdb []byte) iscsid.Action {
		if broken.CompareAndSwap(true, false) {
			return iscsid.Action{Do: iscsid.Cut}
		}
		return iscsid.Action{}
	}}, map[uint32]*iscsid.Unit{1: u})
	n := mustOpen(t, ctx, urlOf(s), true, nil)
	want := testkit.NewModel(1 << 20)
	write := func(b byte, off int64, length int) {
		t.Helper()
		p := bytes.Repeat([]byte{b}, length)
		if _, err := n.WriteAt(ctx, p, off); err != nil {
			t.Fatal(err)
		}
		want.Write(p, off)
	}
	write(1, 0, 300<<10)
	if err := n.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	durable := u.Bytes()
	write(2, 100<<10, 400<<10)
	write(3, 200<<10, 4096)
	if err := n.(driver.ZeroWriter).WriteZeroes(ctx, 0, 8192, driver.ZeroMayUnmap); err != nil {
		t.Fatal(err)
	}
	want.Zero(0, 8192)
	write(4, 4096, 512)
	u.Put(durable, 0) // the target is started anew, and has what was synchronised
	broken.Store(true)
	if err := n.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if diff := want.Diff(u.Bytes(), 0); diff != "" {
		t.Error(diff)
	}
	if s.Logins.Load() != 2 {
		t.Errorf("%d logins", s.Logins.Load())
	}
}

// TestJournalIsBounded: much that is written is synchronised on the way.
func TestJournalIsBounded(t *testing.T) {
	ctx := testkit.Guard(t)
	u := iscsid.NewUnit(96<<20, 4096)
	u.Cached = true
	s := iscsid.Start(t, iscsid.Config{Unasked: true, MaxReceive: 1 << 20, FirstBurst: 1 << 20, MaxBurst: 1 << 20}, map[uint32]*iscsid.Unit{1: u})
	n := mustOpen(t, ctx, urlOf(s), true, nil)
	p := bytes.Repeat([]byte{1}, 2<<20)
	for off := int64(0); off < n.Size(); off += int64(len(p)) {
		if _, err := n.WriteAt(ctx, p, off); err != nil {
			t.Fatal(err)
		}
	}
	if u.Syncs() < 2 {
		t.Errorf("synchronised %d times", u.Syncs())
	}
	if n := mustOpen(t, ctx, urlOf(s), true, opts.Dict{"reconnect-delay": "0"}); n != nil {
		before := u.Syncs()
		for range 20 {
			if _, err := n.WriteAt(ctx, p, 0); err != nil {
				t.Fatal(err)
			}
		}
		if u.Syncs() != before {
			t.Error("synchronised although nothing is kept")
		}
	}
}

// TestSyncFails: a target that could not synchronise its cache, and dropped it, gets again what it
// lost; as long as it fails, so do flushes, and writes for which there is no room.
func TestSyncFails(t *testing.T) {
	ctx := testkit.Guard(t)
	const size = 64 << 20
	u := iscsid.NewUnit(size, 4096)
	u.Cached = true
	var broken atomic.Bool
	var failures atomic.Int32
	durable := make([]byte, size)
	s := iscsid.Start(t, iscsid.Config{Unasked: true, MaxReceive: 1 << 20, FirstBurst: 1 << 20, MaxBurst: 1 << 20, Intercept: func(_ uint32, cdb []byte) iscsid.Action {
		if (cdb[0] == 0x35 || cdb[0] == 0x91) && broken.Load() {
			u.Put(durable, 0)
			failures.Add(1)
			return iscsid.Check(3, 0x0c00)
		}
		return iscsid.Action{}
	}}, map[uint32]*iscsid.Unit{1: u})
	n := mustOpen(t, ctx, urlOf(s), true, nil)
	want := testkit.NewModel(size)
	write := func(off int64) error {
		p := bytes.Repeat([]byte{byte(off>>20) + 1}, 2<<20)
		_, err := n.WriteAt(ctx, p, off)
		if err == nil {
			want.Write(p, off)
		}
		return err
	}
	broken.Store(true)
	// Some 20 MiB: it is tried in the background, and fails there.
	for off := int64(0); off < 24<<20; off += 2 << 20 {
		if err := write(off); err != nil {
			t.Fatal(err)
		}
	}
	for failures.Load() == 0 && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	if err := n.Flush(ctx); err == nil {
		t.Error("a flush succeeds that the target refuses")
	}
	var full error
	for off := int64(24 << 20); off < size && full == nil; off += 2 << 20 {
		full = write(off)
	}
	if full == nil {
		t.Error("writes go on without room")
	}
	broken.Store(false)
	if err := n.Flush(ctx); err != nil {
		t.Errorf("a flush after the target has recovered: %v", err)
	}
	if diff := want.Diff(u.Bytes(), 0); diff != "" {
		t.Error(diff)
	}
	before := u.Syncs()
	if err := write(0); err != nil {
		t.Error(err)
	}
	if err := n.Flush(ctx); err != nil || u.Syncs() != before+1 {
		t.Errorf("%v, synchronised %d times", err, u.Syncs()-before)
	}
	if err := n.Close(ctx); err != nil {
		t.Error(err)
	}
}

// TestChanged: after a loss, a unit that is another one is not written.
func TestChanged(t *testing.T) {
	ctx := testkit.Guard(t)
	units := map[uint32]*iscsid.Unit{1: iscsid.NewUnit(1<<20, 512)}
	s := iscsid.Start(t, iscsid.Config{}, units)
	n := mustOpen(t, ctx, urlOf(s), true, opts.Dict{"reconnect-delay": "1"})
	s.Stop()
	other := iscsid.NewUnit(2<<20, 512)
	s.Swap(1, other)
	s.Restart(t)
	if _, err := n.WriteAt(ctx, make([]byte, 512), 0); err == nil || !strings.Contains(err.Error(), "now, not") {
		t.Error(err)
	}
}

// TestUnits opens units of several kinds.
func TestUnits(t *testing.T) {
	ctx := testkit.Guard(t)
	plain := func(change func(u *iscsid.Unit)) string {
		u := iscsid.NewUnit(1<<20, 512)
		change(u)
		u.Put(bytes.Repeat([]byte{1}, 4096), 8192)
		s := iscsid.Start(t, iscsid.Config{}, map[uint32]*iscsid.Unit{1: u})
		return urlOf(s)
	}
	first := func(n driver.Storage, off int64) driver.Extent {
		t.Helper()
		x, err := n.Map(ctx, off, n.Size())
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	thin := mustOpen(t, ctx, plain(func(u *iscsid.Unit) { u.Thin = true }), true, nil)
	if x := first(thin, 0); x.Kind != driver.ExtentZero || x.Length != 8192 {
		t.Errorf("thin: %+v", x)
	}
	if x := first(thin, 9000); x.Kind != driver.ExtentData || x.Length != 8192+4096-9000 || x.HostOffset != 9000 {
		t.Errorf("thin: %+v", x)
	}
	if l := thin.Limits(); l.ZeroAlignment != 4096 || l.DiscardAlignment != 4096 || l.MaxDiscard != 512<<20 || l.RequestAlignment != 512 || l.MaxTransfer != 65535*512 {
		t.Errorf("thin: %+v", l)
	}
	if err := thin.(driver.Discarder).Discard(ctx, 8192, 4096); err != nil {
		t.Error(err)
	}
	if x := first(thin, 0); x.Kind != driver.ExtentZero || x.Length != 1<<20 {
		t.Errorf("discarded: %+v", x)
	}
	dumb := mustOpen(t, ctx, plain(func(u *iscsid.Unit) { u.Thin, u.NoStatus, u.NoWriteSame = true, true, true }), true, nil)
	for range 2 {
		if x := first(dumb, 0); x.Kind != driver.ExtentData || x.Length != 1<<20 {
			t.Errorf("without status: %+v", x)
		}
		if err := dumb.(driver.ZeroWriter).WriteZeroes(ctx, 0, 4096, 0); !errors.Is(err, driver.ErrUnsupported) {
			t.Errorf("without WRITE SAME: %v", err)
		}
	}
	if n := mustOpen(t, ctx, plain(func(u *iscsid.Unit) { u.MaxTransfer = 8 }), true, nil); n.Limits().MaxTransfer != 4096 {
		t.Errorf("%+v", n.Limits())
	} else if _, err := n.WriteAt(ctx, make([]byte, 4096), 0); err != nil {
		t.Error(err)
	}
	if n := mustOpen(t, ctx, plain(func(u *iscsid.Unit) { u.NoLong = true }), false, nil); n.Size() != 1<<20 {
		t.Errorf("old: %d bytes", n.Size())
	}
	for name, change := range map[string]func(u *iscsid.Unit){"protected": func(u *iscsid.Unit) { u.WriteProtected = true }, "CD-ROM": func(u *iscsid.Unit) { u.Type = 5 }} {
		url := plain(change)
		if _, err := open(t, ctx, url, true, nil); err == nil || err.Error() != "LUN is write protected" {
			t.Errorf("%s: %v", name, err)
		}
		mustOpen(t, ctx, url, false, nil)
	}
	u := iscsid.NewUnit(1<<20, 512)
	u.Put(bytes.Repeat([]byte{9}, 1024), 0)
	s := iscsid.Start(t, iscsid.Config{}, map[uint32]*iscsid.Unit{1: u})
	create := func(size int64) error {
		return iscsi.New().(driver.Creator).Create(ctx, &driver.CreateRequest{Filename: urlOf(s), Size: size, Env: &driver.Env{Warn: func(string) {}}})
	}
	if err := create(2 << 20); !errors.Is(err, driver.ErrUnsupported) {
		t.Errorf("create of more than there is: %v", err)
	}
	if err := create(1 << 20); err != nil {
		t.Error(err)
	}
	if b := u.Bytes(); b[511] != 0 || b[512] != 9 {
		t.Error("create clears the first sector, and nothing else")
	}
}

// TestStuck: a target that does not answer is given up after the time-out, and a request
// ends with its context.
func TestStuck(t *testing.T) {
	ctx := testkit.Guard(t)
	s := iscsid.Start(t, iscsid.Config{Intercept: func(_ uint32, cdb []byte) iscsid.Action {
		if cdb[0] == 0x28 {
			return iscsid.Action{Do: iscsid.Forget}
		}
		return iscsid.Action{}
	}}, map[uint32]*iscsid.Unit{1: iscsid.NewUnit(1<<20, 512)})
	n := mustOpen(t, ctx, urlOf(s), false, opts.Dict{"timeout": "1", "reconnect-delay": "0"})
	if _, err := n.ReadAt(ctx, make([]byte, 512), 0); !errors.Is(err, driver.ErrTimeout) {
		t.Error(err)
	}
	n = mustOpen(t, ctx, urlOf(s), false, nil)
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := n.ReadAt(short, make([]byte, 1<<20), 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestMain(m *testing.M) {
	for _, name := range []string{"LIBISCSI_CHAP_USERNAME", "LIBISCSI_CHAP_TARGET_USERNAME"} {
		os.Unsetenv(name)
	}
	os.Exit(m.Run())
}
