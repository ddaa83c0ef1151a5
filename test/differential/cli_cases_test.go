package differential

import "strings"

// cliDifferences are the command lines in which we differ on purpose.
var cliDifferences = map[string]string{
	"convert -n --target-is-zero -B a.qcow2 -O qcow2 raw.img mid.qcow2": "QEMU reports the error and exits with 0",
	"measure -O qcow2 -o help --size 1M":                                "QEMU calls help an invalid parameter; the list is of more use",
	"measure -s 1M":                                                     "later versions have the letter",
	"info -t writeback raw.img":                                         "later versions have the letter",
	"convert -b a.qcow2 -F qcow2 -O qcow2 raw.img out":                  "later versions have the letter",
	"dd if=raw.img of=raw.img":                                          "QEMU empties the image that it is about to read",
	"dd -f raw if=a.qcow2 of=a.qcow2":                                   "QEMU empties the image that it is about to read",
	"bench --object bad raw.img raw.img":                                "later versions have the option",
	"snapshot -c x corrupt.qcow2":                                       "QEMU overwrites a cluster that is in use but not counted",
	"snapshot --create x a.qcow2":                                       "in later versions the long option takes its argument",
	"snapshot --apply=first snap.qcow2":                                 "in later versions the long option takes its argument",
	"snapshot --delete first snap.qcow2":                                "in later versions the long option takes its argument",
	"create -f qcow2 -o help":                                           "later versions have keep_data_file",
	"create -f qcow2 -o help x":                                         "later versions have keep_data_file",
	"convert -O qcow2 -o help":                                          "later versions have keep_data_file",
	"convert -O qcow2 -o help raw.img out":                              "later versions have keep_data_file",
}

// cliNewestDifferences are the same beside the newest version.
var cliNewestDifferences = map[string]string{
	"convert -n --target-is-zero -B a.qcow2 -O qcow2 raw.img mid.qcow2": cliDifferences["convert -n --target-is-zero -B a.qcow2 -O qcow2 raw.img mid.qcow2"],
	"measure -O qcow2 -o help --size 1M":                                cliDifferences["measure -O qcow2 -o help --size 1M"],
	"dd if=raw.img of=raw.img":                                          cliDifferences["dd if=raw.img of=raw.img"],
	"dd -f raw if=a.qcow2 of=a.qcow2":                                   cliDifferences["dd -f raw if=a.qcow2 of=a.qcow2"],
	"snapshot -c x corrupt.qcow2":                                       cliDifferences["snapshot -c x corrupt.qcow2"],
	"info 'json:{\"driver\":\"raw\",\"driver\":\"qcow2\"}'":             "QEMU says where in the text",
	"convert --b x":                        "the spellings of all versions are candidates",
	"convert --o x":                        "the spellings of all versions are candidates",
	"convert --s x":                        "the spellings of all versions are candidates",
	"convert --t x":                        "the spellings of all versions are candidates",
	"compare --object bad raw.img raw.img": "the exit code of all other mistakes, as in 10.0",
}

// cliOtherFiles are the command lines that leave other files behind on purpose.
var cliOtherFiles = map[string]string{
	"create x 7.9E": "QEMU leaves an empty file behind",
	"convert -O qcow2 -B nope -F qcow2 raw.img out": "QEMU leaves an empty file behind",
	"convert -t foo raw.img out":                    "QEMU creates the target before it looks at the cache mode",
}

