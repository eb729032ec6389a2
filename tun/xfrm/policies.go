package xfrm

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"coati/policy"
)

// slot is what makes a policy of the kernel's one: a second one for the same slot replaces the first, whatever its priority.
type slot struct {
	dir      uint8
	selector selector
}

// entry is what stands in a slot.
type entry struct {
	owner    policy.PolicyID // 0: a built-in one
	priority uint32
	action   uint8
	// tmpl is what the packets need; zero for bypass and discard.
	tmpl tmpl
}

// tmpl is xfrm_user_tmpl.
type tmpl struct {
	src, dst netip.Addr // invalid in and forward: any
	family   uint16     // of the outer addresses; 0: there is no template
	reqID    uint32
	mode     uint8
	optional bool
}

// spd is which policy stands in which slot.
type spd map[slot]entry

// selectors are the kernel's selectors for two lists of ours: every pair of prefixes of one family and protocol, with
// ranges of ports cut into what a mask can say. ICMP's type and code stand for the source and the destination port.
func selectors(local, remote []policy.Selector, outbound bool) ([]selector, error) {
	var out []selector
	for _, l := range local {
		for _, r := range remote {
			if l.Start.BitLen() != r.Start.BitLen() {
				continue
			}
			proto := cmp.Or(l.Protocol, r.Protocol)
			if l.Protocol != 0 && r.Protocol != 0 && l.Protocol != r.Protocol {
				continue
			}
			lp, rp, err := ports(l, r, proto)
			if err != nil {
				return nil, err
			}
			for _, lnet := range l.Prefixes() {
				for _, rnet := range r.Prefixes() {
					for _, a := range lp {
						for _, b := range rp {
							s := selector{Family: familyOf(lnet.Addr()), Proto: proto, Src: lnet, SrcPort: a.port, SrcMask: a.mask, Dst: rnet, DstPort: b.port, DstMask: b.mask}
							if !outbound {
								s.Src, s.Dst = s.Dst, s.Src
								if !icmp(proto) {
									s.SrcPort, s.SrcMask, s.DstPort, s.DstMask = s.DstPort, s.DstMask, s.SrcPort, s.SrcMask
								}
							}
							if !slices.Contains(out, s) {
								out = append(out, s)
							}
						}
					}
				}
			}
		}
	}
	return out, nil
}

// masked is a run of ports.
type masked struct{ port, mask uint16 }

func icmp(proto uint8) bool { return proto == 1 || proto == 58 }

func ports(l, r policy.Selector, proto uint8) (local, remote []masked, err error) {
	if !icmp(proto) {
		if local, err = portMasks(l); err == nil {
			remote, err = portMasks(r)
		}
		return local, remote, err
	}
	// Both ends say type*256+code; what both say is meant.
	lo, hi := uint16(0), uint16(65535)
	for _, s := range []policy.Selector{l, r} {
		if s.Protocol != 0 {
			lo, hi = max(lo, s.StartPort), min(hi, s.EndPort)
		}
	}
	switch {
	case lo == 0 && hi == 65535:
		return []masked{{}}, []masked{{}}, nil
	case lo == hi:
		return []masked{{lo >> 8, 0xffff}}, []masked{{lo & 255, 0xffff}}, nil
	case lo>>8 == hi>>8 && lo&255 == 0 && hi&255 == 255:
		return []masked{{lo >> 8, 0xffff}}, []masked{{}}, nil
	}
	return nil, nil, fmt.Errorf("the kernel cannot select %s: one type of icmp, with one code or any", l)
}

func portMasks(s policy.Selector) ([]masked, error) {
	if s.Protocol == 0 {
		return []masked{{}}, nil
	}
	if s.StartPort > s.EndPort {
		return nil, fmt.Errorf("the kernel cannot select %s: it has no opaque ports", s)
	}
	var out []masked
	for at, end := uint32(s.StartPort), uint32(s.EndPort); at <= end; {
		size := uint32(1) << 16
		for at&(size-1) != 0 || at+size-1 > end {
			size >>= 1
		}
		out = append(out, masked{uint16(at), uint16(^(size - 1))})
		at += size
	}
	return out, nil
}

// priority keeps the order of ours, and leaves zero to the built-in ones.
func priority(p int32) uint32 { return max(1, uint32(int64(p)+1<<31)) }

// neighbour are the types of ICMPv6 that find neighbours and routers (RFC 4861): they must pass before there can be an SA.
var neighbour = []uint16{133, 134, 135, 136, 137}

// builtin are the policies nobody configured.
func builtin() spd {
	all := netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	out := spd{}
	for _, kind := range neighbour {
		for _, dir := range []uint8{dirIn, dirOut} {
			out[slot{dir, selector{Family: familyIPv6, Src: all, Dst: all, Proto: 58, SrcPort: kind, SrcMask: 0xffff}}] = entry{action: actionAllow}
		}
	}
	return out
}

// target is where the outbound SA of a reqid leads.
type target struct{ src, dst netip.Addr }

// waiting is the target of a policy without an SA, so that the kernel asks for one. The kernel asks once in 30 seconds for
// each destination; a negotiation that failed takes the next one, and the next packet asks again. The addresses are of
// the block for benchmarks (RFC 2544, appendix C.2.2), which no peer has, and nothing is sent to them.
func waiting(round uint16) target {
	return target{netip.AddrFrom4([4]byte{198, 18, 0, 0}), netip.AddrFrom4([4]byte{198, 19, byte(round >> 8), byte(round)})}
}

