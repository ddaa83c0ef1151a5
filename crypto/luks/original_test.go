package luks

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// tool skips the test where a program is missing.
func tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	return path
}

func run(t testing.TB, stdin string, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(tool(t, name), args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// cryptsetup runs it with a passphrase, without a question.
func cryptsetup(t testing.TB, passphrase []byte, args ...string) string {
	t.Helper()
	return run(t, string(passphrase), "cryptsetup", append([]string{"--batch-mode", "--key-file=-"}, args...)...)
}

// TestCryptsetupOpensOurs checks headers that Create made.
func TestCryptsetupOpensOurs(t *testing.T) {
	tool(t, "cryptsetup")
	for _, o := range []CreateOptions{{}, {CipherAlg: "aes-128", CipherMode: "cbc", IVGenAlg: "essiv", HashAlg: "sha512"},
		{CipherAlg: "aes-192", CipherMode: "cbc"}} {
		m, h, k := create(t, o)
		if _, err := h.AddKey(t.Context(), k, []byte("second"), AddOptions{IterTime: fast}); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(t.TempDir(), "volume")
		m.save(t, name, int64(len(m.b))+1<<20)
		for _, p := range []string{string(secret), "second"} {
			cryptsetup(t, []byte(p), "luksOpen", "--test-passphrase", name)
		}
		dump := cryptsetup(t, secret, "luksDump", name)
		for _, want := range []string{h.UUID, "Key Slot 1: ENABLED", "Key Slot 2: DISABLED", specMode(h.Spec.Mode, h.Spec.IVGen, h.Spec.IVHash)} {
			if !strings.Contains(dump, want) {
				t.Errorf("luksDump does not say %s:\n%s", want, dump)
			}
		}
	}
}

// TestCryptsetupWithOurs2 has cryptsetup open, describe and change volumes of version 2 that
// Create made, and AddKey and EraseKey change them after that: what cryptsetup has put
// there stays.
func TestCryptsetupWithOurs2(t *testing.T) {
	tool(t, "cryptsetup")
	for _, o := range []CreateOptions{{}, {PBKDF: "pbkdf2", CipherAlg: "aes-128", CipherMode: "cbc", IVGenAlg: "essiv", HashAlg: "sha512", Label: "a label"},
		{PBKDF: "argon2i", Memory: 1 << 20, Parallel: 2, SectorSize: 4096}} {
		o.Version = 2
		m, h, k := create(t, o)
		if n, err := h.AddKey(t.Context(), k, []byte("second"), AddOptions{IterTime: fast}); err != nil || n != 1 {
			t.Fatal(n, err)
		}
		name := filepath.Join(t.TempDir(), "volume")
		m.save(t, name, int64(len(m.b))+1<<20)
		for _, p := range []string{string(secret), "second"} {
			cryptsetup(t, []byte(p), "open", "--test-passphrase", name)
		}
		third := filepath.Join(t.TempDir(), "third")
		if err := os.WriteFile(third, []byte("third"), 0o600); err != nil {
			t.Fatal(err)
		}
		cryptsetup(t, secret, "luksAddKey", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", "--key-slot=5", name, third)
		run(t, `{"type":"ours","keyslots":["1","5"],"more":{"a":[1,2]}}`, "cryptsetup", "--batch-mode", "token", "import", "--json-file=-", name)
		m = loadArea(t, name)
		h = openArea(t, m)
		k, err := h.Unlock(t.Context(), []byte("third"))
		if err != nil || k.Slot() != 5 {
			t.Fatal(k, err)
		}
		slot := int64(1)
		if _, err := h.AddKey(t.Context(), k, []byte("fourth"), AddOptions{IterTime: fast}); err != nil {
			t.Fatal(err)
		}
		if err := h.EraseKey(t.Context(), EraseOptions{Slot: &slot}); err != nil {
			t.Fatal(err)
		}
		m.save(t, name, int64(len(m.b)))
		for p, slot := range map[string]string{string(secret): "0", "third": "5", "fourth": "2"} {
			cryptsetup(t, []byte(p), "open", "--test-passphrase", "--key-slot="+slot, name)
		}
		dump := cryptsetup(t, secret, "luksDump", "--dump-json-metadata", name)
		for _, want := range []string{`"type":"ours"`, `"more":{"a":[1,2]}`, `"keyslots":["5"]`} {
			if !strings.Contains(strings.NewReplacer(" ", "", "\n", "", "\t", "").Replace(dump), want) {
				t.Errorf("the header has no %s:\n%s", want, dump)
			}
		}
		dump = cryptsetup(t, secret, "luksDump", name)
		for _, want := range []string{h.UUID, "Epoch:", h.Spec.Cipher + "-" + specMode(h.Spec.Mode, h.Spec.IVGen, h.Spec.IVHash), o.Label} {
			if !strings.Contains(dump, want) {
				t.Errorf("luksDump does not say %s:\n%s", want, dump)
			}
		}
		cryptsetup(t, secret, "repair", name)
	}
}

// TestArgon2Cost divides work into memory and passes.
func TestArgon2Cost(t *testing.T) {
	for _, c := range []struct {
		rate   float64
		ms     int
		most   int64
		fixed  bool
		memory int64
		passes uint32
	}{
		{4 << 30, 2000, 1 << 30, false, 1 << 30, 8},
		{1 << 30, 2000, 1 << 30, false, 512 << 20, 4},
		{1 << 30, 2000, 1 << 30, true, 1 << 30, 4},
		{1 << 30, 1, 1 << 30, false, 1 << 20, 4},
		{1 << 30, 1000, 1 << 20, false, 1 << 20, 1024},
	} {
		memory, passes, err := argon2Cost(c.rate, time.Duration(c.ms)*time.Millisecond, c.most, c.fixed)
		if memory != c.memory || passes != c.passes || err != nil {
			t.Errorf("%+v: %d, %d, %v", c, memory, passes, err)
		}
	}
	if _, _, err := argon2Cost(1<<30, 1000*time.Hour, 1<<30, false); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
}

// format makes a volume. Ciphers that the running kernel does not have are skipped:
// cryptsetup leaves those to the device mapper.
func format(t *testing.T, name string, args ...string) bool {
	t.Helper()
	cmd := exec.Command(tool(t, "cryptsetup"), append([]string{"--batch-mode", "--key-file=-", "luksFormat", name}, args...)...)
	cmd.Stdin = bytes.NewReader(secret)
	out, err := cmd.CombinedOutput()
	if err != nil && strings.Contains(string(out), "device-mapper") {
		t.Logf("the kernel lacks the cipher of %v", args)
		return false
	}
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return true
}

func TestWeOpenCryptsetup1(t *testing.T) {
	dir := t.TempDir()
	for i, args := range [][]string{
		{}, {"--cipher=aes-cbc-essiv:sha256", "--key-size=128"}, {"--cipher=aes-xts-plain64", "--key-size=512", "--hash=sha512"},
		{"--cipher=serpent-xts-plain64", "--key-size=512", "--hash=sha1"},
		{"--cipher=aes-cbc-plain64", "--key-size=192"}, // key material that ends within a sector
		{"--cipher=twofish-xts-plain64", "--key-size=384", "--hash=ripemd160"},
	} {
		name := filepath.Join(dir, fmt.Sprint(i))
		(&memArea{}).save(t, name, 8<<20)
		if !format(t, name, append([]string{"--type=luks1", "--pbkdf-force-iterations=1000"}, args...)...) {
			continue
		}
		m := loadArea(t, name)
		k, err := openArea(t, m).Unlock(t.Context(), secret)
		if err != nil {
			t.Errorf("%v: %v", args, err)
			continue
		}
		checkVolumeKey(t, name, k)
	}
}

// checkVolumeKey compares a key with the one that cryptsetup finds.
func checkVolumeKey(t *testing.T, name string, k *Key) {
	t.Helper()
	dump := cryptsetup(t, secret, "luksDump", "--dump-volume-key", name)
	_, hex, _ := strings.Cut(dump, "MK dump:")
	clean := strings.Join(strings.Fields(hex), "")
	if want := fmt.Sprintf("%x", k.bytes); !strings.HasPrefix(clean, want) {
		t.Errorf("volume key differs")
	}
}

func TestWeOpenCryptsetup2(t *testing.T) {
	dir := t.TempDir()
	for i, c := range []struct {
		args    []string
		sector  int
		payload int64
	}{
		{args: []string{"--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000"}, sector: 512},
		{args: []string{"--pbkdf=argon2id", "--pbkdf-force-iterations=4", "--pbkdf-memory=64", "--sector-size=4096"}, sector: 4096},
		{args: []string{"--pbkdf=argon2i", "--pbkdf-force-iterations=5", "--pbkdf-memory=1000", "--pbkdf-parallel=2"}, sector: 512},
		{args: []string{"--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", "--cipher=aes-cbc-essiv:sha256", "--key-size=256", "--hash=sha512",
			"--sector-size=1024", "--label=some"}, sector: 1024},
		{args: []string{"--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", "--keyslot-cipher=aes-cbc-plain64", "--keyslot-key-size=128",
			"--luks2-metadata-size=64k", "--luks2-keyslots-size=1m", "--offset=8192"}, sector: 512, payload: 4 << 20},
	} {
		name := filepath.Join(dir, fmt.Sprint(i))
		(&memArea{}).save(t, name, 20<<20)
		if !format(t, name, append([]string{"--type=luks2", "--sector-size=512"}, c.args...)...) {
			continue
		}
		m := loadArea(t, name)
		h := openArea(t, m)
		k, err := h.Unlock(t.Context(), secret)
		if err != nil {
			t.Errorf("%v: %v", c.args, err)
			continue
		}
		checkVolumeKey(t, name, k)
		if c.payload == 0 {
			c.payload = 16 << 20
		}
		if h.SectorSize != c.sector || h.PayloadOffset != c.payload {
			t.Errorf("%v: sectors of %d, payload at %d", c.args, h.SectorSize, h.PayloadOffset)
		}
		if _, err := h.Cipher(k); err != nil {
			t.Error(err)
		}
		if _, err := h.Unlock(t.Context(), []byte("wrong")); !errors.Is(err, ErrPassphrase) {
			t.Errorf("%v: wrong passphrase: %v", c.args, err)
		}
	}
}

// TestSecondary2 checks that either copy of a header is enough and that the newer one
// counts.
func TestSecondary2(t *testing.T) {
	name := filepath.Join(t.TempDir(), "volume")
	(&memArea{}).save(t, name, 17<<20)
	cryptsetup(t, secret, "luksFormat", "--type=luks2", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", name)
	whole := loadArea(t, name)
	for _, damage := range []struct {
		off  int64
		what string
	}{{5000, "text of the first"}, {300, "first"}, {16<<10 + 5000, "text of the second"}, {16<<10 + 3, "magic of the second"}} {
		m := whole.clone()
		m.b[damage.off] ^= 1
		if _, err := openArea(t, m).Unlock(t.Context(), secret); err != nil {
			t.Errorf("%s damaged: %v", damage.what, err)
		}
	}
	both := whole.clone()
	both.b[5000] ^= 1
	both.b[5000+16<<10] ^= 1
	if _, err := Open(t.Context(), both, int64(len(both.b))); !errors.Is(err, ErrCorrupt) {
		t.Errorf("both damaged: %v", err)
	}
	// A change by cryptsetup, of which only the second copy has been written.
	cryptsetup(t, secret, "config", "--label=newer", name)
	newer := loadArea(t, name)
	half := newer.clone()
	copy(half.b, whole.b[:16<<10])
	if got := openArea(t, half).Info().Label; got != "newer" {
		t.Errorf("label %q: the older copy was taken", got)
	}
	if bytes.Equal(newer.b[:16<<10], whole.b[:16<<10]) {
		t.Error("nothing was changed")
	}
}
