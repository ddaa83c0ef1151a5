package source

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/klauspost/compress/gzip"

	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/incus/definition"
	"github.com/cowl-disk/cowl/paxtar"
)

// archive is a tar.gz with files, under a prefix.
func archive(t *testing.T, prefix string, files map[string]string) []byte {
	t.Helper()
	tree := fstree.New()
	tree.Root.Mode = 0o700
	for path, text := range files {
		n, err := tree.PutFile(path, []byte(text), time.Unix(1, 0))
		if err != nil {
			t.Fatal(err)
		}
		n.UID = 7
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := paxtar.NewWriter(z, paxtar.Options{})
	for _, err := range []error{w.AddTree("./"+prefix, tree.Root), w.Close(), z.Close()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// site is a web server with files, which counts what it sends.
type site struct {
	mu    sync.Mutex
	files map[string][]byte
	types map[string]string
	sent  map[string]int
	*httptest.Server
}

func serve(t *testing.T, files map[string][]byte) *site {
	t.Helper()
	s := &site{files: files, sent: map[string]int{}, types: map[string]string{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		b, ok := s.files[r.URL.RequestURI()]
		if !ok {
			b, ok = s.files[r.URL.Path]
		}
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Last-Modified", "Mon, 06 May 2024 07:08:09 GMT")
		if kind := s.types[r.URL.Path]; kind != "" {
			w.Header().Set("Content-Type", kind)
		}
		if r.Header.Get("If-Modified-Since") == "Mon, 06 May 2024 07:08:09 GMT" {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		s.sent[r.URL.Path]++
		if r.Method != http.MethodHead {
			w.Write(b)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// get gets a source with a definition that says more about image and source.
func get(t *testing.T, dir, image, source string) (*fstree.Tree, error) {
	t.Helper()
	text := "image: {distribution: test, " + image + "}\nsource:\n  " + strings.ReplaceAll(source, "\n", "\n  ") + "\npackages: {manager: apt}\n"
	d, err := definition.Parse([]byte(text), definition.Options{Now: time.Unix(1, 0)})
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	tree, err := Get(t.Context(), d, Options{Dir: dir, Work: t.TempDir()})
	if tree != nil {
		t.Cleanup(func() { tree.Close() })
	}
	return tree, err
}

// has fails where a tree does not have a file with a text, or its owner.
func has(t *testing.T, what string, tree *fstree.Tree, err error, path, want string) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	text, err := tree.ReadFile(path, 1<<20)
	if err != nil || string(text) != want || tree.Root.Lookup(path).UID != 7 {
		t.Errorf("%s: %q, %v", what, text, err)
	}
}

// key is a key with its public half, armored.
func key(t *testing.T) (*openpgp.Entity, string) {
	t.Helper()
	e, err := openpgp.NewEntity("test", "", "test@example.org", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PublicKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Serialize(w); err != nil {
		t.Fatal(err)
	}
	w.Close()
	return e, b.String()
}

func sign(t *testing.T, e *openpgp.Entity, text []byte, armored bool) []byte {
	t.Helper()
	var b bytes.Buffer
	f := openpgp.DetachSign
	if armored {
		f = openpgp.ArmoredDetachSign
	}
	if err := f(&b, e, bytes.NewReader(text), nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func signed(t *testing.T, e *openpgp.Entity, text []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := clearsign.Encode(&b, e.PrivateKey, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(text)
	w.Close()
	return b.Bytes()
}

func sha2(b []byte) string { s := sha256.Sum256(b); return hex.EncodeToString(s[:]) }

// indent makes a block of YAML of a text.
func indent(text string) string {
	return "- |\n  " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n  ")
}

// TestIndexes gets a root file system by each of the indexes, with signatures.
func TestIndexes(t *testing.T) {
	e, public := key(t)
	_, stranger := key(t)
	a := archive(t, "", map[string]string{"etc/x": "content"})
	big := sha512.Sum512(a)
	portage := archive(t, "", map[string]string{"portage/p": "packages"})
	list := func(name string) []byte {
		return []byte("00 garbage\n" + sha2([]byte("other")) + "  other\n" + sha2(a) + " *" + name + "\n")
	}
	bsd := []byte("SHA256 (void-x86_64-ROOTFS-20240314.tar.xz) = " + sha2(a) + "\n")
	digests := signed(t, e, fmt.Appendf(nil, "# SHA512\n%x  stage3-amd64-systemd-2.tar.xz\n", big))
	suse := signed(t, e, []byte(sha2(a)+"  opensuse-leap-image.x86_64-Build9.tar.xz\n"))
	files := map[string][]byte{
		"/alpine/v3.20/releases/x86_64/":                                               []byte(`<a href="alpine-minirootfs-3.20.9-x86_64.tar.gz">a</a> <a href="alpine-minirootfs-3.20.10-x86_64.tar.gz">`),
		"/alpine/v3.20/releases/x86_64/alpine-minirootfs-3.20.10-x86_64.tar.gz":        a,
		"/alpine/v3.20/releases/x86_64/alpine-minirootfs-3.20.10-x86_64.tar.gz.sha256": list("alpine-minirootfs-3.20.10-x86_64.tar.gz"),
		"/alpine/v3.20/releases/x86_64/alpine-minirootfs-3.20.10-x86_64.tar.gz.asc":    sign(t, e, a, true),

		"/ubuntu/releases/noble/release/":                                      []byte(`<a href="ubuntu-base-24.04-base-amd64.tar.gz"> <a href="ubuntu-base-24.04.1-base-amd64.tar.gz">`),
		"/ubuntu/releases/noble/release/ubuntu-base-24.04.1-base-amd64.tar.gz": a,
		"/ubuntu/releases/noble/release/SHA256SUMS":                            list("ubuntu-base-24.04.1-base-amd64.tar.gz"),
		"/ubuntu/releases/noble/release/SHA256SUMS.gpg":                        sign(t, e, list("ubuntu-base-24.04.1-base-amd64.tar.gz"), true),

		"/void/": []byte(`<a href="void-x86_64-ROOTFS-20240314.tar.xz">`),
		"/void/void-x86_64-ROOTFS-20240314.tar.xz": a,
		"/void/sha256sum.txt":                      bsd,
		"/void/sha256sum.sig":                      sign(t, e, bsd, false),

		"/arch/": []byte(`<a href="2023.12.01/">x</a><a href="2024.05.01/">x</a>`),
		"/arch/2024.05.01/archlinux-bootstrap-2024.05.01-x86_64.tar.zst":     archive(t, "root.x86_64/", map[string]string{"etc/x": "content"}),
		"/arch/2024.05.01/archlinux-bootstrap-2024.05.01-x86_64.tar.zst.sig": sign(t, e, archive(t, "root.x86_64/", map[string]string{"etc/x": "content"}), false),

		"/gentoo/releases/amd64/autobuilds/current-stage3-amd64-systemd/":                                      []byte(`<a href="stage3-amd64-systemd-1.tar.xz"><a href="stage3-amd64-systemd-2.tar.xz">`),
		"/gentoo/releases/amd64/autobuilds/current-stage3-amd64-systemd/stage3-amd64-systemd-2.tar.xz":         a,
		"/gentoo/releases/amd64/autobuilds/current-stage3-amd64-systemd/stage3-amd64-systemd-2.tar.xz.DIGESTS": digests,
		"/gentoo/snapshots/portage-latest.tar.xz":                                                              portage,
		"/gentoo/snapshots/portage-latest.tar.xz.gpgsig":                                                       sign(t, e, portage, false),

		"/suse/distribution/leap/15.6/appliances/":                                         []byte(`<a href="./opensuse-leap-image.x86_64.tar.xz">`),
		"/suse/distribution/leap/15.6/appliances/opensuse-leap-image.x86_64.tar.xz":        a,
		"/suse/distribution/leap/15.6/appliances/opensuse-leap-image.x86_64.tar.xz.sha256": suse,
	}
	s := serve(t, files)
	for name, c := range map[string]struct{ image, source, file string }{
		"alpine": {"release: 3.20, architecture: x86_64", "downloader: alpinelinux-http\nurl: " + s.URL + "/alpine/", "/alpine/v3.20/releases/x86_64/alpine-minirootfs-3.20.10-x86_64.tar.gz"},
		"ubuntu": {"release: noble, architecture: amd64", "downloader: ubuntu-http\nurl: " + s.URL + "/ubuntu", "/ubuntu/releases/noble/release/SHA256SUMS"},
		"void":   {"release: current, architecture: x86_64", "downloader: voidlinux-http\nurl: " + s.URL + "/void/", "/void/sha256sum.txt"},
		"arch":   {"architecture: x86_64", "downloader: archlinux-http\nurl: " + s.URL + "/arch", "/arch/2024.05.01/archlinux-bootstrap-2024.05.01-x86_64.tar.zst"},
		"gentoo": {"release: current, architecture: amd64", "downloader: gentoo-http\nvariant: systemd\nurl: " + s.URL + "/gentoo", "/gentoo/releases/amd64/autobuilds/current-stage3-amd64-systemd/stage3-amd64-systemd-2.tar.xz.DIGESTS"},
		"suse":   {"release: 15.6, architecture: x86_64", "downloader: opensuse-http\nurl: " + s.URL + "/suse", "/suse/distribution/leap/15.6/appliances/opensuse-leap-image.x86_64.tar.xz.sha256"},
	} {
		tree, err := get(t, t.TempDir(), c.image, c.source+"\nkeys:\n"+indent(public))
		has(t, name, tree, err, "etc/x", "content")
		if name == "gentoo" {
			has(t, name, tree, err, "var/db/repos/gentoo/p", "packages")
		}
		if name == "alpine" && tree != nil && tree.Root.Mode != 0o755 {
			t.Errorf("the root has mode %o", tree.Root.Mode)
		}
		tree, err = get(t, t.TempDir(), c.image, c.source+"\nskip_verification: true")
		has(t, name+", not verified", tree, err, "etc/x", "content")
		if _, err := get(t, t.TempDir(), c.image, c.source); err == nil || !strings.Contains(err.Error(), "GPG keys are required") {
			t.Errorf("%s without keys: %v", name, err)
		}
		if _, err := get(t, t.TempDir(), c.image, c.source+"\nkeys:\n"+indent(stranger)); err == nil || !strings.Contains(err.Error(), "invalid signature") {
			t.Errorf("%s with the key of another: %v", name, err)
		}
		s.mu.Lock()
		good := s.files[c.file]
		bad := bytes.Clone(good)
		bad[bytes.LastIndexByte(bad[:len(bad)/2], bad[len(bad)/3])]++
		s.files[c.file] = bad
		s.mu.Unlock()
		if tree, err := get(t, t.TempDir(), c.image, c.source+"\nkeys:\n"+indent(public)); err == nil {
			t.Errorf("%s: a changed byte is not noticed: %v", name, tree.Root.Len())
		}
		s.mu.Lock()
		s.files[c.file] = good
		s.mu.Unlock()
	}
}

func TestKept(t *testing.T) {
	a := archive(t, "", map[string]string{"etc/x": "content"})
	s := serve(t, map[string][]byte{"/r.tar.gz": a, "/alpine/v3.20/releases/x86_64/alpine-minirootfs-3.20.1-x86_64.tar.gz": a})
	dir := t.TempDir()
	for range 3 {
		tree, err := get(t, dir, "release: 1, architecture: x86_64", "downloader: rootfs-http\nurl: "+s.URL+"/r.tar.gz")
		has(t, "rootfs", tree, err, "etc/x", "content")
	}
	if s.sent["/r.tar.gz"] != 1 {
		t.Errorf("sent %d times", s.sent["/r.tar.gz"])
	}
	path := filepath.Join(dir, "test-1-x86_64", "r.tar.gz")
	tree, err := get(t, dir, "release: 1", "downloader: rootfs-http\nurl: file://"+filepath.ToSlash(path))
	if runtime.GOOS != "windows" {
		has(t, "a file", tree, err, "etc/x", "content")
	}
	for source, says := range map[string]string{
		"url: " + s.URL + "/none.tar":     "404",
		"url: ftp://x/y":                  "begins with none of",
		"url: " + s.URL:                   "names no file",
		"url: http://127.0.0.1:1/r.tar":   "refused",
		"url: " + s.URL + "/{{ image. }}": "source URL",
	} {
		if _, err := get(t, dir, "release: 1", "downloader: rootfs-http\n"+source); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", source, err, says)
		}
	}
	if _, err := get(t, dir, "release: 1", "downloader: busybox"); err == nil || !strings.Contains(err.Error(), "busybox is not supported") {
		t.Error(err)
	}
	if _, err := get(t, dir, "release: ../../x, architecture: x86_64", "downloader: alpinelinux-http\nurl: "+s.URL); err == nil || !strings.Contains(err.Error(), "no part of an address") {
		t.Error(err)
	}
	list, _ := filepath.Glob(filepath.Join(dir, "*", ".download*"))
	if len(list) > 0 {
		t.Errorf("left behind: %v", list)
	}
}

// TestHash holds that a file without the sum of its list is not taken, nor one that is
// there already.
func TestHash(t *testing.T) {
	a, b := archive(t, "", map[string]string{"etc/x": "content"}), archive(t, "", map[string]string{"etc/x": "changed"})
	path := "/v3.20/releases/x86_64/alpine-minirootfs-3.20.1-x86_64.tar.gz"
	s := serve(t, map[string][]byte{path: b, path + ".sha256": []byte(sha2(a) + "\n")})
	d, err := definition.Parse([]byte("image: {distribution: x, release: 3.20.1, architecture: x86_64}\nsource: {downloader: alpinelinux-http, url: \"https://host\"}\npackages: {manager: apt}\n"), definition.Options{})
	if err != nil {
		t.Fatal(err)
	}
	// over https no keys are needed; the transport asks the test's server
	client := &http.Client{Transport: plainly{strings.TrimPrefix(s.URL, "http://")}}
	dir := t.TempDir()
	if _, err := Get(t.Context(), d, Options{Dir: dir, Client: client}); err == nil || !strings.Contains(err.Error(), "hash mismatch for https://host/v3.20/") {
		t.Error(err)
	}
	for _, content := range [][]byte{a, a, b} { // the sum of the last one is that of what is kept
		s.mu.Lock()
		s.files[path] = content
		s.mu.Unlock()
		tree, err := Get(t.Context(), d, Options{Dir: dir, Client: client})
		has(t, "hash", tree, err, "etc/x", "content")
		if tree != nil {
			tree.Close()
		}
	}
	if s.sent[path] != 2 {
		t.Errorf("sent %d times", s.sent[path])
	}
}

// plainly asks a host by http, whatever the request says.
type plainly struct{ host string }

func (p plainly) RoundTrip(r *http.Request) (*http.Response, error) {
	c := r.Clone(r.Context())
	c.URL.Scheme, c.URL.Host = "http", p.host
	return http.DefaultTransport.RoundTrip(c)
}

// TestShort holds that a download that ends too early is not taken for the file.
func TestShort(t *testing.T) {
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		io.WriteString(w, "short")
	}))
	defer h.Close()
	dir := t.TempDir()
	if _, err := get(t, dir, "release: 1", "downloader: rootfs-http\nurl: "+h.URL+"/r.tar"); err == nil || !strings.Contains(err.Error(), "unexpected EOF") {
		t.Error(err)
	}
	if list, _ := filepath.Glob(filepath.Join(dir, "*", "*")); len(list) > 0 {
		t.Errorf("left behind: %v", list)
	}
}

func TestKeyServer(t *testing.T) {
	e, public := key(t)
	_, other := key(t)
	a := archive(t, "", map[string]string{"etc/x": "content"})
	fingerprint := fmt.Sprintf("%X", e.PrimaryKey.Fingerprint)
	base := "/v3.20/releases/x86_64/alpine-minirootfs-3.20.1-x86_64.tar.gz"
	s := serve(t, map[string][]byte{base: a, base + ".sha256": []byte(sha2(a) + "\n"), base + ".asc": sign(t, e, a, true), "/pks/lookup": []byte(public)})
	source := "downloader: alpinelinux-http\nurl: " + s.URL + "\nkeyserver: hkp" + strings.TrimPrefix(s.URL, "http") + "\nkeys: [\"0x" + fingerprint + "\"]"
	tree, err := get(t, t.TempDir(), "release: 3.20.1, architecture: x86_64", source)
	has(t, "key", tree, err, "etc/x", "content")
	s.mu.Lock()
	s.files["/pks/lookup"] = []byte(other)
	s.mu.Unlock()
	if _, err := get(t, t.TempDir(), "release: 3.20.1, architecture: x86_64", source); err == nil || !strings.Contains(err.Error(), "sent another one") {
		t.Error(err)
	}
	if _, err := get(t, t.TempDir(), "release: 3.20.1, architecture: x86_64", strings.Replace(source, fingerprint, "12345678", 1)); err == nil || !strings.Contains(err.Error(), "neither a key nor the fingerprint") {
		t.Error(err)
	}
}

// TestDocker pulls one of the images of an index of a registry.
func TestDocker(t *testing.T) {
	files, types := map[string][]byte{}, map[string]string{}
	blob := func(b []byte) map[string]any {
		digest := "sha256:" + sha2(b)
		files["/v2/a/b/blobs/"+digest] = b
		files["/v2/a/b/manifests/"+digest] = b
		return map[string]any{"digest": digest, "size": len(b)}
	}
	encode := func(v any) []byte { b, _ := json.Marshal(v); return b }
	with := func(m map[string]any, kind string) map[string]any { m["mediaType"] = kind; return m }
	var manifests []any
	for _, arch := range []string{"arm64", "amd64"} {
		layer := with(blob(archive(t, "", map[string]string{"etc/x": arch})), "application/vnd.oci.image.layer.v1.tar+gzip")
		config := with(blob(encode(map[string]any{"os": "linux", "architecture": arch, "rootfs": map[string]any{"type": "layers"}})), "application/vnd.oci.image.config.v1+json")
		m := with(blob(encode(map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": []any{layer}})), "application/vnd.oci.image.manifest.v1+json")
		types["/v2/a/b/manifests/"+m["digest"].(string)] = "application/vnd.oci.image.manifest.v1+json"
		m["platform"] = map[string]string{"os": "linux", "architecture": arch}
		manifests = append(manifests, m)
	}
	index := encode(map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests})
	files["/v2/a/b/manifests/latest"], types["/v2/a/b/manifests/latest"] = index, "application/vnd.oci.image.index.v1+json"
	blob(index)
	types["/v2/a/b/manifests/sha256:"+sha2(index)] = "application/vnd.oci.image.index.v1+json"
	s := serve(t, files)
	s.types = types
	url := strings.TrimPrefix(s.URL, "http://") + "/a/b"
	for _, arch := range []string{"amd64", "arm64"} {
		tree, err := get(t, t.TempDir(), "release: 1, architecture: "+arch, "downloader: docker-http\nurl: "+url)
		has(t, arch, tree, err, "etc/x", arch)
	}
	if _, err := get(t, t.TempDir(), "release: 1, architecture: riscv64", "downloader: docker-http\nurl: "+url); err == nil || !strings.Contains(err.Error(), "linux/riscv64") {
		t.Error(err)
	}
	if _, err := get(t, t.TempDir(), "release: 1, architecture: amd64", "downloader: docker-http\nurl: "+url+":other"); err == nil {
		t.Error("a tag that is not there")
	}
	for name, want := range map[string]string{"debian": "docker.io/library/debian:latest", "a/b:1": "docker.io/a/b:1", "ghcr.io/a/b": "ghcr.io/a/b:latest", "localhost:5000/a": "localhost:5000/a:latest",
		"docker.io/debian:12": "docker.io/library/debian:12", "x@sha256:00": "docker.io/library/x@sha256:00"} {
		if got := normal(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestSumOf(t *testing.T) {
	one, two := strings.Repeat("1", 64), strings.Repeat("2", 128)
	list := one + "  f\n" + two + "  ./d/f\nSHA256 (g) = " + strings.ToUpper(strings.Repeat("a", 64)) + "\r\n"
	for name, want := range map[string]string{"f": two, "g": strings.Repeat("a", 64), "h": ""} {
		if got, err := sumOf([]byte(list), name); string(got) != want || (err == nil) != (want != "") {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
	if got, err := sumOf([]byte(one+"\n"), "anything"); err != nil || string(got) != one {
		t.Errorf("%s, %v", got, err)
	}
}

func TestRedirect(t *testing.T) {
	plain := serve(t, map[string][]byte{"/r.tar": nil})
	secure := httptest.NewTLSServer(http.RedirectHandler(plain.URL+"/r.tar", http.StatusFound))
	defer secure.Close()
	d, err := definition.Parse([]byte("image: {distribution: x}\nsource: {downloader: rootfs-http, url: \""+secure.URL+"/r.tar\"}\npackages: {manager: apt}\n"), definition.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Get(t.Context(), d, Options{Dir: t.TempDir(), Client: secure.Client()}); err == nil || !strings.Contains(err.Error(), "redirected from https to http") {
		t.Error(err)
	}
	if _, err := os.Stat("r.tar"); err == nil {
		t.Error("written")
	}
}

func TestFedoraAndNixOS(t *testing.T) {
	layer := archive(t, "", map[string]string{"etc/x": "content"})
	manifest, _ := json.Marshal([]any{map[string]any{"RepoTags": []string{"fedora:40"}, "Layers": []string{"l/layer.tar"}}})
	image := fstree.New()
	for path, b := range map[string][]byte{"manifest.json": manifest, "l/layer.tar": layer} {
		if _, err := image.PutFile(path, b, time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	w := paxtar.NewWriter(&b, paxtar.Options{})
	if err := w.AddTree("", image.Root); err != nil {
		t.Fatal(err)
	}
	w.Close()
	base := "/packages/Fedora-Container-Base-Generic/40/"
	s := serve(t, map[string][]byte{
		base: []byte(`<a href="20240501.n.0/"> <a href="20240502.0/">`),
		base + "20240502.0/images/Fedora-Container-Base-Generic-40-20240502.0.x86_64.oci.tar.xz":                      b.Bytes(),
		"/job/nixos/release-24.05/nixos.incusContainerImage.x86_64-linux/latest/download-by-type/file/squashfs-image": layer,
	})
	tree, err := get(t, t.TempDir(), "release: 40, architecture: x86_64", "downloader: fedora-http\nskip_verification: true\nurl: "+s.URL)
	has(t, "fedora", tree, err, "etc/x", "content")
	tree, err = get(t, t.TempDir(), "release: 24.05, architecture: x86_64", "downloader: nixos-http\nskip_verification: true\nurl: "+s.URL)
	has(t, "nixos", tree, err, "etc/x", "content")
	for _, d := range []string{"fedora-http", "nixos-http"} {
		if _, err := get(t, t.TempDir(), "release: 40, architecture: x86_64", "downloader: "+d+"\nurl: "+s.URL); err == nil || !strings.Contains(err.Error(), "GPG keys are required") {
			t.Errorf("%s: %v", d, err)
		}
	}
}

// TestPrograms has programs that write down how they are called.
func TestPrograms(t *testing.T) {
	if runtime.GOOS == "windows" || os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	bin := t.TempDir()
	script := "#!/bin/sh\nfor a; do case $a in --installroot=*) root=${a#*=};; */debootstrap) root=$a;; esac; done\n/bin/mkdir -p $root/etc && echo \"$@\" >$root/etc/x; echo \"$http_proxy $SECRET\" >$root/etc/proxy; case $1 in --fail*|--variant=fail) echo no luck; exit 3;; esac\n"
	for _, name := range []string{"debootstrap", "dnf"} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin)
	t.Setenv("http_proxy", "http://proxy")
	t.Setenv("SECRET", "1")
	for name, c := range map[string]struct{ image, source, want string }{
		"debootstrap": {"release: trixie, architecture: amd64", "downloader: debootstrap\nurl: http://deb/\nvariant: minbase\ncomponents: [main, contrib]\nskip_verification: true\nsame_as: sid",
			"--variant=minbase --arch=amd64 --components=main,contrib --no-check-gpg trixie WORK/debootstrap http://deb /usr/share/debootstrap/scripts/sid\n"},
		"dnf": {"release: 40, architecture: x86_64", "downloader: rpmbootstrap\nurl: '[base]'\ncomponents: [bash]", "--installroot=WORK/rpmbootstrap --releasever=40 --setopt=reposdir=WORK/repos install -y yum dnf bash\n"},
	} {
		tree, err := get(t, t.TempDir(), c.image, c.source)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		text, err := tree.ReadFile("etc/x", 1000)
		if got := regexp.MustCompile(`/\S*/(debootstrap|rpmbootstrap|repos)( |$)`).ReplaceAllString(string(text), "WORK/$1$2"); err != nil || strings.ReplaceAll(got, "=/", "=") != c.want {
			t.Errorf("%s: %q, %v, want %q", name, got, err, c.want)
		}
		if text, err := tree.ReadFile("etc/proxy", 1000); err != nil || string(text) != "http://proxy \n" {
			t.Errorf("%s: the environment has %q, %v", name, text, err)
		}
	}
	if _, err := get(t, t.TempDir(), "release: trixie, architecture: amd64", "downloader: debootstrap\nvariant: fail\nskip_verification: true"); err == nil || !strings.Contains(err.Error(), "exit status 3: no luck") {
		t.Error(err)
	}
}

func TestProgramsMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for _, d := range []string{"debootstrap", "rpmbootstrap"} {
		if _, err := get(t, t.TempDir(), "release: trixie, architecture: amd64", "downloader: "+d); err == nil || !strings.Contains(err.Error(), "which this machine lacks") {
			t.Errorf("%s: %v", d, err)
		}
	}
}
