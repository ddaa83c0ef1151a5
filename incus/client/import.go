package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
)

// Image is one to be imported.
type Image struct {
	// Files are those of the image: a unified one, or the archive with the metadata and the
	// root file system.
	Files []string
	// VM says that the second file is the disk of a virtual machine.
	VM bool
	// Fingerprint is the image's SHA-256 in hexadecimal. The server refuses an image that
	// has another one when it has arrived.
	Fingerprint string
	// Alias, where not empty, becomes a name of the image.
	Alias, Description string
	// Progress, where not nil, is told how many bytes of all have been sent.
	Progress func(done, total int64)
}

// Import sends an image to the server. One with this fingerprint that the server has
// already is not sent again; sent tells.
func (c *Client) Import(ctx context.Context, i Image) (sent bool, err error) {
	_, err = c.call(ctx, http.MethodGet, "/images/"+i.Fingerprint, nil, nil)
	var refused *Error
	switch {
	case err == nil:
	case errors.As(err, &refused) && refused.Code == http.StatusNotFound:
		if err := c.send(ctx, i); err != nil {
			return false, fmt.Errorf("failed to create image: %w", err)
		}
		sent = true
	default:
		return false, fmt.Errorf("failed to connect to Incus: %w", err)
	}
	if i.Alias == "" {
		return sent, nil
	}
	return sent, c.setAlias(ctx, alias{Name: i.Alias, Target: i.Fingerprint, Description: i.Description})
}

// send uploads the files and waits until the server has taken them.
func (c *Client) send(ctx context.Context, i Image) error {
	if len(i.Files) != 1 && len(i.Files) != 2 {
		return fmt.Errorf("an image has one or two files, not %d", len(i.Files))
	}
	var files []*os.File
	var total int64
	for _, path := range i.Files {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		files, total = append(files, f), total+info.Size()
	}
	r, w := io.Pipe()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://incus/1.0/images", r)
	if err != nil {
		return err
	}
	req.Header.Set("X-Incus-fingerprint", i.Fingerprint)
	out := &sender{w: w, total: total, progress: i.Progress}
	form := multipart.NewWriter(w)
	if len(files) == 1 {
		req.ContentLength = total
		req.Header.Set("Content-Type", "application/octet-stream")
		req.Header.Set("X-Incus-filename", filepath.Base(i.Files[0]))
	} else {
		req.Header.Set("Content-Type", form.FormDataContentType())
	}
	go func() { w.CloseWithError(out.send(form, files, i)) }()
	a, err := c.do(req, nil)
	r.Close() // ends the goroutine where the server did not read all
	if err != nil {
		return err
	}
	metadata, err := c.wait(ctx, a.Operation)
	if err != nil {
		return err
	}
	var made struct {
		Fingerprint string `json:"fingerprint"`
	}
	if err := json.Unmarshal(metadata, &made); err != nil || made.Fingerprint != i.Fingerprint {
		return fmt.Errorf("the server has an image with the fingerprint %q, but %s was sent", made.Fingerprint, i.Fingerprint)
	}
	return nil
}

// sender writes the body of a request.
type sender struct {
	w           io.Writer
	done, total int64
	progress    func(done, total int64)
}

func (s *sender) send(form *multipart.Writer, files []*os.File, i Image) error {
	if len(files) == 1 {
		return s.copy(s.w, files[0])
	}
	second := "rootfs"
	if i.VM {
		second = "rootfs.img"
	}
	for k, name := range []string{"metadata", second} { // in this order
		h := textproto.MIMEHeader{}
		quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\r", "", "\n", "").Replace(filepath.Base(i.Files[k]))
		h.Set("Content-Disposition", fmt.Sprintf(`form-data; name="%s"; filename="%s"`, name, quoted))
		h.Set("Content-Type", "application/octet-stream")
		part, err := form.CreatePart(h)
		if err != nil {
			return err
		}
		if err := s.copy(part, files[k]); err != nil {
			return err
		}
	}
	return form.Close()
}

func (s *sender) copy(w io.Writer, f *os.File) error {
	buf := make([]byte, 256<<10)
	for {
		n, err := f.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
			if s.done += int64(n); s.progress != nil {
				s.progress(s.done, s.total)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
