package differential

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// The libraries libvmdk, libvhdi and libqcow (github.com/libyal) are readers that share no
// code with QEMU. Their Python modules read whole disks without FUSE.
//
// libyalReader writes the disk of an image to a file: the kind of image, how much to read
// at a time, the password of encrypted ones, the file, the image, its parents.
const libyalReader = `
import sys
kind, step, password, out, paths = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5:]
module = __import__("py" + kind)
chain = [module.handle() if kind == "vmdk" else module.file() for p in paths]
for c, p in zip(chain, paths):
    if kind == "qcow" and password:
        c.set_password(password)
    c.open(p)
    if kind == "vmdk":
        c.open_extent_data_files()
for c, p in zip(chain, chain[1:]):
    c.set_parent(p)
disk, off = chain[0], 0
with open(out, "wb") as f:
    while off < disk.get_media_size():
        b = disk.read_buffer_at_offset(min(step, disk.get_media_size() - off), off)
        if not b:
            raise EOFError(off)
        off += f.write(b)
`

const libyalPassword = "geheim"

// libyalCase is a kind of image that we write.
type libyalCase struct {
	name    string
	library string // vmdk, vhdi or qcow
	format  string
	convert string // arguments, besides the format
	fixed   bool   // the image cannot be changed afterwards
	overlay string // arguments for a differencing image on top, "-" for none
	says    string // what their program says of the image, lines of a regular expression
	// refused says why the library cannot read such images, not even those of QEMU. If it
	// reads those, it must read ours.
	refused string
}

const libyalAES = "--object secret,id=s,data=" + libyalPassword + " -o encrypt.format=aes,encrypt.key-secret=s"

var libyalCases = []libyalCase{
	{name: "sparse", library: "vmdk", format: "vmdk", says: `Disk type:\s+Monolithic sparse\n`},
	{name: "flat", library: "vmdk", format: "vmdk", convert: "-o subformat=monolithicFlat", overlay: "-", says: `Disk type:\s+Monolithic flat\n`},
	{name: "2 GiB sparse", library: "vmdk", format: "vmdk", convert: "-o subformat=twoGbMaxExtentSparse", overlay: "-", says: `Disk type:\s+2GB extent sparse\n`},
	{name: "2 GiB flat", library: "vmdk", format: "vmdk", convert: "-o subformat=twoGbMaxExtentFlat", overlay: "-", says: `Disk type:\s+2GB extent flat\n`},
	{name: "streamOptimized", library: "vmdk", format: "vmdk", convert: "-o subformat=streamOptimized", fixed: true, says: `Disk type:\s+Stream optimized\n`},

	{name: "dynamic", library: "vhdi", format: "vpc", convert: "-o force_size=on", says: `VHD \(version 1\)(?s:.*)Disk type\s+: Dynamic\n`},
	{name: "fixed", library: "vhdi", format: "vpc", convert: "-o force_size=on,subformat=fixed", overlay: "-", says: `VHD \(version 1\)(?s:.*)Disk type\s+: Fixed\n`},
	{name: "dynamic", library: "vhdi", format: "vhdx", convert: "-o block_size=1M", overlay: "-o block_size=1M", says: `VHDX \(version 2\)(?s:.*)Disk type\s+: Dynamic\n`},
	{name: "states of zeroes off", library: "vhdi", format: "vhdx", convert: "-o block_state_zero=off", says: `VHDX \(version 2\)(?s:.*)Disk type\s+: Dynamic\n`},
	{name: "fixed", library: "vhdi", format: "vhdx", convert: "-o subformat=fixed", says: `VHDX \(version 2\)(?s:.*)Disk type\s+: Fixed\n`},

	{name: "plain", library: "qcow", format: "qcow", overlay: "-", says: `Format version\s+: 1\n`},
	{name: "compressed", library: "qcow", format: "qcow", convert: "-c", overlay: "-", says: `Format version\s+: 1\n`},
	{name: "AES", library: "qcow", format: "qcow", convert: libyalAES, fixed: true, overlay: "-", says: `Format version\s+: 1\n(?s:.*)AES-CBC 128-bit\n`},
	{name: "version 2", library: "qcow", format: "qcow2", convert: "-o compat=0.10", overlay: "-o compat=0.10", says: `Format version\s+: 2\n`},
	{name: "version 2, compressed", library: "qcow", format: "qcow2", convert: "-c -o compat=0.10", says: `Format version\s+: 2\n`},
	{name: "version 3", library: "qcow", format: "qcow2", says: `Format version\s+: 3\n`},
	{name: "version 3, compressed", library: "qcow", format: "qcow2", convert: "-c", says: `Format version\s+: 3\n`},
	{name: "clusters of 4 KiB", library: "qcow", format: "qcow2", convert: "-o cluster_size=4k", overlay: "-o cluster_size=4k", says: `Format version\s+: 3\n`},
	{name: "clusters of 2 MiB", library: "qcow", format: "qcow2", convert: "-c -o cluster_size=2M", says: `Format version\s+: 3\n`},
	{name: "AES", library: "qcow", format: "qcow2", convert: libyalAES, fixed: true, overlay: "-", says: `Format version\s+: 3\n(?s:.*)AES-CBC 128-bit\n`},
	{name: "preallocated", library: "qcow", format: "qcow2", convert: "-o preallocation=metadata", says: `Format version\s+: 3\n`},
	{name: "zstd", library: "qcow", format: "qcow2", convert: "-c -o compression_type=zstd", refused: "an unknown feature"},
	{name: "subclusters", library: "qcow", format: "qcow2", convert: "-o extended_l2=on", refused: "an unknown feature"},
}

