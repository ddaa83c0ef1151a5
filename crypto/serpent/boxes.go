package serpent

// The S-boxes of the proposal and their inverses as sequences of logical operations, one
// for all 32 positions of the words. They were found by a search for short sequences;
// the tests prove each of them against the table of the proposal.

func sbox0(a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	t1 := d | a
	t2 := t1 ^ c
	z := t2 ^ b
	t3 := c | a
	t4 := t3 &^ b
	t5 := ^t4
	t6 := t5 ^ a
	t7 := t6 & c
	t8 := ^t7
	t9 := t8 & d
	w := t5 ^ t9
	t10 := t6 & t5
	t11 := t10 ^ c
	t12 := t7 ^ b
	t13 := t12 & d
	x := t11 ^ t13
	t14 := x | w
	t15 := t14 & t1
	y := t15 ^ b
	return w, x, y, z
}

func sbox1(a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	t1 := c & a
	t2 := t1 ^ b
	t3 := ^t2
	t4 := t3 ^ a
	t5 := t2 ^ c
	t6 := t5 | t4
	t7 := t6 & d
	z := t3 ^ t7
	t8 := t5 &^ a
	t9 := t8 ^ t1
	t10 := ^t9
	y := t10 ^ d
	t11 := t9 ^ t4
	t12 := t10 | t3
	t13 := t12 & d
	x := t11 ^ t13
	t14 := z &^ x
	w := t14 ^ t10
	return w, x, y, z
}

func sbox2(a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	t1 := b ^ a
	t2 := ^t1
	t3 := t2 ^ b
	t4 := t3 | t1
	t5 := t4 & c
	t6 := t2 ^ t5
	t7 := b & d
	z := t6 ^ t7
	t8 := c & b
	t9 := t8 ^ t1
	t10 := t6 | a
	t11 := t10 & d
	y := t9 ^ t11
	t12 := y ^ t6
	t13 := t2 &^ d
	x := t13 ^ t12
	t14 := t10 ^ t4
	w := t14 ^ d
	return w, x, y, z
}

func sbox3(a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	t1 := b &^ c
	t2 := t1 ^ a
	t3 := t2 | c
	t4 := t3 ^ b
	t5 := ^t4
	t6 := t5 & d
	w := t2 ^ t6
	t7 := t3 & a
	t8 := t7 ^ c
	t9 := t5 ^ t3
	t10 := t9 | a
	t11 := t10 & d
	y := t8 ^ t11
	t12 := y ^ w
	t13 := t12 | t1
	x := t13 ^ t4
	t14 := t4 | t1
	t15 := t14 ^ t10
	t16 := t15 | a
	t17 := t16 & d
	z := t14 ^ t17
	return w, x, y, z
}

func sbox4(a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	t1 := c & b
	t2 := a &^ c
	t3 := t2 ^ t1
	t4 := ^b
	t5 := t4 ^ a
	t6 := t5 & c
	t7 := t4 ^ t6
	t8 := t7 & d
	x := t3 ^ t8
	t9 := t7 ^ d
	t10 := t9 & t5
	w := t10 ^ t3
	t11 := w | b
	t12 := t11 ^ t5
	z := t12 ^ d
	t13 := t12 & t2
	t14 := t13 ^ t6
	t15 := t14 | b
	t16 := t15 ^ a
	t17 := t16 & d
	y := t14 ^ t17
	return w, x, y, z
}

func sbox5(a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	t1 := a &^ b
	t2 := t1 ^ c
	t3 := ^t2
	t4 := t3 ^ b
	t5 := t4 ^ a
	t6 := t5 & d
	x := t3 ^ t6
	t7 := d &^ x
	w := t7 ^ t5
	t8 := w & x
	t9 := t8 | t4
	z := t9 ^ d
	t10 := t9 &^ a
	t11 := t10 ^ t2
	t12 := t5 ^ t3
	t13 := t12 | t4
	t14 := t13 & d
	y := t11 ^ t14
	return w, x, y, z
}

func sbox6(a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	t1 := c ^ b
	t2 := ^t1
	t3 := a & d
	x := t2 ^ t3
	t4 := x | b
	t5 := t4 &^ a
	t6 := t5 ^ b
	t7 := t6 ^ t2
	t8 := t7 & b
	t9 := ^t8
	t10 := t9 & d
	w := t6 ^ t10
	t11 := t5 | t2
	t12 := t11 ^ a
	t13 := t8 ^ t1
	t14 := t13 & d
	y := t12 ^ t14
	t15 := y &^ w
	t16 := t15 ^ t3
	z := t16 ^ c
	return w, x, y, z
}

func sbox7(a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	t1 := b & a
	t2 := t1 ^ c
	t3 := ^t2
	t4 := b ^ a
	t5 := t4 | c
	t6 := t5 & d
	w := t3 ^ t6
	t7 := t2 & b
	t8 := t5 &^ t7
	t9 := a & d
	z := t8 ^ t9
	t10 := t5 ^ t1
	t11 := t10 ^ a
	t12 := t11 | t3
	t13 := t12 ^ a
	t14 := t13 & d
	x := t11 ^ t14
	t15 := t13 ^ t11
	t16 := t8 &^ t15
	t17 := t15 ^ t2
	t18 := t17 & d
	y := t16 ^ t18
	return w, x, y, z
}

