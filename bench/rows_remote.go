package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// roundTrip is what the proxy of the rows with a delay adds.
const roundTrip = 20 * time.Millisecond

// remoteServers are servers of this machine's files, on the loopback, for the rows about
// disks on other machines.
type remoteServers struct {
	ssh, sshSlow     string // host:port; the second one with a delay
	http, httpSlow   string
	https            string
	ftp              string // host:port, "" if there is none
	iscsi, iscsiSlow string
	socket           string   // of the agent whose key the SSH server takes
	nfs, nfsSlow     []string // how a program is run where the servers can be reached; nil: there are none
	ceph             bool
	gluster          []string // as nfs
	stop             []func()
	missing          []string // programs that are not installed
	dir              string
	files, cert, key string
}

func (s *remoteServers) close() {
	for _, f := range s.stop {
		f()
	}
}

// freePort returns a port that nothing listens at now.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// run starts a server that listens at a port, and waits until it does.
func (s *remoteServers) run(ctx context.Context, port int, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")} // nginx takes NGINX for sockets
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	s.stop = append(s.stop, func() { _ = cmd.Process.Kill(); <-ended })
	for {
		if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return c.Close()
		}
		select {
		case <-ended:
			return fmt.Errorf("%s ends at once", name)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// delay starts a proxy that adds the round trip, and returns its address.
func (s *remoteServers) delay(to string) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	s.proxy(l, func() (net.Conn, error) { return net.Dial("tcp", to) })
	return l.Addr().String(), nil
}

// proxy adds the round trip to what dial connects to.
func (s *remoteServers) proxy(l net.Listener, dial func() (net.Conn, error)) {
	s.stop = append(s.stop, func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			up, err := dial()
			if err != nil {
				c.Close()
				continue
			}
			go carry(up, c)
			go carry(c, up)
		}
	}()
}

// carry passes on what src sends, half a round trip later.
func carry(dst, src net.Conn) {
	type chunk struct {
		data []byte
		due  time.Time
	}
	queue := make(chan chunk, 1024)
	go func() {
		defer close(queue)
		for {
			b := make([]byte, 32<<10)
			n, err := src.Read(b)
			if n > 0 {
				queue <- chunk{b[:n], time.Now().Add(roundTrip / 2)}
			}
			if err != nil {
				return
			}
		}
	}()
	for c := range queue {
		time.Sleep(time.Until(c.due))
		if _, err := dst.Write(c.data); err != nil {
			src.Close()
		}
	}
	dst.Close()
}

// startRemote starts the servers that are installed, which serve the folder files.
func startRemote(ctx context.Context, dir, files string) (*remoteServers, error) {
	s := &remoteServers{dir: dir, files: files}
	for _, start := range []struct {
		program string
		f       func(context.Context, string) error
	}{{"/usr/sbin/sshd", s.startSSH}, {"nginx", s.startHTTP}, {"vsftpd", s.startFTP}, {"tgtd", s.startISCSI}, {"ganesha.nfsd", s.startNFS}, {"ceph-osd", s.startCeph}, {"glusterd", s.startGluster}} {
		path, err := exec.LookPath(start.program)
		if err != nil {
			s.missing = append(s.missing, start.program)
			continue
		}
		if err := start.f(ctx, path); err != nil {
			s.close()
			return nil, err
		}
	}
	return s, nil
}

