package xfrm

import (
	"errors"
	"fmt"
	"net/netip"

	"coati/policy"
)

const (
	// maxWindow is the kernel's (XFRMA_REPLAY_ESN_MAX), packets.
	maxWindow = 4096
	// leap is how far an outbound sequence number jumps when its state is installed anew: more than can be sent between
	// our last look at the old state and its end.
	leap = 1 << 20
)

// identity is what the kernel will know an SA by.
func identity(sa *policy.SA) stateID {
	id := stateID{Dst: sa.Path.Local.Addr().Unmap(), SPI: uint32(sa.SPI), Proto: protoESP}
	if sa.Direction == policy.Outbound {
		id.Dst = sa.Path.Remote.Addr().Unmap()
	}
	return id
}

// ends are the outer source and destination.
func ends(sa *policy.SA) (src, dst netip.AddrPort) {
	if sa.Direction == policy.Outbound {
		return sa.Path.Local, sa.Path.Remote
	}
	return sa.Path.Remote, sa.Path.Local
}

// checkSA finds every reason to refuse an SA that the kernel would not name.
func checkSA(sa *policy.SA) error {
	enc := sa.Encryption.Algorithm()
	local, remote := sa.Path.Local.Addr().Unmap(), sa.Path.Remote.Addr().Unmap()
	switch {
	case sa.Protocol != policy.ProtocolESP:
		return errors.New("the kernel plane carries esp only")
	case sa.SPI < 256:
		return errors.New("spis below 256 are reserved")
	case sa.Ceiling != 0:
		return errors.New("a fixed key of a counter mode: the kernel makes its nonces by its own rule")
	case sa.ICV96 && sa.Integrity.ID != policy.IntegSHA256:
		return errors.New("only hmac-sha2-256 is cut to 96 bits")
	case sa.Header != (policy.TunnelHeader{}) || sa.TFC != 0:
		return errors.New("the kernel plane makes outer headers and padding its own way: leave out df, dscp, hop-limit, flow-label and tfc, or say plane = \"user\"")
	case sa.FragmentAfter || sa.MSS != 0 || sa.ICMPErrors != policy.ICMPByEither || sa.DummyInterval != 0:
		return errors.New("the kernel plane has no choice there: leave out fragment, mss, icmp-errors and dummy-interval, or say plane = \"user\"")
	case sa.Mode != policy.Tunnel && sa.Mode != policy.Transport:
		return fmt.Errorf("the kernel plane has no mode %d", sa.Mode)
	case !local.IsValid() || local.IsUnspecified() || !remote.IsValid() || remote.IsUnspecified():
		return errors.New("the path needs both addresses")
	case local.BitLen() != remote.BitLen():
		return errors.New("the path's addresses are of different families")
	case len(sa.Local) == 0 || len(sa.Remote) == 0:
		return errors.New("no selectors: it would carry nothing")
	case sa.ReplayWindow > maxWindow:
		return fmt.Errorf("a replay window of %d: the kernel has at most %d", sa.ReplayWindow, maxWindow)
	case sa.Direction == policy.Inbound && sa.ESN && sa.ReplayWindow == 0:
		return errors.New("extended sequence numbers need a replay window (RFC 4303, section 3.4.3)")
	case enc == nil || enc.Use&policy.UseESP == 0 || enc.XFRM == "":
		return fmt.Errorf("%w: %s in the kernel", policy.ErrNoAlgorithm, sa.Encryption)
	case sa.EncryptionKey.Len() != enc.KeyLen:
		return fmt.Errorf("%s needs a key of %d octets, not %d", enc.Keyword, enc.KeyLen, sa.EncryptionKey.Len())
	case enc.AEAD:
		if sa.Integrity.ID != policy.IntegNone || sa.IntegrityKey.Len() != 0 {
			return fmt.Errorf("%s takes no integrity algorithm", enc.Keyword)
		}
		return nil
	}
	integ := sa.Integrity.Algorithm()
	switch {
	case integ == nil || integ.Use&policy.UseESP == 0 || integ.XFRM == "":
		return fmt.Errorf("%w: %s in the kernel", policy.ErrNoAlgorithm, sa.Integrity)
	case sa.IntegrityKey.Len() != integ.KeyLen:
		return fmt.Errorf("%s needs a key of %d octets, not %d", integ.Keyword, integ.KeyLen, sa.IntegrityKey.Len())
	}
	return nil
}

// tagBits is the size of an SA's integrity check value.
func tagBits(sa *policy.SA) uint32 {
	switch enc := sa.Encryption.Algorithm(); {
	case enc.AEAD:
		return uint32(8 * enc.ICVLen)
	case sa.ICV96:
		return 96
	}
	return uint32(8 * sa.Integrity.Algorithm().ICVLen)
}

// marking is the mark of outer packets: bits and their mask, which is zero for none.
type marking struct{ mark, mask uint32 }

