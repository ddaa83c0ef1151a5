package differential

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestArgonMemory opens a LUKS volume whose key slot asks for 1 GiB of memory where the
// process may not have that much.
func TestArgonMemory(t *testing.T) {
	tools := needCLI(t)
	cryptsetup, err := exec.LookPath("cryptsetup")
	if err != nil {
		t.Skip("cryptsetup is not installed")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "key"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	make := exec.Command(cryptsetup, "luksFormat", "-q", "--type", "luks2", "--pbkdf", "argon2id", "--pbkdf-memory", "1048576",
		"--pbkdf-force-iterations", "4", "--pbkdf-parallel", "1", "--key-file", "key", "vol")
	make.Dir = dir
	if err := os.WriteFile(filepath.Join(dir, "vol"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "vol"), 32<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := make.CombinedOutput(); err != nil {
		t.Skipf("cryptsetup cannot make the volume here: %v\n%s", err, out)
	}
	got := runIn(t, dir, "sh", "-c", `ulimit -v 1048576; exec "$0" map --object secret,id=s,file=key --image-opts driver=luks,file.filename=vol,key-secret=s`, tools.ours)
	if got.code != 1 || strings.Count(got.stderr, "\n") != 1 || !strings.Contains(got.stderr, "not enough memory: 1024 MiB are needed") {
		t.Errorf("%+v", got)
	}
}
