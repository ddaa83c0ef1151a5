package ova

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"path"
	"strings"
)

// Verified is what became of a line of the manifest.
type Verified struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	// Problem says why not: the digest differs, the member is not there.
	Problem string `json:"problem,omitempty"`
}

// Verify compares the members with the manifest, in its order; members that the appliance needs and the
// manifest does not name are wrong, too (DSP0243, section 6.2). It reads all of them; ctx ends
// it early. Without a manifest there is nothing to say.
func (a *Appliance) Verify(ctx context.Context, r io.ReaderAt) ([]Verified, error) {
	if a.Manifest == nil {
		return nil, nil
	}
	text, err := readMember(r, *a.Manifest)
	if err != nil {
		return nil, err
	}
	return a.verify(text, func(m *Member, h hash.Hash) ([]byte, error) {
		_, err := io.Copy(h, &reader{ctx, io.NewSectionReader(r, m.Offset, m.Size)})
		return h.Sum(nil), err
	})
}

// verify is Verify, with the text of the manifest and what tells the digest of a member.
func (a *Appliance) verify(text []byte, digest func(*Member, hash.Hash) ([]byte, error)) ([]Verified, error) {
	var out []Verified
	named := map[string]bool{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" {
			continue
		}
		name, newHash, want, ok := parseLine(line)
		if !ok {
			return nil, fmt.Errorf("%w: the manifest has a line that is none: '%.100s'", ErrFormat, line)
		}
		if len(out) == maxMembers {
			return nil, fmt.Errorf("%w: more than %d lines in the manifest", ErrLimit, maxMembers)
		}
		if named[path.Clean(name)] {
			return nil, fmt.Errorf("%w: the manifest names '%.100s' twice", ErrFormat, name)
		}
		named[path.Clean(name)] = true
		v := Verified{Name: name}
		m := a.member(name)
		if m == nil {
			v.Problem = "the archive does not have it"
			out = append(out, v)
			continue
		}
		sum, err := digest(m, newHash())
		if err != nil {
			return nil, fmt.Errorf("could not read '%.100s': %w", name, err)
		}
		if v.OK = bytes.Equal(sum, want); !v.OK {
			v.Problem = "its digest is another one"
		}
		out = append(out, v)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%w: the manifest has a line that is too long: %w", ErrFormat, err)
	}
	needed := []Member{a.Descriptor}
	for _, d := range a.Disks {
		if d.Member != nil {
			needed = append(needed, *d.Member)
		}
	}
	for _, m := range needed {
		if !named[m.Name] {
			named[m.Name] = true
			out = append(out, Verified{Name: m.Name, Problem: "the manifest does not name it"})
		}
	}
	return out, nil
}

// parseLine reads "SHA256(name)= digest"; writers differ in the spaces.
func parseLine(line string) (name string, newHash func() hash.Hash, digest []byte, ok bool) {
	open, end := strings.IndexByte(line, '('), strings.LastIndexByte(line, ')')
	if open < 0 || end < open {
		return "", nil, nil, false
	}
	switch strings.ToUpper(strings.TrimSpace(line[:open])) {
	case "SHA1":
		newHash = sha1.New
	case "SHA256":
		newHash = sha256.New
	case "SHA512":
		newHash = sha512.New
	default:
		return "", nil, nil, false
	}
	text, found := strings.CutPrefix(strings.TrimSpace(line[end+1:]), "=")
	digest, err := hex.DecodeString(strings.TrimSpace(text))
	return line[open+1 : end], newHash, digest, found && err == nil
}

// reader ends with its context.
type reader struct {
	ctx context.Context
	io.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}
