package sheepd

// pageSize is the unit in which objects take memory.
const pageSize = 16 << 10

// object is an object: zeroes where there is no page.
type object struct{ pages map[int64][]byte }

func newObject() *object { return &object{map[int64][]byte{}} }

func (o *object) read(p []byte, off int64) {
	for len(p) > 0 {
		n := min(int64(len(p)), pageSize-off%pageSize)
		if page := o.pages[off/pageSize]; page != nil {
			copy(p[:n], page[off%pageSize:])
		} else {
			clear(p[:n])
		}
		p, off = p[n:], off+n
	}
}

func (o *object) write(p []byte, off int64) {
	for len(p) > 0 {
		n := min(int64(len(p)), pageSize-off%pageSize)
		page := o.pages[off/pageSize]
		if page == nil {
			page = make([]byte, pageSize)
			o.pages[off/pageSize] = page
		}
		copy(page[off%pageSize:], p[:n])
		p, off = p[n:], off+n
	}
}

func (o *object) clone() *object {
	c := newObject()
	for i, page := range o.pages {
		c.pages[i] = append([]byte(nil), page...)
	}
	return c
}
