package differential

import (
	"regexp"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// unitsTable holds command lines for all formats whose disk is a table of units. @ stands
// for the format; new is a file that is not there. A session, of lines joined by " && ",
// runs in a folder of its own.
const unitsTable = `
create -f @ -o help
create -f @ -o help new
create -f @ new 1M && info new && info --output=json new && check new && map --output=json new && compare new empty.@
create -f @ new 0 && info new && map new
create -f @ new 1000 && info new
create -f @ new 5000000 && info new
create -f @ new 64T
create -f @ new 8E
create -f @ new -1
create -f @ new
create -f @ -o foo=bar new 1M
create -f @ -o size=1M new
create -q -f @ new 1M
create -f @ -b base.raw -F raw new
create -f @ -b nowhere -F raw new
create -u -f @ -b base.raw -F raw new 1M
create -f @ -o preallocation=full new 1M
create -f @ -o preallocation=falloc new 1M
create -f @ -o preallocation=metadata new 1M
create -f @ -o encryption=on new 1M
create -f @ missing/new 1M
info a.@
info --output=json a.@
info --backing-chain --output=json a.@
info --image-opts driver=@,file.filename=a.@
info --image-opts driver=@,file.filename=a.@,foo=1
info -f @ base.raw
info -f raw a.@
info -f @ tiny
check empty.@
check -f @ base.raw
check --output=json -f @ nowhere
map a.@
map --output=json a.@
map --output=json -s 64k -l 128k a.@
measure -O raw a.@
measure -O raw --output=json -f @ a.@
measure -f @ -O qcow2 a.@
convert -O @ base.raw new && compare base.raw new && compare -s -f raw -F @ base.raw new
convert -f raw -O @ -S 4k base.raw new && compare -f raw -F @ base.raw new
convert -O qcow2 a.@ new && compare a.@ new
convert -f @ -O raw a.@ new && compare -f @ -F raw a.@ new
convert -W -m 4 -O @ a.@ new && compare a.@ new
convert -c -O @ base.raw new
convert -O @ -o foo=1 base.raw new
convert -O @ -o preallocation=metadata base.raw new
convert -n -O @ base.raw a.@ && compare -f raw -F @ base.raw a.@
convert -n -O @ large.raw a.@
convert -O @ -B base.raw -F raw base.raw new
convert -f @ -O raw tiny new
resize a.@ 1M
resize --shrink a.@ 1M
resize a.@ +1M && info a.@
resize --preallocation=full a.@ 20M
resize a.@
rebase -u -b base.raw -F raw a.@
rebase -b base.raw -F raw a.@
rebase -u -b '' a.@
commit a.@
snapshot -l a.@
snapshot -c one a.@
snapshot -a one a.@
snapshot -d one a.@
amend -f @ -o size=8M a.@
amend -f @ -o help
compare a.@ base.raw
compare a.@ a.@
compare -s a.@ empty.@
dd -f @ -O @ bs=64k if=a.@ of=new count=3 && compare new base.raw
dd -O raw bs=1M if=a.@ of=new && compare a.@ new
`

// unitsOwn holds command lines for one format each.
var unitsOwn = map[string]string{
	"vdi": `
create -f vdi -o static=on new 3M && info new && compare -s new base.raw
create -f vdi -o static=maybe new 3M
create -f vdi -o cluster_size=64k new 3M
create -f vdi new 512T
create -f vdi new 1024T
convert -O vdi -o static=on base.raw new && compare base.raw new
info version.vdi
info table.vdi
info data.vdi
info sector.vdi
info size.vdi
info link.vdi
info parent.vdi
info blocks.vdi
check twice.vdi
check count.vdi
check large.vdi
map --output=json large.vdi
`,
	"qed": `
create -f qed -o cluster_size=4k new 3M && info new && check new
create -f qed -o cluster_size=3k new 3M
create -f qed -o cluster_size=128M new 3M
create -f qed -o table_size=3 new 3M
create -f qed -o table_size=32 new 3M
create -f qed -o table_size=16 new 3M && info new
create -f qed -o cluster_size=4k,table_size=2 new 1T
create -f qed -o cluster_size=64M,table_size=16 new 1M
create -f qed -b a.qed -F qed new && info new && info --output=json new && map --output=json new
create -f qed -b base.raw -F raw new && info new && info --output=json --backing-chain new
create -f qed -b base.raw new
create -f qed -b a.qed -F bogus new
resize a.qed +1 && info a.qed
resize a.qed 64T && info a.qed
resize a.qed 65T
rebase -u -b over.qed -F qed a.qed && info a.qed
rebase -b '' over.qed && map --output=json over.qed && compare over.qed a.qed
commit over.qed && compare over.qed a.qed && check over.qed
info magic.qed
info features.qed
info cluster.qed
info table.qed
info size.qed
info l1.qed
check twice.qed
check -r all dirty.qed && info dirty.qed
info dirty.qed
check lost.qed
check --output=json lost.qed
`,
	"qcow": `
create -f qcow -b a.qcow -F qcow new && info new && info --output=json new && map --output=json new
create -f qcow -b base.raw -F raw new && info new && info --output=json --backing-chain new
create -f qcow -b a.qcow -F bogus new
create -f qcow -o encryption=on,encrypt.key-secret=s new 1M
create --object secret,id=s,data=abc -f qcow -o encryption=on,encrypt.key-secret=s new 1M && info new && info --output=json new
create --object secret,id=s,data=abc -f qcow -o encrypt.format=aes,encrypt.key-secret=s new 1M && info new
create --object secret,id=s,data=abc -f qcow -o encrypt.format=luks,encrypt.key-secret=s new 1M
create -f qcow -o encrypt.key-secret=s new 1M
create -f qcow -o encrypt.format=aes new 1M
convert --object secret,id=s,data=abc -O qcow -o encrypt.format=aes,encrypt.key-secret=s base.raw new && compare --object secret,id=s,data=abc --image-opts driver=qcow,file.filename=new,encrypt.key-secret=s driver=raw,file.filename=base.raw
commit over.qcow && compare over.qcow a.qcow
map --output=json over.qcow
convert -O raw over.qcow new && compare over.qcow new
convert -O raw packed.qcow new && compare packed.qcow base.raw
map --output=json packed.qcow
info magic.qcow
info version.qcow
info two.qcow
info bits.qcow
info l2.qcow
info size.qcow
info zero.qcow
info crypt.qcow
info name.qcow
`,
	"parallels": `
create -f parallels -o cluster_size=64k new 3M && info new && check new
create -f parallels -o cluster_size=0 new 3M
create -f parallels -o cluster_size=1000 new 3M && check --output=json new
create -f parallels -o cluster_size=4G new 3M
create -f parallels -o cluster_size=1k new 1P
info magic.parallels
info tracks.parallels
info big.parallels
info catalog.parallels
info ext.parallels
info old.parallels
check twice.parallels
check --output=json twice.parallels
check -r all twice.parallels && check twice.parallels
check outside.parallels
check -r all outside.parallels
check used.parallels
check -r leaks used.parallels
check -r all used.parallels && info used.parallels
check leak.parallels
check -r leaks leak.parallels && check --output=json leak.parallels
check -r all leak.parallels
check off.parallels
check -r all off.parallels
create -f parallels -o foo=1,bar=2 new 3M
create -f parallels -o cluster_size=bar,foo=1 new 3M
convert -O parallels -o foo=1,cluster_size=bar base.raw new
convert --bitmaps -O qcow2 a.parallels new && info new
convert --bitmaps -O raw a.parallels new
convert --bitmaps -O parallels a.parallels new
`,
	"vpc": `
create -f vpc -o subformat=fixed new 3M && info -f vpc new && info new
create -f vpc -o subformat=fixed,force_size=on new 3M && info -f vpc new
create -f vpc -o subformat=foo new 3M
create -f vpc -o force_size=on new 5000000 && info new
create -f vpc -o force_size=maybe new 3M
create -f vpc new 100M && info new
create -f vpc new 8G && info new
create -f vpc new 127G && info new
create -f vpc new 128G && info new
create -f vpc new 2040G && info new
create -f vpc new 2041G
convert -O vpc -o subformat=fixed,force_size=on base.raw new && compare -f raw -F vpc base.raw new
convert -O vpc -o force_size=on base.raw new && compare base.raw new
info --image-opts driver=vpc,file.filename=a.vpc,force_size_calc=current_size
info --image-opts driver=vpc,file.filename=a.vpc,force_size_calc=chs
info --image-opts driver=vpc,file.filename=a.vpc,force_size_calc=foo
info sum.vpc
info dynamic.vpc
info block.vpc
`,
	"vhdx": `
create -f vhdx -o block_size=1M new 3M && info new && check new && compare empty.vhdx new
create -f vhdx -o block_size=256M new 3M && info new
create -f vhdx -o block_size=512M new 3M && info new
create -f vhdx -o block_size=3M new 3M
create -f vhdx -o block_size=1000 new 3M && info new
create -f vhdx -o log_size=0 new 3M
create -f vhdx -o log_size=4G new 3M
create -f vhdx -o log_size=3000000 new 3M && info new && check new
create -f vhdx -o subformat=fixed new 3M && info new && check new
create -f vhdx -o subformat=fixed,block_state_zero=off,block_size=1M new 3M && info --output=json new && compare new empty.vhdx
create -f vhdx -o subformat=foo new 3M
create -f vhdx -o block_state_zero=off new 3M && info new && compare new empty.vhdx
create -f vhdx -o block_state_zero=maybe new 3M
create -f vhdx new 65T
create -f vhdx new 33T && info new
create -f vhdx new 200G && info new
create -f vhdx new 2G && info new
convert -O vhdx -o subformat=fixed base.raw new && compare base.raw new
convert -O vhdx -o block_size=1M base.raw new && compare base.raw new && compare new a.vhdx
info log.vhdx
info magic.vhdx
info first.vhdx
info heads.vhdx
info version.vhdx
check beyond.vhdx
check -r all a.vhdx
`,
}

// unitsFixtures makes the images of the table. poke FILE OFFSET BYTES… writes bytes given
// in octal.
const unitsFixtures = `
set -e
poke() { f=$1; at=$2; shift 2; printf "$*" | dd of=$f bs=1 seek=$at conv=notrunc status=none; }
truncate -s 3M base.raw
"$IO" -f raw -c 'write -P 5 64k 128k' -c 'write -P 6 2000k 300k' base.raw
truncate -s 30M large.raw
printf 'x' >tiny
for f in vdi qed parallels vpc qcow vhdx; do
	"$IMG" create -f $f empty.$f 1M
	"$IMG" create -f $f a.$f 5M
	"$IO" -f $f -c 'write -P 5 64k 128k' -c 'write -P 6 2000k 300k' -c 'write -P 7 4M 64k' a.$f
done
damaged() { cp a.$1 $2.$1; }
damaged vdi version; poke version.vdi 68 '\002\000\003\000'
damaged vdi table; poke table.vdi 340 '\001\002'
damaged vdi data; poke data.vdi 344 '\001\004'
damaged vdi sector; poke sector.vdi 361 '\020'
damaged vdi size; poke size.vdi 374 '\377\377'
damaged vdi link; poke link.vdi 424 'x'
damaged vdi parent; poke parent.vdi 440 'x'
damaged vdi blocks; poke blocks.vdi 384 '\001'
damaged vdi twice; poke twice.vdi 516 '\000\000\000\000'
damaged vdi count; poke count.vdi 388 '\001'
damaged vdi large; poke large.vdi 516 '\020\000\000\000'
"$IMG" create -f qed -b a.qed -F qed over.qed
"$IO" -f qed -c 'write -P 9 1M 200k' -c 'write -z 128k 64k' over.qed
"$IMG" create -f qcow -b a.qcow -F qcow over.qcow
"$IO" -f qcow -c 'write -P 9 1M 200k' over.qcow
"$IMG" convert -c -O qcow base.raw packed.qcow || true
damaged qcow magic; poke magic.qcow 0 'X'
damaged qcow version; poke version.qcow 7 '\011'
damaged qcow two; poke two.qcow 7 '\002'
damaged qcow bits; poke bits.qcow 32 '\021'
damaged qcow l2; poke l2.qcow 33 '\005'
damaged qcow size; poke size.qcow 24 '\377'
damaged qcow zero; poke zero.qcow 24 '\000\000\000\000\000\000\000\000'
damaged qcow crypt; poke crypt.qcow 39 '\002'
damaged qcow name; poke name.qcow 15 '\060\000\000\377'
damaged qed magic; poke magic.qed 0 'X'
damaged qed features; poke features.qed 17 '\001'
damaged qed cluster; poke cluster.qed 4 '\001'
damaged qed table; poke table.qed 8 '\003'
damaged qed size; poke size.qed 48 '\001'
damaged qed l1; poke l1.qed 40 '\001'
damaged qed twice; poke twice.qed 458768 '\000\000\005\000'
damaged qed lost; poke lost.qed 458768 '\000\000\000\000\000'
damaged qed dirty; poke dirty.qed 16 '\002'
damaged parallels magic; poke magic.parallels 0 'X'
damaged parallels tracks; poke tracks.parallels 28 '\000\000'
damaged parallels big; poke big.parallels 31 '\177'
damaged parallels catalog; poke catalog.parallels 35 '\177'
damaged parallels ext; poke ext.parallels 63 '\177'
damaged parallels old; poke old.parallels 0 'WithoutFreeSpace'; poke old.parallels 64 '\000\010\000\000'
damaged parallels twice; poke twice.parallels 72 '\001'
damaged parallels outside; poke outside.parallels 68 '\020'
damaged parallels used; poke used.parallels 44 'Ynot'
damaged parallels leak; truncate -s +3000000 leak.parallels
damaged parallels off; poke off.parallels 48 '\001\000'
damaged vhdx magic; poke magic.vhdx 0 'X'
damaged vhdx first; poke first.vhdx 65536 'X'
damaged vhdx heads; poke heads.vhdx 65536 'X'; poke heads.vhdx 131072 'X'
damaged vhdx version; poke version.vhdx 65602 '\002'; poke version.vhdx 131138 '\002'
damaged vhdx log; poke log.vhdx 65609 '\001'; poke log.vhdx 131145 '\001'
damaged vhdx beyond; poke beyond.vhdx 2097155 '\177'
damaged vpc sum; poke sum.vpc 70 'x'
damaged vpc dynamic; poke dynamic.vpc 512 'X'
damaged vpc block; poke block.vpc 546 '\001'
`

// unitsDifferences are the command lines in which we differ on purpose, by format and
// session.
func unitsDifferences() map[string]string {
	d := map[string]string{
		"vdi: check twice.vdi": "ours counts blocks",
		"vdi: check count.vdi": "ours counts blocks",
		"vdi: check large.vdi": "ours counts blocks; a block that nothing refers to is a leak",
		"qed: info dirty.qed":  "QEMU has taken back the mark in memory by then",
		"vpc: create -f vpc new 1M && info new && info --output=json new && check new && map --output=json new && compare new empty.vpc": "QEMU has no check",
		"vpc: check empty.vpc":               "QEMU has no check",
		"vpc: info sum.vpc":                  "the other copy of the footer will do",
		"parallels: check outside.parallels": "QEMU aborts",
	}
	d["qcow: create -f qcow new 0 && info new && map new"] = "ours leaves nothing behind"
	d["qcow: convert -c -O qcow base.raw new"] = "QEMU exits with 1 and says nothing"
	for line, why := range map[string]string{
		"check beyond.vhdx":                       "ours calls the entry what the other formats do",
		"check -f vhdx base.raw":                  "QEMU does not say why",
		"info -f vhdx base.raw":                   "QEMU does not say why",
		"info -f vhdx tiny":                       "QEMU does not say why",
		"convert -f vhdx -O raw tiny new":         "QEMU does not say why",
		"map a.vhdx":                              "QEMU does not tell where data is",
		"map --output=json a.vhdx":                "QEMU does not tell where data is",
		"map --output=json -s 64k -l 128k a.vhdx": "QEMU does not tell where data is",
		"create -f vhdx new 1M && info new && info --output=json new && check new && map --output=json new && compare new empty.vhdx": "QEMU does not tell where data is",
	} {
		d["vhdx: "+line] = why
	}
	for _, f := range []string{"vdi", "vpc", "vhdx"} {
		for _, line := range []string{"convert -O @ -B base.raw -F raw base.raw new", "create -f @ -b base.raw -F raw new", "create -f @ -b nowhere -F raw new",
			"create -u -f @ -b base.raw -F raw new 1M"} {
			d[f+": "+strings.ReplaceAll(line, "@", f)] = "QEMU makes no differencing images of the format"
		}
	}
	for _, f := range []string{"vdi", "vpc", "parallels", "vhdx"} {
		for _, line := range []string{"resize --shrink a.@ 1M", "resize a.@ +1M && info a.@", "resize --preallocation=full a.@ 20M"} {
			d[f+": "+strings.ReplaceAll(line, "@", f)] = "QEMU does not resize this format"
		}
	}
	return d
}

var unitsVolatile = regexp.MustCompile(`file length: .*`)

// TestUnitsCommands runs the command lines beside QEMU: all of them in the long
// form, a part every day.
func TestUnitsCommands(t *testing.T) {
	tools := needCLI(t)
	base := scriptDir(t, tools, unitsFixtures)
	shared := [2]string{copyTree(t, base), copyTree(t, base)}
	differences := unitsDifferences()
	n := 0
	t.Run("lines", func(t *testing.T) {
		for _, f := range unitFormats {
			for line := range strings.Lines(strings.ReplaceAll(unitsTable, "@", f.name) + unitsOwn[f.name]) {
				if line = strings.TrimSpace(line); line == "" {
					continue
				}
				why := differences[f.name+": "+line]
				delete(differences, f.name+": "+line)
				if n++; !testkit.Sample(n, 4) {
					continue
				}
				t.Run(f.name+": "+line[:min(len(line), 100)], func(t *testing.T) {
					t.Parallel()
					dirs := shared
					if !readOnlyLine(line) {
						dirs = [2]string{copyTree(t, base), copyTree(t, base)}
					}
					unitsSession(t, tools, dirs, line, why)
				})
			}
		}
	})
	for line := range differences {
		t.Errorf("intended difference %q is not in the table", line)
	}
}

// unitsSession runs a session with both programs in folders of their own. why is the reason
// for a difference, "" if there is none.
func unitsSession(t *testing.T, tools cliBinaries, dirs [2]string, session, why string) {
	plain := func(s string) string { return unitsVolatile.ReplaceAllString(normal(s), "") }
	differs := false
	for line := range strings.SplitSeq(session, " && ") {
		want := runIn(t, dirs[0], tools.img, words(line)...)
		got := runIn(t, dirs[1], tools.ours, words(line)...)
		if got.code == want.code && plain(got.stderr) == plain(want.stderr) &&
			(sameOutput(trimLengths(got.stdout), trimLengths(want.stdout)) || plain(got.stdout) == plain(want.stdout)) {
			continue
		}
		if differs = true; why == "" {
			t.Errorf("%s: exit code %d\n%s%s\nwant %d\n%s%s", line, got.code, got.stdout, got.stderr, want.code, want.stdout, want.stderr)
		}
	}
	if why != "" && !differs {
		t.Errorf("listed as an intended difference (%s), but there is none", why)
	}
}
