//go:build linux

package linux

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cowl-disk/cowl/guestagent"
)

// Processor is a logical processor.
type Processor struct {
	ID         int64 `qga:"logical-id"`
	Online     bool  `qga:"online"`
	CanOffline *bool `qga:"can-offline,optional"`
}

type processorsArgs struct {
	Processors []Processor `qga:"vcpus"`
}

func cpuDir(id int64) string { return fmt.Sprintf("/sys/devices/system/cpu/cpu%d/", id) }

func (s *System) vcpus(context.Context, guestagent.None) ([]Processor, error) {
	const dir = "/sys/devices/system/cpu"
	entries, err := s.list(dir)
	if err != nil {
		return nil, cause(err, "failed to list entries: %s", dir)
	}
	list := []Processor{}
	for _, e := range entries {
		id, err := strconv.ParseInt(strings.TrimPrefix(e.Name(), "cpu"), 10, 64)
		if err != nil || !strings.HasPrefix(e.Name(), "cpu") {
			continue
		}
		text, err := s.read(cpuDir(id) + "online")
		can := err == nil
		if err != nil && !notExist(err) {
			return nil, cause(err, "Could not open '%s/online'", cpuDir(id))
		}
		list = append(list, Processor{id, !can || !strings.HasPrefix(text, "0"), &can})
	}
	return list, nil
}

// setVCPUs takes processors online or offline up to the first that fails. The error is
// reported if it is the first of all.
func (s *System) setVCPUs(_ context.Context, args processorsArgs) (int64, error) {
	for i, p := range args.Processors {
		if err := s.setVCPU(p); err != nil {
			if i == 0 {
				return 0, err
			}
			return int64(i), nil
		}
	}
	return int64(len(args.Processors)), nil
}

func (s *System) setVCPU(p Processor) error {
	dir := cpuDir(p.ID)
	if _, err := os.Stat(s.path(dir)); err != nil {
		return cause(err, "Could not open '%s'", dir)
	}
	text, err := s.read(dir + "online")
	switch {
	case notExist(err) && p.Online:
		return nil
	case notExist(err):
		return fmt.Errorf("logical processor #%d can't be offlined", p.ID)
	case err != nil:
		return cause(err, "Could not open '%s/online'", dir)
	case strings.HasPrefix(text, "0") != p.Online:
		return nil
	}
	state := "0"
	if p.Online {
		state = "1"
	}
	if err := s.writeSys(dir+"online", state); err != nil {
		return cause(err, "pwrite(\"%s/online\")", dir)
	}
	return nil
}

// writeSys writes a file of sysfs, which is there already, in one piece.
func (s *System) writeSys(name, text string) error {
	f, err := os.OpenFile(s.path(name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// MemoryBlock is a part of memory.
type MemoryBlock struct {
	Index      uint64 `qga:"phys-index"`
	Online     bool   `qga:"online"`
	CanOffline *bool  `qga:"can-offline,optional"`
}

type memoryArgs struct {
	Blocks []MemoryBlock `qga:"mem-blks"`
}

// MemoryResult is what happened to a memory block.
type MemoryResult struct {
	Index    uint64 `qga:"phys-index"`
	Response string `qga:"response"`
	Code     *int64 `qga:"error-code,optional"`
}

// MemoryInfo is the reply of guest-get-memory-block-info.
type MemoryInfo struct {
	Size uint64 `qga:"size"`
}

const memoryDir = "/sys/devices/system/memory/"

func blockDir(i uint64) string { return fmt.Sprintf("%smemory%d/", memoryDir, int64(i)) }

func (s *System) memoryBlocks(context.Context, guestagent.None) ([]MemoryBlock, error) {
	entries, err := s.list(memoryDir)
	switch {
	case notExist(err):
		return []MemoryBlock{}, nil
	case err != nil:
		return nil, cause(err, "Can't open directory\"%s\"", memoryDir)
	}
	list := []MemoryBlock{}
	for _, e := range entries {
		number, ok := strings.CutPrefix(e.Name(), "memory")
		i, err := strconv.ParseUint(number, 10, 64)
		if !ok || err != nil {
			continue
		}
		state, err := s.read(blockDir(i) + "state")
		if err != nil && !notExist(err) {
			return nil, cause(err, "open sysfs file \"state\"")
		}
		b := MemoryBlock{i, notExist(err) || strings.HasPrefix(state, "online"), new(bool)}
		if err == nil {
			removable, rerr := s.read(blockDir(i) + "removable")
			*b.CanOffline = rerr == nil && !strings.HasPrefix(removable, "0")
		}
		list = append(list, b)
	}
	if len(list) == 0 {
		return nil, errors.New("guest reported zero memory blocks!")
	}
	return list, nil
}

func (s *System) setMemoryBlocks(_ context.Context, args memoryArgs) ([]MemoryResult, error) {
	results := []MemoryResult{}
	for _, b := range args.Blocks {
		r := MemoryResult{Index: b.Index, Response: "success"}
		if response, err := s.setMemoryBlock(b); response != "" {
			r.Response = response
			var errno unix.Errno
			if errors.As(err, &errno) {
				code := int64(errno)
				r.Code = &code
			}
		}
		results = append(results, r)
	}
	return results, nil
}

// setMemoryBlock returns the response that is not success, and the system's error.
func (s *System) setMemoryBlock(b MemoryBlock) (string, error) {
	if _, err := os.Stat(s.path(memoryDir)); notExist(err) {
		return "operation-not-supported", err
	}
	if _, err := os.Stat(s.path(blockDir(b.Index))); notExist(err) {
		return "not-found", err
	} else if err != nil {
		return "operation-failed", err
	}
	state, err := s.read(blockDir(b.Index) + "state")
	switch {
	case notExist(err) && b.Online:
		return "", nil
	case notExist(err):
		return "operation-not-supported", err
	case err != nil:
		return "operation-failed", err
	case strings.HasPrefix(state, "online") == b.Online:
		return "", nil
	}
	text := "offline"
	if b.Online {
		text = "online"
	}
	if err := s.writeSys(blockDir(b.Index)+"state", text); err != nil {
		return "operation-failed", err
	}
	return "", nil
}

func (s *System) memoryBlockInfo(context.Context, guestagent.None) (MemoryInfo, error) {
	if _, err := os.Stat(s.path(memoryDir)); err != nil {
		return MemoryInfo{}, cause(err, "Could not open '%s'", memoryDir)
	}
	text, err := s.read(memoryDir + "block_size_bytes")
	if err != nil {
		return MemoryInfo{}, cause(err, "open sysfs file \"block_size_bytes\"")
	}
	size, err := strconv.ParseUint(strings.TrimSpace(text), 16, 64)
	if err != nil {
		return MemoryInfo{}, fmt.Errorf("%sblock_size_bytes holds %q, not a number", memoryDir, text)
	}
	return MemoryInfo{size}, nil
}
