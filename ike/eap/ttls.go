package eap

import (
	"bytes"
	"crypto/hmac"
	"crypto/subtle"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"time"

	"coati/policy"
)

// EAP-TTLS, RFC 5281, with TLS 1.2: the server's certificate, and inside the tunnel a password as PAP, MS-CHAP-V2 or by EAP.

const (
	ttlsKeyLabel       = "ttls keying material" // section 8
	ttlsChallengeLabel = "ttls challenge"       // section 11.1

	avpUserName      = 1
	avpUserPassword  = 2
	avpEAPMessage    = 79
	avpMSChallenge   = 11 // of Microsoft (RFC 2548)
	avpMSResponse    = 25
	avpMSSuccess     = 26
	vendorMicrosoft  = 311
	avpVendor        = 0x80
	avpMandatory     = 0x40
	maxInner         = 8 << 10 // octets of AVPs at a time
	msResponseLen    = 50
	ttlsChallengeLen = 17 // 16 octets and an identifier
)

type avp struct {
	code, vendor uint32
	data         []byte
}

// appendAVP encodes one (section 10.1), padded to four octets.
func appendAVP(b []byte, a avp) []byte {
	n, flags := 8+len(a.data), uint32(avpMandatory)
	if a.vendor != 0 {
		n, flags = n+4, flags|avpVendor
	}
	b = binary.BigEndian.AppendUint32(b, a.code)
	b = binary.BigEndian.AppendUint32(b, flags<<24|uint32(n))
	if a.vendor != 0 {
		b = binary.BigEndian.AppendUint32(b, a.vendor)
	}
	b = append(b, a.data...)
	return append(b, make([]byte, (4-len(a.data)%4)%4)...)
}

var errShort = errors.New("an AVP that is cut off")

// parseAVPs reads a sequence of them. errShort: the rest of it has not come.
func parseAVPs(b []byte) ([]avp, error) {
	var out []avp
	for len(b) > 0 {
		if len(b) < 8 {
			return nil, errShort
		}
		a, flags, n := avp{code: binary.BigEndian.Uint32(b)}, b[4], int(binary.BigEndian.Uint32(b[4:])&0xffffff)
		head := 8
		if flags&avpVendor != 0 {
			head = 12
		}
		switch {
		case n < head || n > maxInner:
			return nil, errMalformed
		case n > len(b):
			return nil, errShort
		case head == 12:
			a.vendor = binary.BigEndian.Uint32(b[8:])
		}
		a.data = b[head:n]
		b = b[min((n+3)&^3, len(b)):]
		out = append(out, a)
	}
	return out, nil
}

// readAVPs waits for the other end's.
func (s *session) readAVPs() ([]avp, error) {
	var all []byte
	b := make([]byte, maxInner)
	for {
		n, err := s.conn.Read(b)
		if err != nil {
			return nil, err
		}
		if all = append(all, b[:n]...); len(all) > maxInner {
			return nil, errMalformed
		}
		avps, err := parseAVPs(all)
		if !errors.Is(err, errShort) {
			return avps, err
		}
	}
}

func (s *session) writeAVPs(avps ...avp) error {
	var b []byte
	for _, a := range avps {
		b = appendAVP(b, a)
	}
	_, err := s.conn.Write(b)
	return err
}

func find(avps []avp, code, vendor uint32) []byte {
	for _, a := range avps {
		if a.code == code && a.vendor == vendor {
			return a.data
		}
	}
	return nil
}

// handshake does TLS, makes the key, and the challenge that both ends know (section 11.1).
func (s *session) handshake() (challenge []byte, err error) {
	if err := s.conn.Handshake(); err != nil {
		return nil, err
	}
	if err := s.export(ttlsKeyLabel, "", TypeTTLS); err != nil {
		return nil, err
	}
	state := s.conn.ConnectionState()
	return state.ExportKeyingMaterial(ttlsChallengeLabel, nil, ttlsChallengeLen)
}

func newTTLSClient(now time.Time, cfg *policy.EAP, random *rand.ChaCha8) client {
	t := clientTLS(cfg)
	t.MaxVersion = tls.VersionTLS12
	seed := [32]byte(draw(random, 32))
	return &tlsClient{session: newSession(now, t, true, func(s *session) error {
		challenge, err := s.handshake()
		if err != nil {
			return err
		}
		name := avp{code: avpUserName, data: []byte(cfg.Identity)}
		inner := policy.InnerPAP
		if len(cfg.Inner) > 0 {
			inner = cfg.Inner[0]
		}
		switch inner {
		case policy.InnerPAP:
			password := bytes.Clone(cfg.Password.Reveal())
			password = append(password, make([]byte, (16-len(password)%16)%16)...)
			defer clear(password)
			s.through = true // the certificate is all that the server proves
			return s.writeAVPs(name, avp{code: avpUserPassword, data: password})
		case policy.InnerMSCHAPv2:
			return s.innerMSCHAPv2(cfg, name, challenge, draw(rand.NewChaCha8(seed), challengeLen))
		}
		peer := NewPeer(&policy.EAP{Methods: innerMethods(cfg), Identity: cfg.Identity, Password: cfg.Password}, seed)
		defer peer.Close()
		return s.innerPeer(peer)
	})}
}