// TestLibyal lets the libraries read what we write: converted disks that are then
// changed here and there, and differencing images on top of them.
func TestLibyal(t *testing.T) {
	for _, c := range libyalCases {
		t.Run(c.library+"/"+c.format+", "+c.name, func(t *testing.T) {
			python := needLibyal(t, c.library)
			for seed := range uint64(testkit.Count(2)) {
				t.Run(fmt.Sprint(seed), func(t *testing.T) {
					t.Parallel()
					c.run(t, python, testkit.Rand(seed))
				})
			}
		})
	}
}

func (c libyalCase) run(t *testing.T, python string, r *rand.Rand) {
	dir := t.TempDir()
	raw, image := filepath.Join(dir, "raw"), filepath.Join(dir, "a."+c.format)
	disk := make([]byte, 512*(1+r.IntN(20000)))
	testkit.FillDisk(r, disk)
	for range 3 { // holes
		off := r.IntN(len(disk))
		clear(disk[off:min(len(disk), off+1<<20)])
	}
	writeFile(t, raw, disk)
	convert := append(append([]string{"convert", "-f", "raw", "-O", c.format}, words(c.convert)...), raw)
	m := testkit.NewModel(int64(len(disk)))
	m.Write(disk, 0)
	if c.refused != "" {
		theirs := filepath.Join(dir, "theirs")
		testkit.Run(t, "qemu-img", append(convert, theirs)...)
		if why := libyalDiff(t, python, c.library, m, dir, theirs); why != "" {
			t.Skipf("%s: reads no image of QEMU, either: %s", c.refused, why)
		}
	}
	ours(t, append(convert, image)...)
	if !c.fixed {
		libyalChange(t, r, c.format, image, m)
	}
	if why := libyalDiff(t, python, c.library, m, dir, image); why != "" {
		t.Fatal(why)
	}
	said := testkit.Run(t, c.library+"info", image)
	if !regexp.MustCompile(c.says).MatchString(said) || !strings.Contains(said, fmt.Sprintf("(%d bytes)", len(disk))) {
		t.Errorf("disk of %d bytes: %s", len(disk), said)
	}
	if c.overlay == "-" {
		return
	}
	child := filepath.Join(dir, "child."+c.format)
	ours(t, append(append([]string{"create", "-q", "-f", c.format, "-b", filepath.Base(image), "-F", c.format}, words(c.overlay)...), child)...)
	libyalChange(t, r, c.format, child, m)
	if why := libyalDiff(t, python, c.library, m, dir, child, image); why != "" {
		t.Fatal("overlay: ", why)
	}
}

// libyalChange writes here and there.
func libyalChange(t *testing.T, r *rand.Rand, format, path string, m *testkit.Model) {
	t.Helper()
	img := openUnits(t, unitFormat{name: format}, path, true)
	for range 12 {
		off := r.Int64N(m.Size()) &^ 511
		p := make([]byte, min(512*(1+r.Int64N(pick[int64](r, 4, 300))), m.Size()-off))
		testkit.FillDisk(r, p)
		if _, err := img.WriteAt(t.Context(), p, off); err != nil {
			t.Fatal(err)
		}
		m.Write(p, off)
	}
	closeLibrary(t, img)
}

