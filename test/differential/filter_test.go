package differential

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/drivers"
)

// filterImages makes what the command lines of TestFilters work on.
func filterImages(t *testing.T, tools cliBinaries) string {
	t.Helper()
	dir := t.TempDir()
	must := func(o outcome) {
		t.Helper()
		if o.code != 0 {
			t.Fatalf("%s%s", o.stdout, o.stderr)
		}
	}
	must(runIn(t, dir, tools.img, "create", "-q", "-f", "qcow2", "x.qcow2", "10M"))
	must(runIn(t, dir, tools.io, "-c", "write -P 1 1M 64k", "-c", "write -P 2 3M 64k", "x.qcow2"))
	must(runIn(t, dir, tools.img, "convert", "-O", "raw", "x.qcow2", "x.raw"))
	must(runIn(t, dir, tools.img, "create", "-q", "-f", "qcow2", "z.qcow2", "5M"))
	must(runIn(t, dir, tools.img, "create", "-q", "-f", "raw", "zero.raw", "10M"))
	must(runIn(t, dir, tools.img, "create", "-q", "-f", "raw", "log", "1M"))
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o700); err != nil {
		t.Fatal(err)
	}
	must(runIn(t, dir, tools.img, "create", "-q", "-f", "qcow2", "d/base.qcow2", "1M"))
	must(runIn(t, dir, tools.img, "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "d/over.qcow2", "1M"))
	for name, text := range map[string]string{
		"rules": "[inject-error]\nevent = \"read_aio\"\nerrno = \"28\"\n\n[set-state]\nstate = \"1\"\nevent = \"flush_to_disk\"\nnew_state = \"2\"\n",
		"bad1":  "[inject-error]\nevent = \"l2_loadx\"\n",
		"bad2":  "[nope]\nevent = \"l2_load\"\n",
		"bad3":  "[inject-error]\nevent = l2_load\n",
		"bad4":  "[inject-error]\nfoo = \"x\"\n",
		"bad5":  "[inject-error]\nerrno = \"5\"\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestFilters compares what commands print of nodes below filters. Where ours says more
// than QEMU, the words that it must have are given.
func TestFilters(t *testing.T) {
	t.Parallel()
	tools := needCLI(t)
	dir := filterImages(t, tools)
	const (
		two     = "children.0.file.filename=x.qcow2,children.1.file.filename="
		onto    = "driver=qcow2,file.driver=blkdebug,file.image.filename=x.qcow2,file."
		quorum  = "driver=quorum,vote-threshold="
		verify  = "the comparison ends QEMU's program; ours says where and goes on to clean up"
		numbers = "QEMU aborts"
	)
	for _, c := range []struct {
		image string   // a file name, or options
		flags []string // before the image
		not   []string // commands whose errors are worded otherwise: see why
		why   string
	}{
		{image: "blkdebug::x.qcow2"},
		{image: "blkdebug:x.qcow2"},
		{image: "blkdebug:bad1:x.qcow2"},
		{image: "blkdebug:bad2:x.qcow2"},
		{image: "blkdebug:bad3:x.qcow2"},
		{image: "blkdebug:bad4:x.qcow2"},
		{image: "blkdebug:bad5:x.qcow2"},
		{image: onto + "align=4096"},
		{image: onto + "align=100"},
		{image: onto + "max-transfer=65536"},
		{image: onto + "align=512,max-transfer=700"},
		{image: onto + "opt-write-zero=4096,max-write-zero=65536"},
		{image: onto + "opt-discard=4096,max-discard=5000"},
		{image: onto + "inject-error.0.event=nope"},
		{image: onto + "inject-error.0.event=cluster_alloc,inject-error.0.iotype=read"},
		{image: onto + "inject-error.0.event=cluster_alloc,inject-error.0.iotype=nope"},
		{image: onto + "config=nope"},
		{image: onto + "config=rules", not: []string{"convert"}, why: "one line of ours names all that failed"},
		{image: "driver=qcow2,file.driver=blkdebug,file.config=rules"},
		{image: "blkverify:x.raw"},
		{image: "blkverify:x.raw:x.qcow2"},
		{image: "driver=blkverify,raw.driver=qcow2,raw.file.filename=x.qcow2,test.file.filename=x.qcow2"},
		{image: "blkverify:zero.raw:x.qcow2", not: []string{"info", "info --output=json", "map", "map --output=json", "check", "convert"}, why: verify},
		{image: "driver=compress,file.driver=qcow2,file.file.filename=x.qcow2"},
		{image: "driver=compress,file.driver=file,file.filename=x.raw"},
		{image: "driver=compress,file.driver=raw,file.file.filename=x.raw"},
		{image: "driver=copy-on-read,file.driver=qcow2,file.file.filename=x.qcow2"},
		{image: "driver=preallocate,file.driver=file,file.filename=x.qcow2"},
		{image: "driver=preallocate,prealloc-align=100,file.driver=file,file.filename=x.qcow2"},
		{image: "driver=quorum," + two + "x.qcow2"},
		{image: quorum + "0," + two + "x.qcow2"},
		{image: quorum + "1"},
		{image: quorum + "3," + two + "x.qcow2"},
		{image: quorum + "2," + two + "z.qcow2"},
		{image: quorum + "2," + two + "x.raw", not: []string{"map"}, why: "ours prints the table's head first"},
		{image: quorum + "1,read-pattern=fifo," + two + "x.raw", not: []string{"map"}, why: "ours prints the table's head first"},
		{image: quorum + "1,read-pattern=foo," + two + "x.raw"},
		{image: quorum + "1,blkverify=on," + two + "x.raw"},
		{image: quorum + "2,blkverify=on,rewrite-corrupted=on," + two + "x.raw"},
		{image: quorum + "2," + two + "zero.raw", not: []string{"map", "convert"}, why: "ours says which bytes have no majority"},
		{image: "driver=blklogwrites,file.filename=x.raw,log.filename=log"},
		{image: "driver=blklogwrites,file.filename=x.raw,log.filename=log,log-sector-size=100"},
		{image: "driver=blklogwrites,file.filename=x.raw,log.filename=log,log-append=on"},
		{image: "driver=throttle,file.filename=x.raw"},
		{image: "driver=throttle,throttle-group=g,file.filename=x.raw"},
		{image: "driver=throttle,throttle-group=g,file.filename=x.raw", flags: []string{"--object", "throttle-group,id=g,limits.iops-total=100000"}},
		{image: "driver=throttle,throttle-group=g,file.driver=qcow2,file.file.filename=x.qcow2", flags: []string{"--object", "throttle-group,id=g,x-bps-read=1000000000"}},
		{image: "driver=snapshot-access,file.driver=qcow2,file.file.filename=x.qcow2", not: []string{"map", "map --output=json", "convert"}, why: "ours names the image"},
		// A relative backing name: in which directory?
		{image: "blkdebug::d/over.qcow2"},
		{image: "driver=qcow2,file.driver=raw,file.offset=0,file.file.filename=d/over.qcow2"},
		{image: "driver=qcow2,file.driver=quorum,file.vote-threshold=1,file.children.0.driver=file,file.children.0.filename=d/over.qcow2"},
		{image: "driver=qcow2,file.driver=blkverify,file.raw.filename=d/over.qcow2,file.test.filename=d/over.qcow2"},
		{image: "driver=null-co,read-zeroes=on,size=1M"},
		{image: "driver=null-co,latency-ns=-1"},
		{image: "driver=null-co,latency-ns=abc", not: []string{"info", "info --output=json", "map", "map --output=json", "check", "convert"}, why: numbers},
	} {
		for _, command := range []string{"info", "info --output=json", "map", "map --output=json", "check", "convert"} {
			args := strings.Fields(command)
			if command == "convert" {
				args = append(args, "-O", "raw")
			}
			args = append(args, c.flags...)
			if strings.HasPrefix(c.image, "driver=") {
				args = append(args, "--image-opts")
			}
			args = append(args, c.image)
			if command == "convert" {
				args = append(args, "out.raw")
			}
			if command == "check" && !strings.Contains(c.image, "blkdebug") {
				continue // ours checks what a filter passes through
			}
			differs := false
			for _, n := range c.not {
				differs = differs || n == command
			}
			theirs, ours := runIn(t, dir, tools.img, args...), runIn(t, dir, tools.ours, args...)
			switch {
			case differs && (ours.code == 0) != (theirs.code == 0):
				t.Errorf("%v: exit code %d, want %d", args, ours.code, theirs.code)
			case !differs && ours != theirs:
				t.Errorf("%v:\n%+v\nwant\n%+v", args, ours, theirs)
			}
		}
	}
}

// TestContainersAreRefused: images in formats that have no driver yet are not copied as
// if they were disks.
func TestContainersAreRefused(t *testing.T) {
	t.Parallel()
	tools := needCLI(t)
	dir := t.TempDir()
	starts := map[string]string{"sparseimage": "sprs"} // QEMU makes none
	for _, d := range drivers.All() {
		format := d.Desc().Name
		if !d.Desc().NotBuiltIn {
			continue
		}
		if starts[format] == "" {
			t.Fatalf("how does an image in the format %s begin?", format)
		}
		writeFile(t, filepath.Join(dir, "i."+format), append([]byte(starts[format]), make([]byte, 8192)...))
		for _, args := range [][]string{{"convert", "-O", "qcow2", "i." + format, "out"}, {"info", "i." + format}, {"compare", "i." + format, "i." + format}} {
			o := runIn(t, dir, tools.ours, args...)
			if o.code == 0 || !strings.Contains(o.stderr, "'"+format+"'") || o.stdout != "" {
				t.Errorf("%v: %+v", args, o)
			}
		}
		if _, err := os.Stat(filepath.Join(dir, "out")); err == nil {
			t.Errorf("%s: a target was made", format)
		}
	}
}

// TestCompareReadErrors: compare says where on the disk it could not read, not where in
// the file, and that the sizes differ if it was beyond the end of one disk.
func TestCompareReadErrors(t *testing.T) {
	tools := needCLI(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "fail"), []byte("[inject-error]\nevent = \"read_aio\"\nerrno = \"5\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{tools.img, "create", "-q", "-f", "qcow2", "a.qcow2", "1G"},
		{tools.img, "create", "-q", "-f", "qcow2", "same.qcow2", "1G"},
		{tools.img, "create", "-q", "-f", "qcow2", "empty.qcow2", "0"},
		{tools.io, "-c", "write -P 1 70000 512", "a.qcow2"},
	} {
		if o := runIn(t, dir, args[0], args[1:]...); o.code != 0 {
			t.Fatal(o.stderr)
		}
	}
	for _, args := range [][]string{
		{"compare", "blkdebug:fail:a.qcow2", "same.qcow2"},
		{"compare", "same.qcow2", "blkdebug:fail:a.qcow2"},
		{"compare", "blkdebug:fail:a.qcow2", "empty.qcow2"},
		{"compare", "-q", "blkdebug:fail:a.qcow2", "empty.qcow2"},
	} {
		theirs, ours := runIn(t, dir, tools.img, args...), runIn(t, dir, tools.ours, args...)
		if ours != theirs || ours.code != 4 {
			t.Errorf("%v:\n%+v\nwant\n%+v", args, ours, theirs)
		}
	}
}

// TestCommitCannotEmpty: all is committed, and then the image cannot be emptied.
func TestCommitCannotEmpty(t *testing.T) {
	t.Parallel()
	tools := needCLI(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "fail"), []byte("[inject-error]\nevent = \"empty_image_prepare\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	commit := func(program string) outcome {
		for _, args := range [][]string{
			{tools.img, "create", "-q", "-f", "qcow2", "base.qcow2", "1M"},
			{tools.img, "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2"},
			{tools.io, "-c", "write -P 1 0 64k", "top.qcow2"},
		} {
			if o := runIn(t, dir, args[0], args[1:]...); o.code != 0 {
				t.Fatal(o.stderr)
			}
		}
		o := runIn(t, dir, program, "commit", "blkdebug:fail:top.qcow2")
		if p := runIn(t, dir, tools.io, "-r", "-c", "read -P 1 0 64k", "base.qcow2"); p.code != 0 {
			t.Errorf("not committed: %s", p.stdout)
		}
		return o
	}
	theirs, ours := commit(tools.img), commit(tools.ours)
	if ours != theirs || ours.code != 1 {
		t.Errorf("%+v\nwant\n%+v", ours, theirs)
	}
}

// TestSalvageTellsOfTheMap: a sector of which the map cannot be read is told of wherever it
// lies in a block of the target, and is copied nevertheless.
func TestSalvageTellsOfTheMap(t *testing.T) {
	t.Parallel()
	tools := needCLI(t)
	dir := t.TempDir()
	for _, args := range [][]string{
		{tools.img, "create", "-q", "-f", "raw", "source", "8M"},
		{tools.io, "-f", "raw", "-c", "write -P 42 0 8M", "source"},
	} {
		if o := runIn(t, dir, args[0], args[1:]...); o.code != 0 {
			t.Fatal(o.stderr)
		}
	}
	for _, sector := range []string{"0", "2064", "4097", "16383"} {
		image := `json:{"driver":"blkdebug","image":{"driver":"raw","file":{"driver":"file","filename":"source"}},` +
			`"inject-error":[{"event":"none","iotype":"block-status","errno":5,"sector":` + sector + `}]}`
		convert := func(program string) outcome {
			o := runIn(t, dir, program, "convert", "--salvage", "-O", "raw", image, "target")
			if p := runIn(t, dir, tools.img, "compare", "-f", "raw", "-F", "raw", "source", "target"); p.code != 0 {
				t.Errorf("sector %s: %s", sector, p.stdout)
			}
			return o
		}
		theirs, ours := convert(tools.img), convert(tools.ours)
		if ours != theirs || ours.stderr == "" {
			t.Errorf("sector %s: %+v\nwant\n%+v", sector, ours, theirs)
		}
	}
}
