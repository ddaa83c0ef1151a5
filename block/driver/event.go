package driver

import "context"

// EventSink is implemented by Storage that acts on the named events which the
// nodes above raise while they work: the filter blkdebug, which injects errors at
// them. The names are those of QEMU ("l2_update", "cluster_alloc" …).
type EventSink interface {
	// RaiseEvent is called in the goroutine of the request that the event is part
	// of, just before the step that it names. Rules that fit take effect from the
	// next request to the Storage on.
	RaiseEvent(name string)
}

// Breaker is implemented by an EventSink that can hold requests at an event, for tests of
// what others do meanwhile.
type Breaker interface {
	EventSink
	// Break holds the next request that raises event, and tells of it and of its going on
	// by report, in QEMU's words. It fails with ENOENT if there is no such event.
	Break(event, tag string, report func(text string)) error
	// RemoveBreak forgets the breakpoints with a tag and lets the requests that they hold
	// go on. It fails with ENOENT if there are none.
	RemoveBreak(tag string) error
	// Resume lets one request that a breakpoint with the tag holds go on; ENOENT if none.
	Resume(tag string) error
	// Release forgets all breakpoints and lets all requests go on.
	Release()
	// WaitBreak waits until a request is held by a breakpoint with the tag.
	WaitBreak(ctx context.Context, tag string) error
}

// EventSource is implemented by Storage that passes requests on to Storage which
// may be an EventSink.
type EventSource interface {
	// EventSink returns what acts on events, nil if nothing does.
	EventSink() EventSink
}

// Events raises events on a child. The zero value raises none; it is constant and
// safe for use by several goroutines.
type Events struct{ sink EventSink }

// EventsOf returns where the users of s raise their events.
func EventsOf(s Storage) Events {
	switch s := s.(type) {
	case EventSink:
		return Events{s}
	case EventSource:
		return Events{s.EventSink()}
	}
	return Events{}
}

// Raise raises the event called name. Without a sink it costs a comparison.
func (e Events) Raise(name string) {
	if e.sink != nil {
		e.sink.RaiseEvent(name)
	}
}
