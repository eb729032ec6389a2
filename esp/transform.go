package esp

import (
	"encoding/binary"
	"errors"
	"fmt"

	"coati/esp/batch"
	"coati/packet"
	"coati/policy"
)

// transform is how one SA turns octets into ESP packets and back.
type transform struct {
	key     batch.Key
	ivLen   int // in the packet
	icvLen  int
	align   int  // of plaintext with its trailer (RFC 4303, section 2.4), a power of two
	counter bool // the IV is the packet counter; else it must be unpredictable
	// combined: the cipher authenticates by itself, its nonce is salt and IV, and the IV is not in its associated data
	// (RFC 4106, RFC 4309, RFC 7634).
	combined bool
	ivInText int // octets of IV that the key finds in front of the text: GMAC authenticates them (RFC 4543)
	salt     [4]byte
	saltLen  int
	// transport: packets keep their own IP header, in front of ESP.
	transport bool
}

const espTrailer = 2 // pad length and next header

// sealedLen is the size of the ESP packet around an inner packet of n octets.
func (t *transform) sealedLen(n int) int {
	return packet.ESPLen + t.ivLen + t.padded(n) + t.icvLen
}

func (t *transform) padded(n int) int {
	return (n + espTrailer + t.align - 1) &^ (t.align - 1)
}

// randomIV says that packets carry IVs nobody may predict (RFC 3602, section 3; RFC 2451, section 3).
func (t *transform) randomIV() bool { return !t.counter && t.ivLen > 0 }

// job lays out an ESP packet, whose IV is in it, for the key: its text has n octets, its whole sequence number is seq.
func (t *transform) job(job *batch.Job, esp []byte, n int, esn bool, seq uint64) {
	head := packet.ESPLen + t.ivLen
	job.Text, job.Tail = esp[head-t.ivInText:head+n], nil
	switch {
	case t.saltLen == 4 && t.ivLen == 8: // most: lengths that the compiler knows
		copy(job.IV[:4], t.salt[:])
		copy(job.IV[4:12], esp[packet.ESPLen:packet.ESPLen+8])
	case t.ivLen > 0:
		copy(job.IV[:], t.salt[:t.saltLen])
		copy(job.IV[t.saltLen:], esp[packet.ESPLen:head])
	default:
		copy(job.IV[:], t.salt[:t.saltLen])
		binary.BigEndian.PutUint64(job.IV[t.saltLen:], seq) // RFC 8750, section 4
	}
	switch {
	case t.combined:
		job.Head = combinedHead(job, esp, esn, seq)
		return
	case esn:
		job.Tail = highTail(job, seq)
	}
	job.Head = esp[:head]
}

// text is what the job of an inbound packet decrypted.
func (t *transform) text(job *batch.Job) []byte { return job.Text[t.ivInText:] }

// combinedHead is the additional authenticated data of combined modes (RFC 4106, section 5; RFC 4309, section 5).
func combinedHead(job *batch.Job, esp []byte, esn bool, seq uint64) []byte {
	if !esn {
		return esp[:packet.ESPLen]
	}
	copy(job.Scratch[:4], esp)
	binary.BigEndian.PutUint64(job.Scratch[4:], seq)
	return job.Scratch[:12]
}

// highTail is the high half of an extended sequence number, which separate integrity algorithms cover behind the packet
// (RFC 4303, section 2.2.1).
func highTail(job *batch.Job, seq uint64) []byte {
	binary.BigEndian.PutUint32(job.Scratch[:4], uint32(seq>>32))
	return job.Scratch[:4]
}

