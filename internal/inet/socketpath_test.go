package inet

import (
	"errors"
	"strings"
	"testing"
)

func TestCheckSocketPath(t *testing.T) {
	long := "/" + strings.Repeat("x", 107)
	var e *SocketPathError
	if err := CheckSocketPath(long); !errors.As(err, &e) || e.Path != long || e.Max < 100 {
		t.Errorf("%d bytes: %v", len(long), err)
	}
	if err := CheckSocketPath(long[:e.Max-1]); err != nil {
		t.Errorf("%d bytes: %v", e.Max-1, err)
	}
}
