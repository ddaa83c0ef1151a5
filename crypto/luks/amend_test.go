package luks

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// ledger knows which passphrase each slot of a volume holds.
type ledger [maxSlots2]string

func (l *ledger) check(t *testing.T, m *memArea, key *Key) {
	t.Helper()
	h := openArea(t, m)
	for i, p := range l[:h.slotCount()] {
		if h.isActive(i) != (p != "") {
			t.Fatalf("slot %d: active %v, want passphrase %q", i, h.isActive(i), p)
		}
		if p == "" {
			continue
		}
		k, err := h.unlockSlot(t.Context(), i, []byte(p))
		if err != nil || !bytes.Equal(k.bytes, key.bytes) {
			t.Fatalf("slot %d does not open with %q: %v", i, p, err)
		}
	}
}

func (l *ledger) count() (n int) {
	for _, p := range l {
		if p != "" {
			n++
		}
	}
	return n
}

// TestRandomAmends adds and erases keys and checks every slot after each step.
func TestRandomAmends(t *testing.T) {
	steps := 60
	if testing.Short() || testkit.Race {
		steps = 15
	}
	for _, version := range []int{1, 2} {
		t.Run(fmt.Sprint(version), func(t *testing.T) { randomAmends(t, version, steps) })
	}
}

// versionOptions are those of a volume that opens soon.
func versionOptions(version int) CreateOptions {
	o := CreateOptions{CipherAlg: "aes-128", Version: version, IterTime: fast}
	if version == 2 {
		o.PBKDF = "pbkdf2"
	}
	return o
}

func randomAmends(t *testing.T, version, steps int) {
	r := rand.New(rand.NewPCG(1, 2))
	m, h, key := create(t, versionOptions(version))
	l := ledger{string(secret)}
	for step := range steps {
		slot := r.Int64N(slotCount1)
		force := r.IntN(3) == 0
		switch r.IntN(4) {
		case 0:
			p := fmt.Sprint("p", r.IntN(4))
			got, err := h.AddKey(t.Context(), key, []byte(p), AddOptions{IterTime: fast})
			if (err != nil) != (l.count() == int(h.slotCount())) {
				t.Fatalf("step %d: %v with %d slots in use", step, err, l.count())
			}
			if err == nil {
				l[got] = p
			}
		case 1:
			p := fmt.Sprint("p", r.IntN(4))
			_, err := h.AddKey(t.Context(), key, []byte(p), AddOptions{Slot: &slot, IterTime: fast, Force: force})
			if (err != nil) != (l[slot] != "" && !force) {
				t.Fatalf("step %d: %v for slot %d with %q, force %v", step, err, slot, l[slot], force)
			}
			if err == nil {
				l[slot] = p
			}
		case 2:
			err := h.EraseKey(t.Context(), EraseOptions{Slot: &slot})
			if (err == nil) != (l[slot] != "" && l.count() > 1) {
				t.Fatalf("step %d: %v for slot %d of %q", step, err, slot, l)
			}
			if err == nil {
				l[slot] = ""
			}
		case 3:
			p := fmt.Sprint("p", r.IntN(4))
			after := l
			for i := range after {
				if after[i] == p {
					after[i] = ""
				}
			}
			err := h.EraseKey(t.Context(), EraseOptions{Passphrase: []byte(p)})
			if (err == nil) != (after != l && after.count() > 0) {
				t.Fatalf("step %d: %v for %q of %q", step, err, p, l)
			}
			if err == nil {
				l = after
			}
		}
		l.check(t, m, key)
	}
}

func TestEraseOverwrites(t *testing.T) {
	m, h, key := create(t, CreateOptions{CipherAlg: "aes-128"})
	slot := int64(0)
	if _, err := h.AddKey(t.Context(), key, []byte("other"), AddOptions{IterTime: fast}); err != nil {
		t.Fatal(err)
	}
	before := m.clone()
	if err := h.EraseKey(t.Context(), EraseOptions{Slot: &slot}); err != nil {
		t.Fatal(err)
	}
	s := h.v1.slots[0]
	same, n := 0, int(h.v1.slotSectors())
	for i := range n {
		off := (int(s.offset) + i) * sectorSize
		if bytes.Equal(m.b[off:off+sectorSize], before.b[off:off+sectorSize]) {
			same++
		}
	}
	if same > 0 {
		t.Errorf("%d of %d sectors of key material were not overwritten", same, n)
	}
	if s.iters != 0 || s.salt != [saltSize]byte{} {
		t.Error("the record keeps what belonged to the key")
	}
	after := h.v1.slots[1].offset * sectorSize
	if !bytes.Equal(m.b[after:], before.b[after:]) {
		t.Error("more than the slot was overwritten")
	}
}

func TestLastKey(t *testing.T) {
	for _, version := range []int{1, 2} {
		t.Run(fmt.Sprint(version), func(t *testing.T) { lastKey(t, version) })
	}
}

