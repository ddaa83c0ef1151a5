package endtoend

import (
	"path/filepath"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// TestAddressSpace runs under the bounds that clouds put around the tool when
// they look at images that strangers upload: 1 GiB of address space, 30 seconds.
func TestAddressSpace(t *testing.T) {
	prlimit := testkit.Tool(t, "prlimit")
	dir := t.TempDir()
	src := filepath.Join(dir, "src.raw")
	randomFile(t, src, 64<<20)
	bounded := func(args ...string) {
		t.Helper()
		testkit.Run(t, prlimit, append([]string{"--as=1073741824", "--cpu=30", "--", program}, args...)...)
	}
	img := filepath.Join(dir, "img.qcow2")
	bounded("convert", "-f", "raw", "-O", "qcow2", "-c", src, img)
	bounded("info", "--force-share", "--output=json", img)
	bounded("check", img)
	bounded("convert", "-f", "qcow2", "-O", "raw", img, filepath.Join(dir, "back.raw"))
	bounded("compare", src, img)
}
