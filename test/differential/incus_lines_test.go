package differential

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// incusDefinitions are definitions for incusLines, by their names.
var incusDefinitions = map[string]string{
	"d":       "packages: {manager: apt}",
	"unknown": "packages: {manager: apt}\nfoo: 1", "type": "packages: {manager: apt, update: 7}", "part": "packages: {manager: apt}\ntargets: {incus: {vm: {nope: 1}}}",
	"downloader": "packages: {manager: apt}\nsource: {downloader: nope}", "manager": "packages: {manager: nope}", "none": "packages: {}",
	"set": "packages: {manager: apt, sets: [{packages: [a], action: nope}]}", "trigger": "packages: {manager: apt}\nactions: [{trigger: never, action: x}]",
	"generator": "packages: {manager: apt}\nfiles: [{generator: nope, path: /x}]", "map": "packages: {manager: apt}\nmappings: {architecture_map: nope}",
	"filter": "packages: {manager: apt}\nfiles: [{generator: dump, path: /x, types: [nope]}]", "syntax": "packages: [",
}

// incusLines are command lines. The words of distrobuilder about them are compared with
// ours, but for those after a "#": they tell how ours differ, and the exit code is compared.
const incusLines = `validate d.yaml
validate
validate d.yaml d.yaml
validate nofile.yaml
validate unknown.yaml
validate type.yaml
validate part.yaml
validate downloader.yaml
validate manager.yaml
validate none.yaml
validate set.yaml
validate trigger.yaml
validate generator.yaml
validate map.yaml
validate filter.yaml # the line, too
validate syntax.yaml # the place of the mistake
validate root
validate empty.yaml
validate d.yaml -o image.release=2
validate d.yaml -o image
validate d.yaml -o image.nope=1
validate d.yaml -o image=1
validate d.yaml -o packages.update=perhaps
validate d.yaml -o packages.update=true
validate d.yaml -o targets.incus.vm.size=abc
validate d.yaml -o targets.incus.vm.size=-1
validate d.yaml -o targets.incus.vm.size=1000
validate d.yaml -o packages.sets.0.action=install
validate d.yaml -o nope.x=1
validate d.yaml -o =
validate d.yaml -o image.release=1,image.variant=x
validate d.yaml -o source.downloader=nope
validate d.yaml -o image.release=1 --options image.release=3
validate d.yaml --options
validate d.yaml --timeout 5
validate d.yaml --timeout x
validate d.yaml --timeout=-1
validate d.yaml -t
validate d.yaml -t5
validate d.yaml --debug
validate d.yaml --debug=false
validate d.yaml --debug=perhaps
validate d.yaml --nope
validate d.yaml -x
validate d.yaml --cleanup=false
validate d.yaml --disable-overlay
validate --cache-dir cache d.yaml
nope
nope d.yaml
--nope
--debug nope
--version
version
help nope # nothing is removed
pack-incus
pack-incus d.yaml
pack-incus d.yaml root a b
pack-incus nofile.yaml root out
pack-incus d.yaml nodir out # the words of overlays and rsync
pack-incus d.yaml root out --type x
pack-incus d.yaml root out --type
pack-incus d.yaml root out --type=
pack-incus d.yaml root out --compression
pack-incus d.yaml root out --compression xz-9
pack-incus d.yaml root out --compression lzma-3
pack-incus d.yaml root out --compression none
pack-incus d.yaml root out --compression bzip2
pack-incus d.yaml root out --compression lz4-1
pack-incus d.yaml root out --compression lzip # why it is refused
pack-incus d.yaml root out --compression foo # what there is
pack-incus d.yaml root out --compression zstd-23 # the level as a number, not as a character
pack-incus d.yaml root out --compression gzip-10 # the same
pack-incus d.yaml root out --vm=perhaps
pack-incus d.yaml root out --keep-sources
pack-incus d.yaml root out --sources-dir x
pack-incus d.yaml root out --with-post-files
pack-incus d.yaml root out --compression gzip
pack-incus d.yaml root out --compression gzip --debug
pack-incus d.yaml root out --compression gzip --cleanup=false
pack-incus --type unified --compression gzip-1 d.yaml root out
--debug pack-incus -o image.release=7 --compression=gzip d.yaml root out --type=unified
pack-incus unknown.yaml root out
pack-incus generator.yaml root out --compression gzip
pack-incus trigger.yaml root out
pack-incus d.yaml root out --import-into-incus --compression gzip # the words of the client
build-incus
build-incus a b c
build-incus nofile.yaml out
build-incus d.yaml out --type x
build-incus d.yaml out --compression xz-1
build-incus d.yaml out --compression none
build-incus d.yaml out --sources-dir sources # that the source has no URL
build-incus downloader.yaml out
build-incus d.yaml out --no-such-flag
build-dir
build-dir d.yaml
build-dir d.yaml x y
build-dir nofile.yaml out
build-dir d.yaml out --sources-dir sources # that the source has no URL
build-dir d.yaml out --type split
build-dir d.yaml out --vm`