func lastKey(t *testing.T, version int) {
	_, h, key := create(t, versionOptions(version))
	slot := int64(0)
	for _, o := range []EraseOptions{{Slot: &slot}, {Passphrase: secret}, {Slot: &slot, Passphrase: secret}} {
		if err := h.EraseKey(t.Context(), o); !errors.Is(err, ErrLastKey) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if err := h.EraseKey(t.Context(), EraseOptions{Slot: &slot, Force: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Unlock(t.Context(), secret); !errors.Is(err, ErrPassphrase) {
		t.Errorf("a volume without key slots: %v", err)
	}
	// Who still has the key may save a volume of version 1.
	if _, err := h.AddKey(t.Context(), key, secret, AddOptions{IterTime: fast}); (err == nil) != (version == 1) {
		t.Errorf("a key for a volume without key slots: %v", err)
	}
}

// write is one write, and what it changed.
type write struct {
	p   []byte
	off int64
}

// TestAmendCrash stops changes at every write, with any of the sectors of that
// write done or not, and wants the volume to open with a key that it had or gets.
func TestAmendCrash(t *testing.T) {
	testkit.NoRace(t, "one caller")
	slots := []int64{0, 1, 6, 7}
	for _, c := range []struct {
		name   string
		keys   []string // by slot
		change func(h *Header, k *Key) error
		after  []string // passphrases of which one must open
	}{
		{"add", []string{"a"}, func(h *Header, k *Key) error {
			_, err := h.AddKey(t.Context(), k, []byte("new"), AddOptions{IterTime: fast})
			return err
		}, []string{"a"}},
		{"add across sectors", []string{"a"}, func(h *Header, k *Key) error {
			_, err := h.AddKey(t.Context(), k, []byte("new"), AddOptions{Slot: &slots[2], IterTime: fast})
			return err
		}, []string{"a"}},
		{"overwrite the only key", []string{"a"}, func(h *Header, k *Key) error {
			_, err := h.AddKey(t.Context(), k, []byte("new"), AddOptions{Slot: &slots[0], Force: true, IterTime: fast})
			return err
		}, []string{"a", "new"}},
		{"overwrite one of all", []string{"a", "b", "c", "d", "e", "f", "g", "h"}, func(h *Header, k *Key) error {
			_, err := h.AddKey(t.Context(), k, []byte("new"), AddOptions{Slot: &slots[0], Force: true, IterTime: fast})
			return err
		}, []string{"b"}},
		{"erase", []string{"a", "b"}, func(h *Header, _ *Key) error {
			return h.EraseKey(t.Context(), EraseOptions{Slot: &slots[0]})
		}, []string{"b"}},
		{"erase by passphrase", []string{"a", "b", "a"}, func(h *Header, _ *Key) error {
			return h.EraseKey(t.Context(), EraseOptions{Passphrase: []byte("a")})
		}, []string{"b"}},
	} {
		for _, version := range []int{1, 2} {
			t.Run(fmt.Sprint(c.name, " ", version), func(t *testing.T) { amendCrash(t, version, c.keys, c.change, c.after) })
		}
	}
}

func amendCrash(t *testing.T, version int, keys []string, change func(*Header, *Key) error, after []string) {
	m := &memArea{}
	h, key, err := Create(t.Context(), m, versionOptions(version), []byte(keys[0]))
	if err != nil {
		t.Fatal(err)
	}
	// Most of the room for keys of version 2 is not used here.
	room := min(h.PayloadOffset, 4<<20)
	m.b = append(m.b, make([]byte, max(room-int64(len(m.b)), 0))...)[:room]
	for _, p := range keys[1:] {
		if _, err := openArea(t, m).AddKey(t.Context(), key, []byte(p), AddOptions{IterTime: fast}); err != nil {
			t.Fatal(err)
		}
	}
	start := m.clone()
	var writes []write
	flushed := true
	m.before = func(p []byte, off int64) error {
		if p == nil {
			flushed = true
			return nil
		}
		if !flushed {
			t.Error("a write follows another without a flush between them")
		}
		flushed = false
		writes = append(writes, write{bytes.Clone(p), off})
		return nil
	}
	if err := change(openArea(t, m), key); err != nil {
		t.Fatal(err)
	}
	if !flushed {
		t.Error("the last write is not flushed")
	}
	crash(t, start, writes, after, key)
}

func crash(t *testing.T, start *memArea, writes []write, passphrases []string, key *Key) {
	r := rand.New(rand.NewPCG(3, 4))
	for i, w := range writes {
		for try := range 4 {
			m := start.clone()
			for _, done := range writes[:i] {
				copy(m.b[done.off:], done.p)
			}
			tear(r, m, w, try)
			h := openArea(t, m)
			opened := false
			for _, p := range passphrases {
				k, err := h.Unlock(t.Context(), []byte(p))
				opened = opened || err == nil && bytes.Equal(k.bytes, key.bytes)
			}
			if !opened {
				t.Fatalf("after %d of %d writes and a part of another no passphrase opens the volume", i, len(writes))
			}
		}
	}
}

// tear does a write for some of its sectors.
func tear(r *rand.Rand, m *memArea, w write, try int) {
	for off := w.off; off < w.off+int64(len(w.p)); {
		end := min((off/sectorSize+1)*sectorSize, w.off+int64(len(w.p)))
		if try == 0 || try > 1 && r.IntN(2) == 0 {
			copy(m.b[off:end], w.p[off-w.off:end-w.off])
		}
		off = end
	}
}

// TestAmendFails lets a write fail and looks at what the header says of itself then.
func TestAmendFails(t *testing.T) {
	broken := errors.New("broken")
	for i := range 16 {
		n, version := i/2, 1+i%2
		m, h, key := create(t, versionOptions(version))
		left := n
		m.before = func(p []byte, _ int64) error {
			if left--; left < 0 {
				return broken
			}
			return nil
		}
		slot := int64(0)
		_, err := h.AddKey(t.Context(), key, []byte("new"), AddOptions{Slot: &slot, Force: true, IterTime: fast})
		m.before = nil
		if err == nil || !errors.Is(err, broken) {
			t.Fatalf("failure of call %d: %v", n, err)
		}
		again := openArea(t, m)
		_, errOld := again.Unlock(t.Context(), secret)
		_, errNew := again.Unlock(t.Context(), []byte("new"))
		if errOld != nil && errNew != nil {
			t.Errorf("failure of call %d: neither key opens: %v, %v", n, errOld, errNew)
		}
	}
}
