package serve

import (
	"net"
	"testing"

	"github.com/cowl-disk/cowl/internal/native/link"
)

// held is a disk whose reads end when the test wants.
type held struct {
	Disk
	release chan struct{}
}

func (h held) ReadAt([]byte, int64) error { <-h.release; return nil }

// TestServeSlotsHostile wants requests about memory that is not cowl's to give to end the conversation.
func TestServeSlotsHostile(t *testing.T) {
	good := link.SlotRequest{Op: link.SlotRead, Slot: link.SlotCount - 1, Length: link.SlotSize}
	for name, change := range map[string]func(q *link.SlotRequest){
		"operation": func(q *link.SlotRequest) { q.Op = 3 },
		"slot":      func(q *link.SlotRequest) { q.Slot = link.SlotCount },
		"length":    func(q *link.SlotRequest) { q.Length++ },
		"offset":    func(q *link.SlotRequest) { q.Offset = 1 << 63 },
		"busy":      func(*link.SlotRequest) {},
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			release := make(chan struct{})
			d := newDevice(&session{Ends: Ends{Slots: theirs, Memory: make([]byte, link.SlotCount*link.SlotSize)}}, held{release: release})
			ended := make(chan struct{})
			go func() { defer close(ended); d.serveSlots() }()
			bad := good
			change(&bad)
			for _, q := range []link.SlotRequest{good, bad} {
				if _, err := ours.Write(q.Append(nil)); err != nil {
					t.Fatal(err)
				}
			}
			<-ended
			close(release)
		})
	}
}

// TestServeSlots wants a slot to be free for the next request with its answer.
func TestServeSlots(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	release := make(chan struct{})
	close(release)
	d := newDevice(&session{Ends: Ends{Slots: theirs, Memory: make([]byte, link.SlotCount*link.SlotSize)}}, held{release: release})
	go d.serveSlots()
	for range 3 {
		var a link.SlotReply
		q := link.SlotRequest{Op: link.SlotRead, Slot: 5, Length: 1}
		if _, err := ours.Write(q.Append(nil)); err != nil {
			t.Fatal(err)
		}
		if err := a.Receive(ours); err != nil || a != (link.SlotReply{Slot: 5}) {
			t.Fatal(a, err)
		}
	}
}
