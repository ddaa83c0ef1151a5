package differential

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// nginx is a web server in several forms, by port.
type nginx struct{ plain, tls, noRanges, login, redirect, noHead int }

// freePorts returns ports that nothing listens at now.
func freePorts(t *testing.T, n int) (ports []int) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

// startNginx serves the files of a folder.
func startNginx(t *testing.T, root string) nginx {
	t.Helper()
	program, err := exec.LookPath("nginx")
	if err != nil {
		t.Skip("nginx is not installed")
	}
	dir := t.TempDir()
	testkit.Run(t, "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
		"-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", filepath.Join(dir, "key.pem"), "-out", filepath.Join(dir, "cert.pem"))
	hash := strings.TrimSpace(testkit.Run(t, "openssl", "passwd", "-apr1", "pass"))
	if err := os.WriteFile(filepath.Join(dir, "users"), []byte("user:"+hash+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	// Another program may take a port in between.
	for try := range 5 {
		p := freePorts(t, 6)
		n := nginx{p[0], p[1], p[2], p[3], p[4], p[5]}
		if n.start(t, program, dir, root) {
			return n
		}
		t.Logf("try %d: nginx does not listen", try)
	}
	t.Fatal("nginx cannot be started")
	return nginx{}
}

func (n nginx) start(t *testing.T, program, dir, root string) bool {
	t.Helper()
	var temp strings.Builder
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&temp, "%s_temp_path %s/%s;\n", kind, dir, kind)
	}
	config := fmt.Sprintf(`daemon off;
master_process off;
pid %[1]s/pid;
error_log %[1]s/error.log;
events { worker_connections 256; }
http {
	access_log off;
	%[2]s
	root %[3]s;
	server { listen 127.0.0.1:%[4]d; }
	server { listen 127.0.0.1:%[5]d ssl; ssl_certificate %[1]s/cert.pem; ssl_certificate_key %[1]s/key.pem; }
	server { listen 127.0.0.1:%[6]d; max_ranges 0; }
	server { listen 127.0.0.1:%[7]d; auth_basic x; auth_basic_user_file %[1]s/users; }
	server { listen 127.0.0.1:%[8]d; location / { return 302 http://127.0.0.1:%[4]d$request_uri; } }
	server { listen 127.0.0.1:%[9]d; if ($request_method = HEAD) { return 403; } }
}
`, dir, temp.String(), root, n.plain, n.tls, n.noRanges, n.login, n.redirect, n.noHead)
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-c", file, "-p", dir)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")} // NGINX would be a list of sockets
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
	for {
		select {
		case <-ended:
			return false
		case <-time.After(20 * time.Millisecond):
		}
		if c, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(n.noHead)); err == nil {
			c.Close()
			return true
		}
	}
}

