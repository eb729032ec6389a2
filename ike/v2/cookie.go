package v2

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"time"

	"coati/ike"
	"coati/ike/wire"
)

// cookieJar makes and checks cookies without state per peer (RFC 7296, section 2.6):
//
//	Cookie = version | HMAC-SHA-256(secret[version], Ni | IPi | port | SPIi), 1 + 16 octets
//
// A secret bakes for CookieLife and is accepted for as long again.
type cookieJar struct {
	version  uint8
	secret   [2][32]byte // the current one at version&1
	since    time.Time
	baking   bool
	previous bool // the other secret exists
}

const cookieLen = 17

func (j *cookieJar) rotate(env *ike.Env, now time.Time) {
	age := now.Sub(j.since)
	if j.baking && age < env.Limits.CookieLife {
		return
	}
	j.previous = j.baking && age < 2*env.Limits.CookieLife
	j.version++
	copy(j.secret[j.version&1][:], env.Bytes(32))
	j.since, j.baking = now, true
}

func (j *cookieJar) bake(env *ike.Env, now time.Time, m *message) []byte {
	j.rotate(env, now)
	return j.cookie(j.version, m)
}

func (j *cookieJar) cookie(version uint8, m *message) []byte {
	h := hmac.New(sha256.New, j.secret[version&1][:])
	ni, _ := wire.Find[*wire.Nonce](m.payloads, wire.PayloadNonce)
	h.Write(ni.Data)
	ip := m.path.Remote.Addr().As16()
	h.Write(ip[:])
	h.Write(binary.BigEndian.AppendUint16(nil, m.path.Remote.Port()))
	h.Write(binary.BigEndian.AppendUint64(nil, m.InitiatorSPI))
	return append([]byte{version}, h.Sum(nil)[:cookieLen-1]...)
}

// verify says whether the request proves its address. The cookie must be the first notification (section 2.6).
func (j *cookieJar) verify(env *ike.Env, now time.Time, m *message) bool {
	no := m.notify(wire.NotifyCookie)
	if no == nil || !j.baking || len(no.Data) != cookieLen {
		return false
	}
	j.rotate(env, now)
	v := no.Data[0]
	if v != j.version && (v != j.version-1 || !j.previous) {
		return false
	}
	return hmac.Equal(no.Data, j.cookie(v, m))
}