func (s *remoteServers) startSSH(ctx context.Context, program string) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	if os.Getuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			return err
		}
	}
	at := func(name string) string { return filepath.Join(s.dir, name) }
	for _, name := range []string{"host", "user"} {
		if err := command(ctx, "ssh-keygen", "-q", "-N", "", "-t", "ed25519", "-f", at(name)); err != nil {
			return err
		}
	}
	config := fmt.Sprintf("Port %d\nListenAddress 127.0.0.1\nHostKey %s\nPidFile none\nAuthorizedKeysFile %s\nPasswordAuthentication no\n"+
		"KbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\nSubsystem sftp internal-sftp\n", port, at("host"), at("user.pub"))
	if err := os.WriteFile(at("sshd_config"), []byte(config), 0o600); err != nil {
		return err
	}
	if err := s.run(ctx, port, program, "-D", "-f", at("sshd_config"), "-E", at("sshd.log")); err != nil {
		return err
	}
	s.ssh = fmt.Sprintf("127.0.0.1:%d", port)
	if s.sshSlow, err = s.delay(s.ssh); err != nil {
		return err
	}
	// Both programs find the key with an agent: QEMU knows no other home than that in the
	// system's list of users.
	s.socket = at("agent")
	agent := exec.CommandContext(ctx, "ssh-agent", "-D", "-a", s.socket)
	agent.Stdout = io.Discard
	if err := agent.Start(); err != nil {
		return err
	}
	s.stop = append(s.stop, func() { _ = agent.Process.Kill(); _ = agent.Wait() })
	if err := os.Setenv("SSH_AUTH_SOCK", s.socket); err != nil {
		return err
	}
	for range 100 {
		if err = command(ctx, "ssh-add", "-q", at("user")); err == nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}

func (s *remoteServers) startHTTP(ctx context.Context, program string) error {
	port, err := freePort()
	port2, err2 := freePort()
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	s.cert, s.key = filepath.Join(s.dir, "cert.pem"), filepath.Join(s.dir, "key.pem")
	if err := command(ctx, "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
		"-addext", "subjectAltName=IP:127.0.0.1", "-keyout", s.key, "-out", s.cert); err != nil {
		return err
	}
	var temp strings.Builder
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&temp, "%s_temp_path %s/%s;\n", kind, s.dir, kind)
	}
	config := fmt.Sprintf("daemon off;\nmaster_process off;\npid %[1]s/nginx.pid;\nerror_log %[1]s/nginx.log;\nevents { worker_connections 256; }\nhttp {\naccess_log off;\n"+
		"sendfile on;\nkeepalive_requests 100000;\n%[2]sroot %[3]s;\nserver { listen 127.0.0.1:%[4]d; }\nserver { listen 127.0.0.1:%[5]d ssl; ssl_certificate %[6]s; ssl_certificate_key %[7]s; }\n}\n",
		s.dir, temp.String(), s.files, port, port2, s.cert, s.key)
	file := filepath.Join(s.dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		return err
	}
	if err := s.run(ctx, port2, program, "-c", file, "-p", s.dir); err != nil {
		return err
	}
	s.http, s.https = fmt.Sprintf("127.0.0.1:%d", port), fmt.Sprintf("127.0.0.1:%d", port2)
	s.httpSlow, err = s.delay(s.http)
	return err
}

func (s *remoteServers) startFTP(ctx context.Context, program string) error {
	if os.Getuid() != 0 {
		s.missing = append(s.missing, "vsftpd (it has to be started by root)")
		return nil
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	empty := filepath.Join(s.dir, "empty")
	if err := os.MkdirAll(empty, 0o755); err != nil {
		return err
	}
	config := fmt.Sprintf("background=NO\nlisten=YES\nlisten_address=127.0.0.1\nlisten_port=%d\nanonymous_enable=YES\nno_anon_password=YES\nanon_root=%s\n"+
		"local_enable=NO\nwrite_enable=NO\nseccomp_sandbox=NO\nsecure_chroot_dir=%s\nftp_username=ftp\npasv_address=127.0.0.1\nxferlog_enable=NO\n", port, s.files, empty)
	file := filepath.Join(s.dir, "vsftpd.conf")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		return err
	}
	s.ftp = fmt.Sprintf("127.0.0.1:%d", port)
	return s.run(ctx, port, program, file)
}

// iscsiTarget is the name of the target. Its units are 1, half.raw; 2, small.raw; and 3 and 4,
// as large, which are written.
const iscsiTarget = "iqn.2026-01.bench:t"

