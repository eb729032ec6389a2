package v1

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"

	"coati/ike"
	"coati/ike/keys"
	"coati/ike/wire"
	"coati/policy"
)

// start is what phase 1 needs until the SA is established.
type start struct {
	suites           []policy.Proposal // initiator: what was offered
	sa               []byte            // SAi_b
	begun            *keys.Initiator
	publicI, publicR []byte
	ni, nr           []byte
	idI              []byte // the initiator's identity as proofs cover it: aggressive mode
	sets             []keySet
}

// keySet are the keys that follow from one pre-shared key. A responder learns only from the peer's proof which it is: in main mode the
// key is found by address (section 5.4), and several tunnels may share one.
type keySet struct {
	tunnels []*policy.PeerTunnel
	keys    keys.V1Keys
	cipher  *keys.V1Cipher
}

const (
	nonceLen = 32
	maxSets  = 8
)

func (st *start) wipe(keep *keySet) {
	for i := range st.sets {
		if &st.sets[i] != keep {
			st.sets[i].keys.Wipe()
		}
	}
	*st = start{}
}

// makeSets derives keys for each distinct pre-shared key of the tunnels; with signatures there is one set for all.
func (s *sa) makeSets(tunnels []*policy.PeerTunnel, shared policy.Secret) error {
	encr := s.suite.proposal.First(policy.TransformENCR)
	for _, t := range tunnels {
		if !slices.Contains(ways(t, s.initiator), s.suite.auth) {
			continue
		}
		if i := slices.IndexFunc(s.start.sets, func(k keySet) bool { return !s.byKey() || k.tunnels[0].PSK.Equal(t.PSK) }); i >= 0 {
			s.start.sets[i].tunnels = append(s.start.sets[i].tunnels, t)
			continue
		}
		if len(s.start.sets) == maxSets {
			break
		}
		id := keys.V1Signature(s.prf, s.start.ni, s.start.nr, shared)
		if s.byKey() {
			id.Wipe()
			id = keys.V1PSK(s.prf, t.PSK, s.start.ni, s.start.nr)
		}
		k, err := keys.DeriveV1(s.prf, encr, id, shared, s.cookieI, s.cookieR)
		if err != nil {
			return err
		}
		c, err := keys.NewV1Cipher(s.prf, encr, k.Cipher)
		if err != nil {
			return err
		}
		s.start.sets = append(s.start.sets, keySet{[]*policy.PeerTunnel{t}, k, c})
	}
	s.lowNonce = s.start.ni
	if bytes.Compare(s.start.nr, s.start.ni) < 0 {
		s.lowNonce = s.start.nr
	}
	return nil
}

// use takes one set as the SA's keys.
func (s *sa) use(k *keySet) {
	s.keys, s.cipher = k.keys, k.cipher
	if s.env.KeyLog {
		s.out.KeyLog = append(s.out.KeyLog, ike.KeyRecord{
			Version: 1, InitiatorSPI: s.cookieI, ResponderSPI: s.cookieR, Encryption: s.suite.proposal.First(policy.TransformENCR), SKei: s.keys.Cipher.Clone(),
		})
	}
}

// proof is HASH_I or HASH_R.
func (s *sa) proof(k *keySet, byInitiator bool, id []byte) []byte {
	return s.proofBy(s.prf, k, byInitiator, id)
}

func (s *sa) proofBy(prf keys.PRF, k *keySet, byInitiator bool, id []byte) []byte {
	if byInitiator {
		return keys.V1Proof(prf, k.keys.ID, s.start.publicI, s.start.publicR, s.cookieI, s.cookieR, s.start.sa, id)
	}
	return keys.V1Proof(prf, k.keys.ID, s.start.publicR, s.start.publicI, s.cookieR, s.cookieI, s.start.sa, id)
}

// ecdsaHashes are those that belong to the signatures of RFC 4754.
var ecdsaHashes = map[uint16]uint16{wire.AuthV1ECDSA256: policy.IntegSHA256, wire.AuthV1ECDSA384: policy.IntegSHA384, wire.AuthV1ECDSA521: policy.IntegSHA512}

// signedProof is HASH_I or HASH_R for a signature: where that belongs to a hash, by the HMAC of that one (section 5.1).
func (s *sa) signedProof(k *keySet, byInitiator bool, id []byte) []byte {
	prf := s.prf
	if hash, ok := ecdsaHashes[s.suite.auth]; ok {
		if own, err := keys.NewV1PRF(policy.Transform{Type: policy.TransformINTEG, ID: hash}); err == nil { // there are all three
			prf = own
		}
	}
	return s.proofBy(prf, k, byInitiator, id)
}

