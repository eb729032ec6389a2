package packet

import "encoding/binary"

// VirtioLen is the size of virtio_net_hdr without num_buffers, octets.
const VirtioLen = 10

// Values of the header's flags and gso_type.
const (
	VirtioNeedsChecksum = 1

	GSONone  = 0
	GSOTCPv4 = 1
	GSOTCPv6 = 4
	GSOUDP   = 5    // UDP_L4
	GSOECN   = 0x80 // with one of the TCP types: CWR may be set
)

// Virtio is a frame that begins with a virtio_net_hdr, little-endian.
type Virtio []byte

func (v Virtio) Flags() byte         { return v[0] }
func (v Virtio) GSOType() byte       { return v[1] }
func (v Virtio) HeaderLen() int      { return int(binary.LittleEndian.Uint16(v[2:])) }
func (v Virtio) GSOSize() int        { return int(binary.LittleEndian.Uint16(v[4:])) }
func (v Virtio) ChecksumStart() int  { return int(binary.LittleEndian.Uint16(v[6:])) }
func (v Virtio) ChecksumOffset() int { return int(binary.LittleEndian.Uint16(v[8:])) }

// Set writes the whole header; lengths are octets, counted from the beginning of the IP packet.
func (v Virtio) Set(flags, gsoType byte, headerLen, gsoSize, checksumStart, checksumOffset int) {
	_ = v[VirtioLen-1]
	v[0], v[1] = flags, gsoType
	binary.LittleEndian.PutUint16(v[2:], uint16(headerLen))
	binary.LittleEndian.PutUint16(v[4:], uint16(gsoSize))
	binary.LittleEndian.PutUint16(v[6:], uint16(checksumStart))
	binary.LittleEndian.PutUint16(v[8:], uint16(checksumOffset))
}
