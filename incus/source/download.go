package source

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/cowl-disk/cowl/internal/tmpfile"
)

const (
	// maxText bounds pages, lists of sums and signatures; maxFile what is unpacked. Bytes.
	maxText = 16 << 20
	maxFile = 64 << 30
)

// noDowngrade follows redirections, but not from https to http.
func noDowngrade(req *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("too many redirections")
	}
	if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return fmt.Errorf("redirected from https to %s", req.URL.Redacted())
	}
	return nil
}

// request sends a request for a file. The answer has status 200, or 304 where since is not
// zero.
func (g *getter) request(address string, since time.Time) (*http.Response, error) {
	req, err := http.NewRequestWithContext(g.ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	if !since.IsZero() {
		req.Header.Set("If-Modified-Since", since.UTC().Format(http.TimeFormat))
	}
	res, err := g.Client.Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode == http.StatusOK || !since.IsZero() && res.StatusCode == http.StatusNotModified {
		return res, nil
	}
	res.Body.Close()
	return nil, fmt.Errorf("download %s: the server says %s", req.URL.Redacted(), res.Status)
}

// text gets a page, a list or a signature.
func (g *getter) text(address string) ([]byte, error) {
	res, err := g.request(address, time.Time{})
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxText+1))
	if err == nil && len(b) > maxText {
		err = fmt.Errorf("more than %d bytes", maxText)
	}
	if err != nil {
		return nil, fmt.Errorf("download %s: %w", address, err)
	}
	return b, nil
}

// sum is what a file should have: sha256 or sha512 in hexadecimal, "" for anything.
type sum string

func (s sum) hash() hash.Hash {
	if len(s) == 128 {
		return sha512.New()
	}
	return sha256.New()
}

// file downloads a file, or finds that it is there, and returns its path.
func (g *getter) file(address string, want sum) (string, error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", err
	}
	name := path.Base(u.Path)
	if name == "/" || name == "." || name == ".." {
		return "", fmt.Errorf("%s names no file", u.Redacted())
	}
	dir := filepath.Join(g.Dir, g.folder)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	final := filepath.Join(dir, plain(name))
	since := time.Time{}
	if info, err := os.Stat(final); err == nil {
		if want != "" && fileHas(final, want) {
			return final, nil
		}
		if want == "" {
			since = info.ModTime()
		}
	}
	res, err := g.request(address, since)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusNotModified {
		return final, nil
	}
	f, err := tmpfile.Create(dir, ".download-*")
	if err != nil {
		return "", err
	}
	defer f.Discard() // does nothing once it has its name
	h := want.hash()
	err = g.copy(io.MultiWriter(f, h), res, name)
	if err := errors.Join(err, f.Finish(0o600)); err != nil {
		return "", fmt.Errorf("download %s: %w", u.Redacted(), err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); want != "" && got != string(want) {
		return "", fmt.Errorf("hash mismatch for %s: %s, but it should be %s", u.Redacted(), got, want)
	}
	if changed, err := http.ParseTime(res.Header.Get("Last-Modified")); err == nil {
		if err := os.Chtimes(f.Path(), changed, changed); err != nil {
			return "", err
		}
	}
	return final, f.Rename(filepath.Base(final))
}

// copy copies the body of an answer, which must be whole.
func (g *getter) copy(w io.Writer, res *http.Response, name string) error {
	if res.ContentLength > maxFile {
		return fmt.Errorf("it has %d bytes, more than %d", res.ContentLength, int64(maxFile))
	}
	buf, done := make([]byte, 256<<10), int64(0)
	for {
		n, err := res.Body.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
			if done += int64(n); done > maxFile {
				return fmt.Errorf("it has more than %d bytes", int64(maxFile))
			}
			g.Progress(name, done, max(res.ContentLength, 0))
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// fileHas reports whether a file has a sum.
func fileHas(path string, want sum) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	h := want.hash()
	_, err = io.Copy(h, f)
	return err == nil && hex.EncodeToString(h.Sum(nil)) == string(want)
}

// sumForms are the lines of lists: those of sha256sum and sha512sum, and those that BSD's
// programs print.
var sumForms = []*regexp.Regexp{
	regexp.MustCompile(`^([0-9a-fA-F]{128}|[0-9a-fA-F]{64})[ \t]+\*?(?:\./)?(.+?)$`),
	regexp.MustCompile(`^SHA(?:256|512) \((?:\./)?(.+?)\) = ([0-9a-fA-F]{128}|[0-9a-fA-F]{64})$`),
	regexp.MustCompile(`^([0-9a-fA-F]{128}|[0-9a-fA-F]{64})$`),
}

// sumOf finds the sum of a file in a list, a longer one before a shorter one.
func sumOf(list []byte, name string) (sum, error) {
	best := ""
	for l := range strings.Lines(string(list)) {
		l = strings.TrimRight(l, "\r\n \t")
		found, of := "", ""
		if m := sumForms[0].FindStringSubmatch(l); m != nil {
			found, of = m[1], m[2]
		} else if m := sumForms[1].FindStringSubmatch(l); m != nil {
			found, of = m[2], m[1]
		} else if m := sumForms[2].FindStringSubmatch(l); m != nil {
			found, of = m[1], name
		}
		if path.Base(of) == name && len(found) > len(best) {
			best = strings.ToLower(found)
		}
	}
	if best == "" {
		return "", fmt.Errorf("the list of sums has none of %s", name)
	}
	return sum(best), nil
}