// incusWords is what a command said, without what is different each time: times, the
// help after mistakes, notes, and what other programs print.
func incusWords(o outcome) string {
	out := regexp.MustCompile(`time="[^"]*"`).ReplaceAllString(o.stdout, "time")
	out = regexp.MustCompile(`(?m)^time level=(warning|debug) .*\n`).ReplaceAllString(out, "")
	out = regexp.MustCompile(`(?ms)^Parallel mksquashfs.*?(^time|\z)`).ReplaceAllString(out, "$1")
	errs := regexp.MustCompile(`(?ms)^Usage:\n.*?(^Failed running distrobuilder|\z)`).ReplaceAllString(o.stderr, "usage\n$1")
	return out + "--\n" + errs
}

// TestIncusCommandLines compares what both programs say about command lines, their exit
// codes and the names of the files that they make.
func TestIncusCommandLines(t *testing.T) {
	testkit.Root(t)
	theirs := distrobuilder(t)
	ours, dir := packer(t)
	for name, text := range incusDefinitions {
		if !strings.Contains(text, "source:") {
			text += "\nsource: {downloader: rootfs-http}"
		}
		if err := os.WriteFile(filepath.Join(dir, name+".yaml"), []byte("image: {distribution: tiny, release: \"1\", architecture: x86_64, serial: \"1\"}\n"+text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	succeed(t, dir, "sh", "-c", ": >empty.yaml; mkdir -p root/etc; echo root:x:0:0::/: >root/etc/passwd; echo root:x:0: >root/etc/group")
	t.Setenv("INCUS_SOCKET", filepath.Join(dir, "no.socket"))
	for line := range strings.Lines(incusLines) {
		line, differs, _ := strings.Cut(strings.TrimSpace(line), " # ")
		var said [2]string
		var codes [2]int
		for i, program := range []string{theirs, ours} {
			succeed(t, dir, "sh", "-c", "rm -rf out && mkdir out")
			args := strings.Fields(line)
			if i == 0 && strings.Contains(line, "pack-incus") && !strings.Contains(line, "cache") && len(args) > 3 {
				args = append([]string{"--cache-dir", filepath.Join(dir, "cache")}, args...)
			}
			o := runIn(t, dir, program, args...)
			list, err := filepath.Glob(filepath.Join(dir, "out", "*"))
			if err != nil {
				t.Fatal(err)
			}
			said[i], codes[i] = incusWords(o)+"files "+strings.Join(list, " "), o.code
		}
		if codes[0] != codes[1] || differs == "" && said[0] != said[1] {
			t.Errorf("%s: exit codes %d, %d\ntheirs:\n%s\nours:\n%s", line, codes[0], codes[1], said[0], said[1])
		}
	}
}
