package render

import (
	"encoding/json"
	"math"
	"net/netip"
	"reflect"
	"testing"

	"github.com/cowl-disk/cowl/qapi"
)

// byPointer has a method of its own for encoding/json, of its pointer.
type byPointer struct{ n int }

func (*byPointer) MarshalJSON() ([]byte, error) { return []byte(`{"own":"encoding"}`), nil }

type embedded struct {
	Inner int `json:"inner"`
}

// TestTree compares with what encoding/json makes of a value.
func TestTree(t *testing.T) {
	yes, no, none := true, false, (*int)(nil)
	values := map[string]any{
		"nil": nil, "text": "a<&>\"\u2028\xff\xfe\xed\xa0\x80z", "number": int8(-5), "large": uint64(math.MaxUint64), "least": int64(math.MinInt64),
		"bytes": []byte{1, 2}, "no bytes": []byte(nil), "array": [2]byte{1, 2}, "floats": []float64{1.5, 1e30}, "list": []any{1, "x", nil, []int{}},
		"no list": []string(nil), "map": map[string]any{"b": 1, "a": []int{2}}, "address": netip.MustParseAddr("::1"), "method": &byPointer{1}, "method of what is copied": byPointer{1},
		"methods in a list": []byPointer{{1}, {2}}, "raw": json.RawMessage(`{"b": [1.50, null], "a": "\u00e9"}`),
		"members": struct {
			Plain   string
			Named   int            `json:"named"`
			Empty   string         `json:"empty,omitempty"`
			Zero    int            `json:"zero,omitempty"`
			Off     bool           `json:"off,omitempty"`
			NoList  []int          `json:"no-list,omitempty"`
			NoMap   map[string]int `json:"no-map,omitempty"`
			Struct  embedded       `json:"struct,omitempty"`
			Pointer *int           `json:"pointer,omitempty"`
			Null    *int           `json:"null"`
			Zeroes  [2]int         `json:"zeroes,omitempty"`
			Left    int            `json:"-"`
			Text    int            `json:"text,string"`
			hidden  int
			Any     any `json:"any"`
		}{Plain: "p", Null: none, hidden: 1, Any: embedded{3}},
		"embedded": struct {
			embedded
			Outer *embedded `json:"outer"`
		}{embedded{1}, &embedded{2}},
		"image": []qapi.ImageInfo{{Filename: "a.qcow2", Format: "qcow2", FormatSpecific: &qapi.ImageInfoSpecific{Type: "qcow2", Data: qapi.InfoSpecificQcow2{
			Compat: "1.1", LazyRefcounts: &no, ExtendedL2: &yes, RefcountBits: 16, Encrypt: json.RawMessage(`{"format":"luks","slots":[{"active":true,"iters":1234567890123}]}`),
			Bitmaps: []qapi.Qcow2BitmapInfo{{Name: "b\xff"}}}}}, {}},
	}
	for name, v := range values {
		want, err := encoded(reflect.ValueOf(&v).Elem())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got, err := tree(v); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %#v, %v, want %#v", name, got, err, want)
		}
	}
	if got, err := tree(make(chan int)); err == nil {
		t.Errorf("a channel is %v", got)
	}
}