// TestHTTP compares what both programs say of disks on a web server, and what they copy.
func TestHTTP(t *testing.T) {
	tools := needCLI(t)
	if out, err := exec.Command(tools.img, "info", "http://127.0.0.1:1/").CombinedOutput(); err != nil && strings.Contains(string(out), "Unknown protocol") {
		t.Skip("qemu-img has no http driver (qemu-block-extra)")
	}
	dir := t.TempDir()
	testkit.Run(t, tools.img, "create", "-q", "-f", "qcow2", filepath.Join(dir, "s.qcow2"), "8M")
	testkit.Run(t, "qemu-io", "-c", "write -P 7 100k 3M", "-c", "write -z 4M 1M", filepath.Join(dir, "s.qcow2"))
	testkit.Run(t, tools.img, "convert", "-c", "-O", "qcow2", filepath.Join(dir, "s.qcow2"), filepath.Join(dir, "c.qcow2"))
	testkit.Run(t, tools.img, "convert", "-O", "raw", filepath.Join(dir, "s.qcow2"), filepath.Join(dir, "s.raw"))
	s := startNginx(t, dir)
	url := func(port int, rest string) string { return fmt.Sprintf("127.0.0.1:%d/%s", port, rest) }
	plain, tls := "http://"+url(s.plain, ""), "https://"+url(s.tls, "")
	secret := []string{"--object", "secret,id=pw,data=pass"}
	const (
		same  = iota
		fails // both, in other words
		better
	)
	for _, c := range []struct {
		args []string
		want int
		why  string
	}{
		{args: []string{"info", plain + "s.qcow2"}},
		{args: []string{"info", "--output=json", plain + "s.qcow2"}},
		{args: []string{"info", plain + "s.raw"}},
		{args: []string{"info", plain + "s.qcow2?a=b&c"}},
		{args: []string{"info", "http://" + url(s.redirect, "c.qcow2")}},
		{args: []string{"map", plain + "s.qcow2"}},
		{args: []string{"map", "--output=json", plain + "s.qcow2"}},
		{args: []string{"map", "--output=json", plain + "c.qcow2"}},
		{args: []string{"check", plain + "s.qcow2"}},
		{args: []string{"measure", "-O", "qcow2", plain + "s.qcow2"}},
		{args: []string{"compare", plain + "s.qcow2", "s.raw"}},
		{args: []string{"info", "--image-opts", "driver=qcow2,file.driver=https,file.sslverify=off,file.url=" + tls + "s.qcow2"}},
		{args: append(append([]string{"info"}, secret...), "--image-opts", "driver=http,username=user,password-secret=pw,url=http://"+url(s.login, "s.raw"))},
		{args: []string{"info", plain + "none"}},
		{args: []string{"info", "http://" + url(s.login, "s.qcow2")}},
		{args: []string{"info", "--image-opts", "driver=http"}},
		{args: []string{"info", "--image-opts", "driver=http,url=https://x/"}},
		{args: []string{"info", "--image-opts", "driver=http,url=" + plain + "s.raw,readahead=1000"}},
		{args: []string{"info", "--image-opts", "driver=http,url=" + plain + "s.raw,timeout=100000"}},
		{args: []string{"info", "--image-opts", "driver=http,url=" + plain + "s.raw,cookie=a,cookie-secret=b"}},
		{args: []string{"info", "http://nohost.invalid/x"}},
		{args: []string{"create", "-f", "raw", plain + "new", "1M"}},
		{args: []string{"convert", "-O", "raw", "s.raw", plain + "new"}},
		{args: []string{"convert", "-n", "-O", "raw", "s.raw", plain + "s.raw"}},
		{args: []string{"info", tls + "s.qcow2"}, want: fails, why: "QEMU names files of GnuTLS, ours what is wrong with the certificate"},
		{args: []string{"info", "http://127.0.0.1:1/"}, want: fails, why: "QEMU tells milliseconds, ours the system's reason"},
		{args: []string{"info", "http://" + url(s.noRanges, "s.qcow2")}, want: better, why: "no ranges"},
		{args: []string{"info", "http://" + url(s.noHead, "s.qcow2")}, want: better, why: "no HEAD"},
	} {
		theirs, ours := runIn(t, dir, tools.img, c.args...), runIn(t, dir, tools.ours, c.args...)
		switch {
		case c.want == same && (theirs.code != ours.code || theirs.stderr != ours.stderr || !sameOutput(theirs.stdout, ours.stdout)):
			t.Errorf("%v:\n%+v\nwant\n%+v", c.args, ours, theirs)
		case c.want == fails && (theirs.code == 0 || ours.code != theirs.code || ours.stderr == ""):
			t.Errorf("%v (%s):\n%+v\nQEMU\n%+v", c.args, c.why, ours, theirs)
		case c.want == better && (theirs.code == 0 || ours.code != 0):
			t.Errorf("%v (%s):\n%+v\nQEMU\n%+v", c.args, c.why, ours, theirs)
		}
	}
	// The password is in no line, wherever it was given.
	for _, args := range [][]string{
		{"info", "http://user:pass@" + url(s.login, "s.qcow2")},
		{"info", "http://user:pass@" + url(s.login, "none")},
		{"info", "http://user:pass@127.0.0.1:1/"},
		append(append([]string{"info"}, secret...), "--image-opts", "driver=qcow2,file.driver=http,file.username=user,file.password-secret=pw,file.url=http://"+url(s.login, "s.qcow2")),
	} {
		o := runIn(t, dir, tools.ours, args...)
		if strings.Contains(o.stdout+o.stderr, "pass@") || strings.Contains(o.stdout, ":pass") {
			t.Errorf("%v tells the password: %+v", args, o)
		}
	}
	want, err := os.ReadFile(filepath.Join(dir, "s.raw"))
	if err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"qcow2":      {plain + "s.qcow2"},
		"compressed": {plain + "c.qcow2"},
		"raw":        {"-f", "raw", plain + "s.raw"},
		"redirected": {"http://" + url(s.redirect, "s.qcow2")},
		"no ranges":  {"http://" + url(s.noRanges, "c.qcow2")},
		"no head":    {"http://" + url(s.noHead, "c.qcow2")},
		"login":      {"http://user:pass@" + url(s.login, "c.qcow2")},
		"tls":        {"--image-opts", "driver=qcow2,file.driver=https,file.sslverify=off,file.url=" + tls + "s.qcow2"},
	} {
		out := filepath.Join(t.TempDir(), "out")
		o := runIn(t, dir, tools.ours, append(append([]string{"convert", "-O", "raw"}, args...), out)...)
		if got, err := os.ReadFile(out); err != nil || string(got) != string(want) || o.code != 0 {
			t.Errorf("%s: another disk, %v: %+v", name, err, o)
		}
	}
}
