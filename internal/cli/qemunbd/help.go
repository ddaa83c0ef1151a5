package qemunbd

import "fmt"

func (p *Program) help() {
	fmt.Fprintf(p.Stdout, `Usage: %[1]s [OPTIONS] FILE
  or:  %[1]s -L [OPTIONS]
  or:  %[1]s -d DEV
Serve a disk image over the Network Block Device protocol.

  -h, --help                print this help and exit
  -V, --version             print the version and exit

Where to listen:
  -p, --port=PORT           TCP port (default 10809)
  -b, --bind=IFACE          address to listen on (default 0.0.0.0; :: for IPv6)
  -k, --socket=PATH         listen on a Unix socket instead
  -e, --shared=NUM          serve up to NUM clients at a time (default 1; 0: any number)
  -t, --persistent          go on after the last client has gone
  -v, --verbose             say what clients do
  -x, --export-name=NAME    name of the export (default: the empty name)
  -D, --description=TEXT    what clients are told the export is
      --handshake-limit=N   seconds that a client may take to choose an export
                            (default 10; 0: any)
A socket that a service manager hands over (LISTEN_FDS) is used instead of
these.

What part of the image:
  -o, --offset=OFFSET       begin here (bytes, or with suffix k, M, G, T)
  -P, --partition=N         only partition N of an MBR (5 and up: logical ones) or GPT
  -A, --allocation-depth    offer the metadata context qemu:allocation-depth
  -B, --bitmap=NAME         offer the context qemu:dirty-bitmap:NAME; may be repeated

General:
  -L, --list                list the exports of another server (with -b -p or -k)
      --object TYPE,id=ID,…
                            define an object: a secret, TLS credentials, authorization
      --tls-creds=ID        demand TLS, with these credentials; with -L: use TLS
      --tls-authz=ID        serve only clients that this object lets in
      --tls-hostname=NAME   with -L: the name that the certificate must have
  -T, --trace TRACE         accepted for compatibility: there are no trace events
      --fork                go to the background once clients can connect
      --pid-file=PATH       write the number of the serving process there
      --selinux-label=LABEL
                            label of the Unix socket

Kernel devices:
  -c, --connect=DEV         attach FILE to the device DEV (/dev/nbd0 …); returns once it
                            has its size and partitions
  -d, --disconnect          detach the device that the operand names
      --attach=METHOD       how to talk to the kernel: auto (default), netlink or ioctl

The image:
  -f, --format=FORMAT       format of FILE (raw, qcow2, …); without it the format is probed
  -r, --read-only           serve for reading only
  -s, --snapshot            keep what clients write in a temporary file, FILE as it is
  -l, --load-snapshot=SNAPSHOT
                            serve an internal snapshot, read-only: an id or a name, or
                            snapshot.id=ID,snapshot.name=NAME
  -n, --nocache             the same as --cache=none
      --cache=MODE          none, writeback (default), writethrough, directsync, unsafe
      --aio=MODE            native, io_uring or threads: accepted for compatibility
      --discard=MODE        what to do with discard requests: ignore (default) or unmap
      --detect-zeroes=MODE  look for zeroes in what is written: off (default), on, unmap
      --image-opts          FILE is a list of options (driver=qcow2,file.filename=…)

Examples:
  %[1]s -t -e 4 -k /run/disk.sock -f qcow2 disk.qcow2
  %[1]s --fork --pid-file=/run/nbd.pid -r -f raw disk.raw
  %[1]s -c /dev/nbd0 -f qcow2 disk.qcow2 && mount /dev/nbd0p1 /mnt
  %[1]s -L -b server.example -p 10809
`, p.Name)
}
