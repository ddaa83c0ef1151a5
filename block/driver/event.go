package driver

// EventSink is implemented by Storage that acts on the named events which the
// nodes above raise while they work: the filter blkdebug, which injects errors at
// them. The names are those of QEMU ("l2_update", "cluster_alloc" …).
type EventSink interface {
	// RaiseEvent is called in the goroutine of the request that the event is part
	// of, just before the step that it names. Rules that fit take effect from the
	// next request to the Storage on.
	RaiseEvent(name string)
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
