package esp

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"

	"coati/policy"
)

// A prefixMap finds the policies of the prefixes that cover an address. It is a hash table of prefixes, asked once for each
// length that occurs in it. A slot is a cache line, and has all that is needed where one policy has a prefix for itself, so that
// a look-up among 100,000 costs one miss of the processor's caches for each length.
//
// A map that others may read is never changed. Its slots lie in pages: a successor copies the list of pages and the page that
// changes, and has the others in common with it.

const (
	// pageFill is how many prefixes there are to a page, on average, when the pages are doubled.
	pageFill = 32
	// leastPage is the slots of the smallest page.
	leastPage = 2
)

// addrBits is an address, the highest bit first: IPv4 has the first 32.
type addrBits struct{ hi, lo uint64 }

func bitsOf(a netip.Addr) addrBits {
	if a.Is4() {
		b := a.As4()
		return addrBits{hi: uint64(binary.BigEndian.Uint32(b[:])) << 32}
	}
	b := a.As16()
	return addrBits{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// prefix is the first n bits.
func (a addrBits) prefix(n uint8) addrBits {
	if n <= 64 {
		return addrBits{hi: a.hi &^ (1<<(64-n) - 1)}
	}
	return addrBits{a.hi, a.lo &^ (1<<(128-n) - 1)}
}

// slot is a prefix and the policies that have it: one, or more.
type slot struct {
	key      addrBits
	length   uint8
	used     bool
	plain    bool     // of the policy: nothing but the addresses of a packet counts
	otherLen uint8    // of the policy: the prefix at the packet's other end, if it is not looked up
	other    addrBits // likewise
	entry    *spdEntry
	others   *prefixMap // instead of entry: several policies, by the prefix at the packet's other end
	list     *ordered   // instead of entry: several policies that have both ends in common
}

type prefixMap struct {
	lengths [3]uint64 // a bit for each length that occurs
	pages   [][]slot  // a power of two of them, each a power of two
	shift   uint8     // of a hash, to be the number of its page
	seed    uint64
	count   int
	times   []lengthCount
}

// lengthCount is how many prefixes of a length there are.
type lengthCount struct {
	length uint8
	count  int32
}

func (m *prefixMap) hash(key addrBits, length uint8) uint64 {
	hi, lo := bits.Mul64(key.hi^m.seed, key.lo^uint64(length)<<56^0x9e3779b97f4a7c15)
	hi, lo = bits.Mul64(hi^lo, 0xd6e8feb86659fd93)
	return hi ^ lo
}

// find is the slot of a prefix, or nil.
func (m *prefixMap) find(key addrBits, length uint8) *slot {
	h := m.hash(key, length)
	page := m.pages[h>>m.shift]
	for i := int(h) & (len(page) - 1); ; i = (i + 1) & (len(page) - 1) {
		s := &page[i]
		if s.key == key && s.length == length && s.used {
			return s
		}
		if !s.used {
			return nil
		}
	}
}

// first is the first policy in order for a flow, given one that may come before.
func (m *prefixMap) first(key, other addrBits, f *policy.Flow, best *spdEntry) *spdEntry {
	for w, set := range m.lengths {
		for ; set != 0; set &= set - 1 {
			length := uint8(w*64 + bits.TrailingZeros64(set))
			s := m.find(key.prefix(length), length)
			switch {
			case s == nil:
			case s.entry != nil:
				if other.prefix(s.otherLen) == s.other {
					best = s.entry.first(s.plain, f, best)
				}
			case s.others != nil:
				best = s.others.first(other, addrBits{}, f, best)
			default:
				best = s.list.first(f, best)
			}
		}
	}
	return best
}

// pageOf a hash, copied if it is not ours yet.
func (m *prefixMap) pageOf(h uint64, copied bool) *[]slot {
	page := &m.pages[h>>m.shift]
	if !copied {
		*page = slices.Clone(*page)
	}
	return page
}

// put is the slot of a prefix that is there or is made. The list of pages is ours, and the pages, too, if so said.
func (m *prefixMap) put(key addrBits, length uint8, copied bool) *slot {
	if m.count >= len(m.pages)*pageFill {
		m.spread()
	}
	h := m.hash(key, length)
	page := m.pageOf(h, copied)
	if s := m.find(key, length); s != nil {
		return s
	}
	used := 0
	for i := range *page {
		if (*page)[i].used {
			used++
		}
	}
	if 4*(used+1) > 3*len(*page) {
		larger := make([]slot, max(leastPage, 2*len(*page)))
		for _, s := range *page {
			if s.used {
				*m.place(larger, s.key, s.length) = s
			}
		}
		*page = larger
	}
	s := m.place(*page, key, length)
	*s = slot{key: key, length: length, used: true}
	m.count++
	m.occurs(length, 1)
	return s
}

// place is the free slot in a page for a prefix that is not there.
func (m *prefixMap) place(page []slot, key addrBits, length uint8) *slot {
	i := int(m.hash(key, length)) & (len(page) - 1)
	for page[i].used {
		i = (i + 1) & (len(page) - 1)
	}
	return &page[i]
}

// remove takes a prefix out that is there.
func (m *prefixMap) remove(key addrBits, length uint8, copied bool) {
	page := *m.pageOf(m.hash(key, length), copied)
	gone := m.find(key, length)
	i := int(m.hash(key, length)) & (len(page) - 1)
	for &page[i] != gone {
		i = (i + 1) & (len(page) - 1)
	}
	page[i] = slot{}
	// Those behind it may be there only because it was in their way.
	for i = (i + 1) & (len(page) - 1); page[i].used; i = (i + 1) & (len(page) - 1) {
		s := page[i]
		page[i] = slot{}
		*m.place(page, s.key, s.length) = s
	}
	m.count--
	m.occurs(length, -1)
}

func (m *prefixMap) occurs(length uint8, change int32) {
	i := slices.IndexFunc(m.times, func(c lengthCount) bool { return c.length == length })
	if i < 0 {
		i = len(m.times)
		m.times = append(m.times, lengthCount{length: length})
		m.lengths[length/64] |= 1 << (length % 64)
	}
	if m.times[i].count += change; m.times[i].count == 0 {
		m.times = slices.Delete(m.times, i, i+1)
		m.lengths[length/64] &^= 1 << (length % 64)
	}
}

// spread doubles the pages.
func (m *prefixMap) spread() {
	old := m.pages
	m.pages = make([][]slot, 2*len(old))
	m.shift--
	for n, page := range old {
		var count [2]int
		for i := range page {
			if page[i].used {
				count[m.hash(page[i].key, page[i].length)>>m.shift&1]++
			}
		}
		for half := range count {
			m.pages[2*n+half] = make([]slot, pageFor(count[half]+1))
		}
		for i := range page {
			if s := &page[i]; s.used {
				*m.place(m.pages[m.hash(s.key, s.length)>>m.shift], s.key, s.length) = *s
			}
		}
	}
}

// pageFor is how many slots hold n prefixes, at most three quarters of them used.
func pageFor(n int) int {
	size := leastPage
	for 4*n > 3*size {
		size *= 2
	}
	return size
}

// newPrefixMap makes an empty map.
func newPrefixMap(seed uint64) *prefixMap {
	return &prefixMap{pages: [][]slot{make([]slot, leastPage)}, shift: 64, seed: seed}
}

// successor of a map shares its pages, unless whole.
func (m *prefixMap) successor(whole bool) *prefixMap {
	next := *m
	next.pages, next.times = slices.Clone(m.pages), slices.Clone(m.times)
	if whole {
		for i := range next.pages {
			next.pages[i] = slices.Clone(next.pages[i])
		}
	}
	return &next
}