// openProof decrypts the peer's message of identity and proof, and checks a proof by hash, with each key it may be. What fits none may be
// forged, so it changes nothing: the peer can still send a good one. A signature is checked later, as a job.
func (s *sa) openProof(m *message) bool {
	if !slices.Contains([]step{stepKEAnswered, stepAuthSent, stepAggressiveAnswered}, s.p1.step) {
		s.drops.unfit++
		return false
	}
	for i := range s.start.sets {
		k := &s.start.sets[i]
		plain, next, err := k.cipher.Open(s.proofIV(k), m.Sealed)
		if err != nil {
			break
		}
		payloads, n, err := wire.ParseV1Payloads(m.NextPayload, plain)
		if err != nil {
			continue
		}
		try := message{V1Message: m.V1Message, plain: plain[:n]}
		try.Payloads = payloads
		id := s.start.idI
		if s.p1.kind == wire.ExchangeV1Main {
			id = try.body(wire.PayloadV1ID)
		}
		if try.twice() || id == nil || !s.signs(!s.initiator) && !s.hashFits(k, &try, id) {
			continue
		}
		m.Payloads, m.plain, m.iv = payloads, plain[:n], next
		if !s.initiator {
			s.use(k)
			s.candidates = k.tunnels
		}
		return true
	}
	s.drops.unauthenticated++
	err := s.wrongKey()
	switch {
	case s.initiator:
		s.refusal = nil
		s.warn("answer does not authenticate", err)
		return false
	case s.refusal == nil:
		s.refused("peer is not who it must be", err)
	}
	s.refusal = err
	return false
}

// proofIV is the chain's IV for the peer's proof.
func (s *sa) proofIV(k *keySet) []byte {
	if s.initiator {
		return s.p1.iv
	}
	return k.cipher.FirstIV(s.start.publicI, s.start.publicR)
}

// choosePeers are the tunnels whose peer this is, among the candidates.
func (s *sa) choosePeers(id policy.Identity) (fit []*policy.PeerTunnel, err error) {
	var why error
	for _, t := range s.candidates {
		want := ike.RemoteIdentity(t, s.path)
		_, err := policy.Agreed(policy.V1Suites(t.IKE, 0), s.suite.proposal)
		switch {
		case !want.Matches(id):
			if why == nil {
				why = fmt.Errorf("the peer says it is %s, tunnel %s expects %s: see remote-id", id, t.Name, want)
			}
		case err != nil:
			why = fmt.Errorf("tunnel %s does not accept %s: see ike", t.Name, s.suite.proposal)
		case !t.V1.Check.Allows(s.suite.lifetime, t.Lifetime):
			why = fmt.Errorf("the peer asks for a lifetime of %s, that of tunnel %s is %s, and proposal-check is %q", s.suite.lifetime, t.Name, t.Lifetime, t.V1.Check)
		case !slices.Contains(ways(t, s.initiator), s.suite.auth):
			why = fmt.Errorf("tunnel %s does not authenticate by %s: see auth", t.Name, sayWay(s.suite.auth))
		default:
			fit = append(fit, t)
		}
	}
	if len(fit) == 0 {
		return nil, why
	}
	return fit, nil
}

// established begins the life of the SA.
func (s *sa) established(contact bool) {
	if s.state == stateConnecting && s.authorize(contact) {
		return
	}
	s.state = stateEstablished
	s.establishedAt = s.now
	s.halfOpenUntil, s.refusal = zeroTime, nil
	s.start.wipe(s.start.chosen(s.keys))
	s.startKeepalive()
	s.setLifetime()
	s.out.Record(slog.LevelInfo, "IKE SA established", append(s.attrs(), slog.String("local-id", s.localID.String()), slog.String("remote-id", s.remoteID.String()), slog.String("ciphers", s.suite.proposal.String()))...)
	s.out.Signal(ike.Signal{Kind: ike.SignalEstablished, InitialContact: contact})
	s.join(contact && !s.initiator && s.tunnel.Unique != policy.UniqueNever)
	w, f := s.wanted, s.flow
	s.wanted, s.flow = nil, policy.Flow{}
	for _, name := range w {
		s.openChild(name, f)
		f = policy.Flow{}
	}
}

// chosen is the set whose keys the SA took.
func (st *start) chosen(k keys.V1Keys) *keySet {
	for i := range st.sets {
		if st.sets[i].keys.A.Equal(k.A) {
			return &st.sets[i]
		}
	}
	return nil
}

// setLifetime sets when phase 1 is done anew and when the SA ends: the shorter of both ends' lifetimes counts.
func (s *sa) setLifetime() {
	s.rekeyAt, s.expireAt, s.reauthAt = zeroTime, zeroTime, zeroTime
	l := s.tunnel.Lifetime
	if peer := s.suite.lifetime; peer > 0 && (!s.initiator || s.claimed) && (l <= 0 || peer < l || !s.initiator && s.tunnel.V1.Check == policy.CheckObey) {
		l = peer
	}
	if l > 0 {
		at := s.establishedAt.Add(l - l/10 - s.env.Jitter(l/10))
		if !s.initiator {
			// Its initiator comes first, as a rule.
			at = s.establishedAt.Add(l - l/20 - s.env.Jitter(l/20))
		}
		s.rekeyAt = latest(at, s.now)
		s.expireAt = latest(s.establishedAt.Add(l), s.now.Add(s.env.Limits.HalfOpenLife))
	}
	if r := s.tunnel.Reauth; r > 0 && s.tunnel.Start != policy.StartListen {
		s.reauthAt = s.now.Add(r - s.env.Jitter(r/10))
	}
}
