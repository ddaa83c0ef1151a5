//go:build linux

package linux

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/cowl-disk/cowl/guestagent"
)

// DiskStatsOf are the statistics of a disk.
type DiskStatsOf struct {
	Name  string    `qga:"name"`
	Major uint64    `qga:"major"`
	Minor uint64    `qga:"minor"`
	Stats DiskStats `qga:"stats"`
}

// DiskStats are counters of Documentation/admin-guide/iostats in Linux.
type DiskStats struct {
	ReadSectors    *uint64 `qga:"read-sectors,optional"`
	ReadIOs        *uint64 `qga:"read-ios,optional"`
	ReadMerges     *uint64 `qga:"read-merges,optional"`
	WriteSectors   *uint64 `qga:"write-sectors,optional"`
	WriteIOs       *uint64 `qga:"write-ios,optional"`
	WriteMerges    *uint64 `qga:"write-merges,optional"`
	DiscardSectors *uint64 `qga:"discard-sectors,optional"`
	DiscardIOs     *uint64 `qga:"discard-ios,optional"`
	DiscardMerges  *uint64 `qga:"discard-merges,optional"`
	FlushIOs       *uint64 `qga:"flush-ios,optional"`
	ReadTicks      *uint64 `qga:"read-ticks,optional"`
	WriteTicks     *uint64 `qga:"write-ticks,optional"`
	DiscardTicks   *uint64 `qga:"discard-ticks,optional"`
	FlushTicks     *uint64 `qga:"flush-ticks,optional"`
	InProgress     *uint64 `qga:"ios-pgr,optional"`
	TotalTicks     *uint64 `qga:"total-ticks,optional"`
	WeightTicks    *uint64 `qga:"weight-ticks,optional"`
}

// numbers parses fields up to the first that is no number.
func numbers(fields []string) []uint64 {
	var list []uint64
	for _, f := range fields {
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			break
		}
		list = append(list, n)
	}
	return list
}

func (s *System) diskStats(context.Context, guestagent.None) ([]DiskStatsOf, error) {
	text, err := s.read("/proc/diskstats")
	if err != nil {
		return nil, cause(err, "Could not open '/proc/diskstats'")
	}
	list := []DiskStatsOf{}
	for _, line := range strings.Split(text, "\n") {
		f := strings.Fields(line)
		if len(f) < 7 {
			continue
		}
		number := numbers(f[:2])
		n := numbers(f[3:])
		if len(number) < 2 || len(n) < 4 {
			continue
		}
		d := DiskStatsOf{Name: f[2], Major: number[0], Minor: number[1]}
		st := &d.Stats
		if len(n) == 4 {
			st.ReadIOs, st.ReadSectors, st.WriteIOs, st.WriteSectors = &n[0], &n[1], &n[2], &n[3]
		}
		if len(n) >= 11 {
			st.ReadIOs, st.ReadMerges, st.ReadSectors, st.ReadTicks = &n[0], &n[1], &n[2], &n[3]
			st.WriteIOs, st.WriteMerges, st.WriteSectors, st.WriteTicks = &n[4], &n[5], &n[6], &n[7]
			st.InProgress, st.TotalTicks, st.WeightTicks = &n[8], &n[9], &n[10]
		}
		if len(n) >= 15 {
			st.DiscardIOs, st.DiscardMerges, st.DiscardSectors, st.DiscardTicks = &n[11], &n[12], &n[13], &n[14]
		}
		if len(n) >= 17 {
			st.FlushIOs, st.FlushTicks = &n[15], &n[16]
		}
		list = append(list, d)
	}
	return list, nil
}

// CPUStats are the times of a processor in milliseconds.
type CPUStats struct {
	Type      string  `qga:"type"`
	CPU       int64   `qga:"cpu"`
	User      uint64  `qga:"user"`
	Nice      uint64  `qga:"nice"`
	System    uint64  `qga:"system"`
	Idle      uint64  `qga:"idle"`
	IOWait    *uint64 `qga:"iowait,optional"`
	IRQ       *uint64 `qga:"irq,optional"`
	SoftIRQ   *uint64 `qga:"softirq,optional"`
	Steal     *uint64 `qga:"steal,optional"`
	Guest     *uint64 `qga:"guest,optional"`
	GuestNice *uint64 `qga:"guestnice,optional"`
}

// tickMilliseconds is the unit of /proc/stat: USER_HZ is 100 everywhere but on alpha
// and ia64.
const tickMilliseconds = 10

func (s *System) cpuStats(context.Context, guestagent.None) ([]CPUStats, error) {
	text, err := s.read("/proc/stat")
	if err != nil {
		return nil, cause(err, "Could not open '/proc/stat'")
	}
	list := []CPUStats{}
	for _, line := range strings.Split(text, "\n") {
		f := strings.Fields(line)
		if len(f) == 0 || len(f[0]) < 4 || !strings.HasPrefix(f[0], "cpu") {
			continue
		}
		cpu, err := strconv.ParseInt(f[0][3:], 10, 64)
		n := numbers(f[1:])
		if err != nil || len(n) < 4 {
			return nil, fmt.Errorf("/proc/stat has the line %q, which is no statistics of a processor", line)
		}
		for i := range n {
			n[i] *= tickMilliseconds
		}
		c := CPUStats{Type: "linux", CPU: cpu, User: n[0], Nice: n[1], System: n[2], Idle: n[3]}
		for i, field := range []**uint64{&c.IOWait, &c.IRQ, &c.SoftIRQ, &c.Steal, &c.Guest, &c.GuestNice} {
			if 4+i < len(n) {
				*field = &n[4+i]
			}
		}
		list = append(list, c)
	}
	return list, nil
}