func (s *remoteServers) startISCSI(ctx context.Context, program string) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	const control = "31"
	at := func(name string) string { return filepath.Join(s.files, name) }
	if err := command(ctx, "sh", "-c", `cd "$1" && truncate -s 1G unit3 && truncate -s 64M unit4`, "sh", s.files); err != nil {
		return err
	}
	if err := os.Setenv("TGT_IPC_SOCKET", filepath.Join(s.dir, "tgt")); err != nil {
		return err
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	server := exec.CommandContext(ctx, program, "-f", "-C", control, "--iscsi", "portal="+address)
	if err := server.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = server.Wait() }()
	s.stop = append(s.stop, func() { _ = server.Process.Kill(); <-ended })
	admin := func(args ...string) error {
		return command(ctx, "tgtadm", append([]string{"-C", control}, args...)...)
	}
	for admin("--mode", "system", "--op", "show") != nil {
		select {
		case <-ended:
			return errors.New("tgtd ends at once")
		case <-time.After(20 * time.Millisecond):
		}
	}
	err = admin("--lld", "iscsi", "--op", "new", "--mode", "target", "--tid", "1", "-T", iscsiTarget)
	for i, file := range []string{"half.raw", "small.raw", "unit3", "unit4"} {
		lun := fmt.Sprint(i + 1)
		err = errors.Join(err, admin("--lld", "iscsi", "--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", lun, "-b", at(file)),
			admin("--lld", "iscsi", "--op", "update", "--mode", "logicalunit", "--tid", "1", "--lun", lun, "--params", "thin_provisioning=1"))
	}
	if err = errors.Join(err, admin("--lld", "iscsi", "--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL")); err != nil {
		return err
	}
	s.iscsi = address
	s.iscsiSlow, err = s.delay(address)
	return err
}

