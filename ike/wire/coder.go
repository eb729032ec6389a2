package wire

import (
	"encoding/binary"
	"math"
)

// A coder appends fields to buf, or consumes them from it. The first fault sticks: every later step does nothing, so
// a fields method needs no error handling of its own.
type coder struct {
	buf       []byte
	appending bool
	base      int         // appending: length of buf at the start, where offset 0 of the message is
	off       int         // consuming: the next octet
	end       int         // consuming: the end of the innermost structure that is open
	payload   PayloadType // for errors
	err       *Error
}

// A frame is an open structure with a 16-bit length.
type frame struct {
	start int // where the octets begin that the length counts
	at    int // appending: where the length is
	outer int // consuming: the end of the enclosing structure
	field string
}

func (c *coder) consuming() bool { return !c.appending && c.err == nil }

// pos is the index in buf of the next octet.
func (c *coder) pos() int {
	if c.appending {
		return len(c.buf)
	}
	return c.off
}

func (c *coder) left() int { return c.end - c.off }

func (c *coder) fail(kind error, field string) { c.failAt(kind, field, c.pos()) }

func (c *coder) failAt(kind error, field string, pos int) {
	if c.err == nil {
		c.err = &Error{Kind: kind, Payload: c.payload, Field: field, Offset: pos - c.base}
	}
}

// result is err as an error, without the nil pointer in it.
func (c *coder) result() error {
	if c.err == nil {
		return nil
	}
	return c.err
}

// take consumes n octets; ok is false if there are fewer.
func (c *coder) take(n int, field string) (b []byte, ok bool) {
	if c.err != nil {
		return nil, false
	}
	if n > c.end-c.off {
		c.fail(ErrTruncated, field)
		return nil, false
	}
	b = c.buf[c.off : c.off+n : c.off+n]
	c.off += n
	return b, true
}

func u8[T ~uint8](c *coder, v *T, field string) {
	if c.appending {
		c.buf = append(c.buf, uint8(*v))
	} else if b, ok := c.take(1, field); ok {
		*v = T(b[0])
	}
}

func u16[T ~uint16](c *coder, v *T, field string) {
	if c.appending {
		c.buf = binary.BigEndian.AppendUint16(c.buf, uint16(*v))
	} else if b, ok := c.take(2, field); ok {
		*v = T(binary.BigEndian.Uint16(b))
	}
}

func (c *coder) u32(v *uint32, field string) {
	if c.appending {
		c.buf = binary.BigEndian.AppendUint32(c.buf, *v)
	} else if b, ok := c.take(4, field); ok {
		*v = binary.BigEndian.Uint32(b)
	}
}

func (c *coder) u64(v *uint64, field string) {
	if c.appending {
		c.buf = binary.BigEndian.AppendUint64(c.buf, *v)
	} else if b, ok := c.take(8, field); ok {
		*v = binary.BigEndian.Uint64(b)
	}
}

// reserved is n octets sent as zero and ignored on receipt.
func (c *coder) reserved(n int) {
	if c.appending {
		var zero [4]byte
		c.buf = append(c.buf, zero[:n]...)
	} else {
		c.take(n, "reserved")
	}
}

// rest is all octets up to the end of the open structure, at least minimum. An empty slice is always nil.
func (c *coder) rest(v *[]byte, minimum int, field string) {
	if c.appending {
		if len(*v) < minimum {
			c.fail(ErrLength, field)
			return
		}
		c.buf = append(c.buf, *v...)
	} else if c.err == nil {
		if c.left() < minimum {
			c.fail(ErrTruncated, field)
			return
		}
		*v = nil
		if n := c.left(); n > 0 {
			*v, _ = c.take(n, field)
		}
	}
}

// sized is a 16-bit length and so many octets.
func (c *coder) sized(v *[]byte, field string) {
	start := c.pos() + 2
	f := c.length(start, field)
	c.rest(v, 0, field)
	c.close(f)
}

// length opens a structure at the 16-bit length that counts its octets from start. close ends it.
func (c *coder) length(start int, field string) frame {
	f := frame{start: start, at: c.pos(), outer: c.end, field: field}
	var n uint16
	u16(c, &n, field)
	if !c.consuming() {
		return f
	}
	switch end := start + int(n); {
	case end < c.off:
		c.failAt(ErrLength, field, f.at)
	case end > c.end && c.end == len(c.buf):
		c.failAt(ErrTruncated, field, f.at) // the message itself ends too early
	case end > c.end:
		c.failAt(ErrLength, field, f.at)
	default:
		c.end = end
	}
	return f
}

// close ends the structure: appending writes its length, consuming demands that nothing is left of it.
func (c *coder) close(f frame) {
	if c.err != nil {
		return
	}
	if !c.appending {
		if c.off != c.end {
			c.fail(ErrLength, f.field)
		}
		c.end = f.outer
		return
	}
	n := len(c.buf) - f.start
	if n > math.MaxUint16 {
		c.failAt(ErrLength, f.field, f.at)
		return
	}
	binary.BigEndian.PutUint16(c.buf[f.at:], uint16(n))
}

// element steps through a list: appending, it returns the i-th element of s; consuming, a new one as long as octets
// are left. nil ends the list.
func element[T any](c *coder, s *[]T, i, limit int, field string) *T {
	switch {
	case c.err != nil:
		return nil
	case c.appending && len(*s) > limit:
		c.fail(ErrTooMany, field)
		return nil
	case c.appending && i == len(*s), !c.appending && c.left() == 0:
		return nil
	case !c.appending && i == limit:
		c.fail(ErrTooMany, field)
		return nil
	}
	if !c.appending {
		var zero T
		*s = append(*s, zero)
	}
	return &(*s)[i]
}

// count is the number of a list's elements in width octets, 1 or 2: the list's own when appending, the peer's word when
// consuming. Consuming, it makes room for so many elements, but no more than the octets left can hold when each takes size of them.
func count[E any](c *coder, s *[]E, width, limit, size int, field string) int {
	at, n := c.pos(), len(*s)
	if c.appending && n > limit {
		c.fail(ErrTooMany, field)
		return n
	}
	if width == 1 {
		v := uint8(n)
		u8(c, &v, field)
		n = int(v)
	} else {
		v := uint16(n)
		u16(c, &v, field)
		n = int(v)
	}
	if c.consuming() {
		if n > limit {
			c.failAt(ErrTooMany, field, at)
		} else if room := min(n, c.left()/size); room > 0 {
			*s = make([]E, 0, room)
		}
	}
	return n
}

// counted checks at a list's end that it has the n elements that were announced, and at least one.
func (c *coder) counted(n, have int, field string) {
	if c.err == nil && (n != have || n == 0) {
		c.fail(ErrLength, field)
	}
}