func (s *session) innerMSCHAPv2(cfg *policy.EAP, name avp, challenge, own []byte) error {
	hash := ntHash(cfg.Password)
	defer clear(hash)
	response := ntResponse(challenge[:16], own, cfg.Identity, hash)
	data := append([]byte{challenge[16], 0}, own...)
	data = append(append(data, make([]byte, 8)...), response...)
	if err := s.writeAVPs(name, avp{avpMSChallenge, vendorMicrosoft, challenge[:16]}, avp{avpMSResponse, vendorMicrosoft, data}); err != nil {
		return err
	}
	avps, err := s.readAVPs()
	if err != nil {
		return err
	}
	said := find(avps, avpMSSuccess, vendorMicrosoft)
	if len(said) < 2 || said[0] != challenge[16] || !checkAuthenticator(said[1:], authenticatorResponse(hash, response, own, challenge[:16], cfg.Identity)) {
		return errors.New("the server does not know our password: it is not who it says, or has another one")
	}
	s.through = true
	return nil
}

// innerPeer speaks EAP inside; the server need not tell its end there.
func (s *session) innerPeer(peer *Peer) error {
	step := peer.Handle(s.now, Packet{Code: Request, Type: TypeIdentity}.Bytes())
	for {
		if step.Err != nil {
			return step.Err
		}
		if step.Done {
			return nil
		}
		if err := s.writeAVPs(avp{code: avpEAPMessage, data: step.Send}); err != nil {
			return err
		}
		if peer.method != nil {
			_, s.through = peer.method.done()
		}
		avps, err := s.readAVPs()
		if err != nil {
			return err
		}
		step = peer.Handle(s.now, find(avps, avpEAPMessage, 0))
	}
}

func newTTLSServer(now time.Time, cfg *policy.EAP, name string, random *rand.ChaCha8) server {
	out := &tlsServer{}
	seed := [32]byte(draw(random, 32))
	out.session = newSession(now, &tls.Config{Certificates: certificates(cfg.Credential), MaxVersion: tls.VersionTLS12}, false, func(s *session) error {
		challenge, err := s.handshake()
		if err != nil {
			return err
		}
		avps, err := s.readAVPs()
		if err != nil {
			return err
		}
		inner := NewServer(&policy.EAP{Methods: innerMethods(cfg), Users: cfg.Users}, name, seed)
		defer inner.Close()
		allows := func(m policy.EAPMethod) bool {
			for _, i := range cfg.Inner {
				if i == m {
					return true
				}
			}
			return false
		}
		password, response, packet := find(avps, avpUserPassword, 0), find(avps, avpMSResponse, vendorMicrosoft), find(avps, avpEAPMessage, 0)
		switch {
		case packet != nil && len(inner.cfg.Methods) > 0:
			err = s.innerServer(inner, packet)
		case password != nil && allows(policy.InnerPAP):
			if err = inner.identify(find(avps, avpUserName, 0)); err == nil {
				err = inner.user.pap(password)
			}
			s.through = err == nil
		case response != nil && allows(policy.InnerMSCHAPv2):
			if err = inner.identify(find(avps, avpUserName, 0)); err == nil {
				err = s.checkMSCHAPv2(&inner.user, challenge, find(avps, avpMSChallenge, vendorMicrosoft), response)
			}
		default:
			err = errors.New("the client authenticates inside EAP-TTLS in no way that eap-inner has")
		}
		out.user = inner.user.name
		return err
	})
	return out
}

// innerMethods are the methods of EAP that may run inside.
func innerMethods(cfg *policy.EAP) []policy.EAPMethod {
	var out []policy.EAPMethod
	for _, m := range cfg.Inner {
		if m != policy.InnerPAP && m != policy.InnerMSCHAPv2 {
			out = append(out, m)
		}
	}
	return out
}

// pap checks a password that is padded with zeros.
func (u *user) pap(padded []byte) error {
	padded = bytes.TrimRight(padded, "\x00")
	if ok := subtle.ConstantTimeCompare(padded, u.password.Reveal()) == 1; !ok || !u.known {
		return u.wrong()
	}
	return nil
}

func (s *session) checkMSCHAPv2(u *user, challenge, said, response []byte) error {
	if len(response) != msResponseLen || !hmac.Equal(said, challenge[:16]) || response[0] != challenge[16] {
		return errMalformed
	}
	hash := ntHash(u.password)
	defer clear(hash)
	own, proof := response[2:18], response[26:50]
	if ok := hmac.Equal(proof, ntResponse(challenge[:16], own, u.name, hash)); !ok || !u.known {
		return u.wrong()
	}
	s.through = true
	answer := append([]byte{response[0]}, authenticatorResponse(hash, proof, own, challenge[:16], u.name)...)
	return s.writeAVPs(avp{avpMSSuccess, vendorMicrosoft, answer})
}

// innerServer speaks EAP inside. The client begins with its identity, unasked.
func (s *session) innerServer(inner *Server, packet []byte) error {
	inner.Begin()
	if len(packet) > 1 {
		inner.id = packet[1]
	}
	for {
		step := inner.Handle(s.now, packet)
		if step.Err != nil {
			return step.Err
		}
		if step.Done {
			s.through = true
			return nil
		}
		if err := s.writeAVPs(avp{code: avpEAPMessage, data: step.Send}); err != nil {
			return err
		}
		avps, err := s.readAVPs()
		if err != nil {
			return err
		}
		packet = find(avps, avpEAPMessage, 0)
	}
}
