package render

import (
	"fmt"
	"math"
)

var sizeSuffix = [...]string{"", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"}

// Size writes a size the way people read it, with three significant digits:
// "196 KiB". The unit changes at 1000, not 1024, of the smaller one.
func Size(n int64) string {
	_, exp := math.Frexp(float64(n) / (1000.0 / 1024.0))
	i := max((exp-1)/10, 0)
	return fmt.Sprintf("%.3g %sB", float64(n)/float64(uint64(1)<<(10*i)), sizeSuffix[i])
}
