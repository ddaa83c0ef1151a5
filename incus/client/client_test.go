package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// server plays the image API of Incus.
type server struct {
	mu      sync.Mutex
	images  map[string][]string // fingerprint: names of parts with their sizes
	aliases map[string]string
	waits   int    // answers of wait before the operation ends
	waited  func() // called by wait, where not nil
	failure string // of operations
	text    string // answered to everything, where not empty
	result  map[string]string
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	say := func(code int, v map[string]any) {
		w.WriteHeader(code)
		json.NewEncoder(w).Encode(v)
	}
	fail := func(code int, text string) {
		say(code, map[string]any{"type": "error", "error": text, "error_code": code})
	}
	path := r.URL.EscapedPath()
	switch {
	case s.text != "":
		io.WriteString(w, s.text)
	case r.Method == "GET" && strings.HasPrefix(path, "/1.0/images/aliases/"):
		name := strings.TrimPrefix(path, "/1.0/images/aliases/")
		if target, ok := s.aliases[name]; ok {
			say(200, map[string]any{"type": "sync", "metadata": map[string]string{"name": name, "target": target}})
			return
		}
		fail(404, "Image alias not found")
	case r.Method == "POST" && path == "/1.0/images/aliases":
		var a alias
		json.NewDecoder(r.Body).Decode(&a)
		s.aliases[a.Name] = a.Target
		say(200, map[string]any{"type": "sync"})
	case r.Method == "GET" && strings.HasPrefix(path, "/1.0/images/"):
		if s.images[strings.TrimPrefix(path, "/1.0/images/")] == nil {
			fail(404, "Image not found")
			return
		}
		say(200, map[string]any{"type": "sync", "metadata": map[string]string{}})
	case r.Method == "POST" && path == "/1.0/images":
		sum, parts := sha256.New(), []string{}
		if form, err := r.MultipartReader(); err == nil {
			for {
				p, err := form.NextPart()
				if err != nil {
					break
				}
				n, _ := io.Copy(sum, p)
				parts = append(parts, fmt.Sprintf("%s %s %d", p.FormName(), p.FileName(), n))
			}
		} else {
			n, _ := io.Copy(sum, r.Body)
			parts = append(parts, fmt.Sprintf("%s %d %d", r.Header.Get("X-Incus-filename"), n, r.ContentLength))
		}
		got := hex.EncodeToString(sum.Sum(nil))
		if want := r.Header.Get("X-Incus-fingerprint"); want != got {
			s.failure = "fingerprints don't match, got " + got + " expected " + want
		} else {
			s.images[got] = parts
		}
		s.result = map[string]string{"fingerprint": got}
		say(202, map[string]any{"type": "async", "operation": "/1.0/operations/7?project=x"})
	case path == "/1.0/operations/7/wait":
		if s.waited != nil {
			s.waited()
		}
		code := 200
		if s.waits--; s.waits >= 0 {
			code = 103
		} else if s.failure != "" {
			code = 400
		}
		say(200, map[string]any{"type": "sync", "metadata": map[string]any{"status_code": code, "err": s.failure, "metadata": s.result}})
	default:
		fail(404, "not found")
	}
}

// start starts a server and returns a client of it.
func start(t *testing.T, s *server) *Client {
	t.Helper()
	if s.images == nil {
		s.images, s.aliases = map[string][]string{}, map[string]string{}
	}
	dir, err := os.MkdirTemp("", "incus") // short, as paths of sockets must be
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	h := &http.Server{Handler: s}
	go h.Serve(l)
	c := New(socket)
	t.Cleanup(func() { c.Close(); h.Close(); os.RemoveAll(dir) })
	return c
}

// files makes the files of an image and returns them with its fingerprint.
func files(t *testing.T, contents ...string) (list []string, fingerprint string) {
	t.Helper()
	sum := sha256.New()
	for i, c := range contents {
		path := filepath.Join(t.TempDir(), fmt.Sprintf("f%d", i))
		if err := os.WriteFile(path, []byte(c), 0o600); err != nil {
			t.Fatal(err)
		}
		io.WriteString(sum, c)
		list = append(list, path)
	}
	return list, hex.EncodeToString(sum.Sum(nil))
}

func TestImport(t *testing.T) {
	big := strings.Repeat("x", 700<<10)
	for name, c := range map[string]struct {
		contents []string
		vm       bool
		parts    []string
	}{
		"unified": {[]string{big}, false, []string{"f0 716800 716800"}},
		"split":   {[]string{"meta", big}, false, []string{"metadata f0 4", "rootfs f1 716800"}},
		"vm":      {[]string{"meta", big}, true, []string{"metadata f0 4", "rootfs.img f1 716800"}},
	} {
		s := &server{waits: 2}
		client := start(t, s)
		list, fingerprint := files(t, c.contents...)
		var last, total int64
		image := Image{Files: list, VM: c.vm, Fingerprint: fingerprint, Alias: "a b", Description: "d", Progress: func(d, n int64) { last, total = d, n }}
		sent, err := client.Import(t.Context(), image)
		if err != nil || !sent || !slices.Equal(s.images[fingerprint], c.parts) || s.aliases["a b"] != fingerprint || last != total || total < 700<<10 {
			t.Errorf("%s: %v, %v, %v, %v, %d of %d", name, sent, err, s.images, s.aliases, last, total)
		}
		s.aliases["a%20b"] = fingerprint
		if sent, err := client.Import(t.Context(), image); err != nil || sent {
			t.Errorf("%s: again: %v, %v", name, sent, err)
		}
		s.aliases["a%20b"] = "another"
		if _, err := client.Import(t.Context(), image); err == nil || !strings.Contains(err.Error(), `"a b" is the name of the image another`) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFailures(t *testing.T) {
	list, fingerprint := files(t, "abc")
	image := Image{Files: list, Fingerprint: fingerprint}
	wrong := image
	wrong.Fingerprint = strings.Repeat("0", 64)
	for name, c := range map[string]struct {
		server *server
		image  Image
		says   string
	}{
		"fingerprint": {&server{}, wrong, "fingerprints don't match"},
		"operation":   {&server{failure: "no room"}, image, "no room"},
		"no Incus":    {&server{text: "<html>"}, image, "not one of Incus"},
		"long":        {&server{text: `{"type":"sync","error":"` + strings.Repeat("x", maxAnswer) + `"}`}, image, "not one of Incus"},
		"no file":     {&server{}, Image{Files: []string{"/does/not/exist"}, Fingerprint: fingerprint}, "no such file"},
		"files":       {&server{}, Image{Fingerprint: fingerprint}, "one or two files"},
	} {
		_, err := start(t, c.server).Import(t.Context(), c.image)
		if err == nil || !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(c.says)) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
	if _, err := New(filepath.Join(t.TempDir(), "no")).Import(t.Context(), image); err == nil || !strings.Contains(err.Error(), "failed to connect to Incus: connect to the Incus server at ") {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	c := start(t, &server{waits: 1 << 30, waited: cancel})
	if _, err := c.Import(ctx, image); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestSocket(t *testing.T) {
	for want, env := range map[string]map[string]string{"/s": {"INCUS_SOCKET": "/s", "INCUS_DIR": "/d"}, filepath.Join("/d", "unix.socket"): {"INCUS_DIR": "/d"}, "/var/lib/incus/unix.socket": {}} {
		if got := Socket(func(k string) string { return env[k] }); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