// forNow is an outbound policy as the kernel is told it, which depends on whether there is an SA. After a failed negotiation it
// refuses. The kernel takes no optional tunnel: level use is another policy with an SA and without.
func forNow(p *policy.Policy, sa, refused bool) *policy.Policy {
	if p.Direction != policy.Outbound || p.Action != policy.Protect {
		return p
	}
	c := *p
	switch {
	case p.Level == policy.LevelUse && p.Mode == policy.Tunnel && !sa:
		c.Action = policy.Bypass
	case p.Level == policy.LevelUse && p.Mode == policy.Tunnel:
		c.Level = policy.LevelRequire
	case p.Level != policy.LevelUse && refused && !sa:
		c.Action = policy.Discard
	}
	return &c
}

// slots are where one policy of ours stands, and as what.
func slots(p *policy.Policy, to target, reqID uint32) (spd, error) {
	out := spd{}
	sels, err := selectors(p.Local, p.Remote, p.Direction == policy.Outbound)
	if err != nil {
		return nil, fmt.Errorf("policy %d (%s): %w", p.ID, p.Name, err)
	}
	if len(sels) == 0 {
		return nil, fmt.Errorf("policy %d (%s) selects nothing", p.ID, p.Name)
	}
	e := entry{owner: p.ID, priority: priority(p.Priority)}
	dirs := []uint8{dirOut}
	if p.Direction == policy.Inbound {
		dirs = []uint8{dirIn, dirFwd}
	}
	switch p.Action {
	case policy.Discard:
		e.action = actionBlock
	case policy.Protect:
		e.tmpl = tmpl{family: familyOf(to.dst), reqID: reqID, mode: modeNumber(p.Mode), optional: p.Level == policy.LevelUse}
		if p.Direction == policy.Outbound {
			e.tmpl.src, e.tmpl.dst = to.src, to.dst
		}
		if p.Mode == policy.Transport && p.Direction == policy.Inbound {
			dirs = dirs[:1]
		}
	}
	for _, s := range sels {
		for _, dir := range dirs {
			x := e
			if p.Mode == policy.Transport && x.tmpl.family != 0 {
				// The outer addresses are the packet's own.
				x.tmpl.family = s.Family
				x.tmpl.src, x.tmpl.dst = netip.Addr{}, netip.Addr{}
			}
			out[slot{dir, s}] = x
		}
	}
	return out, nil
}

// merge lets the first in our order stand: the lowest priority, then the lowest ID.
func (s spd) merge(o spd) {
	for k, e := range o {
		old, taken := s[k]
		if !taken || e.priority < old.priority || e.priority == old.priority && e.owner < old.owner {
			s[k] = e
		}
	}
}

// step is one change of the kernel's SPD.
type step struct {
	slot  slot
	entry entry
	put   bool // else delete
}

// steps lead from one SPD to the other: what is new or changed first, then what goes.
func (s spd) steps(to spd) []step {
	var put, del []step
	for k, e := range to {
		if old, ok := s[k]; !ok || !old.same(e) {
			put = append(put, step{k, e, true})
		}
	}
	for k, e := range s {
		if _, ok := to[k]; !ok {
			del = append(del, step{k, e, false})
		}
	}
	return append(put, del...)
}

// same says that the kernel would not see a difference. The owner is ours to know.
func (e entry) same(o entry) bool {
	e.owner = o.owner
	return e == o
}

// policyMessage is XFRM_MSG_NEWPOLICY, which adds where nothing stands, or XFRM_MSG_UPDPOLICY, which replaces what does.
func policyMessage(kind uint16, k slot, e *entry, index uint32, flags uint16) *message {
	msg, b := newMessage(kind, flags, sizePolicy)
	k.selector.put(b)
	for i := range 4 {
		native.PutUint64(b[sizeSelector+8*i:], infinite)
	}
	native.PutUint32(b[152:], e.priority)
	native.PutUint32(b[156:], index)
	b[160], b[161] = k.dir, e.action
	if e.tmpl.family == 0 {
		return msg
	}
	v := msg.attr(attrTmpl, sizeTmpl)
	putAddr(v, e.tmpl.dst)
	v[20] = protoESP
	native.PutUint16(v[24:], e.tmpl.family)
	putAddr(v[28:], e.tmpl.src)
	native.PutUint32(v[44:], e.tmpl.reqID)
	v[48] = e.tmpl.mode
	if e.tmpl.optional {
		v[50] = 1
	}
	for i := 52; i < 64; i += 4 {
		native.PutUint32(v[i:], ^uint32(0)) // any algorithm: the SA was chosen by its reqid
	}
	return msg
}

// deletePolicyMessage is XFRM_MSG_DELPOLICY.
func deletePolicyMessage(k slot, flags uint16) *message {
	msg, b := newMessage(msgDelPolicy, flags, sizePolicyID)
	k.selector.put(b)
	b[60] = k.dir
	return msg
}

// flowOf is the flow of an acquire's selector.
func flowOf(s *selector) policy.Flow {
	f := policy.Flow{Src: s.Src.Addr(), Dst: s.Dst.Addr(), Protocol: s.Proto}
	if icmp(s.Proto) {
		if s.SrcMask != 0 {
			f.HasPorts = true
			f.SrcPort = s.SrcPort<<8 | s.DstPort&255
			f.DstPort = f.SrcPort
		}
		return f
	}
	if s.SrcMask != 0 || s.DstMask != 0 {
		f.HasPorts, f.SrcPort, f.DstPort = true, s.SrcPort, s.DstPort
	}
	return f
}
