package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
)

// Error is what a server says about a request.
type Error struct {
	Code int // of HTTP
	Text string
}

func (e *Error) Error() string { return e.Text }

// Client talks to a server. It may be used by several goroutines.
type Client struct {
	http   *http.Client
	socket string
}

// Socket returns the path of the server's socket: $INCUS_SOCKET, or that in $INCUS_DIR, or
// the usual one.
func Socket(getenv func(string) string) string {
	if s := getenv("INCUS_SOCKET"); s != "" {
		return s
	}
	if dir := getenv("INCUS_DIR"); dir != "" {
		return filepath.Join(dir, "unix.socket")
	}
	return "/var/lib/incus/unix.socket"
}

// New returns a client of the server that listens on a Unix socket.
func New(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{DialContext: dial}}}
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// maxAnswer bounds an answer in bytes.
const maxAnswer = 4 << 20

// answer is what a server says.
type answer struct {
	Type      string          `json:"type"`
	Operation string          `json:"operation"`
	Error     string          `json:"error"`
	ErrorCode int             `json:"error_code"`
	Metadata  json.RawMessage `json:"metadata"`
}

// do sends a request and decodes the metadata of its answer into v, where it is not nil.
func (c *Client) do(req *http.Request, v any) (*answer, error) {
	res, err := c.http.Do(req)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" {
			return nil, fmt.Errorf("connect to the Incus server at %s: %w", c.socket, op.Err)
		}
		return nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return nil, err
	}
	a := &answer{}
	if err := json.Unmarshal(text, a); err != nil || len(text) > maxAnswer {
		return nil, fmt.Errorf("%s %s: the server's answer (HTTP status %d) is not one of Incus", req.Method, req.URL.Path, res.StatusCode)
	}
	if a.Type == "error" || res.StatusCode >= 400 {
		return nil, &Error{Code: max(a.ErrorCode, res.StatusCode), Text: a.Error}
	}
	if v != nil {
		if err := json.Unmarshal(a.Metadata, v); err != nil {
			return nil, fmt.Errorf("%s %s: %w", req.Method, req.URL.Path, err)
		}
	}
	return a, nil
}

// call makes and sends a request; body, where not nil, is sent as JSON.
func (c *Client) call(ctx context.Context, method, path string, body, v any) (*answer, error) {
	var r io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://incus/1.0"+path, r)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return c.do(req, v)
}

// operation is work that a server does.
type operation struct {
	StatusCode int             `json:"status_code"`
	Err        string          `json:"err"`
	Metadata   json.RawMessage `json:"metadata"`
}

// The codes of operations that have ended.
const (
	operationSuccess = 200
	operationEnded   = 200 // this one and all above
)

// wait waits for an operation and returns its metadata.
func (c *Client) wait(ctx context.Context, path string) (json.RawMessage, error) {
	path, ok := strings.CutPrefix(path, "/1.0")
	if !ok || !strings.HasPrefix(path, "/operations/") {
		return nil, fmt.Errorf("the server names no operation, but %.80q", path)
	}
	path, _, _ = strings.Cut(path, "?")
	for {
		var op operation
		if _, err := c.call(ctx, http.MethodGet, path+"/wait?timeout=30", nil, &op); err != nil {
			return nil, err
		}
		switch {
		case op.StatusCode == operationSuccess:
			return op.Metadata, nil
		case op.StatusCode >= operationEnded:
			return nil, &Error{Code: op.StatusCode, Text: op.Err}
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
}

// alias is a name of an image.
type alias struct {
	Name        string `json:"name"`
	Target      string `json:"target"`
	Description string `json:"description"`
}

// setAlias gives an image a name. One that is that of the image already stays.
func (c *Client) setAlias(ctx context.Context, a alias) error {
	var old alias
	_, err := c.call(ctx, http.MethodGet, "/images/aliases/"+url.PathEscape(a.Name), nil, &old)
	var refused *Error
	switch {
	case err == nil && old.Target == a.Target:
		return nil
	case err == nil:
		return fmt.Errorf("failed to create image alias: %q is the name of the image %.12s", a.Name, old.Target)
	case !errors.As(err, &refused) || refused.Code != http.StatusNotFound:
		return err
	}
	if _, err := c.call(ctx, http.MethodPost, "/images/aliases", a, nil); err != nil {
		return fmt.Errorf("failed to create image alias: %w", err)
	}
	return nil
}