// shape is a transform without its keys.
func shape(enc, integ policy.Transform) (transform, error) {
	e := enc.Algorithm()
	if e == nil || e.Type != policy.TransformENCR || e.Use&policy.UseESP == 0 {
		return transform{}, fmt.Errorf("esp cannot encrypt with %s", enc)
	}
	t := transform{ivLen: e.IVLen, align: max(4, e.BlockLen), counter: e.Counter, combined: e.AEAD, saltLen: e.SaltLen}
	if e.ID == policy.ENCRAESGMAC {
		t.ivInText = e.IVLen
	}
	if e.AEAD {
		if integ != (policy.Transform{}) && integ.ID != policy.IntegNone {
			return transform{}, fmt.Errorf("%s authenticates by itself: it takes no %s", enc, integ)
		}
		t.icvLen = e.ICVLen
		return t, nil
	}
	i := integ.Algorithm()
	if i == nil || i.Type != policy.TransformINTEG || i.Use&policy.UseESP == 0 || i.ICVLen == 0 {
		return transform{}, fmt.Errorf("%s needs an integrity algorithm esp has, not %s", enc, integ)
	}
	t.icvLen = i.ICVLen
	return t, nil
}

var (
	errKeyLength = errors.New("key material has the wrong length")
	errICV96     = errors.New("only hmac-sha2-256 is cut to 96 bits")
)

// icv96 is the tag of HMAC-SHA2-256 where it is cut as drafts before RFC 4868 said.
const icv96 = 12

func newTransform(sa *policy.SA) (transform, error) {
	t, err := shape(sa.Encryption, sa.Integrity)
	if err != nil {
		return t, err
	}
	t.transport = sa.Mode == policy.Transport
	if sa.ICV96 {
		if sa.Integrity.ID != policy.IntegSHA256 || t.combined {
			return t, errICV96
		}
		t.icvLen = icv96
	}
	e, key := sa.Encryption.Algorithm(), sa.EncryptionKey.Reveal()
	if len(key) != e.KeyLen {
		return t, fmt.Errorf("%s: %w: %d octets, not %d", sa.Encryption, errKeyLength, len(key), e.KeyLen)
	}
	cut := len(key) - e.SaltLen
	copy(t.salt[:], key[cut:])
	if t.combined {
		t.key, err = newCombined(e, key[:cut])
		return t, err
	}
	i, macKey := sa.Integrity.Algorithm(), sa.IntegrityKey.Reveal()
	if len(macKey) != i.KeyLen {
		return t, fmt.Errorf("%s: %w: %d octets, not %d", sa.Integrity, errKeyLength, len(macKey), i.KeyLen)
	}
	t.key, err = newSeparate(e, i, key[:cut], macKey, t.icvLen)
	return t, err
}

// insecureNull leaves the cipher out and everything else in: what the rest of the data path costs.
type insecureNull struct{}

func (insecureNull) Seal([]batch.Job) {}
func (insecureNull) TagLen() int      { return 16 }
func (insecureNull) Open(jobs []batch.Job) {
	for i := range jobs {
		jobs[i].OK = true
	}
}

func newInsecureNull() transform {
	return transform{key: insecureNull{}, ivLen: 8, icvLen: 16, align: 4, counter: true, combined: true, saltLen: 4}
}

// InnerMTU is the largest inner packet, in octets, whose ESP packet fits outerMTU octets: less the outer header (v6 says
// which), the UDP header if there is one, and ESP's own (RFC 4303, section 2). In transport mode the outer header is the inner
// packet's, without options. 0 if the algorithms are unknown or nothing fits.
func InnerMTU(outerMTU int, v6, udp bool, mode policy.Mode, enc, integ policy.Transform) int {
	t, err := shape(enc, integ)
	if err != nil {
		return 0
	}
	t.transport = mode == policy.Transport
	return t.innerMTU(outerMTU, v6, udp)
}

func (t *transform) innerMTU(outerMTU int, v6, udp bool) int {
	header := packet.IPv4Len
	if v6 {
		header = packet.IPv6Len
	}
	room := outerMTU - header - packet.ESPLen - t.ivLen - t.icvLen
	if udp {
		room -= packet.UDPLen
	}
	inner := room/t.align*t.align - espTrailer
	if inner <= 0 {
		return 0
	}
	if t.transport {
		inner += header
	}
	return inner
}
