package qemunbd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/cowl-disk/cowl/internal/cli/words"
)

// complaints is a slog.Handler that prints why clients were refused, in the words of
// QEMU.
type complaints struct{ p *Program }

// Enabled implements slog.Handler.
func (complaints) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

// Handle implements slog.Handler.
func (c complaints) Handle(_ context.Context, r slog.Record) error {
	msg := r.Message
	if msg == "negotiation failed" {
		msg = "option " + msg
	}
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "err" {
			if err, _ := a.Value.Any().(error); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				msg += ": Unexpected end-of-file before all data were read"
			} else {
				msg += ": " + words.Text(err)
			}
		}
		return true
	})
	_, err := fmt.Fprintf(c.p.Stderr, "%s: %s\n", c.p.Name, msg)
	return err
}

// WithAttrs implements slog.Handler. Messages do not name the client.
func (c complaints) WithAttrs([]slog.Attr) slog.Handler { return c }

// WithGroup implements slog.Handler.
func (c complaints) WithGroup(string) slog.Handler { return c }
