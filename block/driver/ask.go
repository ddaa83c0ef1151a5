package driver

import "context"

// StateBelow is the state of a child for a node that passes it through: whether it is
// dirty or corrupt. nil if the child knows nothing of that.
func StateBelow(ctx context.Context, child Node) (*State, error) {
	s, ok := child.(Stater)
	if !ok {
		return nil, nil
	}
	below, err := s.State(ctx)
	if err != nil || below == nil {
		return nil, err
	}
	return &State{Dirty: below.Dirty, Corrupt: below.Corrupt}, nil
}

// DiskUsage is the room in bytes that a node takes, -1 if it is unknown.
func DiskUsage(ctx context.Context, n Node) (int64, error) {
	if s, ok := n.(SpaceTeller); ok {
		return s.DiskUsage(ctx)
	}
	return -1, nil
}
