package ssh

import (
	"sync"
	"time"
)

const (
	// pieceSize is how much of a write is one request, in bytes, and perTrip how many of these are under way on a
	// connection to a server that is near, for each millisecond of a round trip.
	pieceSize = 64 << 10
	perTrip   = 2
	// farPieces fill the window of a connection, which OpenSSH makes 2 MiB. A server is far if its round trip would
	// let as many be under way; there are firstPieces at first.
	farPieces   = 32
	firstPieces = 8
	// fewWaiting and manyWaiting pieces wait at a far server when more and fewer are let under way.
	fewWaiting  = 4
	manyWaiting = 8
	// tripAge is how long the shortest time that a piece took counts: the way may have become longer.
	tripAge = 10 * time.Second
)

// window bounds how many pieces of writes are under way on one connection. To a server that is near it is a fixed number. To
// one that is far it is what fills the way there, and little more, found from the time that pieces take as TCP Vegas finds its own
// (L. Brakmo, L. Peterson: TCP Vegas, 1995): what is sent beyond that waits at the server, in a buffer that OpenSSH
// copies as it grows.
type window struct {
	mu     sync.Mutex
	left   *sync.Cond
	busy   int
	limit  int
	far    bool
	trip   time.Duration // of a piece, the shortest
	seen   time.Time     // when it was
	shrunk time.Time     // when limit became less
}

// newWindow returns the window for a round trip.
func newWindow(trip time.Duration) *window {
	w := &window{limit: perTrip * (1 + int(trip/time.Millisecond))}
	if w.limit >= farPieces {
		w.limit, w.far = firstPieces, true
	}
	w.left = sync.NewCond(&w.mu)
	return w
}

// enter waits until one more piece may be under way. Those that are end at the latest with the connection.
func (w *window) enter() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.busy >= w.limit {
		w.left.Wait()
	}
	w.busy++
}

// leave ends a piece that was sent at a time and answered at another.
func (w *window) leave(sent, answered time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.far {
		w.adapt(sent, answered)
	}
	w.busy--
	w.left.Broadcast()
}

// adapt fits the limit to the time that a piece took. It is called with mu.
func (w *window) adapt(sent, answered time.Time) {
	took := answered.Sub(sent)
	if took <= w.trip {
		w.trip, w.seen = took, answered
	} else if answered.Sub(w.seen) > tripAge { // it is found again with little under way
		w.trip, w.seen, w.limit, w.shrunk = took, answered, firstPieces, answered
	}
	waiting := w.limit - int(int64(w.limit)*int64(w.trip)/max(1, int64(took)))
	switch {
	case waiting < fewWaiting && w.busy >= w.limit:
		w.limit = min(w.limit+1, farPieces)
	case waiting > manyWaiting && sent.After(w.shrunk): // it shows what the limit of now does
		w.limit = max(firstPieces, w.limit-waiting+fewWaiting)
		w.shrunk = answered
	}
}
