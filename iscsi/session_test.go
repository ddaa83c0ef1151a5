package iscsi_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/internal/testkit/iscsid"
	"github.com/cowl-disk/cowl/iscsi"
)

func units(size int) map[uint32]*iscsid.Unit {
	return map[uint32]*iscsid.Unit{1: iscsid.NewUnit(size, 512)}
}

func config(s *iscsid.Server) iscsi.Config {
	return iscsi.Config{Address: s.Address, Target: s.Name}
}

func open(t testing.TB, ctx context.Context, cfg iscsi.Config) *iscsi.Session {
	t.Helper()
	s, err := iscsi.Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(context.Background()) })
	return s
}

// TestData moves data with all ways in which it may be asked for.
func TestData(t *testing.T) {
	ctx := testkit.Guard(t)
	for name, c := range map[string]iscsid.Config{
		"defaults":      {},
		"nothing asked": {NoUnasked: true, MaxBurst: 4096},
		"unsolicited":   {Unasked: true, FirstBurst: 16384, MaxReceive: 4096},
		"no immediate":  {Unasked: true, NoUnasked: true},
		"digests":       {Digests: true, MaxReceive: 1000, MaxBurst: 5000},
		"window of one": {Window: 1},
		"large":         {MaxReceive: 1 << 20, MaxBurst: 1 << 22, FirstBurst: 1 << 20, Unasked: true},
	} {
		t.Run(name, func(t *testing.T) {
			u := units(1 << 20)
			s := iscsid.Start(t, c, u)
			cfg := config(s)
			cfg.HeaderDigest, cfg.DataDigest = iscsi.DigestAllow, iscsi.DigestAllow
			l := iscsi.LUN{Doer: open(t, ctx, cfg), Number: 1}
			want := make([]byte, 1<<20)
			testkit.Fill(testkit.Rand(1), want)
			var wg sync.WaitGroup
			const piece = 96 << 10
			for off := 0; off < len(want); off += piece {
				p := want[off:min(off+piece, len(want))]
				wg.Go(func() {
					if err := l.Write(ctx, p, iscsi.Transfer{LBA: uint64(off / 512), Blocks: uint32(len(p) / 512), Long: off%(2*piece) == 0}); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if !bytes.Equal(u[1].Bytes(), want) {
				t.Fatal("other data was written")
			}
			got := make([]byte, len(want))
			for off := 0; off < len(got); off += piece {
				p := got[off:min(off+piece, len(got))]
				wg.Go(func() {
					if err := l.Read(ctx, p, iscsi.Transfer{LBA: uint64(off / 512), Blocks: uint32(len(p) / 512)}); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if !bytes.Equal(got, want) {
				t.Fatal("other data was read")
			}
		})
	}
}

// TestLogin tries credentials.
func TestLogin(t *testing.T) {
	ctx := testkit.Guard(t)
	joe, target := &iscsi.Credentials{User: "joe", Secret: "secret of joe"}, &iscsi.Credentials{User: "t", Secret: "secret of the target"}
	both := iscsid.Config{User: joe.User, Secret: joe.Secret, TargetUser: target.User, TargetSecret: target.Secret}
	login := func(c iscsid.Config, chap, from *iscsi.Credentials) error {
		s := iscsid.Start(t, c, units(512))
		cfg := config(s)
		cfg.CHAP, cfg.TargetCHAP = chap, from
		session, err := iscsi.Open(ctx, cfg)
		if err == nil {
			err = session.Close(ctx)
		}
		return err
	}
	for _, algorithm := range []int{5, 6, 7, 8} {
		c := both
		c.Algorithm = algorithm
		if err := login(c, joe, target); err != nil {
			t.Errorf("algorithm %d: %v", algorithm, err)
		}
	}
	draft := both
	draft.Algorithm, draft.Draft = 7, true
	if err := login(draft, joe, target); err != nil {
		t.Errorf("a target whose 7 is SHA-1: %v", err)
	}
	if err := login(iscsid.Config{}, joe, nil); err != nil {
		t.Errorf("credentials that nobody asks for: %v", err)
	}
	for name, chap := range map[string]*iscsi.Credentials{"none": nil, "secret": {User: "joe", Secret: "x"}, "user": {User: "jim", Secret: joe.Secret}} {
		var refused *iscsi.LoginError
		if err := login(both, chap, nil); !errors.As(err, &refused) || refused.Status() != 0x0201 {
			t.Errorf("wrong %s: %v", name, err)
		}
	}
	for name, from := range map[string]*iscsi.Credentials{"secret": {User: "t", Secret: "x"}, "user": {User: "u", Secret: target.Secret}} {
		if err := login(both, joe, from); !errors.Is(err, iscsi.ErrUnverified) {
			t.Errorf("wrong %s of the target: %v", name, err)
		}
	}
	silent := both
	silent.TargetUser = ""
	if err := login(silent, joe, target); !errors.Is(err, iscsi.ErrUnverified) {
		t.Errorf("a target that proves nothing: %v", err)
	}
	if err := login(iscsid.Config{}, joe, target); err == nil {
		t.Error("a target without CHAP passes for one that proves itself")
	}
	var refused *iscsi.LoginError
	s := iscsid.Start(t, iscsid.Config{}, nil)
	if _, err := iscsi.Open(ctx, iscsi.Config{Address: s.Address, Target: "iqn.other"}); !errors.As(err, &refused) || refused.Status() != 0x0203 {
		t.Errorf("another target: %v", err)
	}
	cfg := config(s)
	cfg.HeaderDigest = iscsi.DigestRequire
	session, err := iscsi.Open(ctx, cfg)
	if err != nil {
		t.Fatalf("digest: %v", err)
	}
	if err := (iscsi.LUN{Doer: session}).TestUnitReady(ctx); err == nil || errors.Is(err, iscsi.ErrLost) {
		t.Errorf("a command with a digest: %v", err)
	}
	session.Close(ctx)
}

func TestRedirect(t *testing.T) {
	ctx := testkit.Guard(t)
	s := iscsid.Start(t, iscsid.Config{}, units(1<<20))
	for _, permanent := range []bool{false, true} {
		first := iscsid.Start(t, iscsid.Config{Redirect: s.Address + ",1", Permanent: permanent}, nil)
		cfg := config(first)
		cfg.Reconnect = time.Minute
		session := open(t, ctx, cfg)
		l := iscsi.LUN{Doer: session, Number: 1}
		if _, err := l.Capacity(ctx); err != nil {
			t.Error(err)
		}
		if permanent {
			first.Stop()
		}
		s.CutAll()
		if _, err := l.Capacity(ctx); err != nil {
			t.Errorf("after the loss of the connection: %v", err)
		}
	}
	loop := iscsid.Start(t, iscsid.Config{Redirect: "self"}, nil)
	if _, err := iscsi.Open(ctx, config(loop)); !errors.Is(err, iscsi.ErrProtocol) {
		t.Errorf("a target that moves to itself: %v", err)
	}
}

// TestRetries has the target refuse commands for a while.
func TestRetries(t *testing.T) {
	ctx := testkit.Guard(t)
	var left atomic.Int32
	var with atomic.Pointer[iscsid.Action]
	s := iscsid.Start(t, iscsid.Config{Intercept: func(uint32, []byte) iscsid.Action {
		if left.Add(-1) >= 0 {
			return *with.Load()
		}
		return iscsid.Action{}
	}}, units(1<<20))
	l := iscsi.LUN{Doer: open(t, ctx, config(s)), Number: 1}
	attention := iscsid.Check(6, 0x2900)
	for _, c := range []struct {
		name   string
		action iscsid.Action
		times  int32
		passes bool
	}{
		{"attention", attention, 16, true},
		{"attention without end", attention, 1000, false},
		{"busy", iscsid.Action{Do: iscsid.Answer, Status: iscsi.StatusBusy}, 2, true},
		{"task set full", iscsid.Action{Do: iscsid.Answer, Status: iscsi.StatusTaskSetFull}, 2, true},
		{"aborted", iscsid.Action{Do: iscsid.Answer, Status: iscsi.StatusTaskAborted}, 1, true},
		{"becoming ready", iscsid.Check(2, 0x0401), 2, true},
		{"reservation", iscsid.Action{Do: iscsid.Answer, Status: iscsi.StatusReservation}, 1, false},
		{"medium", iscsid.Check(3, 0x1100), 1, false},
	} {
		with.Store(&c.action)
		left.Store(c.times)
		err := l.TestUnitReady(ctx)
		if (err == nil) != c.passes {
			t.Errorf("%s: %v", c.name, err)
		}
		left.Store(0)
	}
}

// TestLoss cuts connections while commands are under way; all of them end well.
func TestLoss(t *testing.T) {
	ctx := testkit.Guard(t)
	u := units(1 << 20)
	var n atomic.Int32
	s := iscsid.Start(t, iscsid.Config{Intercept: func(_ uint32, cdb []byte) iscsid.Action {
		if cdb[0] == 0x2a && n.Add(1)%7 == 0 && n.Load() < 60 {
			return iscsid.Action{Do: iscsid.Cut}
		}
		return iscsid.Action{}
	}}, u)
	cfg := config(s)
	cfg.Reconnect = time.Minute
	var ready atomic.Int32
	cfg.Ready = func(ctx context.Context, d iscsi.Doer) error {
		if ready.Add(1) == 1 {
			return errors.New("not yet")
		}
		return (iscsi.LUN{Doer: d, Number: 1}).TestUnitReady(ctx)
	}
	l := iscsi.LUN{Doer: open(t, ctx, cfg), Number: 1}
	want := make([]byte, 1<<20)
	testkit.Fill(testkit.Rand(2), want)
	next := make(chan int)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for i := range next {
				if err := l.Write(ctx, want[i*16384:(i+1)*16384], iscsi.Transfer{LBA: uint64(i * 32), Blocks: 32}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 64 {
		next <- i
	}
	close(next)
	wg.Wait()
	if !bytes.Equal(u[1].Bytes(), want) {
		t.Error("other data was written")
	}
	if s.Logins.Load() < 3 || ready.Load() < 2 {
		t.Errorf("%d logins, Ready called %d times", s.Logins.Load(), ready.Load())
	}
	s.Stop()
	time.AfterFunc(0, func() { s.Restart(t) })
	if err := l.TestUnitReady(ctx); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	s.Stop()
	cfg.Reconnect = 0
	if err := l.TestUnitReady(withTimeout(t, ctx, 300*time.Millisecond)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a target that is gone: %v", err)
	}
}

func withTimeout(t testing.TB, ctx context.Context, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(ctx, d)
	t.Cleanup(cancel)
	return ctx
}

// TestGone: without Reconnect, and when that is over, commands fail.
func TestGone(t *testing.T) {
	ctx := testkit.Guard(t)
	for _, reconnect := range []time.Duration{0, 100 * time.Millisecond} {
		s := iscsid.Start(t, iscsid.Config{}, units(512))
		cfg := config(s)
		cfg.Reconnect = reconnect
		l := iscsi.LUN{Doer: open(t, ctx, cfg), Number: 1}
		s.Stop()
		for range 2 {
			if err := l.TestUnitReady(ctx); !errors.Is(err, iscsi.ErrLost) {
				t.Errorf("%v", err)
			}
		}
	}
}

// TestReset: commands that a reset by others dropped are sent again.
func TestReset(t *testing.T) {
	ctx := testkit.Guard(t)
	u := units(1 << 20)
	var dropped, reset atomic.Bool
	var s *iscsid.Server
	started := make(chan struct{})
	s = iscsid.Start(t, iscsid.Config{Intercept: func(_ uint32, cdb []byte) iscsid.Action {
		<-started
		switch {
		case cdb[0] == 0x2a && dropped.CompareAndSwap(false, true):
			return iscsid.Action{Do: iscsid.Forget}
		case cdb[0] == 0 && dropped.Load() && s.Pings.Load() > 0 && reset.CompareAndSwap(false, true):
			return iscsid.Check(6, 0x2900)
		}
		return iscsid.Action{}
	}}, u)
	close(started)
	cfg := config(s)
	cfg.KeepAlive, cfg.Reconnect = 50*time.Millisecond, time.Minute
	l := iscsi.LUN{Doer: open(t, ctx, cfg), Number: 1}
	if err := l.TestUnitReady(ctx); err != nil {
		t.Fatal(err)
	}
	if err := l.Write(ctx, bytes.Repeat([]byte{7}, 512), iscsi.Transfer{Blocks: 1}); err != nil {
		t.Error(err)
	}
	if u[1].Bytes()[0] != 7 || s.Logins.Load() != 2 {
		t.Errorf("%d logins", s.Logins.Load())
	}
	if s.Pings.Load() == 0 {
		t.Error("a silent target was not pinged")
	}
}

// TestSilence: a target that stops to answer is given up.
func TestSilence(t *testing.T) {
	ctx := testkit.Guard(t)
	t.Run("no pings", func(t *testing.T) {
		stuck := make(chan struct{})
		s := iscsid.Start(t, iscsid.Config{Intercept: func(uint32, []byte) iscsid.Action {
			<-stuck
			return iscsid.Action{Do: iscsid.Cut}
		}}, units(512))
		t.Cleanup(func() { close(stuck) })
		cfg := config(s)
		cfg.KeepAlive = 20 * time.Millisecond
		l := iscsi.LUN{Doer: open(t, ctx, cfg), Number: 1}
		if err := l.TestUnitReady(ctx); !errors.Is(err, iscsi.ErrTimeout) {
			t.Error(err)
		}
	})
	t.Run("pings", func(t *testing.T) {
		s := iscsid.Start(t, iscsid.Config{Intercept: func(_ uint32, cdb []byte) iscsid.Action {
			if cdb[0] == 0x28 {
				return iscsid.Action{Do: iscsid.Forget}
			}
			return iscsid.Action{}
		}}, units(512))
		cfg := config(s)
		cfg.KeepAlive, cfg.Timeout = 20*time.Millisecond, 200*time.Millisecond
		l := iscsi.LUN{Doer: open(t, ctx, cfg), Number: 1}
		if err := l.Read(ctx, make([]byte, 512), iscsi.Transfer{Blocks: 1}); !errors.Is(err, iscsi.ErrTimeout) {
			t.Error(err)
		}
	})
	t.Run("login", func(t *testing.T) {
		l := testkitListener(t)
		if _, err := iscsi.Open(ctx, iscsi.Config{Address: l, Target: "x", Timeout: 50 * time.Millisecond}); !errors.Is(err, iscsi.ErrTimeout) {
			t.Error(err)
		}
		if _, err := iscsi.Open(withTimeout(t, ctx, 50*time.Millisecond), iscsi.Config{Address: l, Target: "x"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

// TestCancel: a command ends with its context, and the others go on.
func TestCancel(t *testing.T) {
	ctx := testkit.Guard(t)
	s := iscsid.Start(t, iscsid.Config{Window: 1000, Intercept: func(_ uint32, cdb []byte) iscsid.Action {
		if cdb[0] == 0x28 {
			return iscsid.Action{Do: iscsid.Forget}
		}
		return iscsid.Action{}
	}}, units(1<<20))
	l := iscsi.LUN{Doer: open(t, ctx, config(s)), Number: 1}
	for range 300 {
		ctx, cancel := context.WithCancel(ctx)
		time.AfterFunc(time.Millisecond, cancel)
		if err := l.Read(ctx, make([]byte, 512), iscsi.Transfer{Blocks: 1}); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	if err := l.TestUnitReady(ctx); err != nil || s.Logins.Load() != 1 {
		t.Errorf("%v after %d logins", err, s.Logins.Load())
	}
}

// TestTargetSpeaks: pings and messages of the target.
func TestTargetSpeaks(t *testing.T) {
	ctx := testkit.Guard(t)
	s := iscsid.Start(t, iscsid.Config{}, units(512))
	cfg := config(s)
	cfg.Reconnect = time.Minute
	l := iscsi.LUN{Doer: open(t, ctx, cfg), Number: 1}
	ping := [48]byte{0: 0x20, 1: 0x80, 16: 0xff, 17: 0xff, 18: 0xff, 19: 0xff, 23: 9}
	s.Each(ping)
	if err := l.TestUnitReady(ctx); err != nil {
		t.Fatal(err)
	}
	for s.Pings.Load() == 0 && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	event := [48]byte{0: 0x32, 1: 0x80, 16: 0xff, 17: 0xff, 18: 0xff, 19: 0xff}
	for code, logins := range map[byte]int32{0: 0, 255: 0, 1: 1, 2: 1, 4: 1} {
		before := s.Logins.Load()
		event[36] = code
		s.Each(event)
		for ctx.Err() == nil {
			if err := l.TestUnitReady(ctx); err != nil {
				t.Fatal(err)
			}
			if s.Logins.Load() >= before+logins {
				break
			}
		}
		if got := s.Logins.Load() - before; got != logins {
			t.Errorf("event %d: %d logins", code, got)
		}
	}
}

func TestDiscover(t *testing.T) {
	ctx := testkit.Guard(t)
	s := iscsid.Start(t, iscsid.Config{User: "joe", Secret: "secret of joe"}, map[uint32]*iscsid.Unit{0: nil, 300: nil, 16000: nil})
	cfg := iscsi.Config{Address: s.Address, CHAP: &iscsi.Credentials{User: "joe", Secret: "secret of joe"}}
	list, err := iscsi.Discover(ctx, cfg)
	if err != nil || len(list) != 1 || list[0].Name != s.Name || !slices.Equal(list[0].Portals, []string{s.Address + ",1"}) {
		t.Fatalf("%+v, %v", list, err)
	}
	cfg.Target = list[0].Name
	luns, err := iscsi.LUN{Doer: open(t, ctx, cfg)}.ReportLUNs(ctx)
	var numbers []uint32
	for _, l := range luns {
		n, _ := iscsi.DecodeLUN(l)
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	if err != nil || !slices.Equal(numbers, []uint32{0, 300, 16000}) {
		t.Errorf("%v, %v", numbers, err)
	}
}

func TestLUNNumbers(t *testing.T) {
	for number, want := range map[uint32]uint64{0: 0, 1: 1 << 48, 255: 255 << 48, 256: 0x4100 << 48, 16383: 0x7fff << 48, 16384: 0xd2004000 << 32, iscsi.MaxLUN: 0xd2ffffff << 32} {
		got := iscsi.EncodeLUN(number)
		back, ok := iscsi.DecodeLUN(got)
		if got != want || back != number || !ok {
			t.Errorf("%d: %#x, back %d", number, got, back)
		}
	}
	if n, ok := iscsi.DecodeLUN(0x80 << 56); ok {
		t.Errorf("a form of others is %d", n)
	}
}

// TestUnits asks units of several kinds for everything.
func TestUnits(t *testing.T) {
	ctx := testkit.Guard(t)
	thin, long, old, locked := iscsid.NewUnit(1<<20, 4096), iscsid.NewUnit(1<<20, 512), iscsid.NewUnit(1<<20, 512), iscsid.NewUnit(1<<20, 2048)
	thin.Thin, old.NoLong, locked.WriteProtected, locked.Type = true, true, true, iscsi.TypeROM
	s := iscsid.Start(t, iscsid.Config{}, map[uint32]*iscsid.Unit{1: thin, 300: long, 70000: old, 4: locked})
	session := open(t, ctx, config(s))
	unit := func(n uint32) iscsi.LUN { return iscsi.LUN{Doer: session, Number: n} }
	for n, want := range map[uint32]iscsi.Capacity{
		1:     {Blocks: 256, BlockSize: 4096, PhysicalBlock: 4096, Thin: true, ReadsZero: true, Long: true},
		300:   {Blocks: 2048, BlockSize: 512, PhysicalBlock: 512, Long: true},
		70000: {Blocks: 2048, BlockSize: 512, PhysicalBlock: 512},
		4:     {Blocks: 512, BlockSize: 2048, PhysicalBlock: 2048, Long: true},
	} {
		if got, err := unit(n).Capacity(ctx); err != nil || *got != want {
			t.Errorf("%d: %+v, %v", n, got, err)
		}
	}
	var sense *iscsi.SenseError
	if err := unit(9).TestUnitReady(ctx); !errors.As(err, &sense) || !sense.NoUnit() {
		t.Errorf("no unit: %v", err)
	}
	if i, err := unit(4).Inquiry(ctx); err != nil || i.Type != iscsi.TypeROM || i.Vendor != "COWL" {
		t.Errorf("%+v, %v", i, err)
	}
	if m, err := unit(4).Mode(ctx); err != nil || !m.WriteProtected || !m.FUA || m.WriteCache {
		t.Errorf("%+v, %v", m, err)
	}
	page, err := unit(1).Page(ctx, iscsi.PageProvisioning)
	if p := iscsi.ParseProvisioning(page); err != nil || *p != (iscsi.Provisioning{Unmap: true, WriteSame16: true, WriteSame10: true, ReadsZero: true}) {
		t.Errorf("%+v, %v", p, err)
	}
	page, err = unit(1).Page(ctx, iscsi.PageLimits)
	if l := iscsi.ParseLimits(page); err != nil || *l != (iscsi.Limits{MaxUnmap: 1 << 20, MaxUnmapRanges: 1, UnmapGranularity: 8}) {
		t.Errorf("%+v, %v", l, err)
	}
	if _, err := unit(1).Page(ctx, 0x99); !iscsi.IsUnsupported(err) {
		t.Errorf("a page that is not there: %v", err)
	}
	same := bytes.Repeat([]byte{5}, 4096)
	if err := unit(1).WriteSame(ctx, same, iscsi.Transfer{LBA: 8, Blocks: 16}, false); err != nil {
		t.Error(err)
	}
	if err := unit(1).Unmap(ctx, iscsi.BlockRange{LBA: 16, Blocks: 4}); err != nil {
		t.Error(err)
	}
	status, err := unit(1).Status(ctx, 10)
	if err != nil || fmt.Sprint(status) != "[{{10 6} 0} {{16 4} 1} {{20 4} 0}]" {
		t.Errorf("%v, %v", status, err)
	}
	if _, err := unit(70000).Status(ctx, 0); !iscsi.IsUnsupported(err) {
		t.Errorf("status of an old unit: %v", err)
	}
	if err := unit(1).Write(ctx, same, iscsi.Transfer{LBA: 256, Blocks: 1}); err == nil {
		t.Error("a write beyond the end")
	}
	if err := unit(1).Sync(ctx); err != nil || thin.Syncs() != 1 {
		t.Error(err)
	}
}