// stateMessage is XFRM_MSG_NEWSA for a checked SA. at is the last sequence number that was used already; inbound, all up to
// it count as received.
func stateMessage(sa *policy.SA, flags uint16, reqID uint32, at uint64, m marking) *message {
	msg, b := newMessage(msgNewSA, flags, sizeState)
	src, dst := ends(sa)
	putStateInfo(b, sa, reqID)
	enc := sa.Encryption.Algorithm()
	key := sa.EncryptionKey.Reveal()
	if enc.AEAD {
		v := msg.attr(attrAlgAEAD, sizeAlgName+8+len(key))
		copy(v, enc.XFRM)
		native.PutUint32(v[sizeAlgName:], uint32(8*len(key)))
		native.PutUint32(v[sizeAlgName+4:], tagBits(sa))
		copy(v[sizeAlgName+8:], key)
	} else {
		v := msg.attr(attrAlgCrypt, sizeAlgName+4+len(key))
		copy(v, enc.XFRM)
		native.PutUint32(v[sizeAlgName:], uint32(8*len(key)))
		copy(v[sizeAlgName+4:], key)
		integ := sa.Integrity.Algorithm()
		key := sa.IntegrityKey.Reveal()
		v = msg.attr(attrAlgAuthTrunc, sizeAlgName+8+len(key))
		copy(v, integ.XFRM)
		native.PutUint32(v[sizeAlgName:], uint32(8*len(key)))
		native.PutUint32(v[sizeAlgName+4:], tagBits(sa))
		copy(v[sizeAlgName+8:], key)
	}
	if sa.Path.Encap == policy.EncapUDP {
		v := msg.attr(attrEncap, sizeEncap)
		native.PutUint16(v, encapESPInUDP)
		be.PutUint16(v[2:], src.Port())
		be.PutUint16(v[4:], dst.Port())
	}
	if window := windowOf(sa); window > 0 || at > 0 {
		words := (max(window, 1) + 31) / 32
		v := msg.attr(attrReplayESN, sizeReplayESN+4*int(words))
		native.PutUint32(v, words)
		native.PutUint32(v[20:], window)
		if sa.Direction == policy.Outbound {
			native.PutUint32(v[4:], uint32(at))
			native.PutUint32(v[12:], uint32(at>>32))
		} else if at > 0 {
			native.PutUint32(v[8:], uint32(at))
			native.PutUint32(v[16:], uint32(at>>32))
			for i := range v[sizeReplayESN:] {
				v[sizeReplayESN+i] = 0xff
			}
		}
	}
	if sa.Direction == policy.Outbound && m.mask != 0 {
		native.PutUint32(msg.attr(attrSetMark, 4), m.mark)
		native.PutUint32(msg.attr(attrSetMarkMask, 4), m.mask)
	}
	return msg
}

// windowOf is the window the kernel is given. With extended numbers it wants one outbound too.
func windowOf(sa *policy.SA) uint32 {
	switch {
	case sa.Direction == policy.Inbound:
		return sa.ReplayWindow
	case sa.ESN:
		return 32
	}
	return 0
}

func putStateInfo(b []byte, sa *policy.SA, reqID uint32) {
	src, dst := ends(sa)
	flags := byte(0)
	if s, ok := onlySelector(sa); ok {
		s.put(b)
	} else if sa.Mode == policy.Tunnel {
		flags |= flagAFUnspec
	} else {
		(&selector{Family: familyOf(dst.Addr())}).put(b)
	}
	putAddr(b[56:], dst.Addr())
	be.PutUint32(b[72:], uint32(sa.SPI))
	b[76] = protoESP
	putAddr(b[80:], src.Addr())
	l := sa.Lifetime
	for i, v := range []uint64{l.SoftOctets, l.HardOctets, l.SoftPackets, l.HardPackets} {
		if v == 0 {
			v = infinite
		}
		native.PutUint64(b[96+8*i:], v)
	}
	// Whole seconds, and at least one: zero is no limit.
	for i, v := range []int64{int64(l.SoftTime), int64(l.HardTime)} {
		if v > 0 {
			native.PutUint64(b[128+8*i:], uint64(max(1, v/1e9)))
		}
	}
	native.PutUint32(b[208:], reqID)
	native.PutUint16(b[212:], familyOf(dst.Addr()))
	b[214] = modeNumber(sa.Mode)
	if sa.ESN {
		flags |= flagESN
	}
	b[216] = flags
}

func modeNumber(m policy.Mode) uint8 {
	if m == policy.Transport {
		return modeTransport
	}
	return modeTunnel
}

// onlySelector is the SA's selector, where one of the kernel's says all of it.
func onlySelector(sa *policy.SA) (selector, bool) {
	sels, err := selectors(sa.Local, sa.Remote, sa.Direction == policy.Outbound)
	if err != nil || len(sels) != 1 {
		return selector{}, false
	}
	return sels[0], true
}

// differs says what of an SA the kernel did not take as it was told. It takes some numbers it does not know in silence.
func (r *readState) differs(sa *policy.SA, reqID uint32) error {
	enc, integ := sa.Encryption.Algorithm(), sa.Integrity.Algorithm()
	src, dst := ends(sa)
	udp := sa.Path.Encap == policy.EncapUDP
	for _, c := range []struct {
		what string
		ok   bool
	}{
		{"identity", r.id == identity(sa)},
		{"reqid", r.reqID == reqID},
		{"mode", r.mode == modeNumber(sa.Mode)},
		{"extended sequence numbers", (r.flags&flagESN != 0) == sa.ESN},
		{"replay window", r.window == windowOf(sa)},
		{"udp encapsulation", r.encap == udp && (!udp || r.encapSrc == src.Port() && r.encapDst == dst.Port())},
		{"offload", !r.offload},
		{"cipher", enc.AEAD && r.aead == enc.XFRM || !enc.AEAD && r.crypt == enc.XFRM},
		{"key length", r.keyBits == uint32(8*enc.KeyLen)},
		{"integrity", enc.AEAD || integ != nil && r.auth == integ.XFRM},
		{"icv", r.icvBits == tagBits(sa)},
	} {
		if !c.ok {
			return fmt.Errorf("the kernel took another %s than it was given", c.what)
		}
	}
	return nil
}
