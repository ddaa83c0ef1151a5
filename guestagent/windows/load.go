//go:build windows

package windows

import (
	"context"
	"fmt"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"

	"github.com/cowl-disk/cowl/guestagent"
)

// loadMeter averages how many threads wait for a processor, from the first question on: the
// system keeps no such averages.
type loadMeter struct {
	mu      sync.Mutex
	started bool
	load    averages
}

// pdh is the library with the system's counters.
var pdh = windows.NewLazySystemDLL("pdh.dll")

func (m *loadMeter) report(context.Context, guestagent.None) (Load, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.started {
		read, err := queueLength()
		if err != nil {
			return Load{}, fmt.Errorf("failed to read the length of the processor queue: %w", err)
		}
		m.started = true
		go func() {
			for range time.Tick(loadInterval) {
				if n, ok := read(); ok {
					m.mu.Lock()
					m.load.add(n)
					m.mu.Unlock()
				}
			}
		}()
	}
	return Load(m.load), nil
}

// queueLength returns a function that reads how many threads wait now.
func queueLength() (read func() (float64, bool), err error) {
	for _, name := range []string{"PdhOpenQueryW", "PdhAddEnglishCounterW", "PdhCollectQueryData", "PdhGetFormattedCounterValue", "PdhCloseQuery"} {
		if err := pdh.NewProc(name).Find(); err != nil {
			return nil, err
		}
	}
	name, err := windows.UTF16PtrFromString(`\System\Processor Queue Length`)
	if err != nil {
		return nil, err
	}
	var query, counter windows.Handle
	if r, _, _ := pdh.NewProc("PdhOpenQueryW").Call(0, 0, uintptr(unsafe.Pointer(&query))); r != 0 {
		return nil, fmt.Errorf("PdhOpenQuery: error 0x%x", r)
	}
	if r, _, _ := pdh.NewProc("PdhAddEnglishCounterW").Call(uintptr(query), uintptr(unsafe.Pointer(name)), 0, uintptr(unsafe.Pointer(&counter))); r != 0 {
		_, _, _ = pdh.NewProc("PdhCloseQuery").Call(uintptr(query))
		return nil, fmt.Errorf("PdhAddEnglishCounter: error 0x%x", r)
	}
	collect, format := pdh.NewProc("PdhCollectQueryData"), pdh.NewProc("PdhGetFormattedCounterValue")
	return func() (float64, bool) {
		if r, _, _ := collect.Call(uintptr(query)); r != 0 {
			return 0, false
		}
		const asDouble = 0x200
		var value struct {
			status uint32
			_      uint32
			double float64
		}
		r, _, _ := format.Call(uintptr(counter), asDouble, 0, uintptr(unsafe.Pointer(&value)))
		return value.double, r == 0 && value.status <= 1
	}, nil
}