// libyalDiff says what a library finds wrong with an image, or reads otherwise.
func libyalDiff(t *testing.T, python, library string, m *testkit.Model, dir string, paths ...string) string {
	t.Helper()
	step := 1 << 20
	if library == "qcow" && len(paths) > 1 {
		step = 4 << 10 // see TestLibyalLimits
	}
	return libyalDiffBy(t, python, library, step, m, dir, paths...)
}

// libyalDiffBy is libyalDiff for requests of step bytes.
func libyalDiffBy(t *testing.T, python, library string, step int, m *testkit.Model, dir string, paths ...string) string {
	t.Helper()
	out := filepath.Join(dir, "read")
	_, errs, code := testkit.Try(t, python, append([]string{"-c", libyalReader, library, fmt.Sprint(step), libyalPassword, out}, paths...)...)
	if code != 0 {
		lines := strings.Split(strings.TrimSpace(errs), "\n")
		return lines[len(lines)-1]
	}
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(got)) != m.Size() {
		return fmt.Sprintf("%d bytes, want %d", len(got), m.Size())
	}
	return m.Diff(got, 0)
}

// TestLibyalLimits: images that the libraries read wrongly, those of QEMU as ours. If they
// read those of QEMU, they must read ours.
func TestLibyalLimits(t *testing.T) {
	tools := needCLI(t)
	for _, c := range []struct {
		name, library, format string
		create                string
		parent                bool
		step                  int
	}{
		{name: "an entry for zeroes is taken for a place in the file", library: "vmdk", format: "vmdk", create: "-o zeroed_grain=on", step: 64 << 10},
		{name: "the flag for zeroes is not looked at", library: "qcow", format: "qcow2", step: 64 << 10},
		{name: "all of a request that begins where the image has nothing is read from the parent", library: "qcow", format: "qcow2", create: "-o compat=0.10", parent: true, step: 1 << 20},
		{name: "tables that are not there are looked for in the header", library: "qcow", format: "qcow", parent: true, step: 512},
	} {
		t.Run(c.name, func(t *testing.T) {
			python := needLibyal(t, c.library)
			for _, program := range []string{tools.img, tools.ours} {
				dir := t.TempDir()
				args, names := words("create -q -f "+c.format+" "+c.create), []string{"image"}
				if c.parent {
					runIn(t, dir, program, "create", "-q", "-f", c.format, "base", "8M")
					runIn(t, dir, tools.io, "-f", c.format, "-c", "write -q -P 3 0 8M", "base")
					args, names = append(args, "-b", "base", "-F", c.format), append(names, "base")
				}
				runIn(t, dir, program, append(args, "image", "8M")...)
				if o := runIn(t, dir, tools.io, "-f", c.format, "-c", "write -q -P 5 64k 512k", "-c", "write -q -z 128k 128k", "-c", "write -q -P 6 5M 1k", "image"); o.code != 0 {
					t.Fatal(o.stderr)
				}
				if o := runIn(t, dir, tools.img, "convert", "-f", c.format, "-O", "raw", "image", "raw"); o.code != 0 {
					t.Fatal(o.stderr)
				}
				disk, err := os.ReadFile(filepath.Join(dir, "raw"))
				if err != nil {
					t.Fatal(err)
				}
				m := testkit.NewModel(int64(len(disk)))
				m.Write(disk, 0)
				for i := range names {
					names[i] = filepath.Join(dir, names[i])
				}
				switch why := libyalDiffBy(t, python, c.library, c.step, m, dir, names...); {
				case why != "" && program == tools.img:
					t.Skip("an image of QEMU: ", why)
				case why != "":
					t.Error(why)
				}
			}
		})
	}
}

// needLibyal returns a Python that has the module of a library. Debian has them for its
// own Python, which need not be the first.
func needLibyal(t *testing.T, library string) string {
	t.Helper()
	testkit.Tool(t, "qemu-img")
	testkit.Tool(t, library+"info")
	for _, python := range []string{"python3", "/usr/bin/python3"} {
		if exec.Command(python, "-c", "import py"+library).Run() == nil {
			return python
		}
	}
	t.Skipf("no Python module of lib%s, which ./test.sh setup installs (python3-lib%[1]s)", library)
	return ""
}
