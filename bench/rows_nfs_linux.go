package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// nfsScript runs a port mapper, which has one port, and the server, in a network and with folders of
// their own.
const nfsScript = `set -e
ip link set lo up
ip addr add 10.99.0.2/32 dev lo # the server finds none of its addresses on a bare loopback
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib/nfs
mkdir -p /run/rpcbind /run/ganesha /var/lib/nfs/ganesha
rpcbind -f -w &
until (exec 3<>/dev/tcp/127.0.0.1/111) 2>/dev/null; do sleep 0.05; done
cat >/run/conf <<X
NFS_CORE_PARAM { Protocols = 3; NFS_Port = 2049; MNT_Port = 20048; Enable_NLM = false; Enable_RQUOTA = false; mount_path_pseudo = false; }
EXPORT { Export_Id = 1; Path = $1; Pseudo = /export; Access_Type = RW; SecType = sys; Squash = No_Root_Squash; PrivilegedPort = false; FSAL { Name = VFS; } }
X
exec ganesha.nfsd -F -f /run/conf -L /run/log -p /run/pid -N NIV_EVENT
`

// startNFS starts a server, and a second network from which it can be reached with a delay.
func (s *remoteServers) startNFS(ctx context.Context, _ string) error {
	if os.Getuid() != 0 {
		s.missing = append(s.missing, "nfs-ganesha (it has to be started by root)")
		return nil
	}
	near, err := s.network(ctx, nfsScript, s.files)
	if err != nil {
		return err
	}
	far, err := s.network(ctx, "ip link set lo up; exec sleep infinity", "")
	if err != nil {
		return err
	}
	for _, port := range []int{111, 20048, 2049} {
		address := fmt.Sprintf("127.0.0.1:%d", port)
		dial := func() (c net.Conn, err error) {
			err = within(near, func() (err error) { c, err = net.Dial("tcp", address); return err })
			return c, err
		}
		if err := until(func() error {
			c, err := dial()
			if err == nil {
				c.Close()
			}
			return err
		}); err != nil {
			return err
		}
		var l net.Listener
		if err := until(func() error {
			return within(far, func() (err error) { l, err = net.Listen("tcp", address); return err })
		}); err != nil {
			return err
		}
		s.proxy(l, dial)
	}
	enter := func(network string) []string { return []string{"nsenter", "--net=" + network} }
	s.nfs, s.nfsSlow = enter(near), enter(far)
	return nil
}

// network runs a script in a network of its own, whose name in /proc it returns.
func (s *remoteServers) network(ctx context.Context, script, arg string) (string, error) {
	cmd := exec.CommandContext(ctx, "bash", "-c", script, "bash", arg)
	cmd.SysProcAttr = &unix.SysProcAttr{Unshareflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	s.stop = append(s.stop, func() { _ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL); _ = cmd.Wait() })
	return fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid), nil
}

// within calls f in a network, on a thread that ends with it.
func within(network string, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		fd, err := unix.Open(network, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			defer unix.Close(fd)
			err = unix.Setns(fd, unix.CLONE_NEWNET)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// until calls f again for some seconds until it succeeds.
func until(f func() error) (err error) {
	for range 200 {
		if err = f(); err == nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return errors.Join(errors.New("the NFS server does not start"), err)
}
