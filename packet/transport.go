package packet

import "encoding/binary"

// TCP flags, the low octet of the flag field.
const (
	TCPFin = 0x01
	TCPSyn = 0x02
	TCPRst = 0x04
	TCPPsh = 0x08
	TCPAck = 0x10
	TCPUrg = 0x20
	TCPEce = 0x40
	TCPCwr = 0x80
)

// Sizes and offsets in octets.
const (
	TCPLen            = 20 // without options
	UDPLen            = 8
	ICMPLen           = 8
	TCPChecksumOffset = 16
	UDPChecksumOffset = 6
)

// TCP begins with a TCP header of at least 20 octets.
type TCP []byte

func (t TCP) SrcPort() uint16  { return binary.BigEndian.Uint16(t) }
func (t TCP) DstPort() uint16  { return binary.BigEndian.Uint16(t[2:]) }
func (t TCP) Seq() uint32      { return binary.BigEndian.Uint32(t[4:]) }
func (t TCP) Ack() uint32      { return binary.BigEndian.Uint32(t[8:]) }
func (t TCP) HeaderLen() int   { return int(t[12]>>4) * 4 }
func (t TCP) Flags() byte      { return t[13] }
func (t TCP) Window() uint16   { return binary.BigEndian.Uint16(t[14:]) }
func (t TCP) Checksum() uint16 { return binary.BigEndian.Uint16(t[16:]) }

func (t TCP) SetSeq(s uint32)      { binary.BigEndian.PutUint32(t[4:], s) }
func (t TCP) SetFlags(f byte)      { t[13] = f }
func (t TCP) SetChecksum(c uint16) { binary.BigEndian.PutUint16(t[16:], c) }

// ClampMSS lowers the MSS option of a SYN to at most mss octets and adjusts the checksum, which must be complete. It says
// whether it changed something.
func (t TCP) ClampMSS(mss uint16) bool {
	opts := t[TCPLen:min(t.HeaderLen(), len(t))]
	for len(opts) > 0 {
		switch opts[0] {
		case 0:
			return false
		case 1:
			opts = opts[1:]
			continue
		}
		if len(opts) < 2 || opts[1] < 2 || int(opts[1]) > len(opts) {
			return false
		}
		if opts[0] == 2 && opts[1] == 4 {
			old := binary.BigEndian.Uint16(opts[2:])
			if old <= mss {
				return false
			}
			binary.BigEndian.PutUint16(opts[2:], mss)
			o, n := old, mss
			if (len(t[TCPLen:min(t.HeaderLen(), len(t))])-len(opts))%2 == 1 {
				// The option begins at an odd octet: its halves lie in the other halves of the checksum's words.
				o, n = old<<8|old>>8, mss<<8|mss>>8
			}
			t.SetChecksum(UpdateChecksum(t.Checksum(), o, n))
			return true
		}
		opts = opts[opts[1]:]
	}
	return false
}

// UDP begins with a UDP header.
type UDP []byte

func (u UDP) SrcPort() uint16      { return binary.BigEndian.Uint16(u) }
func (u UDP) DstPort() uint16      { return binary.BigEndian.Uint16(u[2:]) }
func (u UDP) Length() int          { return int(binary.BigEndian.Uint16(u[4:])) }
func (u UDP) Checksum() uint16     { return binary.BigEndian.Uint16(u[6:]) }
func (u UDP) SetLength(n int)      { binary.BigEndian.PutUint16(u[4:], uint16(n)) }
func (u UDP) SetChecksum(c uint16) { binary.BigEndian.PutUint16(u[6:], c) }

// ICMP begins with a header of ICMP or ICMPv6.
type ICMP []byte

func (i ICMP) Type() byte       { return i[0] }
func (i ICMP) Code() byte       { return i[1] }
func (i ICMP) Checksum() uint16 { return binary.BigEndian.Uint16(i[2:]) }

// ICMPv6 types that neighbour discovery (RFC 4861) and listener discovery (RFC 2710, RFC 3810) use.
const (
	ICMPv6MLDQuery  = 130
	ICMPv6MLDDone   = 132
	ICMPv6NDFirst   = 133
	ICMPv6NDLast    = 137
	ICMPv6MLDReport = 143
)