// remoteRows are the rows about disks on other machines.
func (s *remoteServers) rows(c *config) (list []row) {
	const quiet = "?host_key_check=no"
	at := func(name string) string { return filepath.Join(s.files, name) }
	large, small, medium, out := at("half.raw"), at("small.raw"), at("medium.raw"), at("out.img")
	copied := func(name string, goal float64, options []string, from, to string) row {
		args := append(append([]string{"convert"}, options...), "-f", "raw", "-O", "raw", from, to)
		r := row{name: name, goal: goal, original: append([]string{c.original}, args...), ours: append([]string{c.ours}, args...), out: out}
		return r
	}
	// written is copied to what is no file that could be removed and measured.
	written := func(name string, goal float64, options []string, from, to string) row {
		r := copied(name, goal, options, from, to)
		r.out = ""
		return r
	}
	if s.ssh != "" {
		near, slow := "ssh://"+s.ssh, "ssh://"+s.sshSlow
		list = append(list,
			copied("ssh: read", 2, nil, near+large+quiet, out),
			copied("ssh: write", 2, nil, large, near+out+quiet),
			copied("ssh: read 16 MiB, 20 ms of round trip", 10, nil, slow+small+quiet, out),
			copied("ssh: write 64 MiB, 20 ms of round trip", 10, nil, medium, slow+out+quiet))
	}
	if s.http != "" {
		// More than one request at a time hangs some versions of QEMU.
		one := []string{"-m", "1"}
		tls := copied("https: read", 2, nil, "", out)
		options := "driver=raw,file.driver=https,file.sslverify=off,file.url=https://" + s.https + "/half.raw"
		tls.original = []string{c.original, "convert", "-m", "1", "--image-opts", options, "-O", "raw", out}
		tls.ours = []string{c.ours, "convert", "--image-opts", options, "-O", "raw", out}
		list = append(list,
			copied("http: read", 1.3, one, "http://"+s.http+"/half.raw", out), tls,
			copied("http: read 16 MiB, 20 ms of round trip", 0, one, "http://"+s.httpSlow+"/small.raw", out))
	}
	if s.ftp != "" {
		list = append(list, copied("ftp: read", 1.3, nil, "ftp://"+s.ftp+"/half.raw", out))
	}
	if s.iscsi != "" {
		unit := func(address string, number int) string {
			return fmt.Sprintf("iscsi://%s/%s/%d", address, iscsiTarget, number)
		}
		existing, flushed := []string{"-n"}, []string{"-n", "-t", "writeback"}
		list = append(list,
			copied("iscsi: read", 1.2, nil, unit(s.iscsi, 1), out),
			written("iscsi: write", 1.2, existing, large, unit(s.iscsi, 3)),
			written("iscsi: write, flushed at the end", 1.2, flushed, large, unit(s.iscsi, 3)),
			copied("iscsi: read 16 MiB, 20 ms of round trip", 1.2, nil, unit(s.iscsiSlow, 2), out),
			written("iscsi: write 64 MiB, 20 ms of round trip", 1.2, existing, medium, unit(s.iscsiSlow, 4)))
	}
	within := func(wrap []string, name string, goal float64, from, to string) {
		r := copied(name, goal, nil, from, to)
		r.original, r.ours = append(slices.Clone(wrap), r.original...), append(slices.Clone(wrap), r.ours...)
		if to != out {
			r.out = "" // the server must not lose its file behind its back: it is emptied by each run
		}
		list = append(list, r)
	}
	if s.nfs != nil {
		const url = "nfs://127.0.0.1"
		within(s.nfs, "nfs: read", 1.5, url+large, out)
		within(s.nfs, "nfs: write", 1.5, large, url+at("nfs.img"))
		within(s.nfsSlow, "nfs: read 64 MiB, 20 ms of round trip", 1.5, url+medium, out)
		within(s.nfsSlow, "nfs: write 64 MiB, 20 ms of round trip", 1.5, medium, url+at("nfs.img"))
	}
	if s.ceph {
		list = append(list,
			copied("rbd: read", 1, nil, "rbd:rbd/half", out),
			written("rbd: write", 1, []string{"-n"}, large, "rbd:rbd/target"))
	}
	if s.gluster != nil {
		const url = "gluster://10.99.0.1/vol/"
		within(s.gluster, "gluster: read", 3, url+"half.raw", out)
		within(s.gluster, "gluster: write", 3, large, url+"target.raw")
	}
	return list
}

// measureRemote runs the rows about other machines that were asked for.
func measureRemote(ctx context.Context, c *config) error {
	everything := &remoteServers{ssh: "-", http: "-", ftp: "-", iscsi: "-", nfs: []string{}, ceph: true, gluster: []string{}}
	wanted := slices.ContainsFunc(everything.rows(c), func(r row) bool { return c.only.MatchString(r.name) })
	if !wanted {
		return nil
	}
	// Other users read here: the FTP server's. It must not be theirs to write.
	dir, err := os.MkdirTemp("", "cowl-remote")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	files := filepath.Join(dir, "files")
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(files, 0o755)); err != nil {
		return err
	}
	script := `set -e; cd "$1"; truncate -s 1G half.raw; for i in 0 2 4 6; do head -c 128M /dev/urandom | dd of=half.raw bs=1M seek=$((i * 128)) conv=notrunc iflag=fullblock status=none; done; head -c 16M /dev/urandom >small.raw; head -c 64M /dev/urandom >medium.raw; chmod 644 *.raw`
	if err := command(ctx, "sh", "-c", script, "sh", files); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := startRemote(ctx, dir, files)
	if err != nil {
		return err
	}
	defer s.close()
	if len(s.missing) > 0 {
		fmt.Println("\nrows left out:", strings.Join(s.missing, ", "), "missing")
	}
	for _, r := range s.rows(c) {
		if !c.only.MatchString(r.name) {
			continue
		}
		if err := measureRow(ctx, c, r); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	return nil
}
