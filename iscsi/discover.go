package iscsi

import (
	"context"
	"strings"

	"github.com/cowl-disk/cowl/internal/message"
)

// Target is a target that a portal tells of.
type Target struct {
	Name    string
	Portals []string // "host:port,tag", as the target has them
}

// maxTargets and maxTexts bound an answer to SendTargets.
const (
	maxTargets = 16384
	maxTexts   = 4096 // PDUs
)

// Discover asks the portal cfg.Address for its targets (RFC 7143, appendix C).
func Discover(ctx context.Context, cfg Config) ([]Target, error) {
	c, _, err := connect(ctx, &cfg, newISID(), true)
	if err != nil {
		return nil, err
	}
	defer c.close(ctx)
	text, err := c.text(ctx, texts{{"SendTargets", "All"}}.encode())
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	got, err := parseTexts(text)
	if err != nil {
		return nil, err
	}
	var list []Target
	for _, p := range got {
		switch p.key {
		case "TargetName":
			if len(list) == maxTargets {
				return nil, protocolError("the portal has more than %d targets", maxTargets)
			}
			list = append(list, Target{Name: printable([]byte(p.value))})
		case "TargetAddress":
			if len(list) > 0 {
				t := &list[len(list)-1]
				t.Portals = append(t.Portals, printable([]byte(p.value)))
			}
		}
	}
	for i := range list {
		if len(list[i].Portals) == 0 { // the portal that was asked
			list[i].Portals = []string{strings.TrimSpace(withPort(cfg.Address)) + ",1"}
		}
	}
	return list, nil
}

// text sends a text and returns the answer, which may come in parts.
func (c *conn) text(ctx context.Context, data []byte) ([]byte, error) {
	ask := uint32(noTag)
	tag := c.newTag()
	answers := make(chan textPart, 1)
	c.mu.Lock()
	c.texts = answers
	c.mu.Unlock()
	var all []byte
	for range maxTexts {
		h := header{0: opText, 1: flagFinal}
		h.set(16, tag)
		h.set(20, ask)
		if err := c.sendImmediate(ctx, &h, data); err != nil {
			return nil, err
		}
		var part textPart
		select {
		case part = <-answers:
		case <-c.dead:
			return nil, c.reason()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if part.tag != tag || len(all)+len(part.data) > maxTargetText {
			return nil, protocolError("the target answers a text with something else, or with too much")
		}
		all = append(all, part.data...)
		if part.final {
			return all, nil
		}
		ask, data = part.next, nil
	}
	return nil, message.Errorf(ErrProtocol, "the answer of the target to a text does not end")
}

// textPart is a part of the answer to a text.
type textPart struct {
	tag, next uint32
	final     bool
	data      []byte
}

// textReply takes an answer to a text.
func (c *conn) textReply(h *header, n int) error {
	c.sawNumbers(h, true)
	c.progress.Store(now())
	data := make([]byte, n)
	if err := readData(c.br, data, n, c.p.digests); err != nil {
		return err
	}
	c.mu.Lock()
	answers := c.texts
	c.mu.Unlock()
	select {
	case answers <- textPart{h.tag(), h.u32(20), h[1]&flagFinal != 0, data}:
		return nil
	default:
		return protocolError("the target answers a text that was not sent")
	}
}