func inverse0(a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	t1 := c & b
	t2 := t1 ^ a
	t3 := ^t2
	t4 := t3 ^ c
	t5 := t2 ^ b
	t6 := t5 | t4
	t7 := t6 & d
	z := t3 ^ t7
	t8 := t6 ^ d
	t9 := t5 &^ c
	y := t9 ^ t8
	t10 := y | t1
	t11 := t7 | t5
	w := t11 ^ t10
	t12 := w | z
	t13 := t12 ^ y
	x := t13 ^ d
	return w, x, y, z
}

func inverse1(a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	t1 := c ^ b
	t2 := c & a
	t3 := t2 | t1
	t4 := t3 ^ a
	t5 := t4 &^ c
	t6 := ^t5
	t7 := t6 & d
	x := t3 ^ t7
	t8 := t6 &^ b
	t9 := t8 ^ t2
	t10 := t5 ^ a
	t11 := t10 & d
	w := t9 ^ t11
	t12 := w & t2
	t13 := t12 ^ t6
	y := t13 ^ d
	t14 := c ^ a
	t15 := ^b
	t16 := t15 & d
	z := t14 ^ t16
	return w, x, y, z
}

func inverse2(a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	t1 := d ^ c
	t2 := t1 | b
	t3 := t2 ^ d
	w := t3 ^ a
	t4 := b &^ a
	t5 := t4 ^ c
	t6 := t5 | a
	t7 := t6 ^ b
	t8 := t7 & d
	x := t5 ^ t8
	t9 := a &^ b
	t10 := ^t9
	t11 := t10 ^ c
	t12 := t11 ^ t9
	t13 := t12 ^ t6
	t14 := t13 & d
	y := t11 ^ t14
	t15 := y | w
	t16 := t15 ^ x
	z := t16 ^ t3
	return w, x, y, z
}

func inverse3(a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	t1 := c &^ b
	t2 := t1 ^ a
	t3 := t2 ^ c
	t4 := t3 ^ b
	t5 := ^t4
	t6 := t5 & d
	w := t2 ^ t6
	t7 := w &^ t5
	t8 := t7 ^ t3
	t9 := t4 | t2
	t10 := t9 & d
	y := t8 ^ t10
	t11 := t4 | t1
	t12 := t11 & t3
	t13 := t12 ^ c
	t14 := t13 & d
	z := t11 ^ t14
	t15 := z ^ t12
	t16 := t15 ^ y
	x := t16 ^ t6
	return w, x, y, z
}

func inverse4(a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	t1 := c ^ b
	t2 := t1 & a
	t3 := t2 ^ c
	t4 := a &^ c
	t5 := ^t4
	t6 := t5 & d
	x := t3 ^ t6
	t7 := t5 &^ a
	t8 := t7 ^ t1
	t9 := t7 ^ t3
	t10 := t9 & d
	w := t8 ^ t10
	t11 := w ^ d
	t12 := t7 | x
	z := t12 ^ t11
	t13 := t5 &^ t1
	t14 := t13 ^ t3
	t15 := t14 | a
	t16 := t15 & d
	y := t13 ^ t16
	return w, x, y, z
}

func inverse5(a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	t1 := c & b
	t2 := t1 ^ a
	t3 := b & a
	t4 := ^t3
	t5 := t4 & d
	w := t2 ^ t5
	t6 := t4 & a
	t7 := t6 ^ c
	t8 := t2 &^ t7
	t9 := t8 ^ b
	t10 := t9 & d
	y := t7 ^ t10
	t11 := t4 &^ c
	t12 := t11 ^ b
	t13 := a & d
	z := t12 ^ t13
	t14 := z ^ w
	t15 := t14 &^ t6
	x := t15 ^ t11
	return w, x, y, z
}

func inverse6(a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	t1 := c &^ a
	t2 := t1 ^ b
	t3 := ^t2
	x := t3 ^ d
	t4 := t3 | a
	t5 := t4 &^ c
	t6 := t5 ^ a
	t7 := t6 | b
	t8 := t7 & d
	z := t5 ^ t8
	t9 := t6 ^ t2
	t10 := t9 ^ t5
	t11 := t10 | t6
	t12 := t11 & d
	w := t9 ^ t12
	t13 := w & z
	t14 := t13 ^ t1
	y := t14 ^ d
	return w, x, y, z
}

func inverse7(a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	t1 := c &^ b
	t2 := t1 ^ a
	t3 := ^t2
	t4 := t3 ^ b
	t5 := t4 | c
	t6 := t5 & d
	x := t3 ^ t6
	t7 := t4 ^ c
	t8 := t7 | b
	t9 := t8 ^ t4
	t10 := t9 & d
	w := t7 ^ t10
	t11 := w &^ t9
	t12 := t11 ^ t3
	t13 := t9 ^ t5
	t14 := t13 ^ a
	t15 := t14 & d
	y := t12 ^ t15
	t16 := t15 ^ t13
	t17 := x | t1
	z := t17 ^ t16
	return w, x, y, z
}