// cliLines is the table: command lines for QEMU and for us.
func cliLines() []string {
	var out []string
	for _, line := range strings.Split(cliTable, "\n") {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			out = append(out, line)
		}
	}
	for _, cmd := range []string{"create", "info", "map", "check", "compare", "measure", "resize", "snapshot", "dd", "bench", "convert"} {
		out = append(out, cmd, cmd+" --bogus", cmd+" -Z", cmd+" --object bad raw.img raw.img")
		switch cmd {
		case "create", "resize", "dd", "compare", "convert":
		default:
			out = append(out, cmd+" nope", cmd+" dir", cmd+" ''", cmd+" orphan.qcow2 raw.img", cmd+" -f bogus raw.img",
				cmd+" -f qcow2 raw.img", cmd+" foo:bar", cmd+" --image-opts -f raw raw.img", cmd+" --image-opts raw.img",
				cmd+" --image-opts driver=bogus,file.filename=raw.img", cmd+" --image-opts driver=raw,file.filename=nope")
		}
	}
	return out
}

const cliTable = `
# the program itself
bogus
--bogus
-x
-T
-T foo info raw.img
--trace=foo info raw.img
-T enable=zz,bogus=1 info raw.img

# create
create -f
create --format
create --o help
create --b a
create --quiet=1 x 1M
create -f bogus x 1M
create x
create x 1M 2M
create x 1Q
create x -1
create -- x -1
create x 9E
create x 1.5k
create x 1.5
create x 0x10
create x 0x10k
create x ''
create x +1M
create -q x 1M
create -fqcow2 x 1M
create -qfqcow2 x 1M
create x 1M -f qcow2
create --format=qcow2 x 1M
create --fo qcow2 x 1M
create -f qcow2 x
create -f qcow2 -o size=1M x
create -f qcow2 -o size=1M x 2M
create -f qcow2 -o size=17E x
create -f qcow2 -o size=-1 x
create -f qcow2 -o cluster_size=99999999999999999999 x 1M
create -f qcow2 -o refcount_bits=99999999999999999999 x 1M
create -f qcow2 -o refcount_bits=-1 x 1M
create -f qcow2 x 4E
create x 7.9E
create -f qcow2 -o bogus=1 x 1M
create -f qcow2 -o cluster_size=1 x 1M
create -f qcow2 -o cluster_size=abc x 1M
create -f qcow2 -o cluster_size=128k,refcount_bits=64 x 10M
create -f qcow2 -o refcount_bits=x x 1M
create -f qcow2 -o refcount_bits=3 x 1M
create -f qcow2 -o lazy_refcounts=maybe x 1M
create -f qcow2 -o lazy_refcounts x 1M
create -f qcow2 -o nolazy_refcounts x 1M
create -f qcow2 -o compat=0.10 x 1M
create -f qcow2 -o compat=9 x 1M
create -f qcow2 -o compat=0.10 -o cluster_size=4k x 1M
create -f qcow2 -o extended_l2=on x 1M
create -f qcow2 -o compression_type=zstd x 1M
create -f qcow2 -o compression_type=foo x 1M
create -f qcow2 -o preallocation=metadata x 1M
create -f qcow2 -o preallocation=falloc x 1M
create -f qcow2 -o preallocation=full x 1M
create -f qcow2 -o preallocation=foo x 1M
create -o preallocation=full x 1M
create -o preallocation=foo x 1M
create -b a.qcow2 x
create -f qcow2 -b a.qcow2 x
create -f qcow2 -b a.qcow2 -F bogus x
create -f qcow2 -b a.qcow2 -F qcow2 x && info x && info --backing-chain x
create -f qcow2 -b a.qcow2 -F qcow2 x 5M
create -f qcow2 -b nope -F qcow2 x
create -f qcow2 -b nope -F qcow2 x 1M
create -f qcow2 -u -b nope -F qcow2 x 1M && info x
create -f qcow2 -u -b nope -F qcow2 x
create -f qcow2 -u -b nope x 1M
create -f qcow2 -F qcow2 x 1M
create -f qcow2 -b x -F qcow2 x
create -f qcow2 -b '' x 1M
create -f qcow2 -o backing_file=a.qcow2 x
create -f qcow2 -o backing_file=a.qcow2,backing_fmt=qcow2 x 2M
create -f qcow2 -o backing_file=,size=3M x
create -f qcow2 -b raw.img -F qcow2 x
create -f qcow2 -b raw.img -F raw x
create -f qcow2 -b ../a.qcow2 -F qcow2 sub/x && info sub/x
create -f raw -F raw x 1M
create -f raw -o backing_file=x r 1M
create -f qcow2 -o data_file=x.data x 1M && info x
create -f qcow2 -o data_file=x.data,data_file_raw=on x 1M
create dir 1M
create nodir/x 1M
create -f qcow2 nodir/x 1M
create -f qcow2 foo:bar 1M
create -f qcow2 -o help
create -f qcow2 -o help x
create -o help x
create -o bogus,help x
create -f bogus -o help
create -f file -o help
create -f file -o help x
create -f null-co -o help
create -o help foo:bar
create -o '' x 1M
create -o ,, x 1M
create -o a, x 1M
create raw.img 5M && info raw.img
create -f qcow2 a.qcow2 5M && check a.qcow2
create -f qcow2 x 1
create --object secret x 1M
create --object secret,id=s x 1M
create --object secret,id=s,data=x x 1M
create --object secret,id=1,data=x x 1M
create --object secret,id=s,data=!,format=base64x x 1M
create --object secret,id=s,bogus=x x 1M
create --object secret,id=s,file=/nonexistent x 1M
create --object tls-creds-x509,id=t,bogus=1 x 1M
info --object throttle-group,id=t raw.img
info --object throttle-group,id=t,x-iops-total=5 raw.img
info --object throttle-group,id=t,limits.iops-total=5 raw.img
info --object throttle-group,id=t,x-bogus=5 raw.img
info --object throttle-group,id=t,x-iops-total=-5 raw.img
info --object throttle-group,id=t,x-iops-total=5,x-iops-read=3 raw.img
info --object throttle-group,id=t,x-iops-total-max=1 raw.img
info --object throttle-group,id=t,limits.bps-total-max=3 raw.img
info --object throttle-group,id=t,x-iops-total=abc raw.img
info --object throttle-group,id=t,x-iops-total=5,x-iops-total-max-length=0 raw.img
info --object throttle-group,id=t,x-iops-total=5,x-iops-total-max=3 raw.img
info --object throttle-group,id=t,x-iops-total=1000000000000000000 raw.img
info --object throttle-group,id=t,x-iops-size=4096 raw.img
info --object throttle-group,id=t,limits=5 raw.img
info --object throttle-group,id=t,limits.bogus=5 raw.img
info --object throttle-group,id=t,limits.iops-total=-5 raw.img
info --object throttle-group,help raw.img
info --object iothread,id=i raw.img
info --object iothread,id=i,bogus=1 raw.img
info --object secret_keyring,id=k raw.img
info --object secret_keyring,id=k,serial=5 raw.img
info --object secret_keyring,id=k,serial=abc raw.img
info --object secret_keyring,id=k,serial=5000000000 raw.img
info --object secret_keyring,help raw.img

# info
info raw.img raw.img
info raw.img
info odd.img
info a.qcow2
info old.qcow2
info comp.qcow2
info ext.qcow2
info snap.qcow2
info orphan.qcow2
info sub/o.qcow2
info -U a.qcow2
info --output json raw.img
info --output=json a.qcow2
info --output=json snap.qcow2
info --output=json ext.qcow2
info --image-opts driver=qcow2,file.filename=ext.qcow2,data-file.filename=ext.data
info --output=json --image-opts driver=qcow2,file.filename=ext.qcow2,data-file.driver=file,data-file.filename=ext.data
info --output=json old.qcow2
info --output=json sub/o.qcow2
info --outp=json --force raw.img
info --output x raw.img
info --o json raw.img
info --backing-chain top.qcow2
info --backing-chain orphan.qcow2
info --backing-chain --output=json top.qcow2
info --backing-chain --output=json sub/o.qcow2
info --backing-chain raw.img
info -f raw a.qcow2
info -f file raw.img
info file:a.qcow2
info --image-opts driver=qcow2,file.filename=a.qcow2
info --image-opts file.filename=a.qcow2
info --image-opts driver=file,filename=a.qcow2
info --image-opts filename=a.qcow2
info --image-opts driver=raw,file=foo
info --image-opts foo,driver=raw
info --image-opts driver=qcow2,file.filename=a.qcow2,bogus=1
info --image-opts driver=raw,file.filename=raw.img,size=64k
info --image-opts driver=raw,file.filename=raw.img,offset=64k
info --image-opts --output=json driver=raw,file.filename=raw.img,offset=64k
info --image-opts driver=raw,file.filename=raw.img,size=x
info --image-opts driver=raw,file.filename=raw.img,read-only=x
info --image-opts driver=raw,file.driver=qcow2,file.file.filename=a.qcow2
info 'json:{"driver":"qcow2","file":{"driver":"file","filename":"a.qcow2"}}'
info 'json:{"driver":"qcow2"}'
info 'json:{"driver":"raw","file.filename":"raw.img"}'
info 'json:{"driver":"raw","size":65536,"file":{"driver":"file","filename":"raw.img"}}'
map --image-opts driver=qcow2,file.filename=ext.qcow2,data-file.filename=nowhere
info null-co://
info 'json:'
info 'json:[1]'
info 'json:{}'
info 'json:{"driver":"raw","driver":"qcow2"}'
info 'json:{"driver":"raw"} x'
info 'json:{"driver":"file","filename":"raw.img","x":1}'
info 'json:{"driver":"raw","file":{"driver":"file"}}'
info --image-opts driver=qcow2,file.filename=a.qcow2,detect-zeroes=foo
info --image-opts driver=qcow2,file.filename=a.qcow2,discard=foo
info host_device:raw.img
info file:nope
info raw.img/x
create raw.img/x 1M
info -t writeback raw.img

# map
map raw.img
map odd.img
map a.qcow2
map top.qcow2
map old.qcow2
map comp.qcow2
map ext.qcow2
map --output=json raw.img
map --output=json odd.img
map --output=json a.qcow2
map --output=json mid.qcow2
map --output=json top.qcow2
map --output=json comp.qcow2
map --output=json ext.qcow2
map -s 64k -l 32k --output=json raw.img
map --start-offset=64k --max-length=32k --output=json top.qcow2
map -l 3M --output json raw.img
map -s 2M raw.img
map -s 2M --output=json raw.img
map -s 1M --output=json raw.img
map -s 100 -l 1000 --output=json a.qcow2
map -s 70000 -l 100000 --output=json a.qcow2
map -s x raw.img
map -s -1 raw.img
map -l 1x raw.img
map --output=yaml raw.img
map -U -f qcow2 top.qcow2

# check
check a.qcow2
check top.qcow2
check comp.qcow2
check old.qcow2
check snap.qcow2
check ext.qcow2
check leak.qcow2
check corrupt.qcow2
check -q leak.qcow2
check --output=json a.qcow2
check --output=json leak.qcow2
check --output=json corrupt.qcow2
check --output=json comp.qcow2
check -r leaks leak.qcow2 && check leak.qcow2
check -r all leak.qcow2 && check leak.qcow2
check -q -r all leak.qcow2
check --output=json -r all leak.qcow2
check -r leaks corrupt.qcow2
check -r all a.qcow2
check -r foo a.qcow2
check -r leaks -U a.qcow2
check raw.img
check -f raw raw.img
check --output=json raw.img
check -T foo a.qcow2
check -T none a.qcow2
check --output foo a.qcow2
check -q a.qcow2

# compare
compare raw.img same.img
compare raw.img a.qcow2
compare raw.img comp.qcow2
compare -s raw.img same.img
compare -s raw.img comp.qcow2
compare empty.img large.img
compare large.img empty.img
compare -s empty.img large.img
compare raw.img empty.img
compare -q raw.img empty.img
compare empty.img tail.img
compare tail.img empty.img
compare tail.img raw.img
compare a.qcow2 mid.qcow2
compare mid.qcow2 top.qcow2
compare -p raw.img same.img
compare -p raw.img empty.img
compare raw.img raw.img
compare raw.img
compare raw.img same.img a.qcow2
compare raw.img nope
compare nope raw.img
compare -q raw.img nope
compare -f qcow2 raw.img same.img
compare -F qcow2 raw.img same.img
compare -F bogus raw.img same.img
compare --a-format=raw --b-format=raw raw.img same.img
compare -T foo raw.img same.img
compare --image-opts driver=raw,file.filename=raw.img driver=raw,file.filename=same.img
compare --image-opts raw.img same.img
compare --image-opts -f raw raw.img same.img

# measure
measure --size 1G
measure --size 1G -O qcow2
measure --size 1G -O qcow2 --output json
measure --size 10T -O qcow2 -o cluster_size=2M
measure --size 1G -O qcow2 -o refcount_bits=64,cluster_size=4k
measure --size 1G -O qcow2 -o preallocation=full
measure --size 1G -O qcow2 -o extended_l2=on
measure --size 0 -O qcow2
measure -O qcow2 raw.img
measure -O qcow2 top.qcow2
measure -O qcow2 comp.qcow2
measure -O qcow2 -o cluster_size=4k raw.img
measure -O qcow2 -o size=3M raw.img
measure -O qcow2 -o backing_file=a.qcow2 --size 1M
measure a.qcow2
measure -U --size 1M
measure --size 1G raw.img
measure --size x
measure --size 9E -O qcow2
measure --size 4E -O qcow2
measure -O bogus raw.img
measure -O qcow2 -o bogus=1 raw.img
measure -O qcow2 -o help --size 1M
measure -O file --size 1M
measure -o , --size 1M
measure -l foo a.qcow2
measure -l first -O qcow2 snap.qcow2
measure -l 1 -O qcow2 raw.img
measure -l 1 --size 1M
measure -f raw --size 1G
measure --size 1M --image-opts
measure --output x raw.img
measure raw.img raw.img
measure -s 1M

# resize
snapshot a.qcow2
snapshot -l snap.qcow2
snapshot --list snap.qcow2
snapshot -q snap.qcow2
snapshot -U snap.qcow2
snapshot -f qcow2 -l snap.qcow2
snapshot -f raw -l snap.qcow2
snapshot -l raw.img
snapshot -l a.qcow2 b.qcow2
snapshot -l -c x a.qcow2
snapshot -c x -c y a.qcow2
snapshot -lc x a.qcow2
snapshot -c
snapshot -c x
snapshot -c x nope
snapshot -c x a.qcow2 && snapshot a.qcow2 && check -q a.qcow2
snapshot -qc x a.qcow2 && snapshot -l a.qcow2
snapshot -c '' a.qcow2 && snapshot -c '' a.qcow2 && snapshot a.qcow2 && snapshot -d '' a.qcow2 && snapshot a.qcow2
snapshot -c '#' old.qcow2 && snapshot old.qcow2 && resize old.qcow2 4M && snapshot -d '#' old.qcow2 && resize old.qcow2 4M && check -q old.qcow2
snapshot -c first snap.qcow2 && snapshot -d first snap.qcow2 && snapshot -a first snap.qcow2 && snapshot -d first snap.qcow2 && snapshot -d first snap.qcow2 && snapshot snap.qcow2 && check -q snap.qcow2
snapshot -d 'a longer snapshot name than fits' snap.qcow2 && snapshot -c x snap.qcow2 && snapshot snap.qcow2 && check -q snap.qcow2
snapshot -d first snap.qcow2 && snapshot -c x snap.qcow2 && snapshot snap.qcow2
snapshot -a first snap.qcow2 && check -q snap.qcow2
snapshot -a 2 snap.qcow2 && check -q snap.qcow2
snapshot -a nope snap.qcow2
snapshot -d nope snap.qcow2
snapshot -d 1 snap.qcow2
snapshot -U -c x a.qcow2
snapshot -U -a first snap.qcow2
resize snap.qcow2 2M && snapshot -a first snap.qcow2 && check -q snap.qcow2
resize snap.qcow2 2M && snapshot -c big snap.qcow2 && snapshot -a first snap.qcow2 && snapshot -a big snap.qcow2 && check -q snap.qcow2
snapshot -c x mid.qcow2 && snapshot -a x mid.qcow2 && snapshot -d x mid.qcow2 && check -q mid.qcow2
snapshot -c x comp.qcow2 && snapshot -c y comp.qcow2 && snapshot -d x comp.qcow2 && snapshot -a y comp.qcow2 && check -q comp.qcow2
snapshot -c x orphan.qcow2
snapshot -c x ext.qcow2
snapshot -a x ext.qcow2
snapshot -d x ext.qcow2
snapshot -l ext.qcow2
snapshot -c x bitmap.qcow2 && snapshot -a x bitmap.qcow2 && snapshot -d x bitmap.qcow2
snapshot -c x raw.img
snapshot -f raw -c x raw.img
snapshot -f raw -a x raw.img
snapshot -f raw -d x raw.img
snapshot -c x corrupt.qcow2
snapshot -c x leak.qcow2
snapshot --image-opts -c x driver=qcow2,file.filename=a.qcow2 && snapshot a.qcow2
snapshot --image-opts -c x driver=raw,file.driver=qcow2,file.file.filename=a.qcow2 && snapshot --image-opts driver=raw,file.driver=qcow2,file.file.filename=a.qcow2
snapshot --image-opts -d first driver=raw,file.driver=qcow2,file.file.filename=snap.qcow2 && snapshot snap.qcow2
snapshot --image-opts -a first driver=raw,file.driver=qcow2,file.file.filename=snap.qcow2
snapshot --create x a.qcow2
snapshot --apply=first snap.qcow2
snapshot --delete first snap.qcow2

resize a.qcow2 2M && info a.qcow2
resize a.qcow2 +1M && info a.qcow2 && check a.qcow2
resize large.img -1M
resize --shrink a.qcow2 -512k && info a.qcow2 && check a.qcow2
resize a.qcow2 -512k
resize a.qcow2 512k
resize a.qcow2 --shrink 512k
resize a.qcow2 512k --shrink
resize --shrink -- a.qcow2 -512k
resize -- a.qcow2 -512k
resize a.qcow2 x
resize a.qcow2 ''
resize a.qcow2 +
resize a.qcow2
resize a.qcow2 0
resize a.qcow2 -10M
resize --shrink a.qcow2 -10M
resize a.qcow2 8E
resize a.qcow2 1M 2M
resize a.qcow2 -q 5M
resize -q a.qcow2 6M
resize -f qcow2 a.qcow2 1000001 --shrink
resize -f raw raw.img 2M && info raw.img
resize raw.img 3M
resize -f raw raw.img 1000
resize -f raw --shrink raw.img 1000
resize --image-opts driver=raw,file.filename=raw.img 2M
resize --preallocation=full a.qcow2 4M
resize --preallocation=metadata a.qcow2 4M && check a.qcow2
resize --preallocation=foo a.qcow2 4M
resize -f raw --preallocation=metadata raw.img 6M
resize -f raw --preallocation=falloc raw.img 6M
resize --preallocation=full --shrink a.qcow2 512k
resize nope 1M
resize dir 1M
resize orphan.qcow2 2M
resize --shrink snap.qcow2 512k
resize old.qcow2 8M && check old.qcow2

# dd
dd if=raw.img of=out bs=1M count=1
dd if=raw.img of=out bs=7 count=1
dd if=raw.img of=out bs=64k skip=1
dd if=raw.img of=out bs=512 count=2 skip=1
dd if=raw.img of=out bs=512 count=2 skip=5
dd if=raw.img of=out skip=100 bs=1M
dd -O qcow2 if=raw.img of=out && check out
dd -O qcow2 -f raw if=raw.img of=out bs=512 count=1
dd -U if=raw.img of=out
dd --image-opts if=driver=raw,file.filename=raw.img of=out
dd --image-opts -f raw if=raw.img of=out
dd if=top.qcow2 of=out bs=1M
dd if=raw.img if=same.img of=out
dd if=raw.img
dd of=out
dd if=nope of=out
dd if= of=out
dd if=raw.img of=dir
dd if=raw.img of=out foo=1
dd if=raw.img of=out conv=notrunc
dd if=raw.img of=out extra
dd if=raw.img of=out bs=0
dd if=raw.img of=out bs=x
dd if=raw.img of=out bs=4G
dd if=raw.img of=out count=-1
dd if=raw.img of=out count=x
dd if=raw.img of=out skip=x
dd -O bogus if=raw.img of=out
dd -f bogus if=raw.img of=out

# bench
bench -c 10 raw.img
bench -c 10 -w raw.img
bench -c 10 -w -f raw raw.img
bench -c 10 -d 4 -s 512 -S 512 -o 512 raw.img
bench -c 10 -w --flush-interval=5 -d 2 -f raw raw.img
bench -c 10 -w --flush-interval=5 -d 6 raw.img
bench -c 10 -w --flush-interval=5 -d 2 --no-drain -f raw raw.img
bench -c 10 --pattern=7 -w a.qcow2
bench --flush-interval=2 raw.img
bench -c x raw.img
bench -c 0 raw.img
bench -c -1 raw.img
bench -d x raw.img
bench -d 0 raw.img
bench -o x raw.img
bench -s x raw.img
bench -s 3G raw.img
bench -S x raw.img
bench -t foo raw.img
bench -i foo raw.img
bench -n raw.img
bench --pattern=300 -w raw.img
bench --pattern x raw.img
bench --flush-interval=x raw.img
bench -q -c 10 raw.img

# convert
convert raw.img out
convert -O qcow2 raw.img out && check out
convert -O qcow2 -c raw.img out && check out
convert -O qcow2 -c -o compression_type=zstd raw.img out
convert -O qcow2 top.qcow2 out && info out
convert -O qcow2 -o cluster_size=2M raw.img out
convert -O qcow2 -o preallocation=metadata raw.img out && check out
convert -O qcow2 -o size=4M raw.img out && info out
convert a.qcow2 -O raw out
convert odd.img out
convert -O qcow2 odd.img out
convert raw.img same.img out
convert odd.img raw.img out
convert -q -p raw.img out
convert -p raw.img out
convert -S 0 raw.img out
convert -S 64k raw.img out
convert -S x raw.img out
convert -S 3G raw.img out
convert -S 100 raw.img out
convert --sparse 4k raw.img out
convert -m 0 raw.img out
convert -m 17 raw.img out
convert -m x raw.img out
convert -m 4 -W raw.img out
convert -c raw.img out
convert -C raw.img out
convert -C -S 4k raw.img out
convert -C -c -O qcow2 raw.img out
convert --salvage -C raw.img out
convert --salvage raw.img out
convert -r 100M raw.img out
convert -r x raw.img out
convert -T foo raw.img out
convert -t foo raw.img out
convert -t none -T none raw.img out
convert -t writethrough -O qcow2 raw.img out
convert -n raw.img nope
convert -n raw.img large.img
convert -n large.img empty.img
convert -n -O qcow2 large.img a.qcow2
convert -n -O qcow2 raw.img old.qcow2
convert -n -O qcow2 raw.img same.img
convert -n -o size=1M raw.img same.img
convert -n --target-is-zero raw.img empty.img
convert --target-is-zero raw.img out
convert -n --target-is-zero -B a.qcow2 -O qcow2 raw.img mid.qcow2
convert -n raw.img null-co://
convert --target-image-opts raw.img driver=raw,file.filename=same.img
convert --target-image-opts -n raw.img driver=raw,file.filename=same.img
convert --target-image-opts -n -O raw raw.img driver=raw,file.filename=same.img
convert --image-opts driver=raw,file.filename=raw.img out
convert --image-opts raw.img out
convert --image-opts -f raw driver=raw,file.filename=raw.img out
convert -B a.qcow2 raw.img out
convert -O qcow2 -B a.qcow2 raw.img out
convert -O qcow2 -B a.qcow2 -F qcow2 raw.img out && info out && map --output=json out
convert -O qcow2 -B a.qcow2 -F qcow2 mid.qcow2 out && map --output=json out
convert -b a.qcow2 -F qcow2 -O qcow2 raw.img out
convert -O qcow2 -B a.qcow2 -F qcow2 large.img out
convert -O qcow2 -B a.qcow2 -F qcow2 -c mid.qcow2 out
convert -O qcow2 -B nope -F qcow2 raw.img out
convert -O qcow2 -F qcow2 raw.img out
convert -O qcow2 -B a.qcow2 -F qcow2 raw.img raw.img out
convert -F raw raw.img out
convert -O qcow2 -o backing_file=a.qcow2 raw.img out
convert -O qcow2 -o backing_file=a.qcow2,backing_fmt=qcow2 raw.img out
convert -c -o preallocation=metadata -O qcow2 raw.img out
convert -c -o encryption=on -O qcow2 raw.img out
convert -l foo a.qcow2 out
convert -l first snap.qcow2 out
convert -l 2 -O qcow2 snap.qcow2 out
convert -l snapshot.id=1 snap.qcow2 out
convert -l snapshot.name=first snap.qcow2 out
convert -l snapshot.bogus=1 a.qcow2 out
convert -l snapshot.id=1,snapshot.name=first snap.qcow2 out
convert -l snapshot.id=2,snapshot.name=first snap.qcow2 out
convert -l snapshot.name=1 snap.qcow2 out
measure -l snapshot.id=9 snap.qcow2
convert -l 1 raw.img out
convert -l 1 snap.qcow2 raw.img out
convert --bitmaps -O qcow2 a.qcow2 out
convert --skip-broken-bitmaps raw.img out
convert -o help
convert -O qcow2 -o help
convert -O qcow2 -o help raw.img out
convert -O bogus -o help
convert -o , raw.img out
convert -O bogus raw.img out
convert -f bogus raw.img out
convert -O qcow2 -o bogus=1 raw.img out
convert -O qcow2 -o cluster_size=1 raw.img out
convert raw.img
convert raw.img raw.img
convert a.qcow2 a.qcow2
convert -n raw.img raw.img
convert -U raw.img same.img
convert mid.qcow2 a.qcow2
convert top.qcow2 a.qcow2
convert ext.qcow2 ext.data
dd if=raw.img of=raw.img
dd -f raw if=a.qcow2 of=a.qcow2
dd -f qcow2 -O qcow2 if=a.qcow2 of=a.qcow2
measure -O qcow2 bitmap.qcow2
measure -O qcow2 -o compat=0.10 bitmap.qcow2
measure -O qcow2 -o cluster_size=4k --output=json bitmap.qcow2
measure -O qcow2 old.qcow2
info bitmap.qcow2
info --output=json bitmap.qcow2
convert dir out
convert nope out
convert orphan.qcow2 out
convert raw.img dir
convert raw.img nodir/out
convert raw.img foo:out
convert -O null-co raw.img out
convert raw.img null-co:
convert -s 1 raw.img out
convert -e raw.img out
convert --b x
convert --o x
convert --s x
convert --t x
convert --rate 1M raw.img out
convert -U a.qcow2 out
`
