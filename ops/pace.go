package ops

import (
	"math"
	"time"
)

const (
	// pace is the minimum time between two reports within a phase.
	pace = 50 * time.Millisecond
	// rateAfter is how long a phase lasts before its rate is reported.
	rateAfter = 500 * time.Millisecond
	// rateMemory is the time constant of the moving average.
	rateMemory = 5 * time.Second
)

// Paced makes a ProgressFunc that calls f at most 20 times a second, and at the start and
// the end of each phase, and sets Rate and Remaining. It is for one operation at a time.
// Nil stays nil.
func Paced(f ProgressFunc) ProgressFunc { return paced(f, time.Now) }

func paced(f ProgressFunc, now func() time.Time) ProgressFunc {
	if f == nil {
		return nil
	}
	p := &pacer{f: f, now: now}
	return p.report
}

// pacer is the state of Paced.
type pacer struct {
	f     ProgressFunc
	now   func() time.Time
	phase string
	begun time.Time // the phase; zero before the first report
	told  time.Time // the last report
	at    Progress  // what the rate was last computed from, and when
	atT   time.Time
	rate  float64 // bytes per second, 0: not known
}

func (p *pacer) report(u Progress) {
	now := p.now()
	begin := p.begun.IsZero() || u.Phase != p.phase || u.Done < p.at.Done
	if begin {
		p.phase, p.begun, p.at, p.atT, p.rate = u.Phase, now, u, now, 0
	}
	if !begin && u.Done < u.Total && now.Sub(p.told) < pace {
		return
	}
	p.told = now
	p.measure(u, now)
	u.Rate = int64(p.rate)
	if left := u.Total - u.Done; p.rate >= 1 && left > 0 {
		// A wait that exceeds a Duration is not known.
		if s := float64(left) / p.rate; s < math.MaxInt64/float64(time.Second) {
			u.Remaining = time.Duration(s * float64(time.Second))
		}
	}
	p.f(u)
}

// measure updates the rate by what was done since the last time.
func (p *pacer) measure(u Progress, now time.Time) {
	dt := now.Sub(p.atT)
	if dt <= 0 || now.Sub(p.begun) < rateAfter {
		return
	}
	recent := float64(u.Done-p.at.Done) / dt.Seconds()
	if weight := 1 - math.Exp(-float64(dt)/float64(rateMemory)); p.rate == 0 {
		p.rate = recent
	} else {
		p.rate += weight * (recent - p.rate)
	}
	p.at, p.atT = u, now
}
