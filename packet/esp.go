package packet

import "encoding/binary"

// ESPLen is SPI and sequence number, octets.
const ESPLen = 8

// ESP begins with an ESP header (RFC 4303, section 2).
type ESP []byte

func (e ESP) SPI() uint32      { return binary.BigEndian.Uint32(e) }
func (e ESP) Sequence() uint32 { return binary.BigEndian.Uint32(e[4:]) }

func (e ESP) SetSPI(s uint32)      { binary.BigEndian.PutUint32(e, s) }
func (e ESP) SetSequence(s uint32) { binary.BigEndian.PutUint32(e[4:], s) }
