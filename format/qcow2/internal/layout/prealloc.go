package layout

// tableRun maps count clusters, from entry first of an L2 table, to consecutive
// host clusters from byte offset host.
type tableRun struct{ first, host, count int64 }

// tableSink takes a finished L2 table: its index in the L1 table, its offset
// in the file and what it maps. runs is valid during the call only.
type tableSink func(index, offset int64, runs []tableRun) error

// preallocation is the request to map a whole new guest disk.
type preallocation struct {
	size      int64 // guest bytes
	entrySize int64 // bytes of an L2 entry
	fillUnit  int64 // bytes of a cluster or subcluster: what is written as a whole
	dataFile  bool  // guest offsets are offsets in an external data file
	emit      tableSink
}

// QEMU looks at no more than so many bytes of an L2 table at a time,
// and allocates no more than so many bytes in one request.
const (
	l2SliceBytes    = 64 << 10
	maxRequestBytes = 1<<31 - 1
)

// preallocate allocates L2 tables and data clusters as QEMU does for
// preallocation=metadata. It returns the end in the file of the last data
// cluster or subcluster, or zero for a data file.
func (p *planner) preallocate(pa preallocation) (fileEnd int64, err error) {
	cs := p.clusterSize()
	perTable, perSlice := cs/pa.entrySize, min(cs, l2SliceBytes)/pa.entrySize
	total := p.clusters(pa.size)
	perRequest := int64(maxRequestBytes) >> p.clusterBits

	index, offset := int64(-1), int64(0)
	var runs []tableRun
	for g := int64(0); g < total; {
		// One request: room that is contiguous in the file.
		end := min(total, g+perRequest)
		start, host := g, int64(-1)
		for g < end {
			if g/perTable != index {
				if index >= 0 {
					if err := pa.emit(index, offset, runs); err != nil {
						return 0, err
					}
				}
				index, runs = g/perTable, runs[:0]
				if offset, err = p.alloc(cs); err != nil {
					return 0, err
				}
			}
			n := min(end-g, perSlice-g%perSlice)
			var at int64
			switch {
			case pa.dataFile:
				at = g << p.clusterBits
			case host < 0:
				if at, err = p.alloc(n << p.clusterBits); err != nil {
					return 0, err
				}
				host = at
			default:
				at = host + (g-start)<<p.clusterBits
				if n, err = p.allocAt(at>>p.clusterBits, n); err != nil {
					return 0, err
				}
			}
			if n == 0 {
				break
			}
			runs = appendRun(runs, tableRun{g % perTable, at, n}, cs)
			g += n
		}
		if !pa.dataFile && host >= 0 {
			bytes := min((g-start)<<p.clusterBits, pa.size-start<<p.clusterBits)
			fileEnd = host + (bytes+pa.fillUnit-1)/pa.fillUnit*pa.fillUnit
		}
	}
	if index >= 0 {
		err = pa.emit(index, offset, runs)
	}
	return fileEnd, err
}

// preallocateArea reserves all data clusters at once behind the end, as the
// original does for preallocation=falloc and full, and calls ready with the
// area before it allocates L2 tables.
func (p *planner) preallocateArea(pa preallocation, ready func(offset, length int64) error) error {
	cs := p.clusterSize()
	perTable := cs / pa.entrySize
	total := p.clusters(pa.size)
	tables := (total + perTable - 1) / perTable
	start, err := p.refcountArea(p.end(), total+tables+1, true, 0, 0)
	if err != nil {
		return err
	}
	if _, err := p.allocAt(start, total); err != nil {
		return err
	}
	if err := ready(start<<p.clusterBits, total<<p.clusterBits); err != nil {
		return err
	}
	for g := int64(0); g < total; g += perTable {
		offset, err := p.alloc(cs)
		if err != nil {
			return err
		}
		run := tableRun{0, (start + g) << p.clusterBits, min(perTable, total-g)}
		if err := pa.emit(g/perTable, offset, []tableRun{run}); err != nil {
			return err
		}
	}
	return nil
}

// appendRun appends r, or extends the last run if r continues it.
func appendRun(runs []tableRun, r tableRun, clusterSize int64) []tableRun {
	if len(runs) > 0 {
		l := &runs[len(runs)-1]
		if l.first+l.count == r.first && l.host+l.count*clusterSize == r.host {
			l.count += r.count
			return runs
		}
	}
	return append(runs, r)
}
