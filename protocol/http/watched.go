package http

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
)

// errIdle says that nothing came for as long as the time-out.
var errIdle = driver.Errorf(driver.ErrTimeout, "the server sent nothing for as long as the time-out")

// watched is a request and the body of its answer, which end when nothing comes for a
// while.
type watched struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	idle   time.Duration
	timer  *time.Timer // nil: no bound
	body   io.ReadCloser
	once   sync.Once
}

func newWatched(ctx context.Context, idle time.Duration) *watched {
	w := &watched{idle: idle}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	if idle > 0 {
		w.timer = time.AfterFunc(idle, func() { w.cancel(errIdle) })
	}
	return w
}

// start begins with the body of the answer.
func (w *watched) start(body io.ReadCloser) {
	w.body = body
	w.progress()
}

func (w *watched) progress() {
	if w.timer != nil {
		w.timer.Reset(w.idle)
	}
}

// rest stops the clock until there is progress again: nothing is asked for meanwhile.
func (w *watched) rest() {
	if w.timer != nil {
		w.timer.Stop()
	}
}

// Read implements io.Reader.
func (w *watched) Read(p []byte) (int, error) {
	n, err := w.body.Read(p)
	if n > 0 {
		w.progress()
	}
	if err != nil && err != io.EOF {
		err = w.reason(err)
	}
	return n, err
}

// reason is what made the request end, if that was the time-out.
func (w *watched) reason(err error) error {
	if context.Cause(w.ctx) == errIdle {
		return errIdle
	}
	return err
}

// Close ends the request.
func (w *watched) Close() error {
	w.once.Do(func() {
		if w.timer != nil {
			w.timer.Stop()
		}
		if w.body != nil {
			w.body.Close()
		}
		w.cancel(nil)
	})
	return nil
}

// isTLS says whether an error is about the server's certificate, or its way of TLS.
func isTLS(err error) bool {
	var verify *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	return errors.As(err, &verify) || errors.As(err, &record) || errors.As(err, &alert)
}
