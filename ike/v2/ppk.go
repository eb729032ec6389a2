package v2

import (
	"errors"
	"fmt"
	"slices"

	"coati/ike"
	"coati/ike/keys"
	"coati/ike/wire"
	"coati/policy"
)

// Post-quantum pre-shared keys, RFC 8784: SK_d, SK_pi and SK_pr pass through a key that both ends know beforehand, so that who
// breaks the key exchange has nothing.
//
//	HDR, ..., N(USE_PPK)  -->
//	                      <--  HDR, ..., N(USE_PPK)
//	HDR, SK {..., N(PPK_IDENTITY)(id), [N(NO_PPK_AUTH)(what AUTH would hold without it)]}  -->
//	                      <--  HDR, SK {..., N(PPK_IDENTITY)}
//
// An initiator that does not require it proves itself both ways; a responder that does not know the key then goes on without.

// usePPK is what a negotiation knows of it.
type usePPK struct {
	agreed bool           // both ends said USE_PPK
	before keys.IKEKeys   // initiator: SK_d, SK_pi and SK_pr as they were, should the responder go on without
	says   []wire.Payload // initiator: beside AUTH
	id     string         // responder: of the one in use; empty: none
}

func (p *usePPK) wipe() {
	p.before.Wipe()
	*p = usePPK{}
}

// ppkFixed is the type of a PPK_ID that is a name (RFC 8784, section 5.1).
const ppkFixed = 2

func ppkID(t *policy.PeerTunnel) []byte { return append([]byte{ppkFixed}, t.PPKID...) }

func hasPPK(t *policy.PeerTunnel) bool { return t.PPK.Len() > 0 }

// ppkNotify says that one of the tunnels has such a key.
func ppkNotify(tunnels ...*policy.PeerTunnel) []wire.Payload {
	if !slices.ContainsFunc(tunnels, hasPPK) {
		return nil
	}
	return []wire.Payload{notify(wire.NotifyUsePPK, nil)}
}

// agreesOnPPK says whether the peer has one, as we do.
func agreesOnPPK(m *message, tunnels ...*policy.PeerTunnel) bool {
	return m.notify(wire.NotifyUsePPK) != nil && ppkNotify(tunnels...) != nil
}

// lacksPPK says that the responder has none, and the tunnel requires it.
func lacksPPK(t *policy.PeerTunnel, m *message) error {
	if t.PPKRequired && m.notify(wire.NotifyUsePPK) == nil {
		return errors.New("the peer has no post-quantum pre-shared key, which the tunnel requires: see ppk-required")
	}
	return nil
}

// addPPK passes the keys of the IKE SA through a PPK, and returns those it replaces.
func (s *sa) addPPK(ppk policy.Secret) (keys.IKEKeys, error) {
	before := keys.IKEKeys{D: s.keys.D, Pi: s.keys.Pi, Pr: s.keys.Pr}
	k, err := keys.WithPPK(s.prf, ppk, s.keys)
	if err == nil {
		s.keys = k
	}
	return before, err
}

// proveWithPPK is prove for an initiator: with the PPK, and without it too where it is not required.
func (s *sa) proveWithPPK(id *wire.ID, then func([]wire.Payload, error)) {
	p := &s.start.additional.ppk
	if !p.agreed {
		s.prove(s.tunnel, id, then)
		return
	}
	with := func(more ...wire.Payload) {
		var err error
		if p.before, err = s.addPPK(s.tunnel.PPK); err != nil {
			then(nil, err)
			return
		}
		p.says = append([]wire.Payload{notify(wire.NotifyPPKIdentity, ppkID(s.tunnel))}, more...)
		s.prove(s.tunnel, id, then)
	}
	if s.tunnel.PPKRequired {
		with()
		return
	}
	s.prove(s.tunnel, id, func(proof []wire.Payload, err error) {
		if err != nil {
			then(nil, err)
			return
		}
		with(notify(wire.NotifyNoPPKAuth, proof[len(proof)-1].(*wire.Auth).Data))
	})
}

// ppkAnswered takes the PPK out of the keys again where the responder goes on without.
func (s *sa) ppkAnswered(m *message) error {
	p := &s.start.additional.ppk
	switch {
	case !p.agreed || m.notify(wire.NotifyPPKIdentity) != nil:
	case s.tunnel.PPKRequired:
		return errors.New("the peer does not use the post-quantum pre-shared key, which the tunnel requires: see ppk-required")
	default:
		keys.IKEKeys{D: s.keys.D, Pi: s.keys.Pi, Pr: s.keys.Pr}.Wipe()
		s.keys.D, s.keys.Pi, s.keys.Pr, p.before = p.before.D, p.before.Pi, p.before.Pr, keys.IKEKeys{}
	}
	return nil
}

// ppkNamed finds the PPK that an initiator names, as responder. Without it AUTH is what NO_PPK_AUTH says.
func (s *sa) ppkNamed(m *message) error {
	p := &s.start.additional.ppk
	if !p.agreed {
		return nil
	}
	named := m.notify(wire.NotifyPPKIdentity)
	if named == nil {
		return errors.New("the peer has a post-quantum pre-shared key and does not name it (RFC 8784, section 3)")
	}
	for _, t := range s.env.Candidates(s.start.path) {
		if t.Version == 2 && hasPPK(t) && string(ppkID(t)) == string(named.Data) && ike.RemoteIdentity(t, s.path).Matches(s.remoteID) {
			p.id = t.PPKID
			before, err := s.addPPK(t.PPK)
			before.Wipe()
			return err
		}
	}
	without := m.notify(wire.NotifyNoPPKAuth)
	if without == nil {
		return fmt.Errorf("no tunnel for %s has the post-quantum pre-shared key that the peer requires: see ppk-id", s.remoteID)
	}
	if proof, ok := wire.Find[*wire.Auth](m.payloads, wire.PayloadAUTH); ok {
		proof.Data = without.Data
	}
	return nil
}

// otherPPK says that the PPK in use is not the tunnel's, or that there is none and the tunnel requires it.
func (s *sa) otherPPK(t *policy.PeerTunnel) error {
	switch id := s.start.additional.ppk.id; {
	case id != "" && (!hasPPK(t) || t.PPKID != id):
		return fmt.Errorf("the peer names the post-quantum pre-shared key %q, which is not that of tunnel %s: see ppk-id", id, t.Name)
	case id == "" && t.PPKRequired && s.proto.mutant != noPPKRequired:
		return fmt.Errorf("the peer does not use the post-quantum pre-shared key that tunnel %s requires: see ppk-required", t.Name)
	}
	return nil
}

// ppkUsed tells the initiator that the PPK is in use.
func (s *sa) ppkUsed() []wire.Payload {
	if s.start.additional.ppk.id == "" {
		return nil
	}
	return []wire.Payload{notify(wire.NotifyPPKIdentity, nil)}
}
