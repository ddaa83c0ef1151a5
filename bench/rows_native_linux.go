package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// cephScript starts a cluster of one monitor and one store in memory, in the folder $1, with the
// images "half", a copy of $2, and "target", as large.
const cephScript = `set -e
cd "$1"
export CEPH_CONF="$1/ceph.conf"
fsid=$(cat /proc/sys/kernel/random/uuid) osd=$(cat /proc/sys/kernel/random/uuid)
mkdir mon osd
cat >"$CEPH_CONF" <<X
[global]
fsid = $fsid
mon host = [v2:127.0.0.1:$3/0,v1:127.0.0.1:$4/0]
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms bind ipv6 = false
osd pool default size = 1
osd pool default min size = 1
osd crush chooseleaf type = 0
osd crush update on start = false
mon allow pool size one = true
mon data avail crit = 1
mon data avail warn = 1
osd max object name len = 256
osd max object namespace len = 64
run dir = $1
admin socket = $1/\$cluster-\$name.asok
log file = $1/\$name.log
[mon.a]
mon data = $1/mon
[osd]
osd data = $1/osd
osd journal = $1/osd/journal
osd objectstore = memstore
memstore device bytes = 8589934592
osd class load list = *
osd class default list = *
X
monmaptool --create --clobber --fsid $fsid --addv a "[v2:127.0.0.1:$3,v1:127.0.0.1:$4]" monmap >/dev/null
ceph-authtool --create-keyring keyring --gen-key -n mon. --cap mon 'allow *' >/dev/null
ceph-mon --mkfs -i a --monmap monmap --keyring keyring
ceph-mon -i a -f >/dev/null 2>&1 &
ceph --connect-timeout 60 osd new $osd >/dev/null
ceph-osd -i 0 --mkfs --osd-uuid $osd >/dev/null 2>&1
ceph osd crush add 0 1.0 root=default >/dev/null 2>&1
ceph-osd -i 0 -f >/dev/null 2>&1 &
ceph osd pool create rbd 8 >/dev/null 2>&1
ceph osd pool application enable rbd rbd >/dev/null 2>&1
rbd import --no-progress "$2" rbd/half
rbd create --size 1G rbd/target
touch ready
wait
`

// glusterScript starts a server with a volume "vol" of one brick, which has a copy of $2, in the folder
// $1 and in a network and with mounts and processes of its own: those that it leaves to themselves end
// with it.
const glusterScript = `set -e
mount --make-rprivate /
mount -t proc proc /proc
ip link set lo up
ip addr add 10.99.0.1/32 dev lo
mkdir -p /var/log/glusterfs
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/log/glusterfs
mount -t tmpfs tmpfs "$1/brick"
mkdir -p /run/gluster
home=$1
cd "$1"
mkdir work run
cat >glusterd.vol <<X
volume management
    type mgmt/glusterd
    option working-directory $1/work
    option run-directory $1/run
    option transport-type socket
    option transport.socket.bind-address 10.99.0.1
    option transport.socket.listen-port 24007
    option transport.socket.read-fail-log off
    option ping-timeout 0
    option event-threads 1
    option base-port 49152
    option max-port 49200
end-volume
X
glusterd -N -f glusterd.vol -p "$1/pid" -l "$1/glusterd.log" -L INFO &
until (exec 3<>/dev/tcp/10.99.0.1/24007) 2>/dev/null; do kill -0 $! || exit 1; sleep 0.05; done
cli() { gluster --mode=script --log-file="$home/cli.log" "$@" >/dev/null; }
cli volume create vol 10.99.0.1:"$1/brick/b" force
cli volume set vol server.allow-insecure on
cli volume start vol
cp --sparse=always "$2" "$1/brick/b/half.raw"
touch ready
wait
`

// buildNative builds the program that loads the libraries of Ceph and Gluster, and has cowl find it.
func (s *remoteServers) buildNative(ctx context.Context) error {
	program := filepath.Join(s.dir, "cowl-native")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "./cmd/cowl-native")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return err
	}
	return os.Setenv("COWL_NATIVE", program)
}

// background runs a script, which makes a file "ready" in dir, its first argument, when its servers are
// ready, in name spaces of its own, and waits for that.
func (s *remoteServers) background(ctx context.Context, spaces uintptr, script, dir string, args ...string) (pid int, err error) {
	cmd := exec.CommandContext(ctx, "bash", append([]string{"-c", script, "bash", dir}, args...)...)
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: spaces, Setpgid: true}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	s.stop = append(s.stop, func() { _ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) })
	for {
		if _, err := os.Stat(filepath.Join(dir, "ready")); err == nil {
			return cmd.Process.Pid, nil
		}
		select {
		case err := <-ended:
			return 0, fmt.Errorf("the servers in %s ended: %w", dir, err)
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// startCeph starts a cluster.
func (s *remoteServers) startCeph(ctx context.Context, _ string) error {
	dir := filepath.Join(s.dir, "ceph")
	ports := make([]int, 2)
	for i := range ports {
		var err error
		if ports[i], err = freePort(); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := s.buildNative(ctx); err != nil {
		return err
	}
	if _, err := s.background(ctx, 0, cephScript, dir, filepath.Join(s.files, "half.raw"), fmt.Sprint(ports[0]), fmt.Sprint(ports[1])); err != nil {
		return err
	}
	s.ceph = true
	return os.Setenv("CEPH_CONF", filepath.Join(dir, "ceph.conf"))
}

// startGluster starts a server of Gluster.
func (s *remoteServers) startGluster(ctx context.Context, _ string) error {
	if os.Getuid() != 0 {
		s.missing = append(s.missing, "glusterfs-server (it has to be started by root)")
		return nil
	}
	dir := filepath.Join(s.dir, "gluster")
	if err := os.MkdirAll(filepath.Join(dir, "brick"), 0o755); err != nil {
		return err
	}
	if err := s.buildNative(ctx); err != nil {
		return err
	}
	pid, err := s.background(ctx, unix.CLONE_NEWNET|unix.CLONE_NEWNS|unix.CLONE_NEWPID, glusterScript, dir, filepath.Join(s.files, "half.raw"))
	if err != nil {
		return err
	}
	s.gluster = []string{"nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", pid)}
	return nil
}
